"""The speed of writing, on the shape of the smallest GPT-2: without a cache, and with each kind.

All weights are random and shared by those that are compared, so all write the same text.
"""

import os

import numpy
import torch

from .. import baseline, cached, caches, optimized
from ..config import GPT2_124M
from ..generate import generate, stream
from ..hub import gpt_from
from ..tokenizer import load_tokenizer
from .experiments import experiment

PROMPT = "Hello, I am"  # of the tutorial that the book follows: 4 tokens
NO_CACHE, WITH_CACHE = "without a cache", "with a cache"
LONG_WITH_CACHE = "with a cache, prompt of 64"
PASSES, ALL_LOGITS = "passes over 4 to 264 tokens", "the same, all logits"
IN_PLACE, COMPILED, THEIRS = "preallocated", "preallocated, compiled", "transformers, dynamic"


def generation(record, name):
    """The Timing of one of the generations of a record of `writing`, with its prompt and text."""
    prompt = record.facts["long prompt" if name == LONG_WITH_CACHE else "prompt"]
    return record.timing(name, torch.tensor([prompt]))


def ratio(record):
    """How many times as fast 200 tokens come with a cache, after a prompt of 4."""
    return record[NO_CACHE].total / record[WITH_CACHE].total


def seconds_without(record, name, n_prompt, n_new=200):
    """Seconds to write without a cache, a pass for each token, from passes over some lengths."""
    lengths = range(n_prompt, n_prompt + n_new)
    return numpy.interp(lengths, record.facts["lengths"], record[name].per_token).sum()


def growth(record, name):
    """Seconds that the last 20 tokens take more than the first 20 after the prefill, on average."""
    times = record[name].per_token[1:]
    return (times[-20:].mean() - times[:20].mean()).item()


def long_ratio(record):
    """How many times as fast 200 tokens come with a cache, after a prompt of 64."""
    return seconds_without(record, PASSES, 64) / record[LONG_WITH_CACHE].total


@experiment(
    least=5,
    most=10,
    spread=0.05,
    small={"n_new": 40, "lengths": (4, 24, 44, 64)},
    claims={
        "with a cache the model writes the same text": (
            lambda r: r.gave[NO_CACHE] == r.gave[WITH_CACHE]
        ),
        "200 tokens come at least 3 times as fast with a cache": lambda r: ratio(r) > 3,
        "logits that nobody reads take at least a tenth of the time": (
            lambda r: seconds_without(r, ALL_LOGITS, 4) > 1.1 * seconds_without(r, PASSES, 4)
        ),
        "without a cache each step after a longer prompt reads more": (
            lambda r: seconds_without(r, PASSES, 64) > 1.3 * seconds_without(r, PASSES, 4)
        ),
        "after a longer prompt the cache helps more": lambda r: long_ratio(r) > 1.1 * ratio(r),
        "without a cache a token takes longer and longer": (
            lambda r: growth(r, NO_CACHE) > r[NO_CACHE].per_token[1:21].mean()
        ),
        "with a cache a token takes nearly as long at the end as at the beginning": (
            lambda r: (
                r[WITH_CACHE].per_token[-20:].mean() < 1.5 * r[WITH_CACHE].per_token[1:21].mean()
            )
        ),
        "with a cache it grows by less than a tenth of what it grows without one": (
            lambda r: growth(r, WITH_CACHE) < 0.1 * growth(r, NO_CACHE)
        ),
        "the first token after a prompt of 64 takes about as long with a cache as without": (
            lambda r: 0.6 < r[PASSES].per_token[3] / r[LONG_WITH_CACHE].time_to_first_token < 1.6
        ),
        "the first token after a prompt of 64 costs more than a later one": (
            lambda r: (
                r[LONG_WITH_CACHE].time_to_first_token
                > 1.5 * r[LONG_WITH_CACHE].time_per_output_token
            )
        ),
        "a token of the prompt costs less than half of one that is written": (
            lambda r: (
                r[LONG_WITH_CACHE].time_to_first_token / 64
                < 0.5 * r[LONG_WITH_CACHE].time_per_output_token
            )
        ),
    },
    gpu_claims={
        "on a GPU the cache of so small a model gains little": lambda r: ratio(r) < 1.3,
        "on a GPU a pass over 264 tokens takes hardly longer than one over 24": (
            lambda r: r[PASSES].per_token[-1] < 1.3 * r[PASSES].per_token[1]
        ),
    },
)
def writing(device, n_new=200, lengths=(4, 24, 44, 64, *range(84, 265, 20))):
    """Writing 200 tokens without and with a cache; passes over other texts."""
    torch.manual_seed(123)
    plain = baseline.GPTModel(GPT2_124M).to(device).eval()
    caching, caching_long = (cached.GPTModel(GPT2_124M) for _ in range(2))
    for model in (caching, caching_long):
        # Shared, not copied.
        model.load_state_dict(plain.state_dict(), assign=True)
        model.to(device).eval()
    short = torch.tensor([load_tokenizer().encode(PROMPT)])
    long = torch.randint(GPT2_124M.vocab_size, (1, 64))
    text = torch.randint(GPT2_124M.vocab_size, (1, max(lengths)), device=device)

    def write(model, prompt, use_cache):
        return lambda: stream(model, prompt.to(device), n_new, use_cache)

    @torch.no_grad()
    def passes(last_only):
        for n in lengths:
            plain(text[:, :n], last_only=last_only)
            yield

    return {
        NO_CACHE: write(plain, short, False),
        WITH_CACHE: write(caching, short, True),
        LONG_WITH_CACHE: write(caching_long, long, True),
        PASSES: lambda: passes(last_only=True),
        ALL_LOGITS: lambda: passes(last_only=False),
        "prompt": short[0].tolist(),
        "long prompt": long[0].tolist(),
        "lengths": list(lengths),
    }


