"""Sphinx extension: the page of all measurements, and the raw data beside the pages.

The directive `records` makes a table of the records of each machine: the file, what was asked,
which chapter tells it, when it was measured, of which commit, in how many rounds, and how sure.
"""

import re
import shutil
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

from kvcache.measurements.records import FOLDER, records
from tools import measure

HEAD = ["raw data", "what was asked", "told in", "measured"]


def told_in(name):
    """Links to the chapters that tell an experiment."""
    calls = re.compile(rf'measured\({name}[,)]|on_record\("{name}"\)')
    chapters = dict.fromkeys(
        path.name for path, source in measure.chapter_code() if calls.search(source)
    )
    return ", ".join(f"[{int(chapter[:2])}]({chapter})" for chapter in chapters)


def row(record, asked):
    """The cells of a record."""
    file = f"../records/{record.device}/{record.experiment}.json"
    when = [record.date, f"commit {record.commit[:7]}" if record.commit else "", "no clock"]
    if record.rounds:
        n_rounds = max(len(samples) for samples in record.rounds.values())
        sure = max(record.error(name) for name in record.rounds)
        when[-1] = f"{n_rounds} rounds, ± {sure:.1%}"
    link = f'<a href="{file}">{record.experiment.replace("_", " ")}</a>'
    return [link, asked, told_in(record.experiment), ", ".join(filter(None, when))]


def tables():
    """Markdown: for each machine a sentence and a table."""
    asked = {
        name: (experiment.function.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        for name, experiment in measure.all_experiments().items()
    }
    found = {}
    for record in records():
        found.setdefault(record.device, []).append(record)
    for device, several in found.items():
        where = several[0].machine
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        yield f"## {where['name']}\n"
        cores = "" if device != "cpu" else f"{where['cores']} cores, {where['threads']} threads, "
        yield f"{cores}{where['memory_gb']} GB of memory, {where['system']}, {versions}.\n"
        yield "| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|"
        for record in several:
            yield "| " + " | ".join(row(record, asked.get(record.experiment, ""))) + " |"
        yield ""


class Records(SphinxDirective):
    """The tables of all records, as the page has them."""

    def run(self):
        self.env.note_reread()
        return self.parse_text_to_nodes("\n".join(tables()), allow_section_headings=True)


def copy_raw_data(app, exception):
    if not exception and app.builder.format == "html":
        place = Path(app.outdir) / "records"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(FOLDER, place, ignore=shutil.ignore_patterns("*.half"))


def setup(app):
    app.add_directive("records", Records)
    app.connect("build-finished", copy_raw_data)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
