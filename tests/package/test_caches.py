"""Every cache gives what it promises: the baseline's logits, a window's, or a stated error."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, twins
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_models import TOLERANCE, cases
from torch.utils._python_dispatch import TorchDispatchMode

from kvcache import baseline, generate, optimized, stream
from kvcache.caches import (
    ConcatCache,
    PagedCache,
    PreallocatedCache,
    QuantizedCache,
    SlidingWindowCache,
    dequantize,
    quantize,
)
from kvcache.generate import pad_left
from kvcache.llama import LlamaConfig, LlamaModel
from kvcache.memory import kv_cache_bytes

LLAMA = LlamaConfig(
    **{**vars(SMALL), "emb_dim": 24, "n_heads": 6, "n_kv_heads": 2, "hidden_dim": 40}
)


def paged(cfg, n_tokens, batch_size, dtype, block_size=3):
    n_blocks = batch_size * -(-n_tokens // block_size)
    pages = PagedCache(cfg, n_blocks, block_size, dtype=dtype)
    return pages.batch([pages.add() for _ in range(batch_size)])


EXACT = {
    "concat": lambda cfg, n, batch, dtype: ConcatCache(cfg, batch),
    "preallocated": lambda cfg, n, batch, dtype: PreallocatedCache(cfg, n, batch, dtype=dtype),
    "whole window": lambda cfg, n, batch, dtype: SlidingWindowCache(cfg, n, batch, dtype=dtype),
    "paged": paged,
}


def pair(cfg, seed=0, dtype=torch.float32):
    """The baseline, and the optimized model with its weights."""
    plain, _ = twins(cfg, seed, dtype)
    fast = optimized.GPTModel(cfg).to(dtype).eval()
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def llama(seed=0):
    torch.manual_seed(seed)
    model = LlamaModel(LLAMA).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


GPT, LLAMA_MODEL = pair(SMALL)[1], llama()
GPT_64, LLAMA_64 = pair(SMALL, dtype=torch.float64)[1], llama().double()


def in_chunks(model, cache, token_ids, sizes):
    return torch.cat([model(chunk, cache) for chunk in token_ids.split(sizes, dim=1)], dim=1)


@settings(max_examples=60, deadline=None)
@given(case=cases(), dtype=st.sampled_from(list(TOLERANCE)))
def test_all_models_and_exact_caches_give_the_baselines_logits_and_tokens(case, dtype):
    cfg, seed, batch, n_tokens, sizes = case
    plain, fast = pair(cfg, seed, dtype)
    token_ids = torch.randint(cfg.vocab_size, (batch, n_tokens))
    with torch.no_grad():
        expected = plain(token_ids)
    n_new = cfg.context_length - n_tokens
    text = generate(plain, token_ids, n_new)
    torch.testing.assert_close(fast(token_ids), expected, atol=TOLERANCE[dtype], rtol=0)
    assert torch.equal(generate(fast, token_ids, n_new), text)  # with no cache at all
    for make in EXACT.values():
        found = in_chunks(fast, make(cfg, cfg.context_length, batch, dtype), token_ids, sizes)
        torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=0)
        cache = make(cfg, cfg.context_length, batch, dtype)
        assert torch.equal(generate(fast, token_ids, n_new, cache=cache), text)
        assert cache.n_tokens == (cfg.context_length - 1 if n_new else 0)


@pytest.mark.parametrize("name", EXACT)
def test_exact_caches_serve_grouped_queries_and_rotary_positions(name):
    model = llama()
    token_ids = torch.randint(50, (2, 20))
    expected = model(token_ids)
    for sizes in (20, 1, 7):
        cache = EXACT[name](LLAMA, 24, 2, torch.float32)
        torch.testing.assert_close(
            in_chunks(model, cache, token_ids, sizes), expected, atol=1e-4, rtol=0
        )


@settings(max_examples=60, deadline=None)
@given(case=cases(), window=st.integers(1, 25))
def test_a_sliding_window_equals_attention_masked_to_it(case, window):
    cfg, seed, batch, n_tokens, sizes = case
    plain, fast = pair(cfg, seed)
    for block in plain.trf_blocks:  # also hidden: all that lies window or more back
        block.att.mask &= ~torch.ones_like(block.att.mask).tril(-window)
    token_ids = torch.randint(cfg.vocab_size, (batch, n_tokens))
    with torch.no_grad():
        expected = plain(token_ids)
    cache = SlidingWindowCache(cfg, window, batch)
    found = in_chunks(fast, cache, token_ids, sizes)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert cache.n_bytes == kv_cache_bytes(cfg, window, batch)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    kind=st.sampled_from(["concat", "preallocated", "window", "int8"]),
    gpt=st.booleans(),
)
def test_each_row_of_unequal_prompts_equals_its_own_run(seed, lengths, kind, gpt):
    torch.manual_seed(seed)
    model = pair(SMALL, seed)[1] if gpt else llama(seed)
    cfg = model.cfg
    prompts = [torch.randint(cfg.vocab_size, (n,)) for n in lengths]
    token_ids, n_pad = pad_left(prompts)
    make = {
        "concat": lambda batch, pad: ConcatCache(cfg, batch, pad),
        "preallocated": lambda batch, pad: PreallocatedCache(cfg, 24, batch, pad),
        "window": lambda batch, pad: SlidingWindowCache(cfg, 5, batch, pad),
        "int8": lambda batch, pad: QuantizedCache(cfg, 24, 8, batch, pad),
    }[kind]
    together, texts = make(len(prompts), n_pad), token_ids
    alone = [make(1, None) for _ in prompts]
    steps = [prompt[None] for prompt in prompts]
    for _ in range(6):
        logits = model(texts, together)[:, -1]
        own = torch.cat([model(s, c)[:, -1] for s, c in zip(steps, alone, strict=True)])
        torch.testing.assert_close(logits, own, atol=1e-4, rtol=0)
        texts = own.argmax(dim=-1, keepdim=True)
        steps = list(texts.split(1))


def test_sequences_of_unequal_length_share_one_paged_batch():
    model = pair(SMALL)[1]
    pages = PagedCache(SMALL, 30, block_size=4)
    prompts = [torch.randint(50, (1, n)) for n in (3, 9, 4)]
    sequences = [pages.add() for _ in prompts]
    texts = []
    for sequence, prompt in zip(sequences, prompts, strict=True):
        logits = model(prompt, pages.batch([sequence]), last_only=True)
        texts.append(torch.cat([prompt, logits.argmax(-1)], dim=1))
    for _ in range(8):
        newest = torch.cat([text[:, -1:] for text in texts])
        chosen = model(newest, pages.batch(sequences)).argmax(-1)
        texts = [torch.cat([t, c[None]], dim=1) for t, c in zip(texts, chosen, strict=True)]
    for prompt, text in zip(prompts, texts, strict=True):
        assert torch.equal(text, generate(model, prompt, 9))


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


@pytest.mark.parametrize("cfg", [SMALL, LLAMA], ids=["gpt", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_bytes_measured_equal_bytes_computed(cfg, dtype):
    model = (pair(SMALL)[1] if cfg is SMALL else llama()).to(dtype)
    token_ids = torch.randint(50, (2, 11))
    concat = ConcatCache(cfg, 2)
    assert concat.n_bytes == 0
    model(token_ids, concat)
    assert concat.n_bytes == kv_cache_bytes(cfg, 11, 2, dtype)
    exact = kv_cache_bytes(cfg, 20, 2, dtype)
    for cache in (
        PreallocatedCache(cfg, 20, 2, dtype=dtype),
        SlidingWindowCache(cfg, 20, 2, dtype=dtype),
        PagedCache(cfg, 10, 4, dtype=dtype),
    ):
        assert cache.n_bytes == exact
        batch = cache
        if isinstance(cache, PagedCache):
            batch = cache.batch([cache.add(), cache.add()])
        model(token_ids, batch)
        assert cache.n_bytes == exact  # fixed at the start
    for bits in (8, 4):
        cache = QuantizedCache(cfg, 20, bits, 2)
        assert cache.n_bytes == kv_cache_bytes(cfg, 20, 2, f"int{bits}")


ALL = {
    **EXACT,
    "window": lambda cfg, n, batch, dtype: SlidingWindowCache(cfg, 5, batch, dtype=dtype),
    "int8": lambda cfg, n, batch, dtype: QuantizedCache(cfg, n, 8, batch),
    "int4": lambda cfg, n, batch, dtype: QuantizedCache(cfg, n, 4, batch),
}


@st.composite
def edits(draw):
    """Chunks to feed, and after each of them how many tokens to take back, of at most 24 tokens."""
    steps, n_tokens = [], 0
    for _ in range(draw(st.integers(1, 6))):
        n_new = draw(st.integers(1, 8))
        if n_tokens + n_new > 24:
            break
        n_back = draw(st.one_of(st.just(0), st.just(1), st.integers(0, n_tokens + n_new)))
        n_tokens += n_new - n_back
        steps.append((n_new, n_back))
    return steps


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40, deadline=None)
@given(
    steps=edits(),
    batch=st.integers(1, 3),
    gpt=st.booleans(),
    n_broken=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_after_a_crop_it_is_as_if_those_tokens_had_never_been_fed(
    name, steps, batch, gpt, n_broken, seed
):
    """Also if passes over n_broken tokens got only through the first layer, in between.

    In 64 bits, where no rounding error is large enough to change what is stored in 8 or 4.
    """
    torch.manual_seed(seed)
    model = GPT_64 if gpt else LLAMA_64
    cache, fresh = (ALL[name](model.cfg, 24, batch, torch.float64) for _ in range(2))
    text, longest = torch.empty(batch, 0, dtype=torch.long), 0  # the most tokens that there were
    for n_new, n_back in steps:
        new = torch.randint(50, (batch, n_new))
        text = torch.cat([text, new], dim=1)
        found, expected = model(new, cache), model(text, copy.deepcopy(fresh))[:, -n_new:]
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
        longest = max(longest, text.shape[1])
        if n_broken and text.shape[1] + n_broken <= 24:
            cache.begin(text[:, :1].expand(-1, n_broken))
            n_heads = model.cfg.n_heads if gpt else model.cfg.n_kv_heads
            shape = (2, batch, n_heads, n_broken, model.cfg.head_dim)
            cache.update(0, *torch.randn(shape, dtype=torch.float64))
            longest = max(longest, text.shape[1] + 1)
        n_left = text.shape[1] - n_back
        if name == "window" and n_left and max(0, n_left - 4) < longest - 5:
            with pytest.raises(ValueError, match=f"keep at least {longest - 1}, or 0"):
                cache.crop(n_left)
            return
        cache.crop(n_left)
        longest = longest if n_left else 0
        text = text[:, :n_left]
        assert cache.n_tokens == n_left
        if name == "concat":
            assert cache.n_bytes == kv_cache_bytes(model.cfg, n_left, batch, torch.float64)
        if name == "paged":
            assert len(cache.pages.free_blocks) == len(cache.pages.n_users) - batch * -(
                -n_left // 3
            )


@pytest.mark.parametrize("name", ALL)
def test_a_crop_to_what_is_not_there_is_refused(name):
    cache = ALL[name](SMALL, 24, 1, torch.float32)
    GPT(torch.randint(50, (1, 4)), cache)
    for n_tokens, message in ((5, "is 5, the cache holds 4"), (-1, "is -1"), (1.0, "is 1.0")):
        with pytest.raises(ValueError, match=f"n_tokens {message}"):
            cache.crop(n_tokens)
    assert cache.n_tokens == 4


def test_a_crop_of_a_fork_leaves_its_parent_alone():
    pages = PagedCache(SMALL, 8, block_size=4)
    parent, text = pages.add(), torch.randint(50, (1, 10))
    GPT(text, pages.batch([parent]))
    child = pages.fork(parent)
    pages.crop(child, 6)
    assert (pages.lengths[parent], pages.lengths[child]) == (10, 6)
    assert len(pages.free_blocks) == 8 - 3  # the child's two are its parent's
    new = torch.randint(50, (1, 3))
    found = GPT(new, pages.batch([child]))
    expected = GPT(torch.cat([text[:, :6], new], dim=1))[:, -3:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    found = GPT(new, pages.batch([parent]))
    expected = GPT(torch.cat([text, new], dim=1))[:, -3:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    pages.batch([parent, child]).crop(9)
    assert pages.lengths == {parent: 9, child: 9}


class Questions(TorchDispatchMode):
    """Counts what waits for the device: numbers and truths that are read out of a tensor."""

    n = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        asking = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")
        self.n += operation.overloadpacket.__name__ in asking
        return operation(*args, **(kwargs or {}))


def questions(tokens):
    """How many of them the decode steps of a stream ask."""
    next(tokens)  # the prefill, and what `stream` checks
    with Questions() as asked:
        for _ in tokens:
            pass
    return asked.n


@pytest.mark.parametrize("name", ["inside", "none", *ALL, "padded"])
@pytest.mark.parametrize("gpt", [True, False])
def test_a_decode_step_asks_nothing_of_the_device(name, gpt):
    model, prompt = GPT if gpt else LLAMA_MODEL, torch.randint(50, (2, 4))
    if name == "inside":
        plain, caching = twins()
        streams = [stream(plain, prompt, 9), stream(caching, prompt, 9, use_cache=True)]
    elif name == "none":
        streams = [stream(model, prompt, 9)]
    elif name == "padded":
        n_pad = torch.tensor([2, 0])
        streams = [stream(model, prompt, 9, cache=ConcatCache(model.cfg, 2, n_pad))]
    else:
        streams = [stream(model, prompt, 9, cache=ALL[name](model.cfg, 24, 2, torch.float32))]
    assert [questions(tokens) for tokens in streams] == [0] * len(streams)


def test_a_question_would_be_counted():
    class Asks(ConcatCache):
        def end(self, token_ids):
            assert token_ids.max() < 50
            super().end(token_ids)

    tokens = stream(GPT, torch.randint(50, (1, 4)), 9, cache=Asks(SMALL))
    assert questions(tokens) == 8


@pytest.mark.parametrize("name", ALL)
def test_attention_gets_no_mask_where_the_causal_order_says_it_all(name):
    fast, seen = pair(SMALL)[1], []
    fast.attend.register_forward_pre_hook(lambda attend, given: seen.append(given[3] is None))
    cache = ALL[name](SMALL, 24, 2, torch.float32)
    for n_new in (4, 1, 3):
        fast(torch.randint(50, (2, n_new)), cache)
    assert seen[:: SMALL.n_layers] == [True, True, False]
    fast(torch.randint(50, (2, 6)), SlidingWindowCache(SMALL, 5, 2))
    fast(torch.randint(50, (2, 2)), ConcatCache(SMALL, 2, torch.tensor([1, 0])))
    assert seen[6 :: SMALL.n_layers] == [False, False]


def test_generation_goes_on_from_what_the_cache_holds():
    plain, fast = pair(SMALL)
    token_ids = torch.randint(50, (1, 10))
    cache = PreallocatedCache(SMALL, 20)
    fast(token_ids[:, :7], cache)
    out = generate(fast, token_ids[:, 7:], 6, cache=cache)
    assert torch.equal(out[:, 3:], generate(plain, token_ids, 6)[:, 10:])


class Paging(RuleBasedStateMachine):
    """Appends, forks and frees in any order, beside a plain dictionary."""

    def __init__(self):
        super().__init__()
        self.pages = PagedCache(SMALL, n_blocks=7, block_size=3)
        self.texts = {}  # sequence -> the number that stands for each of its tokens
        self.n = 0

    def shape(self, numbers):
        """Keys whose every entry tells which token they are of: (batch, heads, n, head_dim)."""
        numbers = torch.tensor(numbers, dtype=torch.float32)
        return numbers[:, None, :, None].expand(-1, SMALL.n_heads, -1, SMALL.head_dim)

    @rule()
    def add(self):
        if len(self.texts) < 6:
            self.texts[self.pages.add()] = []

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), n_new=st.integers(1, 7))
    def append(self, data, n_new):
        chosen = data.draw(
            st.lists(st.sampled_from(sorted(self.texts)), min_size=1, max_size=3, unique=True)
        )
        batch = self.pages.batch(chosen)
        token_ids = torch.zeros(len(chosen), n_new, dtype=torch.long)
        fits = self.pages.blocks_needed(chosen, n_new) <= len(self.pages.free_blocks)
        before = (list(self.pages.n_users), {k: v[:] for k, v in self.pages.tables.items()})
        if not fits:
            with pytest.raises(ValueError, match="blocks"):
                batch.begin(token_ids)
            if len(chosen) == 1:
                with pytest.raises(ValueError, match="blocks"):
                    self.pages.reserve(chosen[0], n_new)
            assert before == (self.pages.n_users, self.pages.tables)
            return
        n_free, needed = len(self.pages.free_blocks), self.pages.blocks_needed(chosen, n_new)
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
            assert torch.equal(values[row, :, :n], -keys[row, :, :n])

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def fork(self, data):
        if len(self.texts) < 6:
            parent = data.draw(st.sampled_from(sorted(self.texts)))
            self.texts[self.pages.fork(parent)] = self.texts[parent]

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def crop(self, data):
        sequence = data.draw(st.sampled_from(sorted(self.texts)))
        n_tokens = data.draw(st.integers(0, len(self.texts[sequence])))
        self.pages.crop(sequence, n_tokens)
        self.texts[sequence] = self.texts[sequence][:n_tokens]
        assert len(self.pages.tables[sequence]) == -(-n_tokens // 3)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def free(self, data):
        sequence = data.draw(st.sampled_from(sorted(self.texts)))
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
                assert self.pages.keys[layer, slots, 0, 0].tolist() == text
                assert self.pages.values[layer, slots, -1, -1].tolist() == [-n for n in text]

    def teardown(self):
        for sequence in list(self.texts):
            self.pages.free(sequence)
        assert len(self.pages.free_blocks) == 7


TestPaging = Paging.TestCase
TestPaging.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


BAD = {
    "max_tokens is 0": lambda: PreallocatedCache(SMALL, 0),
    "window is -1": lambda: SlidingWindowCache(SMALL, -1),
    "bits is 3": lambda: QuantizedCache(SMALL, 8, bits=3),
    "n_blocks is 2.0": lambda: PagedCache(SMALL, 2.0),
    "block_size is 0": lambda: PagedCache(SMALL, 2, 0),
    "batch_size is 0": lambda: ConcatCache(SMALL, 0),
    "n_pad is tensor": lambda: ConcatCache(SMALL, 2, torch.tensor([1])),
    "n_pad is \\[1, 0\\]": lambda: ConcatCache(SMALL, 2, [1, 0]),
    "the prompts have shapes": lambda: pad_left([torch.tensor([])]),
    "no sequence 7": lambda: PagedCache(SMALL, 2).free(7),
    "pass each one once": lambda: PagedCache(SMALL, 2).batch([]),
    "n_kv_heads 4": lambda: LlamaConfig(**{**vars(LLAMA), "n_kv_heads": 4}),
    "hidden_dim is 0": lambda: LlamaConfig(**{**vars(LLAMA), "hidden_dim": 0}),
    "rope_base is -1": lambda: LlamaConfig(**{**vars(LLAMA), "rope_base": -1}),
    "need an even one": lambda: QuantizedCache(type(SMALL)(9, 9, 3, 1, 1), 8, bits=4),
}


@pytest.mark.parametrize("message", BAD)
def test_a_cache_that_cannot_be_says_why(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_what_a_cache_cannot_take_is_refused_before_any_work():
    model = pair(SMALL)[1]
    token_ids = torch.randint(50, (2, 6))
    cache = PreallocatedCache(SMALL, 8, 2)
    model(token_ids, cache)
    with pytest.raises(ValueError, match="6 tokens; 6 more exceed its max_tokens of 8"):
        model(token_ids, cache)
    with pytest.raises(ValueError, match="batch size 1, the cache 2"):
        model(token_ids[:1], cache)
    with pytest.raises(ValueError, match="exceed its max_tokens"):
        generate(model, token_ids[:, :1], 3, cache=cache)
    assert cache.n_tokens == 6
    generate(model, token_ids[:, :1], 2, cache=cache)  # the last token is not stored
    assert cache.n_tokens == 8
    pages = PagedCache(SMALL, 2, 4)
    with pytest.raises(ValueError, match="need 3 blocks, and 2 are free"):
        model(torch.randint(50, (1, 9)), pages.batch([pages.add()]))
    with pytest.raises(ValueError, match="batch size 2, the cache 1"):
        model(token_ids, pages.batch([pages.add()]))
    with pytest.raises(ValueError, match="context length is 24"):
        model(torch.randint(50, (1, 25)), ConcatCache(SMALL))
    with pytest.raises(ValueError, match="takes no cache object"):
        generate(baseline.GPTModel(SMALL), token_ids, 1, cache=ConcatCache(SMALL, 2))
    with pytest.raises(ValueError, match="has no cache inside"):
        generate(model, token_ids, 1, use_cache=True)
    with pytest.raises(TypeError, match="list"):
        model([[1, 2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 3}, "for n_layers 3, the model has 2"),
        ({"n_heads": 2}, "for n_kv_heads 2, the model has 4"),
        ({"emb_dim": 32}, "for head_dim 8, the model has 4"),
    ],
)
def test_a_cache_made_for_another_model_is_refused(change, message):
    model, other = pair(SMALL)[1], replace(SMALL, **change)
    token_ids = torch.randint(50, (1, 3))
    pages = PagedCache(other, 4)
    for cache in (
        ConcatCache(other),
        PreallocatedCache(other, 8),
        SlidingWindowCache(other, 8),
        QuantizedCache(other, 8),
        pages.batch([pages.add()]),
    ):
        with pytest.raises(ValueError, match=message):
            model(token_ids, cache)
        with pytest.raises(ValueError, match=message):
            stream(model, token_ids, 1, cache=cache)
        assert cache.n_tokens == 0


def test_a_cache_of_another_dtype_or_device_is_refused():
    model, token_ids = pair(SMALL)[1], torch.randint(50, (1, 3))
    with pytest.raises(ValueError, match=r"for dtype torch\.float16, the model has torch\.float32"):
        model(token_ids, PreallocatedCache(SMALL, 8, dtype=torch.float16))
    with pytest.raises(ValueError, match="for device meta, the model has cpu"):
        model(token_ids, SlidingWindowCache(SMALL, 8, device="meta"))
    pages = PagedCache(SMALL, 2, dtype=torch.float64)
    sequence = pages.add()
    with pytest.raises(ValueError, match="for dtype torch"):
        model(token_ids, pages.batch([sequence]))
    assert len(pages.free_blocks) == 2
    model.double()(token_ids, pages.batch([sequence]))


@pytest.mark.parametrize("name", ["preallocated", "paged", "window", "int4"])
def test_compiled_decode_steps_give_the_same_logits(name):
    torch.compiler.reset()
    fast = pair(SMALL)[1]
    compiled = copy.deepcopy(fast)
    compiled.compile(backend="eager")  # traced, and not made into C++
    token_ids = torch.randint(50, (2, 14))
    first, second = (ALL[name](SMALL, 14, 2, torch.float32) for _ in range(2))
    sizes = [3, 1, 1, 1, 4, 1, 1, 1, 1]
    expected = in_chunks(fast, first, token_ids, sizes)
    found = in_chunks(compiled, second, token_ids, sizes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.equal(found, expected)  # it did go another way


def test_compiled_decode_steps_leave_out_what_only_fills_up():
    fast = pair(SMALL)[1]
    token_ids, n_pad = pad_left([torch.tensor([7, 8, 9]), [5]])
    expected = generate(fast, token_ids, 6, cache=PreallocatedCache(SMALL, 12, 2, n_pad))
    fast.compile(backend="eager")
    found = generate(fast, token_ids, 6, cache=PreallocatedCache(SMALL, 12, 2, n_pad))
    assert torch.equal(found, expected)


def test_the_optimized_model_takes_its_own_state_dict_and_the_baselines():
    plain, fast = pair(SMALL)
    again = optimized.GPTModel(SMALL)
    again.load_state_dict(fast.state_dict())
    token_ids = torch.randint(50, (1, 9))
    assert torch.equal(again.eval()(token_ids), fast(token_ids))
    state_dict = plain.state_dict()
    del state_dict["trf_blocks.1.att.W_key.weight"]
    with pytest.raises(KeyError, match=r"trf_blocks\.1\.att\.W_key"):
        optimized.GPTModel(SMALL).load_state_dict(state_dict)


def test_a_model_that_was_moved_copied_or_loaded_anew_uses_its_new_weights():
    fast = pair(SMALL)[1]
    token_ids = torch.randint(50, (1, 9))
    expected = fast(token_ids)
    twin = copy.deepcopy(fast)
    assert torch.equal(twin(token_ids), expected)
    other = pair(SMALL, seed=1)[1]
    for assign in (False, True):
        twin.load_state_dict(fast.state_dict())
        assert torch.equal(twin(token_ids), expected)
        twin.load_state_dict(other.state_dict(), assign=assign)
        assert torch.equal(twin(token_ids), other(token_ids))
    assert torch.equal(fast(token_ids), expected)
    torch.testing.assert_close(fast.double()(token_ids).float(), expected, atol=1e-4, rtol=0)
    twin.blocks[0]["b_up"] = torch.zeros_like(twin.blocks[0]["b_up"])
    assert not torch.equal(twin(token_ids), other(token_ids))


def test_two_streams_on_one_cache_are_told_apart():
    fast = pair(SMALL)[1]
    cache, prompt = ConcatCache(SMALL), torch.randint(50, (1, 4))
    first, second = stream(fast, prompt, 3, cache=cache), stream(fast, prompt, 3, cache=cache)
    next(first), next(second)
    with pytest.raises(RuntimeError, match="another call used this cache"):
        next(first)


def test_nothing_of_one_sequence_reaches_another():
    fast = pair(SMALL)[1]
    pages = PagedCache(SMALL, 8, 4)
    long, short = pages.add(), pages.add()
    fast(torch.randint(50, (1, 6)), pages.batch([long]))
    fast(torch.randint(50, (1, 2)), pages.batch([short]))
    pages.keys[:, :4] = pages.values[:, :4] = torch.nan  # the first block of `long`
    assert fast(torch.randint(50, (2, 1)), pages.batch([long, short]))[1].isfinite().all()


def test_what_is_no_cache_is_refused():
    fast = pair(SMALL)[1]
    with pytest.raises(TypeError, match="cache is a PagedCache"):
        generate(fast, torch.randint(50, (1, 2)), 1, cache=PagedCache(SMALL, 2))
    pages = PagedCache(SMALL, 2)
    sequence = pages.add()
    batch = pages.batch([sequence])
    pages.free(sequence)
    with pytest.raises(ValueError, match="no sequence 1"):
        fast(torch.randint(50, (1, 2)), batch)
