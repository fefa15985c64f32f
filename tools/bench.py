"""Prints the speed table: GPT-2's 124M shape on this machine, beside what is on record.

The experiments are those that the chapters tell: `writing`, without and with a cache, `decoding`,
with each cache and with transformers, and `machine`, from which the limit comes. Each is measured
for about a minute, at least one whole round.
"""

import torch

from kvcache.config import GPT2_124M
from kvcache.measurements.machine import bandwidth, machine
from kvcache.measurements.records import records
from kvcache.measurements.speed import NO_CACHE, WITH_CACHE, decoding, writing
from kvcache.memory import kv_cache_bytes

SECONDS = 60


def least_seconds(record, n_cached):
    """What reading all weights and so many cached tokens takes at the least."""
    cfg = GPT2_124M
    weights = 4 * (cfg.n_layers * 12 * cfg.emb_dim**2 + cfg.emb_dim * cfg.vocab_size)
    return (weights + kv_cache_bytes(cfg, n_cached)) / bandwidth(record)


def table(here, on_record, reference, limits):
    """A line for each row: tokens a second, ratio to the reference, share of the limit; twice."""
    print(f"\n{here.experiment:32}{'here':>24}{'on record':>27}")
    print(" " * 32 + 2 * "tokens/s       x   limit   ")
    for name in here.rounds:
        line = f"{name:32}"
        for record, limit in zip((here, on_record), limits, strict=True):
            if not record or name not in record.rounds:
                continue
            times = record[name]
            ratio = record[reference].total / times.total
            share = limit / times.time_per_output_token
            line += f"{times.tokens_per_second:8.1f}{ratio:8.2f}{share:8.0%}   "
        print(line)


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"GPT-2's 124M shape, random weights, float32, batch 1, {device}")
    limits = []
    for experiment, reference in ((machine, None), (writing, NO_CACHE), (decoding, WITH_CACHE)):
        here = experiment.measure(device, SECONDS)
        same = [record for record in records(experiment.name) if record.device == here.device]
        on_record = same[0] if same else None
        if experiment is machine:
            for label, record in (("here", here), ("on record", on_record)):
                limits.append(least_seconds(record, 100) if record else None)
                if record:
                    print(
                        f"{label:10}{bandwidth(record) / 1e9:6.1f} GB/s read from memory: ", end=""
                    )
                    print(f"at most {1 / limits[-1]:.1f} tokens/s")
        else:
            table(here, on_record, reference, limits)


if __name__ == "__main__":
    main()
