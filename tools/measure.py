"""Measures the experiments of the book and puts them on record.

    make measure              all of them
    make measure NAME=writing one or more: NAME="machine writing"

Each record is written as soon as it is there: an interruption loses only what is under way. What
is not steady is refused; the others go on. The chapter of an experiment is run for it.
"""

import ast
import os
import re
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from kvcache.measurements.experiments import Experiment
from kvcache.measurements.records import FOLDER

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def in_chapters():
    """(notebook, Experiment) of each in a chapter. It can say its claims, but not be measured here.

    Of a chapter only functions, constants and a few imports are run: what claims may name.
    """
    imports = "from kvcache.measurements", "import numpy"
    for path in sorted({path for path, source in chapter_code() if "@experiment" in source}):
        sources, found = (source for each, source in chapter_code() if each == path), {}
        for node in (node for source in sources for node in ast.parse(source).body):
            constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()
            needed = isinstance(node, ast.FunctionDef) or ast.unparse(node).startswith(imports)
            if constant or needed:
                with suppress(NameError):  # it needs what is not here
                    exec(compile(ast.Module([node], []), path.name, "exec"), found)
        yield from ((path, thing) for thing in found.values() if isinstance(thing, Experiment))


@cache
def chapter_code():
    """(notebook, source) of each code cell, read once."""
    paths = sorted((ROOT / "chapters").glob("*.ipynb"))
    cells = [(path, cell) for path in paths for cell in nbformat.read(path, as_version=4).cells]
    code = ((path, cell.source) for path, cell in cells if cell.cell_type == "code")
    return [(path, source) for path, source in code if not re.search(r"(?m)^\s*%", source)]


def all_experiments():
    """Name -> Experiment of each. Raises ValueError if two have one name."""
    found = {}
    for path, each in in_chapters():
        if each.name in found:
            problem = f"another experiment is called {each.name}; find a new name."
            raise ValueError(f"{path.name}: {problem}")
        found[each.name] = each
    return found


def measure_in_chapter(path, names, seconds=None, folder=FOLDER):
    """Run a chapter up to the last of some of its experiments; yield (name, what went wrong)."""
    notebook = nbformat.read(path, as_version=4)
    calls = {}
    for index, cell in enumerate(notebook.cells):
        for name in names if cell.cell_type == "code" else ():
            if call := re.search(rf"(?m)^.*measured\({name}[,)].*$", cell.source):
                calls[index] = name
                written = f"{name}.measure({DEVICE!r}, {seconds}).write({str(folder)!r})"
                cell.source = cell.source.replace(call[0], f"{written}\n{call[0]}")
    yield from (
        (name, f"no cell calls it: measured({name})") for name in set(names) - {*calls.values()}
    )
    if not calls:
        return
    notebook.cells = notebook.cells[: max(calls) + 1]
    os.environ |= {"KVCACHE_MEASUREMENTS": "renew", "TQDM_DISABLE": "1"}
    options = {
        "timeout": None,
        "allow_errors": True,
        "resources": {"metadata": {"path": str(ROOT)}},
    }
    try:
        NotebookClient(notebook, **options).execute(transport_encryption="auto")
    except (AssertionError, DeadKernelError) as problem:  # Ctrl-C ends the kernel, too
        raise KeyboardInterrupt from problem
    for index, name in sorted(calls.items()):
        outputs = notebook.cells[index].outputs
        errors = [out.evalue for out in outputs if out.output_type == "error"]
        yield name, errors[0] if errors else None


def measure(names, seconds=None, folder=FOLDER):
    """Measure some experiments and write their records; yield (name, what went wrong)."""
    chapters = {}
    for path, found in in_chapters():
        if found.name in names:
            chapters.setdefault(path, []).append(found.name)
    for path, several in chapters.items():
        print(f"          {path.name} runs for {', '.join(several)}", flush=True)
        yield from measure_in_chapter(path, several, seconds, folder)


def main(names):
    """Measure; the exit status."""
    known, refused, start = list(all_experiments()), [], time.perf_counter()
    if unknown := set(names) - set(known):
        print(f"There is no experiment {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
        return 2
    for name, problem in measure(names or known):
        print(f"{time.perf_counter() - start:6.0f} s  {name}: {problem or 'on record'}", flush=True)
        refused += [name] * bool(problem)
    if refused:
        print(f"Not on record anew: {', '.join(refused)}.")
    return int(bool(refused))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: what was finished is on record.")
