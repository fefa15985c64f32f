"""What a run of a notebook showed, and how two runs compare.

A cell that calls `measured` shows the reader's own measurement beside the record, and is not
compared. All others show the same in every run: what they tell of a clock, they read from records.
"""

import functools
import re

import chapters
from conftest import ROOT

SHOWN = ("text/markdown", "text/html")
VIEW = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"it/s\]$")  # the end of a tqdm bar, which is drawn when there is time to


def chapter(name):
    """A chapter as it is stored."""
    return chapters.read(ROOT / "chapters" / f"{name}.ipynb")


@functools.cache
def executed(name):
    """A chapter with its outputs, as the build left it: not to be changed."""
    return chapters.executed(ROOT / "chapters" / f"{name}.ipynb")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def n_figures(notebook):
    """How many figures that move an executed notebook shows."""
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    views = [output.data[VIEW]["model_id"] for output in outputs if VIEW in output.get("data", {})]
    return sum("_esm" in states[view]["state"] for view in views)


def shown(cell):
    """What a reader sees below a cell: all that it printed, then what it displayed."""
    texts = [o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"]
    displayed = ["".join(texts)]
    for output in cell.outputs:
        data = output.get("data", {})
        if PROGRESS.search(data.get("text/plain", "")):
            continue
        named = [data[kind] for kind in SHOWN if kind in data]
        displayed += named or [data["text/plain"]] if "text/plain" in data else named
    return [re.sub(r'data-still-of="\w+"| at 0x\w+', "", text) for text in displayed]


def differences(first, second):
    """The cells that show something else in the second run: id, before, after."""
    found = []
    for one, other in zip(code_cells(first), code_cells(second), strict=True):
        before, after = shown(one), shown(other)
        if before != after and "measured(" not in one.source:
            found.append((one.id, before, after))
    return found
