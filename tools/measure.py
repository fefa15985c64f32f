"""Measures the experiments of the book and puts them on record.

    make measure              all of them
    make measure NAME=writing one or more: NAME="machine writing"

Each record is written as soon as it is there: an interruption loses only what is under way. What
is not steady is refused; the others go on. For one that stands in a chapter, the chapter is run.
"""

import ast
import os
import sys
import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from kvcache.measurements import machine, speed
from kvcache.measurements.experiments import Experiment
from kvcache.measurements.records import FOLDER

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def packaged():
    """The experiments of the package, by name."""
    things = [thing for module in (machine, speed) for thing in vars(module).values()]
    return {thing.name: thing for thing in things if isinstance(thing, Experiment)}


def in_chapters():
    """(name, notebook, docstring, options) of each experiment in a chapter, which is not run."""
    for path, source in chapter_code():
        for node in ast.parse(source).body if "@experiment" in source else []:
            for decorator in getattr(node, "decorator_list", []):
                if getattr(getattr(decorator, "func", None), "id", "") == "experiment":
                    call = ast.Call(ast.Name("dict", ast.Load()), [], decorator.keywords)
                    options = ast.fix_missing_locations(ast.Expression(call))
                    options = eval(compile(options, f"{path.name}, {node.name}", "eval"))
                    yield node.name, path, ast.get_docstring(node), options


def chapter_code():
    """(notebook, source) of each code cell."""
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and not cell.source.startswith("%"):
                yield path, cell.source


def all_experiments():
    """Name -> an Experiment of each. Those of chapters can say their claims, but not be measured.

    Raises ValueError if two have one name.
    """
    found = packaged()
    for name, path, text, options in in_chapters():
        if name in found:
            raise ValueError(f"{path.name}: another experiment is called {name}; find a new name.")

        def stand_in(device, path=path):
            raise RuntimeError(f"{path.name} has to run for this")

        stand_in.__name__, stand_in.__doc__ = name, text
        found[name] = Experiment(stand_in, **options)
    return found


def measure_in_chapter(path, names, seconds=None, folder=FOLDER):
    """Run a chapter up to the last of some of its experiments; yield (name, what went wrong)."""
    notebook = nbformat.read(path, as_version=4)
    calls = {}
    for index, cell in enumerate(notebook.cells):
        for name in names:
            if cell.cell_type == "code" and f"measured({name})" in cell.source:
                calls[index] = name
                written = f"{name}.measure({DEVICE!r}, {seconds}).write({str(folder)!r})"
                call = next(
                    line for line in cell.source.splitlines() if f"measured({name})" in line
                )
                cell.source = cell.source.replace(call, f"{written}\n{call}")
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
    for name, experiment in packaged().items():
        if name in names:
            try:
                experiment.measure(DEVICE, seconds).write(folder)
                yield name, None
            except Exception as problem:  # of any kind: the others go on
                yield name, f"{type(problem).__name__}: {problem}"
    chapters = {}
    for name, path, _, _ in in_chapters():
        if name in names:
            chapters.setdefault(path, []).append(name)
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
