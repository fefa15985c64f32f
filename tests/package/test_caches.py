"""Every cache gives what it promises: the baseline's logits, a window's, or a stated error."""

import copy

import pytest
import torch
from conftest import SMALL, twins
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from models_and_caches import ALL, EXACT, assert_near, in_chunks, make_cache, make_gpt, make_llama

from kvcache import GPTConfig, generate, stream
from kvcache.caches import ConcatCache, PagedCache, SlidingWindowCache, dequantize, quantize
from kvcache.generate import pad_left
from kvcache.memory import kv_cache_bytes, measured_cache_bytes

GPT, LLAMA = make_gpt(), make_llama()


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    window=st.integers(1, 25),
    seed=st.integers(0, 999),
)
def test_all_models_and_exact_caches_write_as_the_baseline_does(data, dtype, window, seed):
    """However the text is cut: into chunks, or into a prompt and single tokens."""
    batch, n_heads, head_dim = (data.draw(st.integers(1, most)) for most in (3, 4, 8))
    names = {"vocab_size": 60, "context_length": 20, "n_layers": 3}
    sizes = {name: data.draw(st.integers(1, most)) for name, most in names.items()}
    sizes |= {"emb_dim": n_heads * head_dim, "n_heads": n_heads}
    cfg = GPTConfig(**sizes, drop_rate=0.3, qkv_bias=data.draw(st.booleans()))
    n_tokens = data.draw(st.integers(1, cfg.context_length))
    chunk = data.draw(st.integers(1, n_tokens))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    plain, caching = twins(cfg, seed, dtype)
    fast, n_new = make_gpt(plain), cfg.context_length - n_tokens
    token_ids = torch.randint(cfg.vocab_size, (batch, n_tokens))
    with torch.no_grad():
        expected = plain(token_ids)
        chunks = [caching(each, use_cache=True) for each in token_ids.split(chunk, dim=1)]
    text = generate(plain, token_ids, n_new)
    assert torch.equal(text[:, :n_tokens], token_ids)
    assert text.shape[1] == cfg.context_length
    assert_near(torch.cat(chunks, dim=1), expected, tolerance)
    assert measured_cache_bytes(caching) == kv_cache_bytes(cfg, n_tokens, batch, dtype)
    assert torch.equal(generate(caching, token_ids, n_new, use_cache=True), text)
    assert_near(fast(token_ids), expected, tolerance)
    assert torch.equal(generate(fast, token_ids, n_new), text)  # with no cache at all
    for name in EXACT:
        n_places = max(n_tokens, cfg.context_length - 1)  # the last token is not stored
        cache = make_cache(name, cfg, batch, n_places, dtype)
        assert_near(in_chunks(fast, cache, token_ids, chunk), expected, tolerance)
        cache.crop(0)
        assert torch.equal(generate(fast, token_ids, n_new, cache=cache), text)
        assert cache.n_tokens == (cfg.context_length - 1 if n_new else 0)
    for block in plain.trf_blocks:  # also hidden: all that lies window or more back
        block.att.mask &= ~torch.ones_like(block.att.mask).tril(-window)
    cache = SlidingWindowCache(cfg, window, batch, dtype=dtype)
    assert_near(in_chunks(fast, cache, token_ids, chunk), plain(token_ids), tolerance)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    name=st.sampled_from(["concat", "preallocated", "paged", "window", "int8"]),
    gpt=st.booleans(),
)
def test_each_row_of_unequal_prompts_equals_its_own_run(seed, lengths, name, gpt):
    model = make_gpt(twins(seed=seed)[0]) if gpt else make_llama(seed)
    model = model.double()  # where no rounding error changes what is stored in 8 bits
    prompts = [torch.randint(50, (1, n)) for n in lengths]
    texts, n_pad = pad_left([prompt[0] for prompt in prompts])
    kind = {"dtype": torch.float64}
    together = make_cache(name, model.cfg, len(prompts), n_pad=n_pad, **kind)
    alone = [make_cache(name, model.cfg, **kind) for _ in prompts]
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
def test_after_a_crop_it_is_as_if_no_more_had_been_fed(name, steps, batch, gpt, n_broken):
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


