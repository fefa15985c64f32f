"""Shows a measurement in a notebook: the record, and beside it what the reader's machine does.

While the book is built, KVCACHE_MEASUREMENTS is "record": nothing is measured. In a reader's own
kernel it is not set: there the experiment runs, for a minute at most. `make measure` sets it to
"renew" and the names of the experiments to measure whole and put on record.
"""

import os
from html import escape
from importlib.metadata import PackageNotFoundError, metadata

import torch
from IPython.display import display

from .records import broken_claims, recorded, records

SECONDS = 40  # of rounds in a reader's kernel; preparing comes on top


def measured(experiment):
    """The CPU's record of an experiment, which the text tells; shows where it comes from.

    In a reader's kernel it also measures, and shows both. Raises ValueError while the book is built
    if the record is of other code, or does not bear out a claim.
    """
    mode, *names = os.environ.get("KVCACHE_MEASUREMENTS", "live").split()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if experiment.name in names:
        path = experiment.measure(device).write()
        print(f"{experiment.name}: {path}")
        return records(experiment.name)[0]
    record = recorded(experiment.name)
    if mode == "record":
        check(experiment, record)
    here = live(experiment, device) if mode == "live" else None
    display(Shown(records(experiment.name), here))
    if here:
        for sentence in broken_claims(experiment, here):
            print(f'In this run, on this machine, it does not hold that "{sentence}".')
    return record


def check(experiment, record):
    """Refuse a record of other code, or one that contradicts a claim."""
    remedy = f"make measure NAME={experiment.name}"
    if record.code != experiment.code():
        raise ValueError(f"the record of {experiment.name} is of other code; {remedy}")
    if broken := broken_claims(experiment, record):
        raise ValueError(f"the record of {experiment.name} does not bear out {broken}; {remedy}")


def live(experiment, device):
    """A reader's own run; None, and words, where it cannot be done."""
    seconds = float(os.environ.get("KVCACHE_LIVE_SECONDS", SECONDS))
    try:
        return experiment.measure(device, seconds, **experiment.small)
    except (ImportError, OSError, RuntimeError) as problem:
        print(f"Not measured here: {problem}")


class Shown:
    """Where a record comes from and, where there are several, all of them side by side."""

    def __init__(self, on_record, here=None):
        self.on_record, self.here = on_record, here
        self.columns = [(short_name(record), record) for record in on_record]
        if here:
            extra = ", ".join(f"{key}={value}" for key, value in here.settings.items())
            self.columns.append((f"here{': ' if extra else ''}{extra}", here))

    def rows(self):
        """For each that was timed: its name, and its time and ratio in each column.

        The runs are compared over the steps that all of them have.
        """
        first = self.columns[0][1]
        for name in first.rounds:
            have = [record for _, record in self.columns if name in record.rounds]
            n_steps = min(len(record.rounds[name][0]) for record in have)
            cells = []
            for _, record in self.columns:
                if name not in record.rounds:
                    cells.append("")
                    continue
                seconds = record[name].per_token[:n_steps].sum().item()
                cells.append(f"{in_units(seconds)} ± {record.error(name):.0%}")
            yield name, n_steps, cells

    def provenance(self, link=True):
        """A sentence for each record: when, on what."""
        for record in self.on_record:
            where, versions = record.machine, record.machine["versions"]
            on = f"{where['name']} ({where['cores']} cores, {where['threads']} threads)"
            if where["device"] != "cpu":
                on = where["name"]
            text = f"Measured on {record.date}, on {on}, PyTorch {versions['torch']}"
            path = f"{record.device}/{record.experiment}.json"
            yield text, f"{folder_address()}/{path}"

    def _repr_html_(self):
        parts = [
            f'<p class="provenance">{escape(text)} (<a href="{escape(url)}">raw data</a>).</p>'
            for text, url in self.provenance()
        ]
        if len(self.columns) > 1:
            rows = list(self.rows())
            head = "".join(f"<th>{escape(title)}</th>" for title, _ in self.columns)
            body = "".join(
                f"<tr><td>{escape(name)}{f', {n} steps' if n > 1 else ''}</td>"
                + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
                + "</tr>"
                for name, n, cells in rows
            )
            if rows:
                parts.append(
                    f'<table class="records"><thead><tr><th></th>{head}</tr></thead>'
                    f"<tbody>{body}</tbody></table>"
                )
        return "".join(parts)

    def __repr__(self):
        lines = [f"{text}: {url}" for text, url in self.provenance()]
        if len(self.columns) > 1:
            lines.append(" | ".join(["", *(title for title, _ in self.columns)]))
            lines += [" | ".join([name, *cells]) for name, _, cells in self.rows()]
        return "\n".join(lines)


def short_name(record):
    return "on record, CPU" if record.device == "cpu" else f"on record, {record.machine['name']}"


def in_units(seconds):
    """A time in the unit that suits it, with three digits."""
    units = {"s": 1, "ms": 1e-3, "µs": 1e-6}
    unit = next((unit for unit, size in units.items() if seconds >= size), "µs")
    return f"{float(f'{seconds / units[unit]:.3g}'):g} {unit}"


def folder_address():
    """Where the raw data lies: beside the built pages, or in the repository."""
    if os.environ.get("KVCACHE_MEASUREMENTS") == "record":
        return "../records"
    try:
        urls = metadata("kvcache").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    repository = next((url.split(", ")[1] for url in urls if url.startswith("Repository")), "")
    return f"{repository}/blob/main/kvcache/measurements/records"
