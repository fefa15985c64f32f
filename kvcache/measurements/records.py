"""Records: what was measured, when, and on which machine, in one JSON file each."""

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..config import need
from ..timing import Timing

FOLDER = Path(__file__).resolve().parent / "records"
NO_TOKENS = torch.empty(1, 0, dtype=torch.int64)


@dataclass(frozen=True)
class Record:
    """What an experiment found on one machine.

    experiment  its name
    machine     processor or GPU, cores, threads, memory, versions
    date        of the measurement, as in 2026-11-26
    commit      of the project when it was measured
    code        hash of the code that was measured
    settings    what differs from the experiment's own settings: nothing in a whole one
    rounds      name -> seconds of each step in each round: the raw samples
    gave        name -> what each step gave, tokens for example
    facts       name -> what was found without a clock
    took        seconds that all of it took, with what was prepared
    """

    experiment: str
    machine: dict
    date: str
    commit: str | None
    code: str
    settings: dict
    rounds: dict
    gave: dict
    facts: dict
    took: float | None = None

    def __getitem__(self, name):
        """The Timing of what was timed under that name."""
        return Timing(name, 0, torch.tensor(self.rounds[name], dtype=torch.float64), NO_TOKENS)

    def timing(self, name, prompt):
        """The Timing of a generation: prompt (1, n_prompt), then the tokens that it gave.

        Raises what `Timing` raises.
        """
        token_ids = torch.cat([prompt.cpu(), torch.tensor([self.gave[name]])], dim=1)
        return Timing(name, prompt.shape[1], self[name].seconds, token_ids)

    def error(self, name):
        """How far off the median over the rounds may be, as a share of it.

        The middle half of the rounds, divided by the root of their number: about one standard error
        of a median. A round counts as its median step. Less than three rounds tell nothing: nan.
        """
        if len(self.rounds[name]) < 3:
            return math.nan
        rounds = torch.tensor(self.rounds[name], dtype=torch.float64).quantile(0.5, dim=1)
        low, middle, high = rounds.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=rounds.dtype))
        return ((high - low) / middle / len(rounds) ** 0.5).item()

    @property
    def device(self):
        """The name of its folder: cpu, or that of a GPU."""
        name = "cpu" if self.machine["device"] == "cpu" else self.machine["name"]
        return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")

    def write(self, folder=FOLDER):
        """Write the file, whole or not at all."""
        path = Path(folder) / self.device / f"{self.experiment}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        half.write_text(text.replace(",\n    ", ", ") + "\n", encoding="utf-8")
        return half.replace(path)


def read(path):
    """The Record in a file. Raises ValueError, with its name, for one that is none."""
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        if (record.experiment, record.device) != (path.stem, path.parent.name):
            raise ValueError(f"it is one of {record.experiment} on {record.machine['name']}")
        list(map(record.__getitem__, record.rounds))  # each has samples, or it is no Timing
    except (KeyError, TypeError, ValueError) as why:
        raise ValueError(f"{path} is no record ({why}); make measure NAME={path.stem}") from why
    return record


def records(name="*", folder=FOLDER):
    """All records, or those of one experiment: the CPU's first, then by device and name.

    Raises what `read` raises.
    """
    found = [read(path) for path in sorted(Path(folder).glob(f"*/{name}.json"))]
    return sorted(found, key=lambda record: (record.device != "cpu", record.device))


def recorded(name, folder=FOLDER):
    """The CPU's record of an experiment, which the text tells.

    Raises FileNotFoundError if there is none, and what `read` raises.
    """
    path = Path(folder) / "cpu" / f"{name}.json"
    need(path.is_file(), f"no record of {name}", f"make measure NAME={name}", FileNotFoundError)
    return read(path)


def broken_claims(experiment, record):
    """The sentences of an experiment that a record does not bear out."""
    claims = experiment.claims if record.machine["device"] == "cpu" else experiment.gpu_claims
    return [sentence for sentence, condition in claims.items() if not condition(record)]


def broken_here(experiment, here, on_record):
    """The sentences that a reader's own run does not bear out.

    A small run is asked only what the record bears out, too, when it is cut to as few steps.
    """
    lengths = {name: len(rounds[0]) for name, rounds in here.rounds.items()}
    rounds = {name: on_record.rounds[name] for name in lengths.keys() & on_record.rounds.keys()}
    cut = {name: [steps[: lengths[name]] for steps in rounds[name]] for name in rounds}
    cut = replace(on_record, rounds=cut)
    claims = experiment.claims.items()
    return [said for said, asks in claims if answer(asks, cut) and answer(asks, here) is False]


def answer(condition, record):
    """Whether a claim holds; None where it asks for what the record does not have."""
    try:
        return bool(condition(record))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None
