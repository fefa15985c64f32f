"""The trace records what the model did, also when the model does something unusual."""

from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
from conftest import SMALL, twins
from models_and_caches import EXACT, assert_near, make_cache, make_gpt, make_llama

from kvcache import generate, optimized, trace
from kvcache.caches import ConcatCache, SlidingWindowCache
from kvcache.trace import watch


@pytest.mark.parametrize("use_cache", [False, True])
def test_what_was_computed_comes_again_or_is_reused(trained, encode, use_cache):
    observed = trace(trained[use_cache], encode("Time"), 5, use_cache)
    earlier = ["recomputed", "reused"][use_cache]
    for step, layers in enumerate(observed.steps):
        for layer in layers:
            found = {"recomputed": layer.recomputed, "reused": layer.reused}
            assert layer.new == [step]
            assert found == {"recomputed": [], "reused": [], earlier: list(range(step))}
    assert observed.counts()[2] == {"new": 4, "recomputed": 0, "reused": 0, earlier: 8}
    assert observed.counts(layer=3)[2][earlier] == 2


@pytest.mark.parametrize("use_cache", [False, True])
def test_vectors_are_those_of_the_model(use_cache):
    plain, caching = twins()
    observed = trace(caching, torch.tensor([[1, 2, 3]]), 4, use_cache=use_cache, vectors=True)
    assert observed.n_prompt == 3
    assert [layers[0].new for layers in observed.steps] == [[0, 1, 2], [3], [4], [5]]
    token_ids = torch.tensor([observed.token_ids[:-1]])
    first = plain.trf_blocks[0]
    x = plain.tok_emb(token_ids) + plain.pos_emb(torch.arange(6))
    keys = first.att.W_key(first.norm1(x))[0].unflatten(-1, (4, 4))
    last = observed.steps[-1][0]
    assert_near(last.keys, keys, 1e-6)
    assert last.values.shape == (6, SMALL.n_heads, SMALL.head_dim)
    assert trace(caching, torch.tensor([[1]]), 1).steps[0][0].keys is None


@pytest.mark.parametrize("name", [None, *EXACT, "int8"])
def test_a_model_that_is_handed_its_cache_is_traced_as_the_one_that_has_it_inside(name):
    plain, caching = twins()
    prompt, cache = torch.tensor([[1, 2, 3]]), name and make_cache(name)
    found = trace(make_gpt(plain), prompt, 4, vectors=True, cache=cache)
    inside = (caching, True) if cache else (plain, False)
    expected = trace(inside[0], prompt, 4, inside[1], vectors=True)
    assert replace(found, steps=[]) == replace(expected, steps=[])
    assert found.token_ids == generate(plain, prompt, 4)[0].tolist()
    for ours, theirs in zip(chain(*found.steps), chain(*expected.steps), strict=True):
        assert replace(ours, keys=None, values=None) == replace(theirs, keys=None, values=None)
        assert_near(ours.keys, theirs.keys, 0.05 if name == "int8" else 1e-5)
        assert_near(ours.values, theirs.values, 0.05 if name == "int8" else 1e-5)


def test_a_llama_is_traced_and_a_window_shows_what_it_has_let_go():
    model, prompt = make_llama(), torch.tensor([[1, 2, 3, 4, 5]])
    observed = trace(model, prompt, 4, vectors=True, cache=SlidingWindowCache(model.cfg, 4))
    assert [step[1].new for step in observed.steps] == [[0, 1, 2, 3, 4], [5], [6], [7]]
    assert [step[1].reused for step in observed.steps] == [[], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
    assert observed.steps[-1][0].keys.shape == (4, 2, 4)
    for before, after in pairwise(observed.steps[1:]):
        assert torch.equal(before[0].keys[1:], after[0].keys[:-1])
    assert trace(model, prompt, 3).steps[1][0].recomputed == [0, 1, 2, 3, 4]


def test_a_cache_that_does_not_tell_which_keys_it_has_is_refused():
    class Forgets(ConcatCache):
        def update(self, layer, keys, values):
            return [each[:, :, -2:] for each in super().update(layer, keys, values)]

        def begin(self, token_ids):
            return super().begin(token_ids)[0], None

    model = optimized.GPTModel(SMALL).eval()
    with pytest.raises(RuntimeError, match="handed over 2 keys, and tells of 3"):
        trace(model, torch.tensor([[1, 2, 3]]), 2, cache=Forgets(SMALL))
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_watch_sees_what_each_call_was_given_and_what_it_may_see():
    plain, caching = twins()
    with torch.no_grad(), watch(caching) as calls:
        caching(torch.tensor([[5, 6, 7]]), use_cache=True)
        caching(torch.tensor([[8, 9]]), use_cache=True)
        for block in caching.trf_blocks:  # a mask that hides
            block.att.mask[:] = False
            block.att.mask[:, 0] = True
        caching(torch.tensor([[3]]), use_cache=True)
    assert [call.token_ids for call in calls] == [[5, 6, 7], [8, 9], [3]]
    assert [call.positions for call in calls] == [[0, 1, 2], [3, 4], [5]]
    assert [call.visible for call in calls] == [[True] * 3, [True] * 5, [True] + [False] * 5]
    assert_near(calls[1].logits, plain(torch.tensor([[5, 6, 7, 8, 9]]))[0, -1], 1e-5)
