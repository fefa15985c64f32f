"""What a run of a notebook showed, and how two runs compare: the same but for times.

A cell measures times if it calls a clock, or uses a name that such a cell made. What it shows is
compared without its numbers, and pictures drawn from it are not compared.
"""

import ast
import re

import nbformat
from conftest import ROOT

CLOCKS = {
    "perf_counter",
    "time_generation",
    "median_seconds",
    "memory_bandwidth",
    "arithmetic_rate",
}
CHANGES = {"append", "extend", "add", "update"}
NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]\d+)?")
SHOWN = ("text/markdown", "text/html", "application/papermill.record/text/plain")
PROGRESS = re.compile(r"it/s\]$")  # the end of a tqdm bar, which is drawn when there is time to


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed(chapter):
    """A chapter with its outputs, as the build left it."""
    for path in (ROOT / "_build" / ".jupyter_cache" / "executed").rglob("base.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        if sources(notebook) == sources(chapter):
            return notebook
    raise AssertionError("the book was built from another version of this chapter")


def sources(notebook):
    return [cell.source for cell in code_cells(notebook)]


def glued(notebook):
    """What the cells of an executed notebook handed to the text: name -> text."""
    found = {}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                found[name] = output.data["application/papermill.record/text/plain"].strip("'")
    return found


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


def measuring(notebook):
    """The ids of the cells whose outputs hold times."""
    known, cells = set(CLOCKS), set()
    for cell in code_cells(notebook):
        tree = ast.parse(re.sub(r"(?m)^(\s*)%.*", r"\1pass", cell.source))
        nodes = list(ast.walk(tree))
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if used & known:
            cells.add(cell.id)
            known |= made(nodes)
    return cells


def made(nodes):
    """The names that a cell gives a value, defines, or adds to."""
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for node in nodes:
        stored = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
        added = isinstance(node, ast.Attribute) and node.attr in CHANGES
        if (stored or added) and isinstance(node.value, ast.Name):
            names.add(node.value.id)
    return names


def differences(first, second, numbers=True):
    """The cells that show something else in the second run: id, before, after.

    numbers=False compares all cells without their numbers, as those that measure times.
    """
    times = measuring(first)
    found = []
    for one, other in zip(code_cells(first), code_cells(second), strict=True):
        before, after = shown(one), shown(other)
        if one.id in times or not numbers:
            before, after = without_numbers(before), without_numbers(after)
        if before != after:
            found.append((one.id, before, after))
    return found


def without_numbers(texts):
    words = [NUMBER.sub("#", text) for text in texts if "<svg" not in text]
    return [re.sub(r"[\s|:-]+", " ", text) for text in words]
