"""The trace records what the model did, also when the model does something unusual."""

import itertools

import pytest
import torch
from conftest import SMALL, twins

from kvcache import cached, time_flies, trace
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


def test_reused_vectors_are_equal_bit_for_bit(trained, encode):
    steps = trace(trained[1], encode("Time"), 6, use_cache=True, vectors=True).steps
    for before, after in itertools.pairwise(steps):
        for a, b in zip(before, after, strict=True):
            assert torch.equal(a.keys, b.keys[: len(a.keys)])
            assert torch.equal(a.values, b.values[: len(a.values)])


def test_a_model_that_computes_more_than_it_should_is_seen_through():
    class ComputesTwice(cached.MultiHeadAttention):
        def forward(self, x, use_cache=False):
            self.W_key(x)  # computed, and thrown away
            return super().forward(x, use_cache)

    _, caching = twins()
    for block in caching.trf_blocks:
        block.att.__class__ = ComputesTwice
    with pytest.raises(RuntimeError, match="2 times"):
        trace(caching, torch.tensor([[1]]), 2, use_cache=True)


def test_no_hooks_stay_behind():
    plain, _ = twins()
    trace(plain, torch.tensor([[1]]), 2)
    with pytest.raises(TypeError):
        trace(plain, [[1]], 2)
    assert not any(block.att.W_key._forward_hooks for block in plain.trf_blocks)


def test_the_same_tokens_as_generate(trained, encode):
    from kvcache import generate

    expected = generate(time_flies.load(), encode("A cache"), 7, use_cache=True)
    assert trace(trained[1], encode("A cache"), 7, use_cache=True).token_ids == expected[0].tolist()


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
        block.att.mask[:] = True
        block.att.mask[:, 0] = False
    with torch.no_grad(), watch(caching) as calls:
        caching(torch.tensor([[5, 6, 7]]), use_cache=True)
    assert calls[0].visible == [True, False, False]
