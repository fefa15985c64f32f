"""Every cache gives what it promises: the baseline's logits, a window's, or a stated error."""

import copy

import pytest
import torch
from conftest import SMALL, twins
from hypothesis import given, settings
from hypothesis import strategies as st
from models_and_caches import ALL, EXACT, assert_near, in_chunks, make_cache, make_gpt, make_llama

from kvcache import GPTConfig, generate, stream
from kvcache.caches import ConcatCache, SlidingWindowCache, dequantize, quantize
from kvcache.generate import pad_left
from kvcache.memory import kv_cache_bytes, measured_cache_bytes

GPT, LLAMA = make_gpt(), make_llama()


@st.composite
def cases(draw):
    """A random configuration, seed, input and a way to cut it into chunks."""
    n_heads = draw(st.integers(1, 4))
    names = {"vocab_size": 60, "context_length": 20, "emb_dim": 8, "n_layers": 3}
    config = {name: draw(st.integers(1, most)) for name, most in names.items()}
    config |= {"emb_dim": n_heads * config["emb_dim"], "n_heads": n_heads}
    cfg = GPTConfig(**config, drop_rate=0.3, qkv_bias=draw(st.booleans()))
    n_tokens = draw(st.integers(1, cfg.context_length))
    sizes = []
    while sum(sizes) < n_tokens:
        sizes.append(draw(st.integers(1, n_tokens - sum(sizes))))
    return cfg, draw(st.integers(0, 999)), draw(st.integers(1, 3)), n_tokens, sizes


@settings(max_examples=60, deadline=None)
@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_all_models_and_exact_caches_give_the_baselines_logits_and_tokens(case, dtype):
    """However the text is cut: into chunks, or into a prompt and single tokens."""
    cfg, seed, batch, n_tokens, sizes = case
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    plain, caching = twins(cfg, seed, dtype)
    fast, n_new = make_gpt(plain), cfg.context_length - n_tokens
    token_ids = torch.randint(cfg.vocab_size, (batch, n_tokens))
    with torch.no_grad():
        expected = plain(token_ids)
        chunks = [caching(chunk, use_cache=True) for chunk in token_ids.split(sizes, dim=1)]
    text = generate(plain, token_ids, n_new)
    assert_near(torch.cat(chunks, dim=1), expected, tolerance)
    assert measured_cache_bytes(caching) == kv_cache_bytes(cfg, n_tokens, batch, dtype)
    assert torch.equal(generate(caching, token_ids, n_new, use_cache=True), text)
    assert_near(fast(token_ids), expected, tolerance)
    assert torch.equal(generate(fast, token_ids, n_new), text)  # with no cache at all
    for name in EXACT:
        n_places = max(n_tokens, cfg.context_length - 1)  # the last token is not stored
        cache = make_cache(name, cfg, batch, n_places, dtype)
        assert_near(in_chunks(fast, cache, token_ids, sizes), expected, tolerance)
        cache.crop(0)
        assert torch.equal(generate(fast, token_ids, n_new, cache=cache), text)
        assert cache.n_tokens == (cfg.context_length - 1 if n_new else 0)


@settings(max_examples=60, deadline=None)
@given(case=cases(), window=st.integers(1, 25))
def test_a_sliding_window_equals_attention_masked_to_it(case, window):
    cfg, seed, batch, n_tokens, sizes = case
    plain = twins(cfg, seed)[0]
    for block in plain.trf_blocks:  # also hidden: all that lies window or more back
        block.att.mask &= ~torch.ones_like(block.att.mask).tril(-window)
    token_ids = torch.randint(cfg.vocab_size, (batch, n_tokens))
    cache = SlidingWindowCache(cfg, window, batch)
    assert_near(in_chunks(make_gpt(plain), cache, token_ids, sizes), plain(token_ids))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    name=st.sampled_from(["concat", "preallocated", "paged", "window", "int8"]),
    gpt=st.booleans(),
)
def test_each_row_of_unequal_prompts_equals_its_own_run(seed, lengths, name, gpt):
    model = make_gpt(twins(seed=seed)[0]) if gpt else make_llama(seed)
    prompts = [torch.randint(50, (1, n)) for n in lengths]
    texts, n_pad = pad_left([prompt[0] for prompt in prompts])
    together = make_cache(name, model.cfg, len(prompts), n_pad=n_pad)
    alone = [make_cache(name, model.cfg) for _ in prompts]
    own = torch.cat([model(p, c)[:, -1] for p, c in zip(prompts, alone, strict=True)])
    if name == "paged":  # needs no filling: each row reads its own prompt
        rows = [together.pages.batch([sequence]) for sequence in together.sequences]
        found = torch.cat([model(p, c)[:, -1] for p, c in zip(prompts, rows, strict=True)])
    else:
        found = model(texts, together)[:, -1]
    for _ in range(6):
        assert_near(found, own)
        newest = own.argmax(dim=-1, keepdim=True)
        found = model(newest, together)[:, -1]
        own = torch.cat([model(t, c)[:, -1] for t, c in zip(newest.split(1), alone, strict=True)])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 9999), bits=st.sampled_from([4, 8]), size=st.floats(1e-20, 1e20))