class Paging(RuleBasedStateMachine):
    """Appends, forks, crops and frees in any order, beside a plain dictionary."""

    def __init__(self):
        super().__init__()
        self.pages = PagedCache(SMALL, n_blocks=7, block_size=3)
        # Of each sequence, the numbers that stand for its tokens.
        self.texts = {self.pages.add(): []}
        self.n = 0

    def shape(self, numbers):
        """Keys whose every entry tells which token they are of: (batch, heads, n, head_dim)."""
        numbers = torch.tensor(numbers, dtype=torch.float32)
        return numbers[:, None, :, None].expand(-1, SMALL.n_heads, -1, SMALL.head_dim)

    def some(self, data, most=3):
        """Up to that many of the sequences."""
        sequences = st.sampled_from(sorted(self.texts))
        return data.draw(st.lists(sequences, min_size=1, max_size=most, unique=True))

    @rule()
    def add(self):
        if len(self.texts) < 6:
            self.texts[self.pages.add()] = []

    @rule(data=st.data(), n_new=st.integers(1, 7))
    def append(self, data, n_new):
        chosen = self.some(data)
        batch = self.pages.batch(chosen)
        token_ids = torch.zeros(len(chosen), n_new, dtype=torch.long)
        n_free, needed = len(self.pages.free_blocks), self.pages.blocks_needed(chosen, n_new)
        if needed > n_free:
            before = copy.deepcopy((self.pages.n_users, self.pages.tables))
            with pytest.raises(ValueError, match="blocks"):
                batch.begin(token_ids)
            if len(chosen) == 1:
                with pytest.raises(ValueError, match="blocks"):
                    self.pages.reserve(chosen[0], n_new)
            assert before == (self.pages.n_users, self.pages.tables)
            return
        new = [[self.n + row * n_new + i for i in range(n_new)] for row in range(len(chosen))]
        self.n += len(chosen) * n_new
        batch.begin(token_ids)
        assert len(self.pages.free_blocks) == n_free - needed
        for layer in range(SMALL.n_layers):
            keys, values = batch.update(layer, self.shape(new), -self.shape(new))
        batch.end(token_ids)
        for row, sequence in enumerate(chosen):
            self.texts[sequence] = self.texts[sequence] + new[row]
            n = len(self.texts[sequence])
            assert keys[row, 0, :n, 0].tolist() == self.texts[sequence]
            # Nothing of any other sequence, also beyond its end.
            assert set(keys[row].unique().tolist()) == set(self.texts[sequence])
            assert torch.equal(values[row], -keys[row])

    @rule(data=st.data())
    def fork(self, data):
        if len(self.texts) < 6:
            (parent,) = self.some(data, most=1)
            self.texts[self.pages.fork(parent)] = self.texts[parent]

    @rule(data=st.data())
    def crop(self, data):
        chosen = self.some(data)
        longest = max(len(self.texts[sequence]) for sequence in chosen)
        n_tokens = data.draw(st.integers(0, longest))
        self.pages.batch(chosen).crop(n_tokens)
        for sequence in chosen:
            self.texts[sequence] = self.texts[sequence][:n_tokens]
            assert len(self.pages.tables[sequence]) == -(-len(self.texts[sequence]) // 3)

    @rule(data=st.data())
    def free(self, data):
        for sequence in self.some(data)[: len(self.texts) - 1]:  # one stays
            self.pages.free(sequence)
            del self.texts[sequence]

    @invariant()
    def nothing_leaks(self):
        used = [block for table in self.pages.tables.values() for block in table]
        assert self.pages.n_users == [used.count(block) for block in range(7)]
        assert sorted(self.pages.free_blocks) == [block for block in range(7) if block not in used]
        assert set(self.pages.tables) == set(self.pages.lengths) == set(self.texts)

    @invariant()
    def every_sequence_reads_its_own_tokens(self):
        for sequence, text in self.texts.items():
            table = self.pages.tables[sequence]
            slots = [3 * block + i for block in table for i in range(3)][: len(text)]
            for layer in range(SMALL.n_layers):
                assert self.pages.memory[layer][0, slots, 0, 0].tolist() == text
                assert self.pages.memory[layer][1, slots, -1, -1].tolist() == [-n for n in text]


TestPaging = Paging.TestCase
TestPaging.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
