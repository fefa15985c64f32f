"""Times of a generation: medians of repeats, and a device that has really finished."""

import math
import time
from dataclasses import dataclass

import torch

from .config import check_kinds, check_size, need, need_type
from .generate import stream


@dataclass(frozen=True)
class Timing:
    """The times of one generation, repeated.

    label      what was timed
    n_prompt   tokens in the prompt
    seconds    (repeats, n_new_tokens): how long each new token took
    token_ids  (batch, n_prompt + n_new_tokens): what was generated

    Raises TypeError for what is no text or tensor, ValueError for another shape, or one with a 0.
    """

    label: str
    n_prompt: int
    seconds: torch.Tensor
    token_ids: torch.Tensor

    def __post_init__(self):
        check_kinds(label=(self.label, str), seconds=(self.seconds, torch.Tensor))
        check_kinds(token_ids=(self.token_ids, torch.Tensor))
        check_size("n_prompt", self.n_prompt, least=0)
        shapes = tuple(self.seconds.shape), tuple(self.token_ids.shape)
        right = len(shapes[0]) == len(shapes[1]) == 2 and 0 not in shapes[0]
        remedy = "give (repeats, n_new_tokens), with no 0, and (batch, n_tokens)"
        need(right, f"seconds and token_ids have shapes {shapes}", remedy)

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
        """New tokens of all sequences of the batch."""
        return len(self.token_ids) * self.seconds.shape[1] / self.total

    @property
    def time_to_first_token(self):
        """Seconds until the first new token: the prefill."""
        return self.per_token[0].item()

    @property
    def time_per_output_token(self):
        """Seconds for each later token: the median over the decode steps, nan if there are none."""
        return self.per_token[1:].quantile(0.5).item() if len(self.per_token) > 1 else math.nan


def synchronize(device):
    """Wait until an accelerator has done its work; a CPU has done it already."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def time_generation(model, token_ids, max_new_tokens, repeats=3, make_cache=None, **options):
    """Generate some times over, and take the time of each token; returns a Timing.

    make_cache  makes an empty cache for each repeat; None: the model is handed none
    options     of `stream`

    Raises ValueError for a number of repeats or tokens that cannot be, and what `stream` raises for
    things of a wrong kind, also for a make_cache that cannot be called.
    """
    right = make_cache is None or callable(make_cache)
    need_type(right, "make_cache", make_cache, "pass a function")
    check_size("max_new_tokens", max_new_tokens)
    rounds = []
    for _ in range(check_size("repeats", repeats)):
        cache = {"cache": make_cache()} if make_cache else {}
        tokens, ends = [token_ids], [time.perf_counter()]
        for token in stream(model, token_ids, max_new_tokens, **options, **cache):
            synchronize(token.device)
            tokens, ends = [*tokens, token], [*ends, time.perf_counter()]
        rounds.append(ends)
    seconds = torch.tensor(rounds, dtype=torch.float64, device="cpu").diff(dim=1)
    return Timing("", token_ids.shape[1], seconds, torch.cat(tokens, dim=1))
