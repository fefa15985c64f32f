"""Keeps the stored notebooks clean: no outputs, ids that are words, little metadata, tidy code.

    python tools/notebooks.py            mends them
    python tools/notebooks.py --check    only says what is wrong

JupyterLab writes outputs, counts and random ids into a notebook that it saves.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
WORDS = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]{27})?")
IN_NOTEBOOK = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
IN_CELL = {"tags", "jupyter", "cellView"}


def complaints(path):
    """Yield what is wrong with a stored notebook."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if notebook.metadata != IN_NOTEBOOK:
        yield f"{path.name}: metadata of a program that opened it"
    for cell in notebook.cells:
        where = f"{path.name}, cell {cell.id}"
        if cell.get("outputs") or cell.get("execution_count"):
            yield f"{where}: stored with outputs"
        if not is_good_id(cell.id):
            yield f"{where}: its id is no word"
        if not set(cell.metadata) <= IN_CELL:
            yield f"{where}: metadata {sorted(set(cell.metadata) - IN_CELL)}"
    names = [cell.id for cell in notebook.cells]
    yield from (f"{path.name}, two cells {name}" for name in set(names) if names.count(name) > 1)


def is_good_id(name):
    return WORDS.fullmatch(name) and not RANDOM.fullmatch(name)


def mend(path):
    """Write a notebook as it should be stored. A cell gets its id from its first words."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = IN_NOTEBOOK
    taken = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cell.metadata = {name: cell.metadata[name] for name in cell.metadata if name in IN_CELL}
        if not is_good_id(cell.id) or cell.id in taken:
            words = "-".join(re.findall("[a-z]+", cell.source.lower())[:3]) or "cell"
            numbers = (f"{words}-{number}" for number in range(2, 1000))
            cell.id = words if words not in taken else next(n for n in numbers if n not in taken)
        taken.add(cell.id)
    nbformat.write(notebook, path)


def main(paths, check):
    """Mend or check; the exit status."""
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", *(["--check"] * check), *paths]
    if not check:
        for path in paths:
            mend(path)
    found = [each for path in paths for each in complaints(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return subprocess.run(ruff).returncode or bool(found)


if __name__ == "__main__":
    sys.exit(main(sorted((ROOT / "chapters").glob("*.ipynb")), "--check" in sys.argv))