@experiment(
    most=30,
    spread=0.08,  # transformers' steps on a GPU vary with the Python around them
    small={"n_new": 40, "with_compiler": False},
    claims={
        "every cache writes the text of the model without one, but those that round": lambda r: (
            len({tuple(r.gave[name]) for name in r.gave if "int" not in name}) == 1
        ),
        "the optimised model is faster than the cached one": (
            lambda r: r[WITH_CACHE].typical > 1.1 * r[IN_PLACE].typical
        ),
        "the optimised model is faster than transformers": (
            lambda r: r[THEIRS].typical > 1.1 * r[IN_PLACE].typical
        ),
        "compiling gains less than a fifth": (
            lambda r: r[COMPILED].typical > 0.8 * r[IN_PLACE].typical
        ),
        "a cache that is read back through its scales makes no step faster": (
            lambda r: r["int8"].typical > 0.95 * r[IN_PLACE].typical
        ),
    },
)
def decoding(device, n_new=80, with_compiler=True):
    """Decode steps: the cached model, the optimised one with each cache, and transformers."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import transformers

    torch.manual_seed(123)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    plain = gpt_from(theirs, baseline.GPTModel)
    cfg, fast = plain.cfg, gpt_from(theirs, optimized.GPTModel).to(device)
    caching = cached.GPTModel(cfg)
    caching.load_state_dict(plain.state_dict(), assign=True)
    caching.to(device).eval()
    theirs.to(device)
    prompt = torch.tensor([load_tokenizer().encode(PROMPT)], device=device)
    room = prompt.shape[1] + n_new

    def pages():
        pages = caches.PagedCache(cfg, n_blocks=-(-room // 16), device=device)
        return pages.batch([pages.add()])

    makers = {
        IN_PLACE: lambda: caches.PreallocatedCache(cfg, room, device=device),
        "concatenating": lambda: caches.ConcatCache(cfg),
        "sliding window": lambda: caches.SlidingWindowCache(cfg, room, device=device),
        "int8": lambda: caches.QuantizedCache(cfg, room, bits=8, device=device),
        "int4": lambda: caches.QuantizedCache(cfg, room, bits=4, device=device),
        "paged": pages,
    }

    def writer(model, make_cache):
        return lambda: stream(model, prompt, n_new, cache=make_cache())

    found = {WITH_CACHE: lambda: stream(caching, prompt, n_new, use_cache=True)}
    found |= {name: writer(fast, make) for name, make in makers.items()}
    if with_compiler:
        found[COMPILED] = writer(compiled_copy(fast, makers[IN_PLACE]()), makers[IN_PLACE])
    kinds = {
        THEIRS: lambda: transformers.DynamicCache(config=theirs.config),
        "transformers, static": lambda: transformers.StaticCache(theirs.config, max_cache_len=room),
    }
    for name, make in kinds.items():
        found[name] = lambda make=make: their_steps(theirs, prompt, n_new, make())
    return found


def compiled_copy(model, cache):
    """A model with the same weights whose decode steps are compiled."""
    device = model.tok_emb.weight.device
    copy = optimized.GPTModel(model.cfg).to(device)
    copy.load_state_dict(model.state_dict(), assign=True)
    copy.compile(options={"cpp_wrapper": True} if device.type == "cpu" else None)
    generate(copy, torch.zeros(1, 1, dtype=torch.int64, device=device), 2, cache=cache)
    return copy.eval()


@torch.inference_mode()
def their_steps(model, token_ids, n_new, cache):
    """The tokens that a model of transformers writes, (batch, 1) each, with one of its caches."""
    for _ in range(n_new):
        out = model(token_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token_ids = out.logits[:, -1:].argmax(dim=-1)
        yield token_ids
