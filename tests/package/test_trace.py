"""The trace records what the model did, also when the model does something unusual."""

import itertools
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, twins

from kvcache import generate, llama, optimized, trace
from kvcache.caches import (
    ConcatCache,
    PagedCache,
    PreallocatedCache,
    QuantizedCache,
    SlidingWindowCache,
)
from kvcache.trace import watch

TIME = 0
FLIES = 1


def test_baseline_computes_one_two_three(trained, encode):
    observed = trace(trained[0], encode("Time"), 5)
    for layer in range(4):
        counts = observed.counts(layer)
        assert [step["new"] for step in counts] == [1] * 5
        assert [step["new"] + step["recomputed"] for step in counts] == [1, 2, 3, 4, 5]
        assert all(step["reused"] == 0 for step in counts)


def test_cached_computes_one_one_one_and_reuses_the_rest(trained, encode):
    observed = trace(trained[1], encode("Time"), 5, use_cache=True)
    for layer in range(4):
        assert [step["new"] for step in observed.counts(layer)] == [1] * 5
        assert [step["reused"] for step in observed.counts(layer)] == [0, 1, 2, 3, 4]
    by_step_3 = [layers[0].reused for layers in observed.steps[:3]]
    assert sum(TIME in reused for reused in by_step_3) == 2
    assert sum(FLIES in reused for reused in by_step_3) == 1
    assert observed.counts()[2] == {"new": 4, "recomputed": 0, "reused": 8}


def test_prefill_then_decode():
    _, caching = twins()
    observed = trace(caching, torch.tensor([[1, 2, 3, 4, 5]]), 3, use_cache=True)
    assert [layers[0].new for layers in observed.steps] == [[0, 1, 2, 3, 4], [5], [6]]
    assert observed.n_prompt == 5
    assert len(observed.token_ids) == 8


@pytest.mark.parametrize("use_cache", [False, True])
def test_vectors_are_those_of_the_model(use_cache):
    plain, caching = twins()
    observed = trace(caching, torch.tensor([[1, 2, 3]]), 4, use_cache=use_cache, vectors=True)
    token_ids = torch.tensor([observed.token_ids[:-1]])
    first = plain.trf_blocks[0]
    x = plain.tok_emb(token_ids) + plain.pos_emb(torch.arange(6))
    keys = first.att.W_key(first.norm1(x))[0].unflatten(-1, (4, 4))
    last = observed.steps[-1][0]
    torch.testing.assert_close(last.keys, keys, atol=1e-6, rtol=0)
    assert last.values.shape == (6, SMALL.n_heads, SMALL.head_dim)
    assert trace(caching, torch.tensor([[1]]), 1).steps[0][0].keys is None


GPT_CACHES = {
    "no cache": lambda: None,
    "concat": lambda: ConcatCache(SMALL),
    "preallocated": lambda: PreallocatedCache(SMALL, 24),
    "int8": lambda: QuantizedCache(SMALL, 24),
    "paged": lambda: (pages := PagedCache(SMALL, 8, 4)).batch([pages.add()]),
}


@pytest.mark.parametrize("name", GPT_CACHES)
def test_a_model_that_is_handed_its_cache_is_traced_as_the_one_that_has_it_inside(name):
    plain, caching = twins()
    fast = optimized.GPTModel(SMALL).eval()
    fast.load_state_dict(plain.state_dict())
    prompt, cache = torch.tensor([[1, 2, 3]]), GPT_CACHES[name]()
    found = trace(fast, prompt, 4, vectors=True, cache=cache)
    inside = (plain, False) if cache is None else (caching, True)
    expected = trace(inside[0], prompt, 4, inside[1], vectors=True)
    assert replace(found, steps=[]) == replace(expected, steps=[])
    assert found.token_ids == generate(plain, prompt, 4)[0].tolist()
    tolerance = 0.05 if name == "int8" else 1e-5
    for ours, theirs in zip(found.steps, expected.steps, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert replace(one, keys=None, values=None) == replace(other, keys=None, values=None)
            torch.testing.assert_close(one.keys, other.keys, atol=tolerance, rtol=0)
            torch.testing.assert_close(one.values, other.values, atol=tolerance, rtol=0)


def test_a_llama_is_traced_and_a_window_shows_what_it_has_let_go():
    cfg = llama.LlamaConfig(**{**vars(SMALL), "n_kv_heads": 2, "hidden_dim": 40})
    model, prompt = llama.LlamaModel(cfg).eval(), torch.tensor([[1, 2, 3, 4, 5]])
    cache = SlidingWindowCache(cfg, 4)
    observed = trace(model, prompt, 4, vectors=True, cache=cache)
    assert [step[1].new for step in observed.steps] == [[0, 1, 2, 3, 4], [5], [6], [7]]
    assert [step[1].reused for step in observed.steps] == [[], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
    assert observed.steps[-1][0].keys.shape == (4, 2, 4)
    for before, after in itertools.pairwise(observed.steps[1:]):
        assert torch.equal(before[0].keys[1:], after[0].keys[:-1])
    without = trace(model, prompt, 3)
    assert without.steps[1][0].recomputed == [0, 1, 2, 3, 4]


def test_a_cache_that_does_not_tell_which_keys_it_has_is_refused():
    class Forgets(ConcatCache):
        def update(self, layer, keys, values):
            return [each[:, :, -2:] for each in super().update(layer, keys, values)]

        def begin(self, token_ids):
            return super().begin(token_ids)[0], None

    model = optimized.GPTModel(SMALL).eval()
    with pytest.raises(RuntimeError, match="handed over 2 keys, and tells of 3"):
        trace(model, torch.tensor([[1, 2, 3]]), 2, cache=Forgets(SMALL))


def test_no_hooks_stay_behind():
    plain, _ = twins()
    trace(plain, torch.tensor([[1]]), 2)
    with pytest.raises(TypeError):
        trace(plain, [[1]], 2)
    hooked = [m for m in plain.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooked


def test_watch_sees_what_each_call_was_given_and_what_it_may_see():
    plain, caching = twins()
    with torch.no_grad(), watch(caching) as calls:
        caching(torch.tensor([[5, 6, 7]]), use_cache=True)
        caching(torch.tensor([[8, 9]]), use_cache=True)
    assert [call.token_ids for call in calls] == [[5, 6, 7], [8, 9]]
    assert [call.positions for call in calls] == [[0, 1, 2], [3, 4]]
    assert [call.visible for call in calls] == [[True] * 3, [True] * 5]
    logits = plain(torch.tensor([[5, 6, 7, 8, 9]]))[0, -1]
    torch.testing.assert_close(calls[1].logits, logits, atol=1e-5, rtol=0)
    assert not caching._forward_hooks


def test_watch_sees_a_mask_that_hides():
    _, caching = twins()
    for block in caching.trf_blocks:
        block.att.mask[:] = False
        block.att.mask[:, 0] = True
    with torch.no_grad(), watch(caching) as calls:
        caching(torch.tensor([[5, 6, 7]]), use_cache=True)
    assert calls[0].visible == [True, False, False]
