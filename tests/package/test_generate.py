"""Generation: greedy, streaming, sampling, what it leaves behind, and its trace."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import SMALL, twins
from models_and_caches import EXACT, assert_near, make_cache, make_gpt, make_llama

from kvcache import generate, optimized, stream, trace
from kvcache.caches import ConcatCache, SlidingWindowCache
from kvcache.generate import pick
from kvcache.trace import watch

PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("use_cache", [False, True])
def test_one_forward_pass_for_each_new_token_and_one_row_of_logits(use_cache):
    model = twins()[use_cache]
    passes, rows = [], []
    model.register_forward_hook(lambda _m, args, _o: passes.append(args[0].shape[1]))
    model.out_head.register_forward_hook(lambda _m, args, _o: rows.append(args[0].shape[1]))
    generate(model, PROMPT, np.int64(4), use_cache=use_cache)
    assert passes == ([3, 1, 1, 1] if use_cache else [3, 4, 5, 6])
    assert rows == [1, 1, 1, 1]


def test_each_module_gets_its_own_mode_back_and_no_gradients_are_kept():
    model = twins()[1].train()
    model.drop_emb.eval()
    tokens = stream(model, PROMPT, 5, use_cache=True)
    next(tokens)
    assert torch.is_grad_enabled()  # between two tokens, too
    tokens.close()  # left early
    assert model.training
    assert not model.drop_emb.training
    assert not generate(model.eval(), PROMPT, 3, use_cache=True).requires_grad
    assert not model.training
    assert not model.trf_blocks[0].att.cache_k.requires_grad


def test_dropout_is_off_and_an_old_cache_is_forgotten_whatever_mode_a_reader_switches_to():
    plain, caching = twins()
    expected = generate(plain, PROMPT, 6)
    caching(torch.tensor([[7, 7, 7]]), use_cache=True)  # of another batch size
    for model, use_cache in ((plain, False), (caching, True)):
        tokens = [token for token in stream(model.train(), PROMPT, 6, use_cache) if model.train()]
        assert all(token.shape == (2, 1) for token in tokens)
        assert torch.equal(torch.cat([PROMPT, *tokens], dim=1), expected)


@pytest.mark.parametrize("top_k", [None, 1, 5])
def test_seeded_sampling_is_the_same_with_and_without_a_cache(top_k):
    def drawn(seed, use_cache):
        generator = torch.Generator().manual_seed(seed)
        options = {"temperature": 0.9, "top_k": top_k, "generator": generator}
        return generate(twins()[use_cache], PROMPT, 15, use_cache, **options)

    expected = drawn(0, use_cache=False)
    assert torch.equal(drawn(0, use_cache=True), expected)
    assert torch.equal(drawn(0, use_cache=False), expected)
    other = generate(twins()[0], PROMPT, 15) if top_k == 1 else drawn(1, use_cache=False)
    assert torch.equal(other, expected) is (top_k == 1)


def test_top_k_draws_only_among_the_k_best():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.9]])
    drawn = {pick(logits, temperature=5.0, top_k=2).item() for _ in range(200)}
    assert drawn == {1, 3}
    ties = torch.zeros(1, 40)
    assert len({pick(ties, temperature=1.0, top_k=3).item() for _ in range(200)}) == 3
    assert pick(logits, temperature=1e-42).item() == 1


@pytest.mark.parametrize("name", ["baseline", "cached", "optimized", *EXACT, "int8"])
def test_what_was_computed_comes_again_or_is_reused_and_vectors_are_those_of_the_model(name):
    plain, caching = twins()
    own = {"baseline": (plain, {}), "cached": (caching, {"use_cache": True})}
    own["optimized"] = make_gpt(plain), {}
    model, options = own.get(name) or (make_gpt(plain), {"cache": make_cache(name)})
    observed = trace(model, torch.tensor([[1, 2, 3]]), 4, vectors=True, **options)
    assert observed.token_ids == generate(plain, torch.tensor([[1, 2, 3]]), 4)[0].tolist()
    assert (observed.n_prompt, observed.use_cache) == (3, bool(options))
    earlier = "reused" if options else "recomputed"
    computed = []  # of each layer: all keys, all values
    for block in plain.trf_blocks:
        for part in (block.att.W_key, block.att.W_value):
            part.register_forward_hook(lambda _, x, y: computed.append(y[0].unflatten(1, (4, 4))))
    plain(torch.tensor([observed.token_ids[:-1]]))
    tolerance = 0.05 if name == "int8" else 1e-5
    for layers, new in zip(observed.steps, ([0, 1, 2], [3], [4], [5]), strict=True):
        for number, layer in enumerate(layers):
            found = {"new": layer.new, "recomputed": layer.recomputed, "reused": layer.reused}
            past = list(range(new[0]))
            assert found == {"recomputed": [], "reused": [], "new": new, earlier: past}
            assert_near(layer.keys, computed[2 * number][: new[-1] + 1], tolerance)
            assert_near(layer.values, computed[2 * number + 1][: new[-1] + 1], tolerance)
    assert observed.counts()[2] == {"new": 2, "recomputed": 0, "reused": 0, earlier: 8}
    assert observed.counts(layer=1)[2][earlier] == 4
    assert trace(plain, torch.tensor([[1]]), 1).steps[0][0].keys is None


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
