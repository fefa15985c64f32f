"""Shows a measurement in a notebook: the record, and beside it what the reader's machine does.

While the book is built, KVCACHE_MEASUREMENTS is "record": nothing is measured. In a reader's own
kernel it is not set: there the experiment runs, for about a minute. `make measure` sets it to
"renew": what is on record is about to change, so it is not checked.
"""

import os
from importlib.metadata import metadata

import torch
from IPython.display import display
from matplotlib.ticker import EngFormatter

from ..config import need
from .records import broken_claims, broken_here, recorded, records

SECONDS = 40  # of rounds in a reader's kernel; preparing comes on top


def measured(experiment, table=True):
    """The CPU's record of an experiment, which the text tells; shows where it comes from.

    table  whether the records of several machines are shown side by side

    In a reader's kernel it also measures, and shows both. Raises ValueError while the book is built
    if the record is of other code, or does not bear out a claim, and what `recorded` raises.
    """
    mode = os.environ.get("KVCACHE_MEASUREMENTS") or "live"
    need(mode in ("live", "record", "renew"), f"KVCACHE_MEASUREMENTS is {mode!r}", "leave it unset")
    record = recorded(experiment.name)
    if mode == "record":
        check(experiment, record)
    here = live(experiment) if mode == "live" else None
    display(Shown(records(experiment.name), here, table, experiment.code()))
    for sentence in broken_here(experiment, here, record) if here else []:
        print(f'In this run, on this machine, it does not hold that "{sentence}".')
    return record


def on_record(name):
    """The CPU's record of an experiment of another chapter; shows where it comes from.

    Raises what `recorded` raises.
    """
    display(Shown(records(name), table=False))
    return recorded(name)


def check(experiment, record):
    """Raise ValueError for a record of other code, or one that contradicts a claim."""
    remedy = f"make measure NAME={experiment.name}"
    what = f"the record of {experiment.name}"
    need(record.code == experiment.code(), f"{what} is of other code", remedy)
    broken = broken_claims(experiment, record)
    need(not broken, f"{what} does not bear out {broken}", remedy)


def live(experiment):
    """A reader's own run; None, and words, where it cannot be done."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        seconds = float(os.environ.get("KVCACHE_LIVE_SECONDS") or SECONDS)
        return experiment.measure(device, seconds, **experiment.small)
    except (ImportError, OSError, RuntimeError, ValueError) as problem:
        print(f"Not measured here: {problem}")


class Shown:
    """Where a record comes from and, where there are several, all of them side by side.

    code  the hash of the code that lies here: a GPU's record may be older
    """

    def __init__(self, on_record, here=None, table=True, code=None):
        self.on_record, self.code, self.columns = on_record, code, {}
        for record in on_record:
            device = "CPU" if record.device == "cpu" else record.machine["name"]
            self.columns[f"on record, {device}"] = record
        if here:
            small = "".join(f", {key}={value}" for key, value in here.settings.items())
            self.columns[f"here{small}"] = here
        self.table = len(self.columns) > 1 and (table or here)

    def rows(self):
        """For each that was timed: its name and its time in each column; then the numbers found.

        The runs are compared over the steps that all of them have.
        """
        records = self.columns.values()
        for name in dict.fromkeys(name for record in records for name in record.rounds):
            have = [record for record in records if name in record.rounds]
            n_steps = min(len(record.rounds[name][0]) for record in have)
            times = [cell(record, name, n_steps) if record in have else "" for record in records]
            yield [f"{name}, {n_steps} steps" if n_steps > 1 else name, *times]
        columns = [numbers(record.facts) for record in records]
        for name in columns[0]:
            yield [name, *(in_digits(each[name]) if name in each else "" for each in columns)]

    def provenance(self, record):
        """When and on what it was measured, with a link to the raw data."""
        where, torch_version = record.machine, record.machine["versions"]["torch"].split("+")[0]
        inside = f"{where['cores']} cores, " if record.device == "cpu" else ""
        if self.code and record.code != self.code:
            inside += f"other code than today's, of commit {record.commit}, "
        url = f"{folder_address()}/{record.device}/{record.experiment}.json"
        said = f"{record.date}, on {where['name']} ({inside}PyTorch {torch_version}: "
        return f'{said}<a href="{url}">raw data</a>)'

    def __repr__(self):
        """Markdown that can also be read as it is."""
        said = f"Measured on {'; on '.join(map(self.provenance, self.on_record))}."
        rows = list(self.rows()) if self.table else []
        head = [["what", *self.columns], ["---"] * (1 + len(self.columns))] if rows else []
        return "\n".join([said, "", *(f"| {' | '.join(row)} |" for row in [*head, *rows])]).strip()

    _repr_markdown_ = __repr__


def cell(record, name, n_steps):
    """A time, and how well it is known."""
    time = in_units(record[name].per_token[:n_steps].sum().item())
    error = record.error(name)
    return f"{time} ±\u00a0{error:.1%}" if error == error else f"{time} (too few rounds for a ±)"


def numbers(facts, names=()):
    """The single numbers among facts, also in dicts and short lists: name -> number."""
    if isinstance(facts, list | tuple):
        facts = dict(enumerate(facts, 1)) if len(facts) <= 8 else {}
    if isinstance(facts, dict):
        inside = [numbers(fact, (*names, name)) for name, fact in facts.items()]
        return {name: number for each in inside for name, number in each.items()}
    return {", ".join(map(str, names)): facts} if isinstance(facts, int | float) else {}


def in_digits(number):
    """A count in full, any other number with four digits."""
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"


def in_units(seconds):
    """A time in the unit that suits it, with three digits."""
    return EngFormatter("s")(float(f"{seconds:.3g}"))


def folder_address():
    """Where the raw data lies: beside the built pages, or in the repository."""
    if os.environ.get("KVCACHE_MEASUREMENTS") == "record":
        return "../records"
    urls = dict(url.split(", ") for url in metadata("kvcache").get_all("Project-URL"))
    return f"{urls['Repository']}/blob/main/kvcache/measurements/records"
