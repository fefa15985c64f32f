"""The trace records what the model did, also when the model does something unusual."""

from itertools import pairwise

import pytest
import torch
from conftest import SMALL, twins
from models_and_caches import EXACT, assert_near, make_cache, make_gpt, make_llama

from kvcache import generate, optimized, trace
from kvcache.caches import ConcatCache, SlidingWindowCache
from kvcache.trace import watch


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
            part.register_forward_hook(
                lambda part, x, y: computed.append(y[0].unflatten(1, (4, 4)))
            )
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
