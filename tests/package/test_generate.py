"""Generation: greedy, streaming, sampling, and what it leaves behind."""

import numpy as np
import pytest
import torch
from conftest import SMALL, twins

from kvcache import generate, stream
from kvcache.generate import pick

PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.fixture
def models():
    return twins()


@pytest.mark.parametrize("use_cache", [False, True])
def test_one_forward_pass_for_each_new_token_and_one_row_of_logits(models, use_cache):
    model = models[use_cache]
    passes, rows = [], []
    model.register_forward_hook(lambda _m, args, _o: passes.append(args[0].shape[1]))
    model.out_head.register_forward_hook(lambda _m, args, _o: rows.append(args[0].shape[1]))
    generate(model, PROMPT, 4, use_cache=use_cache)
    assert passes == ([3, 1, 1, 1] if use_cache else [3, 4, 5, 6])
    assert rows == [1, 1, 1, 1]


def test_each_module_gets_its_own_mode_back_and_no_gradients_are_kept(models):
    model = models[1].train()
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


def test_dropout_is_off_and_an_old_cache_is_forgotten_whatever_mode_a_reader_switches_to(models):
    plain, caching = models
    expected = generate(plain, PROMPT, 6)
    caching(torch.tensor([[7, 7, 7]]), use_cache=True)  # of another batch size
    for model, use_cache in ((plain, False), (caching, True)):
        tokens = [token for token in stream(model.train(), PROMPT, 6, use_cache) if model.train()]
        assert all(token.shape == (2, 1) for token in tokens)
        assert torch.equal(torch.cat([PROMPT, *tokens], dim=1), expected)


@pytest.mark.parametrize("n_new", [0, np.int64(2), SMALL.context_length - 3])
def test_nothing_numpy_counts_and_a_full_context_can_be_asked_for(models, n_new):
    out = generate(models[1], PROMPT, n_new, use_cache=True)
    assert out.shape == (2, 3 + n_new)
    assert torch.equal(out[:, :3], PROMPT)


@pytest.mark.parametrize("top_k", [None, 1, 5])
def test_seeded_sampling_is_the_same_with_and_without_a_cache(models, top_k):
    def drawn(seed, use_cache):
        generator = torch.Generator().manual_seed(seed)
        options = {"temperature": 0.9, "top_k": top_k, "generator": generator}
        return generate(models[use_cache], PROMPT, 15, use_cache, **options)

    expected = drawn(0, use_cache=False)
    assert torch.equal(drawn(0, use_cache=True), expected)
    assert torch.equal(drawn(0, use_cache=False), expected)
    other = generate(models[0], PROMPT, 15) if top_k == 1 else drawn(1, use_cache=False)
    assert torch.equal(other, expected) is (top_k == 1)


def test_top_k_draws_only_among_the_k_best():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.9]])
    drawn = {pick(logits, temperature=5.0, top_k=2).item() for _ in range(200)}
    assert drawn == {1, 3}
    ties = torch.zeros(1, 40)
    assert len({pick(ties, temperature=1.0, top_k=3).item() for _ in range(200)}) == 3
    assert pick(logits, temperature=1e-42).item() == 1
