"""The speed of writing, on the shape of the smallest GPT-2: without a cache, and with one.

The weights are random, and shared by those that are compared, so all write the same text.
"""

import numpy
import torch

from .. import baseline, cached
from ..config import GPT2_124M
from ..generate import stream
from ..tokenizer import load_tokenizer
from .experiments import experiment

PROMPT = "Hello, I am"  # of the tutorial that the book follows: 4 tokens
NO_CACHE, WITH_CACHE = "without a cache", "with a cache"
LONG_WITH_CACHE = "with a cache, prompt of 64"
PASSES, ALL_LOGITS = "passes over 4 to 264 tokens", "the same, all logits"


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
    """What the last 20 tokens take more than the first 20 after the prefill, as a share of one."""
    times = record[name].per_token[1:]
    return ((times[-20:].mean() - times[:20].mean()) / record[name].time_per_output_token).item()


def long_ratio(record):
    """How many times as fast 200 tokens come with a cache, after a prompt of 64."""
    return seconds_without(record, PASSES, 64) / record[LONG_WITH_CACHE].total


def prefill_in_steps(record):
    """How many times as long as a later step the prefill of 64 tokens takes, with a cache."""
    long = record[LONG_WITH_CACHE]
    return long.time_to_first_token / long.time_per_output_token


CLAIMS = {
    "with a cache the text is the same": lambda r: r.gave[NO_CACHE] == r.gave[WITH_CACHE],
    "200 tokens come at least 3 times as fast with a cache": lambda r: ratio(r) > 3,
    "logits that nobody reads take at least a tenth of the time": (
        lambda r: seconds_without(r, ALL_LOGITS, 4) > 1.1 * seconds_without(r, PASSES, 4)
    ),
    "without a cache each step after a longer prompt reads more": (
        lambda r: seconds_without(r, PASSES, 64) > 1.3 * seconds_without(r, PASSES, 4)
    ),
    "after a longer prompt the cache helps more": lambda r: long_ratio(r) > 1.1 * ratio(r),
    "without a cache a token takes longer and longer": lambda r: growth(r, NO_CACHE) > 0.6,
    "with a cache a token takes hardly longer at the end": lambda r: growth(r, WITH_CACHE) < 0.4,
    "with a cache time hardly grows": lambda r: growth(r, WITH_CACHE) < 0.1 * growth(r, NO_CACHE),
    "the first token after a prompt of 64 takes about as long with a cache as without": (
        lambda r: 0.6 < r[PASSES].per_token[3] / r[LONG_WITH_CACHE].time_to_first_token < 1.6
    ),
    "a prompt of 64 takes longer than a token that is written": lambda r: prefill_in_steps(r) > 1.5,
    "a token of the prompt takes less than half as long": lambda r: prefill_in_steps(r) < 64 / 2,
}
GPU_CLAIMS = {
    "on a GPU the cache of so small a model gains little": lambda r: ratio(r) < 1.3,
    "on a GPU a pass over 264 tokens takes hardly longer than one over 24": (
        lambda r: r[PASSES].per_token[-1] < 1.3 * r[PASSES].per_token[1]
    ),
}
SMALL = {"n_new": 40, "lengths": (4, 24, 44, 64)}


@experiment(most=10, spread=0.05, small=SMALL, claims=CLAIMS, gpu_claims=GPU_CLAIMS)
def writing(device, n_new=200, lengths=(4, 24, 44, 64, *range(84, 265, 20))):
    """Writing 200 tokens without and with a cache; passes over other texts."""
    torch.manual_seed(123)
    plain = baseline.GPTModel(GPT2_124M).to(device).eval()
    caching, caching_long = (cached.GPTModel(GPT2_124M) for _ in range(2))
    for model in (caching, caching_long):
        # Shared, not copied.
        model.load_state_dict(plain.state_dict(), assign=True)
        model.to(device).eval()
    short = torch.tensor([load_tokenizer().encode(PROMPT)], device=device)
    long = torch.randint(GPT2_124M.vocab_size, (1, 64)).to(device)
    text = torch.randint(GPT2_124M.vocab_size, (1, max(lengths)), device=device)

    @torch.no_grad()
    def passes(last_only):
        for n in lengths:
            plain(text[:, :n], last_only=last_only)
            yield

    return {
        NO_CACHE: lambda: stream(plain, short, n_new),
        WITH_CACHE: lambda: stream(caching, short, n_new, use_cache=True),
        LONG_WITH_CACHE: lambda: stream(caching_long, long, n_new, use_cache=True),
        PASSES: lambda: passes(last_only=True),
        ALL_LOGITS: lambda: passes(last_only=False),
        "prompt": short[0].tolist(),
        "long prompt": long[0].tolist(),
        "lengths": list(lengths),
    }
