"""Sphinx extension: the page of all measurements, and the raw data beside the pages.

The directive `records` makes a table of the records of each machine: what was asked, which chapter
tells it, when it was measured, in how many rounds, how sure it is, and the file.
"""

import shutil
from pathlib import Path

import measure
from sphinx.util.docutils import SphinxDirective

from kvcache.measurements.records import FOLDER, records

HEAD = ["experiment", "what it asks", "told in", "measured on", "rounds", "known to", "raw data"]


def told_in(name):
    """Links to the chapters that tell an experiment."""
    chapters = dict.fromkeys(
        path.name for path, source in measure.chapter_code() if f"measured({name})" in source
    )
    return ", ".join(f"[{int(chapter[:2])}]({chapter})" for chapter in chapters)


def row(record, asked):
    """The cells of a record."""
    rounds, sure = "", "no clock"
    if record.rounds:
        rounds = str(max(len(samples) for samples in record.rounds.values()))
        sure = f"± {max(record.error(name) for name in record.rounds):.0%}"
    file = f"{record.device}/{record.experiment}.json"
    link = f'<a href="../records/{file}">{file}</a>'
    commit = f"commit {record.commit}" if record.commit else ""
    where = told_in(record.experiment)
    return [record.experiment, asked, where, f"{record.date}, {commit}", rounds, sure, link]


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
        shutil.copytree(FOLDER, Path(app.outdir) / "records", dirs_exist_ok=True)


def setup(app):
    app.add_directive("records", Records)
    app.connect("build-finished", copy_raw_data)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
