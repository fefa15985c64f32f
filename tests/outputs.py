"""What a run of a notebook showed, and how two runs compare.

A cell that calls `measured` shows the reader's own measurement beside the record, and is not
compared. All others show the same in every run: what they tell of a clock, they read from records.
"""

import functools
import re

import chapters

WIDGET = "application/vnd.jupyter.widget"
PROGRESS = re.compile(r"it/s\]$")  # the end of a tqdm bar, which is drawn when there is time to


def chapter(name):
    """A chapter as it is stored."""
    return chapters.read(chapters.ROOT / "chapters" / f"{name}.ipynb")


@functools.cache
def executed(name):
    """A chapter with its outputs, as the build left it: not to be changed."""
    return chapters.executed(chapters.ROOT / "chapters" / f"{name}.ipynb")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def displayed(cell):
    """What a cell displayed: the data of each output, by kind."""
    return [output.data for output in cell.outputs if "data" in output]


def n_figures(notebook):
    """How many figures that move an executed notebook shows."""
    widgets = notebook.metadata.get("widgets", {})
    states = widgets.get(f"{WIDGET}-state+json", {"state": {}})["state"]
    shown = [data for cell in code_cells(notebook) for data in displayed(cell)]
    views = [data[f"{WIDGET}-view+json"] for data in shown if f"{WIDGET}-view+json" in data]
    return sum("_esm" in states[view["model_id"]]["state"] for view in views)


def shown(cell):
    """What a reader sees below a cell: all that it printed, then what it displayed."""
    texts = ["".join(out.text for out in cell.outputs if out.get("name") == "stdout")]
    for data in displayed(cell):
        if not PROGRESS.search(data.get("text/plain", "")):
            kinds = {"text/markdown", "text/html"} & set(data) or {"text/plain"}
            texts += [data.get(kind, "") for kind in sorted(kinds)]
    # What differs from run to run, and where the raw data lies.
    odd = r'data-still-of="\w+"| at 0x\w+|href="[^"]*/records/'
    return [re.sub(odd, "", text) for text in texts]


def differences(first, second):
    """The cells that show something else in the second run: id, before, after."""
    pairs = zip(code_cells(first), code_cells(second), strict=True)
    cells = [(one, other) for one, other in pairs if "measured(" not in one.source]
    return [(a.id, shown(a), shown(b)) for a, b in cells if shown(a) != shown(b)]
