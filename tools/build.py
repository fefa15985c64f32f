"""Builds the book: runs the notebooks that changed, then writes the HTML. Warnings are errors.

Executed notebooks are kept in _build/.jupyter_cache, by the content of their cells. A change of
kvcache/ or of the pinned packages changes what every notebook does, so it empties that store. A
change of the style or the settings makes all pages anew, from the executed notebooks.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
REPORTS = BUILD / "html" / "reports"
IGNORED = {"__pycache__", "node_modules"}
COLOUR = re.compile(r"\x1b\[[\d;]*m")
NOTEBOOK = re.compile(
    r"(?P<path>\S+\.ipynb): (?P<event>Executing|Executed|Using cached)(?P<rest>.*)"
)


def digest(*places):
    """One hash for the content of files, and of all files below folders."""
    found = hashlib.sha256(sys.version.encode())
    for place in places:
        for path in sorted((ROOT / place).rglob("*")) or [ROOT / place]:
            if path.is_file() and not IGNORED.intersection(path.parts):
                found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def forget_outdated():
    """Drop what was made under other conditions than today's."""
    conditions = {
        ".jupyter_cache": digest("kvcache", "requirements.txt"),
        ".doctrees": digest(
            "kvcache",
            "requirements.txt",
            "chapters/_static",
            "chapters/glossary.md",
            "references.bib",
            "tools",
            "_config.yml",
        ),
    }
    for folder, current in conditions.items():
        stamp = BUILD / f"{folder}.made-under"
        if not stamp.is_file() or stamp.read_text() != current:
            shutil.rmtree(BUILD / folder, ignore_errors=True)
            BUILD.mkdir(exist_ok=True)
            stamp.write_text(current)


def run():
    """Run Jupyter Book; show which notebook runs, and every warning. Returns its exit status."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(ROOT), "-W", "-n", "--keep-going"]
    # No progress bars in the pages: they would stand there at 100 % for ever.
    settings = {**os.environ, "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    with (
        (BUILD / "build.log").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=settings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        for line in process.stdout:
            line = COLOUR.sub("", line)
            log.write(line)
            if found := NOTEBOOK.search(line):
                name = os.path.relpath(found["path"], ROOT)
                took = re.search(r"[\d.]+ seconds", found["rest"])
                event = {"Executing": "running", "Executed": "done in", "Using cached": "unchanged"}
                print(f"{event[found['event']]:>10} {took[0] if took else name}", flush=True)
            elif re.search(r"\b(WARNING|ERROR)\b", line) and "IPKernelApp" not in line:
                print(line.rstrip(), flush=True)
    return process.returncode


def failed_cells():
    """Yield notebook, number of the code cell, its id and the traceback of each failure."""
    for report in sorted(REPORTS.rglob("*.log")):
        text = COLOUR.sub("", report.read_text(encoding="utf-8"))
        name = report.relative_to(REPORTS).as_posix().split(".")[0] + ".ipynb"
        notebook = json.loads((ROOT / name).read_text(encoding="utf-8"))
        code_cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(code_cells, start=1):
            if (source := "".join(cell["source"]).strip()) and source in text:
                yield name, number, cell["id"], text
                break
        else:
            yield name, "?", "?", text


def main():
    forget_outdated()
    status = run()
    for name, number, cell_id, traceback in failed_cells():
        print(f"\n{name}, code cell {number} (id {cell_id}) failed:\n{traceback}")
        status = status or 1
    if status:
        log = BUILD / "build.log"
        print(*log.read_text(encoding="utf-8").splitlines()[-5:], sep="\n")
        print(f"The book was not built. The whole log: {log}")
    else:
        print(f"The book lies in {BUILD / 'html' / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
