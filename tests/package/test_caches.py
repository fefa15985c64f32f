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
    vocab_size=50,
    context_length=24,
    emb_dim=24,
    n_heads=6,
    n_layers=2,
    n_kv_heads=2,
    hidden_dim=40,
)


def paged(cfg, n_tokens, batch_size, dtype, block_size=3):
    n_blocks = batch_size * -(-n_tokens // block_size)
    pages = PagedCache(cfg, n_blocks, block_size, dtype=dtype)
    return pages.batch([pages.add() for _ in range(batch_size)])


EXACT = {
    "concat": lambda cfg, n, batch, dtype: ConcatCache(cfg, batch),
    "preallocated": lambda cfg, n, batch, dtype: PreallocatedCache(cfg, n, batch, dtype=dtype),
    "window of the whole text": lambda cfg, n, batch, dtype: SlidingWindowCache(
        cfg, n, batch, dtype=dtype
    ),
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


def in_chunks(model, cache, token_ids, sizes):
    return torch.cat([model(chunk, cache) for chunk in token_ids.split(sizes, dim=1)], dim=1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=25, deadline=None)
@given(case=cases(), bias=st.booleans())
def test_exact_caches_give_the_baselines_logits_and_tokens(name, dtype, case, bias):
    cfg, seed, batch, n_tokens, sizes = case
    plain, fast = pair(cfg, seed, dtype)
    token_ids = torch.randint(cfg.vocab_size, (batch, n_tokens))
    with torch.no_grad():
        expected = plain(token_ids)
    cache = EXACT[name](cfg, cfg.context_length, batch, dtype)
    found = in_chunks(fast, cache, token_ids, sizes)
    torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(fast(token_ids), expected, atol=TOLERANCE[dtype], rtol=0)
    n_new = cfg.context_length - n_tokens
    fresh = EXACT[name](cfg, cfg.context_length, batch, dtype)
    out = generate(fast, token_ids, n_new, cache=fresh)
    assert torch.equal(out, generate(plain, token_ids, n_new))
    assert torch.equal(out, generate(fast, token_ids, n_new))  # with no cache at all
    assert fresh.n_tokens == (cfg.context_length - 1 if n_new else 0)


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
        block.att.mask |= torch.ones_like(block.att.mask).tril(-window)
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


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_quantised_caches_keep_their_bound_however_the_text_is_cut(bits, case):
    cfg, seed, batch, n_tokens, sizes = case
    if cfg.head_dim % 2:
        cfg = type(cfg)(**{**vars(cfg), "emb_dim": 2 * cfg.emb_dim})
    torch.manual_seed(seed)
    shape = (batch, cfg.n_heads, n_tokens, cfg.head_dim)
    keys, values = torch.randn(shape), torch.randn(shape)
    cache = QuantizedCache(cfg, n_tokens, bits, batch)
    past = 0
    for size in sizes:
        token_ids = torch.zeros(batch, size, dtype=torch.long)
        cache.begin(token_ids)
        for layer in range(cfg.n_layers):
            found = cache.update(
                layer, keys[:, :, past : past + size], values[:, :, past : past + size]
            )
        cache.end(token_ids)
        past += size
    for exact, read in zip((keys, values), found, strict=True):
        bound = exact.abs().amax(-1, keepdim=True) / (2 * {4: 7, 8: 127}[bits])
        assert ((read - exact).abs() <= bound * (1 + 1e-4)).all()


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


def test_an_interrupted_pass_leaves_no_trace():
    model = pair(SMALL)[1]
    token_ids = torch.randint(50, (1, 9))
    expected = model(token_ids)[:, -1]
    pages = PagedCache(SMALL, 9, 2)
    batch = pages.batch([pages.add()])
    window = SlidingWindowCache(SMALL, 9)
    for cache in (ConcatCache(SMALL), PreallocatedCache(SMALL, 9), window, batch):
        model(token_ids[:, :5], cache)

        def failing(layer, *new, update=cache.update):
            return update(layer, *new) if layer == 0 else 1 / 0

        with pytest.MonkeyPatch.context() as patch:  # layer 0 is stored, layer 1 fails
            patch.setattr(cache, "update", failing)
            with pytest.raises(ZeroDivisionError):
                model(token_ids[:, 5:], cache)
        assert cache.n_tokens == 5
        torch.testing.assert_close(model(token_ids[:, 5:], cache)[:, -1], expected)
    assert len(pages.free_blocks) == 4


@pytest.mark.parametrize("first", [1, 4])
@pytest.mark.parametrize("second", [1, 3])
def test_an_interrupted_pass_does_not_harm_a_full_ring(first, second):
    model = pair(SMALL)[1]
    token_ids = torch.randint(50, (1, 12))
    cache, undisturbed = SlidingWindowCache(SMALL, 3), SlidingWindowCache(SMALL, 3)
    model(token_ids[:, :7], cache)
    model(token_ids[:, :7], undisturbed)
    cache.begin(token_ids[:, 7 : 7 + first])
    cache.update(0, *torch.randn(2, 1, SMALL.n_heads, first, SMALL.head_dim))
    found = model(token_ids[:, 7 : 7 + second], cache)
    torch.testing.assert_close(found, model(token_ids[:, 7 : 7 + second], undisturbed))


def test_two_texts_with_one_model_do_not_meet():
    plain, fast = pair(SMALL)
    prompts = torch.randint(50, (2, 1, 4))
    caches = [ConcatCache(SMALL), PreallocatedCache(SMALL, 24)]
    texts = list(prompts)
    steps = list(prompts)
    for _ in range(8):
        steps = [fast(s, c, last_only=True).argmax(-1) for s, c in zip(steps, caches, strict=True)]
        texts = [torch.cat([t, s], dim=1) for t, s in zip(texts, steps, strict=True)]
    for prompt, text in zip(prompts, texts, strict=True):
        assert torch.equal(text, generate(plain, prompt, 8))


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
    def free(self, data):
        sequence = data.draw(st.sampled_from(sorted(self.texts)))
        self.pages.free(sequence)
        del self.texts[sequence]

    @invariant()
    def nothing_leaks(self):
        used = [block for table in self.pages.tables.values() for block in table]
        assert self.pages.n_users == [used.count(block) for block in range(7)]
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
TestPaging.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


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
    with pytest.raises(ValueError, match="need 3 blocks, and 2 of 2 are free"):
        model(torch.randint(50, (1, 9)), pages.batch([pages.add()]))
    with pytest.raises(ValueError, match="1 sequences were chosen"):
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


@pytest.mark.parametrize("name", [*EXACT, "short window", "int8", "int4"])
def test_compiled_decode_steps_give_the_same_logits_with_every_cache(name):
    makers = {
        **EXACT,
        "short window": lambda cfg, n, batch, dtype: SlidingWindowCache(cfg, 5, batch),
        "int8": lambda cfg, n, batch, dtype: QuantizedCache(cfg, n, 8, batch),
        "int4": lambda cfg, n, batch, dtype: QuantizedCache(cfg, n, 4, batch),
    }
    torch.compiler.reset()
    fast = pair(SMALL)[1]
    compiled = copy.deepcopy(fast)
    compiled.compile(backend="aot_eager")  # all of it but the C++
    token_ids = torch.randint(50, (2, 14))
    first, second = (makers[name](SMALL, 14, 2, torch.float32) for _ in range(2))
    sizes = [3, 1, 1, 1, 4, 1, 1, 1, 1]
    expected = in_chunks(fast, first, token_ids, sizes)
    found = in_chunks(compiled, second, token_ids, sizes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.equal(found, expected)  # it did go another way


def test_compiled_decode_steps_leave_out_what_only_fills_up():
    fast = pair(SMALL)[1]
    token_ids, n_pad = pad_left([torch.tensor([7, 8, 9]), [5]])
    expected = generate(fast, token_ids, 6, cache=PreallocatedCache(SMALL, 12, 2, n_pad))
    fast.compile(backend="aot_eager")
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
