"""Prints the speed tables: GPT-2's 124M shape and SmolLM2, on this machine and on record.

The experiments are those of the chapters, each for half a minute; `machine` gives the limit.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import DEVICE, measure

from kvcache.config import GPT2_124M
from kvcache.measurements.machine import bandwidth
from kvcache.measurements.records import read, records
from kvcache.memory import kv_cache_bytes

SECONDS, THEIRS = 30, "transformers, dynamic"
REFERENCES = {"machine": None, "writing": "without a cache", "decoding": "with a cache"}
REFERENCES |= {"long_contexts": THEIRS}


def least_seconds(record, n_cached):
    """What reading all weights and so many cached tokens takes at the least."""
    cfg = GPT2_124M
    weights = 4 * (cfg.n_layers * 12 * cfg.emb_dim**2 + cfg.emb_dim * cfg.vocab_size)
    return (weights + kv_cache_bytes(cfg, n_cached)) / bandwidth(record)


def table(runs, reference, limits):
    """A line for each row: tokens a second, ratio to the reference, share of the limit; twice."""
    print(f"\n{runs[0].experiment:40}{'here':>24}{'on record':>27}")
    print(" " * 40 + 2 * "tokens/s       x   limit   ")
    for name in runs[0].rounds:
        line, after = f"{name:40}", name[name.rindex(",") :] if reference == THEIRS else ""
        for record, limit in zip(runs, limits, strict=True):
            if record and name in record.rounds:
                times = record[name]
                ratio = record[reference + after].total / times.total
                if f"reading as much{after}" in record.rounds:  # in the same rounds
                    limit = record[f"reading as much{after}"].typical
                share = limit / times.time_per_output_token
                line += f"{times.tokens_per_second:8.1f}{ratio:8.2f}{share:8.0%}   "
        print(line)


def main():
    """Print the tables; the exit status."""
    print(f"GPT-2's 124M shape, random weights; then SmolLM2; float32, batch 1, {DEVICE}")
    limits = []
    with TemporaryDirectory() as folder:
        problems = [f"{name}: {why}" for name, why in measure(REFERENCES, SECONDS, folder) if why]
        for name in REFERENCES if not problems else ():
            (here,) = map(read, Path(folder).glob(f"*/{name}.json"))
            same = [record for record in records(name) if record.device == here.device]
            runs = [here, same[0] if same else None]
            if name != "machine":
                table(runs, REFERENCES[name], limits)
                continue
            limits = [record and least_seconds(record, 100) for record in runs]
            for label, record, limit in zip(("here", "on record"), runs, limits, strict=True):
                if record:
                    rate = f"{bandwidth(record) / 1e9:6.1f} GB/s read from memory"
                    print(f"{label:10}{rate}: at most {1 / limit:.1f} tokens/s")
    print(*problems, sep="\n")
    return len(problems)


if __name__ == "__main__":
    sys.exit(main())
