"""Fair timing: warm-up, repeats, medians, and a device that has really finished."""

import math
import time
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from .config import check_size
from .generate import generate, stream


@dataclass(frozen=True)
class Timing:
    """The times of one generation, repeated.

    label      what was timed
    n_prompt   tokens in the prompt
    seconds    (repeats, n_new_tokens): how long each new token took
    token_ids  (batch, n_prompt + n_new_tokens): what was generated
    """

    label: str
    n_prompt: int
    seconds: torch.Tensor
    token_ids: torch.Tensor

    @property
    def per_token(self):
        """Seconds for each new token, (n_new_tokens,): the median of the repeats."""
        return self.seconds.quantile(0.5, dim=0)

    @property
    def total(self):
        """Seconds for the whole generation: the sum of the medians of its tokens."""
        return self.per_token.sum().item()

    @property
    def typical(self):
        """Seconds of a step where all steps do the same: the median of all."""
        return self.seconds.quantile(0.5).item()

    @property
    def tokens_per_second(self):
        return self.seconds.shape[1] / self.total

    @property
    def time_to_first_token(self):
        """Seconds until the first new token: the prefill."""
        return self.per_token[0].item()

    @property
    def time_per_output_token(self):
        """Seconds for each later token: the median over the decode steps, nan if there are none."""
        return self.per_token[1:].quantile(0.5).item() if len(self.per_token) > 1 else math.nan


def time_generation(
    model, token_ids, max_new_tokens, use_cache=False, label="", repeats=3, warmup=3
):
    """Time each token of `stream(model, token_ids, max_new_tokens, use_cache)`.

    repeats  how often the whole generation is timed, at least 1
    warmup   tokens generated before, untimed: the first passes set up memory and threads
    """
    check_size("max_new_tokens", max_new_tokens)
    check_size("repeats", repeats)
    generate(model, token_ids, min(warmup, max_new_tokens), use_cache)
    bar, ends = {"desc": label, "total": max_new_tokens, "unit": "token", "leave": False}, []
    for _ in range(repeats):
        synchronize(token_ids.device)
        ends.append([time.perf_counter()])
        new_tokens = []
        for token in tqdm(stream(model, token_ids, max_new_tokens, use_cache), **bar):
            synchronize(token_ids.device)
            ends[-1].append(time.perf_counter())
            new_tokens.append(token)
    seconds = torch.tensor(ends, dtype=torch.float64).diff(dim=1)
    return Timing(label, token_ids.shape[1], seconds, torch.cat([token_ids, *new_tokens], dim=1))


def synchronize(device):
    """Wait until an accelerator has done its work; a CPU has done it already."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