def test_quantised_numbers_keep_their_bound(seed, bits, size):
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 5, 8) * size
    x[0, 0, 0] = 0
    levels, scales = quantize(x, bits)
    assert torch.equal(scales, x.abs().amax(-1, keepdim=True) / {4: 7, 8: 127}[bits])
    error = (dequantize(levels, scales, bits) - x).abs()
    assert (error <= scales * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 1) | st.integers(0, 24))),
    batch=st.integers(1, 3),
    gpt=st.booleans(),
    n_broken=st.integers(0, 3),
)
def test_after_a_crop_it_is_as_if_those_tokens_had_never_been_fed(
    name, steps, batch, gpt, n_broken
):
    """However a text is cut: steps feed n_new tokens, of at most 24, then take n_back back.

    Exact caches do as the model without one, the others as a fresh one; also if passes over
    n_broken tokens got only through the first layer, in between. In 64 bits, where no rounding
    error is large enough to change what is stored in 8 or 4. The bytes are those of the formula.
    """

    def assert_bytes(n_tokens):  # all but one take them at the start
        kept = {"concat": n_tokens, "window": 5}.get(name, 24)
        kind = name if "int" in name else torch.float64
        assert cache.n_bytes == kv_cache_bytes(model.cfg, kept, batch, kind)

    torch.manual_seed(0)  # so that a failure can be repeated
    model = copy.deepcopy(GPT if gpt else LLAMA).double()
    cache, fresh = (make_cache(name, model.cfg, batch, dtype=torch.float64) for _ in range(2))
    text, longest = torch.empty(batch, 0, dtype=torch.long), 0  # the most tokens that there were
    for n_new, n_back in steps:
        new = torch.randint(50, (batch, min(n_new, 24 - text.shape[1])))
        if new.shape[1] == 0:
            return
        text = torch.cat([text, new], dim=1)
        expected = model(text, None if name in EXACT else copy.deepcopy(fresh))
        assert_near(model(new, cache), expected[:, -new.shape[1] :], 1e-9)
        assert_bytes(text.shape[1])
        longest = max(longest, text.shape[1])
        if n_broken and text.shape[1] + n_broken <= 24:
            cache.begin(text[:, :1].expand(-1, n_broken))
            n_heads = model.cfg.n_heads if gpt else model.cfg.n_kv_heads
            shape = (2, batch, n_heads, n_broken, model.cfg.head_dim)
            cache.update(0, *torch.randn(shape, dtype=torch.float64))
            longest = max(longest, text.shape[1] + 1)
        if n_back == 0:
            continue
        n_left = max(0, text.shape[1] - n_back)
        if name == "window" and n_left and max(0, n_left - 4) < longest - 5:
            with pytest.raises(ValueError, match=f"keep at least {longest - 1}, or 0"):
                cache.crop(n_left)
            return
        with pytest.raises(ValueError, match=f"the cache holds {text.shape[1]}; keep fewer"):
            cache.crop(text.shape[1] + 1)
        cache.crop(n_left)
        longest = longest if n_left else 0
        text = text[:, :n_left]
        assert cache.n_tokens == n_left
        assert_bytes(n_left)


def test_a_pass_and_the_next_token_ask_nothing_of_the_device(monkeypatch):
    """On the meta device there are no numbers to be read: whoever asks for one gets an error."""
    monkeypatch.setattr(GPTConfig, "check_vocabulary", lambda cfg, token_ids: None)
    prompt = torch.zeros(2, 4, dtype=torch.long, device="meta")
    plain, caching = (model.to("meta") for model in twins())
    streams = [stream(plain, prompt, 9), stream(caching, prompt, 9, use_cache=True)]
    for model in (make_gpt().to("meta"), make_llama().to("meta")):
        caches = [make_cache(name, model.cfg, 2, device="meta") for name in ALL]
        caches += [None, ConcatCache(model.cfg, 2, torch.tensor([2, 0]))]
        streams += [stream(model, prompt, 9, cache=cache) for cache in caches]
    assert [len(list(tokens)) for tokens in streams] == [9] * len(streams)
    with pytest.raises(RuntimeError, match="meta"):
        bool(prompt.max() < 50)


@pytest.mark.parametrize("name", ALL)
def test_attention_gets_no_mask_where_the_causal_order_says_it_all(name):
    fast, seen = make_gpt(), []
    fast.attend.register_forward_pre_hook(lambda attend, given: seen.append(given[3] is None))
    cache = make_cache(name, batch=2)
    for n_new in (4, 1, 3):
        fast(torch.randint(50, (2, n_new)), cache)
    assert seen[:: SMALL.n_layers] == [True, True, False]
    fast(torch.randint(50, (2, 6)), SlidingWindowCache(SMALL, 5, 2))
    fast(torch.randint(50, (2, 2)), ConcatCache(SMALL, 2, torch.tensor([1, 0])))
    assert seen[6 :: SMALL.n_layers] == [False, False]
