"""Generation: greedy, streaming, sampling, and what it leaves behind."""

import numpy as np
import pytest
import torch
from conftest import SMALL, twins

from kvcache import generate, stream
from kvcache.generate import pick


@pytest.fixture
def models():
    return twins()


PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("use_cache", [False, True])
def test_one_forward_pass_for_each_new_token_and_one_row_of_logits(models, use_cache):
    model = models[use_cache]
    passes, rows = [], []
    model.register_forward_hook(lambda _m, args, _o: passes.append(args[0].shape[1]))
    model.out_head.register_forward_hook(lambda _m, args, _o: rows.append(args[0].shape[1]))
    generate(model, PROMPT, 4, use_cache=use_cache)
    assert passes == ([3, 1, 1, 1] if use_cache else [3, 4, 5, 6])
    assert rows == [1, 1, 1, 1]


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_restored_and_no_gradients_are_kept(models, training):
    model = models[1].train(training)
    out = generate(model, PROMPT, 3, use_cache=True)
    assert model.training is training
    assert not out.requires_grad
    assert not model.trf_blocks[0].att.cache_k.requires_grad


def test_the_mode_is_restored_when_a_stream_is_left_early(models):
    model = models[1].train()
    tokens = stream(model, PROMPT, 5, use_cache=True)
    next(tokens)
    tokens.close()
    assert model.training


def test_each_module_gets_its_own_mode_back(models):
    model = models[1].train()
    model.drop_emb.eval()
    generate(model, PROMPT, 2, use_cache=True)
    assert model.training
    assert not model.drop_emb.training


def test_a_reader_who_switches_to_training_between_tokens_changes_nothing(models):
    plain, caching = models
    expected = generate(plain, PROMPT, 6)
    for model, use_cache in ((plain, False), (caching, True)):
        tokens = [token for token in stream(model, PROMPT, 6, use_cache) if model.train()]
        assert torch.equal(torch.cat([PROMPT, *tokens], dim=1), expected)


def test_numpy_counts_are_whole_numbers(models):
    assert generate(models[0], PROMPT, np.int64(2)).shape == (2, 5)


def test_gradients_stay_on_between_the_tokens_of_a_stream(models):
    for _ in stream(models[0], PROMPT, 2):
        assert torch.is_grad_enabled()


def test_dropout_is_off_and_the_cache_is_reset_first(models):
    plain, caching = models
    caching.train()
    caching.eval()(torch.tensor([[7, 7, 7]]), use_cache=True)  # stale, of another batch size
    caching.train()
    assert torch.equal(generate(caching, PROMPT, 6, use_cache=True), generate(plain, PROMPT, 6))


def test_stream_yields_what_generate_returns(models):
    streamed = list(stream(models[1], PROMPT, 5, use_cache=True))
    assert all(token.shape == (2, 1) for token in streamed)
    assert torch.equal(torch.cat([PROMPT, *streamed], dim=1), generate(models[0], PROMPT, 5))


def test_no_new_tokens_give_the_prompt(models):
    assert torch.equal(generate(models[0], PROMPT, 0), PROMPT)


def test_the_context_can_be_filled_to_the_last_position(models):
    n_new = SMALL.context_length - PROMPT.shape[1]
    out = generate(models[1], PROMPT, n_new, use_cache=True)
    assert out.shape == (2, SMALL.context_length)


@pytest.mark.parametrize("top_k", [None, 1, 5])
def test_seeded_sampling_is_the_same_with_and_without_a_cache(models, top_k):
    runs = [
        generate(
            models[use_cache],
            PROMPT,
            15,
            use_cache=use_cache,
            temperature=0.9,
            top_k=top_k,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (0, 0, 1)
        for use_cache in (False, True)
    ]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    if top_k == 1:
        assert torch.equal(runs[0], generate(models[0], PROMPT, 15))
    else:
        assert not torch.equal(runs[0], runs[4])


def test_top_k_draws_only_among_the_k_best():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.9]])
    drawn = {pick(logits, temperature=5.0, top_k=2).item() for _ in range(200)}
    assert drawn == {1, 3}
    ties = torch.zeros(1, 40)
    assert len({pick(ties, temperature=1.0, top_k=3).item() for _ in range(200)}) == 3
    assert pick(logits, temperature=1e-42).item() == 1
