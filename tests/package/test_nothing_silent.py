"""Whole kinds of silent faults, searched for mechanically: each place, each setting, anything."""

import copy
import importlib
import inspect
import itertools
import math
import pkgutil
import re
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from functools import partial
from numbers import Integral, Real

import numpy
import pytest
import torch
from conftest import SMALL, twins
from hypothesis import given, settings
from hypothesis import strategies as st
from models_and_caches import ALL, assert_near, make_cache, make_gpt, make_llama
from test_bad_input import CACHING, FAST, GOOD, PAGES, PLAIN, SHAPE, SIZES, STORED
from torch.overrides import TorchFunctionMode

import kvcache
from kvcache import generate, optimized, stream, trace
from kvcache.caches import ConcatCache, NoCache, PagedCache, QuantizedCache
from kvcache.generate import pad_left
from kvcache.llama import LlamaModel
from kvcache.memory import MODEL_SHAPES, kv_cache_bytes, longest_context
from kvcache.timing import Timing, time_generation
from kvcache.trace import watch
from kvcache.widgets import block_shot

PASSES = (5, 1, 4, 1)  # tokens of a prompt, and of what follows


class Interrupt(TorchFunctionMode):
    """Interrupts at the n-th call of anything of torch, and counts them all."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.n_calls = at, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.n_calls += 1
        if self.n_calls == self.at:
            raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def gradients():
    """An interruption may come just where torch gives their mode back."""
    yield
    torch.set_grad_enabled(True)


def in_passes(model, cache, token_ids, interrupted=True):
    """The logits of passes over a text, each tried first with an interruption, at every place."""
    logits = []
    for chunk in token_ids.split(PASSES, dim=1):
        other = copy.deepcopy(cache)
        with Interrupt() as whole:
            right = model(chunk, other)
        for at in range(1, 1 + whole.n_calls if interrupted else 1):
            before = (cache.n_tokens, cache.n_bytes)
            with pytest.raises(KeyboardInterrupt), Interrupt(at):
                model(chunk, cache)
            assert (cache.n_tokens, cache.n_bytes) == before, at
            assert_near(model(chunk, copy.deepcopy(cache)), right)
        logits.append(model(chunk, cache))
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("make", [make_gpt, make_llama])
@pytest.mark.parametrize("name", ALL)
def test_wherever_a_pass_is_interrupted_all_is_as_it_was(make, name):
    model, token_ids = make(), torch.randint(50, (2, sum(PASSES)))
    caches = [make_cache(name, model.cfg, 2) for _ in range(2)]
    found = in_passes(model, caches[0], token_ids)
    assert_near(found, in_passes(model, caches[1], token_ids, interrupted=False))
    if name == "paged":
        assert caches[0].pages.free_blocks == caches[1].pages.free_blocks


def test_wherever_a_pass_over_a_fork_is_interrupted_its_parent_stays_whole():
    model, pages = make_gpt(), PagedCache(SMALL, 9, 4)
    first = pages.add()
    model(GOOD, pages.batch([first]))
    expected = model(torch.cat([GOOD, GOOD], dim=1))[:, 3:]
    for at in itertools.count(1):
        fork = pages.fork(first)
        try:
            with Interrupt(at):
                model(GOOD, pages.batch([fork]))
        except KeyboardInterrupt:
            assert_near(model(GOOD, pages.batch([fork])), expected)
            pages.free(fork)
            assert len(pages.free_blocks) == 8
            for memory in pages.memory:  # nothing is left there
                memory.unflatten(1, (-1, 4))[:, pages.free_blocks] = 0
        else:
            break
    assert at > 50
    assert_near(model(GOOD, pages.batch([first])), expected)


def test_wherever_the_cached_model_is_interrupted_its_next_call_refuses_or_is_right():
    plain, model = twins()
    token_ids, right = torch.randint(50, (2, 9)), None
    with torch.no_grad():
        right = plain(token_ids)[:, 5:]
        with Interrupt() as whole:
            model(token_ids[:, :5], use_cache=True)
        for at in range(1, 2 * whole.n_calls):
            model.reset_kv_cache()
            model(token_ids[:, :5], use_cache=True)
            try:
                with Interrupt(at):
                    model(token_ids[:, 5:], use_cache=True)
            except KeyboardInterrupt:
                with suppress(ValueError):  # it refuses
                    assert_near(model(token_ids[:, 5:], use_cache=True), right)
            else:
                return
    raise AssertionError("no pass came to its end")


def other_uses(model, cache):
    """What somebody else may do to a cache, all without a trace in its number of tokens."""
    n_tokens = cache.n_tokens
    text = torch.randint(50, (1, n_tokens))
    yield "crops and feeds", lambda: (cache.crop(n_tokens - 1), model(text[:, :1], cache))
    yield "begins anew", lambda: (cache.crop(0), model(text, cache))
    yield "feeds and crops", lambda: (model(text[:, :1], cache), cache.crop(n_tokens))
    if hasattr(cache, "pages"):
        again = cache.pages.batch(cache.sequences)
        yield "has a batch", lambda: (again.crop(n_tokens - 1), model(text[:, :1], again))


@pytest.mark.parametrize("make", [make_gpt, make_llama])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n_before", [0, 1, 3])
def test_whoever_uses_a_cache_during_a_stream_is_noticed(make, name, n_before):
    for number in range(4):
        model = make()
        cache = make_cache(name, model.cfg)
        model(GOOD, cache)
        tokens = stream(model, GOOD[:, :1], 5, cache=cache)
        for _ in range(n_before):
            next(tokens)
        use = list(other_uses(model, cache))[number:][:1]
        for _, work in use:
            work()
            with pytest.raises(RuntimeError, match="another call used this cache"):
                list(tokens)


def test_whoever_changes_one_layer_of_the_cached_model_during_a_stream_is_noticed():
    changes = [
        lambda model: model.trf_blocks[1].att.reset_cache(),
        lambda model: model.trf_blocks[1].att(torch.zeros(1, 1, 16), use_cache=True),
        lambda model: setattr(model.trf_blocks[0].att, "cache_v", torch.zeros(1, 4, 3, 4)),
        lambda model: generate(model, GOOD, 2, use_cache=True),
    ]
    for change in changes:
        model = twins()[1]
        tokens = stream(model, GOOD, 5, use_cache=True)
        next(tokens)
        change(model)
        with pytest.raises(RuntimeError, match="another call used this cache"):
            next(tokens)


SURROUNDINGS = {
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
    "meta": lambda: torch.set_default_device("meta"),
}


@pytest.fixture(params=SURROUNDINGS)
def surroundings(request):
    yield SURROUNDINGS[request.param]
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def everything(models, with_caches=True):
    """What all models write and compute with all caches, and what the caches take."""
    for model in models:
        takes_one = isinstance(model, optimized.GPTModel | LlamaModel)
        for name in ALL if takes_one else ():
            cache = make_cache(name, model.cfg)
            logits = [model(chunk, cache) for chunk in GOOD.split((2, 1), dim=1)]
            yield torch.cat(logits, dim=1), cache.n_bytes if with_caches else 0
        options = {} if takes_one else {"use_cache": hasattr(model, "reset_kv_cache")}
        yield generate(model, GOOD, 3, **options), 0
    yield from ((each, 0) for each in pad_left([[1, 2], [3]]))


def test_no_tensor_follows_the_default_dtype_or_device(surroundings):
    models = [*twins(), make_gpt(), make_llama()]
    expected = list(everything(models))
    surroundings()
    for (found, n_found), (right, n_right) in zip(everything(models), expected, strict=True):
        assert (found.dtype, found.device, n_found) == (right.dtype, right.device, n_right)
        assert torch.equal(found, right)
    assert QuantizedCache(SMALL, 4).scales.dtype == torch.float32


def test_autocast_changes_no_more_than_rounding():
    models = [*twins(), make_gpt(), make_llama()]
    expected = list(everything(models, with_caches=False))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = list(everything(models, with_caches=False))
    for (rounded, _), (right, _) in zip(found, expected, strict=True):
        if right.is_floating_point():
            assert (rounded.float() - right).abs().max() < 0.1 * right.std()


@pytest.mark.parametrize("name", ALL)
def test_a_model_whose_dtype_changed_is_refused_by_a_cache_that_it_filled(name):
    model = make_gpt()
    cache = make_cache(name)
    model(GOOD, cache)
    before = cache.n_bytes
    with pytest.raises(
        ValueError, match=r"made for dtype torch\.float32, the model has torch\.float16"
    ):
        model.half()(GOOD, cache)
    assert (cache.n_tokens, cache.n_bytes) == (3, before)


ANYTHING = st.one_of(
    st.integers(-2, 30),
    st.floats(),
    st.fractions(),
    st.text(max_size=2),
    st.sampled_from([True, [3], {}, 3j, 10**400, torch.tensor(3), numpy.float32(2)]),
    st.integers(0, 30).map(numpy.int32),
    st.integers(0, 30).map(numpy.uint8),
)
NUMBERS = [
    *[(call, name) for call, _, names in SIZES if call != STORED.crop for name in names.split()],
    (partial(longest_context, SHAPE), "memory_bytes"),
    (partial(generate, PLAIN, GOOD, 3, top_k=2, generator=torch.Generator()), "temperature"),
    (partial(generate, PLAIN, GOOD, 3, temperature=1.0, generator=torch.Generator()), "top_k"),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NUMBERS), ANYTHING)
def test_a_number_of_any_kind_does_what_pythons_own_does_or_is_refused_by_name(number, value):
    call, name = number
    whole = isinstance(value, int | numpy.integer)
    if not isinstance(value, Real) or (not whole and not math.isfinite(value)):
        with pytest.raises((TypeError, ValueError), match=name):
            call(**{name: value})
        return
    try:
        found = call(**{name: value})
    except (TypeError, ValueError) as why:
        refused = str(why)
    else:
        refused = None
        assert numbers_in(found) == numbers_in(
            call(**{name: int(value) if whole else float(value)})
        )
    assert refused is None or name in refused or "context length" in refused


def numbers_in(found):
    """What a result says in numbers, and of which type each is."""
    inside = vars(found) if hasattr(found, "__dict__") else {"": found}
    numbers = {name: each for name, each in inside.items() if isinstance(each, float | Integral)}
    return {name: (each, type(each)) for name, each in numbers.items()}


def test_sizes_of_32_bits_do_not_wrap():
    large = {"n_tokens": numpy.int32(100_000), "batch_size": numpy.int32(64)}
    own = {name: int(size) for name, size in large.items()}
    assert kv_cache_bytes(MODEL_SHAPES[0], **large) == kv_cache_bytes(MODEL_SHAPES[0], **own)
    with pytest.raises(ValueError, match="dtypes"):
        pad_left([torch.tensor([1], dtype=torch.uint8), torch.tensor([300, 1])])


def test_a_rate_counts_all_rows_and_a_timing_is_of_what_was_written():
    fast = make_gpt()
    timing = time_generation(fast, GOOD.expand(8, 3), 4, 2, partial(ConcatCache, SMALL, 8))
    assert (timing.seconds.shape, timing.token_ids.shape) == ((2, 4), (8, 7))
    assert timing.tokens_per_second == pytest.approx(32 / timing.total)
    assert Timing("", 1, torch.ones(1, 5), GOOD).tokens_per_second == 1


def test_a_cache_that_keeps_nothing_counts_nothing_and_writes_nothing():
    model, nothing = make_gpt(), NoCache(SMALL)
    assert torch.equal(model(GOOD, nothing), model(GOOD))
    assert torch.equal(model(GOOD, nothing), model(GOOD))
    with pytest.raises(ValueError, match="a NoCache keeps nothing; hand in another"):
        generate(model, GOOD, 3, cache=nothing)


@pytest.mark.parametrize("make", [lambda: twins()[0], lambda: twins()[1], make_gpt, make_llama])
def test_a_compiled_model_writes_as_the_model_does(make):
    model = make()
    compiled, takes_one = torch.compile(model, backend="eager"), make in (make_gpt, make_llama)
    options = {"cache": ConcatCache(model.cfg)} if takes_one else {}
    assert torch.equal(generate(compiled, GOOD, 4, **options), generate(model, GOOD, 4))


# Their sizes are asked above, files and weights in test_hub.
MEASURED = r"\.(baseline|cached|caches|config|data|hub|llama|measurements|optimized|time_flies)\b"
BEHIND = ("chooser", "encode", "next_tokens", "next_tokens_with", "ModelShape")
TIMED, TRACE = Timing("", 1, torch.ones(2, 3), torch.zeros(1, 4).long()), trace(PLAIN, GOOD, 2)
with watch(PLAIN) as CALLS:
    generate(PLAIN, GOOD, 3)
# What is right for an argument of that name, or of one function; else its default is
OWN = {"Ring": {"model": FAST}, "token_texts": {"token_ids": [1]}}
RIGHT = {"model": CACHING, "token_ids": GOOD, "max_new_tokens": 2, "cfg": SMALL, "n_tokens": 3}
RIGHT |= {"shape": SHAPE, "memory_bytes": 1e6, "token_id": 3, "words": ["a", "b", "c"]}
RIGHT |= {"x": torch.ones(3, 4), **dict.fromkeys(("W_q", "W_k", "W_v"), torch.ones(4, 2))}
RIGHT |= {
    "pages": PAGES,
    "label": "",
    "prompts": [[1]],
    "sequences": {"a": (1, [])},
    "reference": PLAIN,
}
RIGHT |= {"shots": [block_shot(PAGES, "", {})], "runs": {"": (CALLS, 0)}, "figure": print}
RIGHT |= {"traces": TRACE, "step": TRACE.steps[0][0], "window": 4, "changes": [({}, *"abc")] * 5}
RIGHT |= {"without": TIMED, "cached": TIMED, "timings": [TIMED], "seconds": TIMED.seconds}
RIGHT |= {"curves": [("", [1], [2])], "rows": [("", 1)], "n_prompt": 1}
RIGHT |= dict.fromkeys(("xlabel", "ylabel", "description"), "")
# What is taken beside it, and what a message says in place of the name
TAKES = dict.fromkeys(("Timing seconds", "Timing token_ids", "decode token_ids"), torch.Tensor)
TAKES |= {"bars colours": Iterable, "token_texts token_ids": Iterable, "OwnPrompt figure": object}
TAKES |= {
    "OwnPrompt device": object,
    "OwnPrompt live": Iterable,
    "time_generation make_cache": object,
}
CALLED = {"reference": "the model", "weight_dtype": "dtype", "styles": "cycle", "colours": "colo"}
WRONG = [None, [1, 2], "ab", -1, 1.5, torch.empty(0), torch.ones(2, 3, 4), torch.ones(1, 3)]


def doors():
    """Each public function and class that says what it raises, with its arguments, but flags."""
    for found in pkgutil.walk_packages(kvcache.__path__, "kvcache."):
        if not re.search(MEASURED, found.name):
            for name, door in list(vars(importlib.import_module(found.name)).items()):
                ours = getattr(door, "__module__", None) == found.name and name not in BEHIND
                if ours and name[0] != "_" and "aises " in (door.__doc__ or ""):
                    wanted = inspect.signature(door).parameters.values()
                    named = [each for each in wanted if each.kind != each.VAR_KEYWORD]
                    yield door, [each for each in named if not isinstance(each.default, bool)]


@pytest.mark.parametrize(("door", "wanted"), list(doors()))
def test_an_argument_of_any_kind_is_taken_as_it_is_meant_or_refused_by_name(door, wanted):
    right = {each.name: RIGHT.get(each.name, each.default) for each in wanted}
    right |= OWN.get(door.__name__, {})
    for name, default in [(each.name, each.default) for each in wanted]:
        kind = () if isinstance(right[name], int | torch.Tensor) else type(right[name])
        kind = TAKES.get(f"{door.__name__} {name}", kind)
        for value in [*WRONG, type(right[name]), (number for number in [1, 2])]:
            given = right | {name: value}
            several = [given.pop("traces")] if "traces" in given else []
            try:
                found = door(*several, **given)
                with found if door is watch else nullcontext():
                    fine = value is default or isinstance(value, kind)
            except (TypeError, ValueError) as why:
                fine = re.search(CALLED.get(name, name.removesuffix("s")), str(why))
            assert fine, (name, value)
