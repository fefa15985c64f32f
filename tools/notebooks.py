"""Keeps the stored notebooks clean: no outputs, ids that are words, little metadata, tidy code.

    python tools/notebooks.py            mends them
    python tools/notebooks.py --check    only says what is to be mended

JupyterLab writes outputs, counts and random ids into a notebook that it saves.
"""

import difflib
import re
import subprocess
import sys

import chapters
import nbformat

WORDS = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]{27})?")
IN_NOTEBOOK = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
IN_CELL = {"tags", "jupyter", "cellView"}


def mended(path):
    """The text of a notebook as it should be stored. A cell gets its id from its first words."""
    notebook, taken = chapters.read(path), set()
    notebook.metadata = IN_NOTEBOOK
    for cell in notebook.cells:
        cell.metadata = {name: cell.metadata[name] for name in cell.metadata if name in IN_CELL}
        name = cell.get("id", "")
        if not WORDS.fullmatch(name) or RANDOM.fullmatch(name) or name in taken:
            words = "-".join(re.findall("[a-z]+", cell.source.lower())[:3]) or "cell"
            names = [words, *(f"{words}-{number}" for number in range(2, 1000))]
            cell.id = next(name for name in names if name not in taken)
        taken.add(cell.id)
    return nbformat.writes(notebook) + "\n"


def main(paths, check):
    """Mend the notebooks, or print how they differ from clean ones; the exit status."""
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", *paths]
    if not check:
        for path in paths:
            path.write_text(mended(path), encoding="utf-8")
        return subprocess.run(ruff).returncode
    wrong = []
    for path in paths:
        texts = path.read_text(encoding="utf-8").splitlines(), mended(path).splitlines()
        wrong += difflib.unified_diff(*texts, str(path), "mended", n=1, lineterm="")
    print(*wrong, sep="\n")
    return subprocess.run([*ruff, "--diff"]).returncode or bool(wrong)


if __name__ == "__main__":
    sys.exit(main(chapters.paths(), "--check" in sys.argv))
