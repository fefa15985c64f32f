"""Measures the experiments of the book and puts them on record.

    make measure              all of them
    make measure NAME=writing one or more: NAME="machine writing"

Each record is written as soon as it is there, so that an interruption loses only the experiment
that was under way. One that the machine does not hold still for is refused; the others go on. An
experiment that stands in a chapter is measured by running that chapter up to it.
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

ROOT = Path(__file__).resolve().parent.parent


def packaged():
    """The experiments of the package, by name."""
    things = [thing for module in (machine, speed) for thing in vars(module).values()]
    return {thing.name: thing for thing in things if isinstance(thing, Experiment)}


def in_chapters():
    """The experiments that stand in chapters: (name, notebook, docstring, options) of each.

    Its claims need nothing but a record, so that they can be asked without running the chapter.
    """
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


def measure_packaged(experiment, device):
    """Measure an experiment of the package. Returns what went wrong, or None."""
    try:
        experiment.measure(device).write()
    except Exception as problem:  # of any kind: the others go on
        return f"{type(problem).__name__}: {problem}"


def measure_in_chapter(path, names):
    """Run a chapter once, up to the last of some of its experiments; yield (name, what went wrong).

    What a cell writes on record stays there, whatever happens to those after it.
    """
    notebook = nbformat.read(path, as_version=4)
    calls = {
        index: name
        for name in names
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and f"measured({name})" in cell.source
    }
    yield from (
        (name, f"no cell calls it: measured({name})") for name in set(names) - {*calls.values()}
    )
    if not calls:
        return
    notebook.cells = notebook.cells[: max(calls) + 1]
    os.environ |= {"KVCACHE_MEASUREMENTS": " ".join(["renew", *names]), "TQDM_DISABLE": "1"}
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


def main(names):
    """Measure; the exit status."""
    ours, known = packaged(), list(all_experiments())
    if unknown := set(names) - set(known):
        print(f"There is no experiment {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
        return 2
    device, refused = "cuda" if torch.cuda.is_available() else "cpu", []
    wanted = names or known
    chapters = {}
    for name, path, _, _ in in_chapters():
        if name in wanted:
            chapters.setdefault(path, []).append(name)

    def say(name, problem, start):
        print(f"{time.perf_counter() - start:6.0f} s  {name}: {problem or 'on record'}", flush=True)
        if problem:
            refused.append(name)

    for name in (name for name in wanted if name in ours):
        start = time.perf_counter()
        say(name, measure_packaged(ours[name], device), start)
    for path, several in chapters.items():
        start = time.perf_counter()
        print(f"          {path.name} runs for {', '.join(several)}", flush=True)
        for name, problem in measure_in_chapter(path, several):
            say(name, problem, start)
    if refused:
        print(f"Not on record anew: {', '.join(refused)}.")
    return int(bool(refused))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: what was finished is on record.")
