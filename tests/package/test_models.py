"""The cached model computes what the baseline computes, however the input is cut."""

import difflib
import inspect

import pytest
import torch
from conftest import SMALL, twins
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache import GPTConfig, baseline, cached, generate

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


@st.composite
def cases(draw):
    """A random configuration, seed, input and a way to cut it into chunks."""
    n_heads = draw(st.integers(1, 4))
    cfg = GPTConfig(
        vocab_size=draw(st.integers(1, 60)),
        context_length=draw(st.integers(1, 20)),
        emb_dim=n_heads * draw(st.integers(1, 8)),
        n_heads=n_heads,
        n_layers=draw(st.integers(1, 3)),
        drop_rate=draw(st.sampled_from([0.0, 0.3])),
        qkv_bias=draw(st.booleans()),
    )
    n_tokens = draw(st.integers(1, cfg.context_length))
    sizes = []
    while sum(sizes) < n_tokens:
        sizes.append(draw(st.integers(1, n_tokens - sum(sizes))))
    return cfg, draw(st.integers(0, 999)), draw(st.integers(1, 3)), n_tokens, sizes


@settings(max_examples=60, deadline=None)
@given(case=cases(), dtype=st.sampled_from(list(TOLERANCE)))
def test_any_chunking_gives_the_logits_and_tokens_of_the_baseline(case, dtype):
    cfg, seed, batch, n_tokens, sizes = case
    plain, caching = twins(cfg, seed, dtype)
    token_ids = torch.randint(cfg.vocab_size, (batch, n_tokens))
    with torch.no_grad():
        expected = plain(token_ids)
        chunks = [caching(chunk, use_cache=True) for chunk in token_ids.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), expected, atol=TOLERANCE[dtype], rtol=0)
    n_new = cfg.context_length - n_tokens
    without, with_cache = (
        generate(model, token_ids, n_new, use_cache=flag)
        for model, flag in ((plain, False), (caching, True))
    )
    assert torch.equal(without, with_cache)


def test_a_row_of_a_batch_equals_its_own_run():
    plain, caching = twins()
    token_ids = torch.randint(SMALL.vocab_size, (4, 7))
    together = generate(caching, token_ids, 10, use_cache=True)
    alone = [generate(plain, row[None], 10) for row in token_ids]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("model_class", [baseline.GPTModel, cached.GPTModel])
def test_last_only_gives_the_last_logits(model_class):
    model = model_class(SMALL).eval()
    token_ids = torch.randint(SMALL.vocab_size, (2, 9))
    torch.testing.assert_close(model(token_ids, last_only=True), model(token_ids)[:, -1:])


def test_state_dicts_fit_both_ways_even_with_a_full_cache():
    plain, caching = twins()
    caching(torch.tensor([[1, 2, 3]]), use_cache=True)
    plain.load_state_dict(caching.state_dict())
    assert set(plain.state_dict()) == set(caching.state_dict())


@pytest.mark.parametrize("model_class", [baseline.GPTModel, cached.GPTModel])
def test_in_a_checkpoint_the_mask_is_that_of_the_public_gpt(model_class):
    """There True is where a token must not look; in the model it is where a token may."""
    model, later = model_class(SMALL), torch.ones(24, 24).triu(diagonal=1)
    state_dict = model.state_dict()
    for layer, block in enumerate(model.trf_blocks):
        assert torch.equal(state_dict[f"trf_blocks.{layer}.att.mask"].float(), later)
        state_dict[f"trf_blocks.{layer}.att.mask"] = later
        assert torch.equal(block.att.mask, later == 0)
    again = model_class(SMALL)
    again.load_state_dict(state_dict)
    assert torch.equal(again.trf_blocks[1].att.mask, later == 0)


def test_a_checkpoint_may_leave_out_the_masks():
    plain, caching = twins()
    without_masks = {k: v for k, v in plain.state_dict().items() if not k.endswith("mask")}
    caching.load_state_dict(without_masks)
    caching.load_state_dict(plain.state_dict(), assign=True)
    assert caching.tok_emb.weight is plain.tok_emb.weight or torch.equal(
        caching.tok_emb.weight, plain.tok_emb.weight
    )


@pytest.mark.parametrize("assign", [False, True])
def test_a_model_from_the_meta_device_gets_its_masks(assign):
    plain, _ = twins()
    with torch.device("meta"):
        model = cached.GPTModel(SMALL)
    if not assign:
        model = model.to_empty(device="cpu")
    model.load_state_dict(plain.state_dict(), assign=assign)
    token_ids = torch.randint(SMALL.vocab_size, (1, 9))
    torch.testing.assert_close(model.eval()(token_ids), plain(token_ids))


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("model_class", [baseline.GPTModel, cached.GPTModel])
def test_the_sources_public_model_and_ours_share_checkpoints(model_class, qkv_bias):
    public = pytest.importorskip("llms_from_scratch.ch04", reason="the public GPT is not installed")
    cfg = {
        "vocab_size": 80,
        "context_length": 32,
        "emb_dim": 24,
        "n_heads": 3,
        "n_layers": 2,
        "drop_rate": 0.1,
        "qkv_bias": qkv_bias,
    }
    torch.manual_seed(1)
    theirs, ours = public.GPTModel(cfg).eval(), model_class(GPTConfig(**cfg)).eval()
    ours.load_state_dict(theirs.state_dict())
    token_ids = torch.randint(80, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(ours(token_ids), theirs(token_ids), atol=1e-4, rtol=0)
    text = public.generate_text_simple(theirs, token_ids, 20, context_size=32)
    use_cache = model_class is cached.GPTModel
    assert torch.equal(generate(ours, token_ids, 20, use_cache=use_cache), text)

    torch.manual_seed(2)
    back = public.GPTModel(cfg).eval()
    back.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(back(token_ids), theirs(token_ids), atol=1e-5, rtol=0)


def test_the_cache_moves_with_the_model_and_is_empty_after_a_reset():
    _, caching = twins()
    caching(torch.tensor([[1, 2, 3]]), use_cache=True)
    assert caching.double().trf_blocks[0].att.cache_k.dtype == torch.float64
    caching.reset_kv_cache()
    assert caching.current_pos == 0
    assert all(
        block.att.cache_k is None and block.att.cache_v is None for block in caching.trf_blocks
    )


@pytest.mark.parametrize("name", ["MultiHeadAttention", "TransformerBlock", "GPTModel"])
def test_each_line_that_differs_in_cached_carries_a_mark(name):
    """New methods carry it where they begin; docstrings and comments need none."""
    before, after = (getattr(module, name) for module in (baseline, cached))
    for method, function in vars(after).items():
        if not inspect.isfunction(function):
            continue
        new = inspect.getsource(function).splitlines()
        if method not in vars(before):
            assert "# CACHE" in new[0], f"{name}.{method}"
            continue
        old = inspect.getsource(getattr(before, method)).splitlines()
        for line in difflib.ndiff(old, new):
            if line.startswith("+ ") and line[2:].strip() and line[2:].strip()[0] != "#":
                assert "# CACHE" in line, f"{name}.{method}: {line}"
