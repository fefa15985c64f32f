"""Builds the book: runs the notebooks that changed, then writes the HTML. Warnings are errors.

Notebooks run here, so that what goes wrong is told with its notebook, its cell and a remedy. One
that ran to its end is kept in _build/.jupyter_cache, by the content of its cells, and Sphinx takes
its outputs from there. A change of kvcache/ or of the pinned packages empties that store. A change
of the style or the settings makes all pages anew, and so does a build of them that ended badly.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from textwrap import indent

try:
    import chapters
    import told_numbers
    import yaml
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from sphinx_external_toc.parsing import MalformedError
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:
    sys.exit(f"{error}, in {sys.executable}. 'make book' installs what the book is built with.")

ROOT = chapters.ROOT
BUILD = ROOT / "_build"
LOG = BUILD / "build.log"
IGNORED = re.compile(r"\.|#|.*~$|__pycache__$|node_modules$")  # hidden files, and editors' own
COLOUR = re.compile(r"\x1b\[[\d;]*m")
# No progress bars in the pages: they would stand there at 100 % for ever. And no clock runs.
SETTINGS = {"TQDM_DISABLE": "1", "KVCACHE_MEASUREMENTS": "record", "PYTHONUNBUFFERED": "1"}
# The last bits of a sum depend on the number of threads: it is the same everywhere.
SETTINGS |= {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "MKL_DYNAMIC": "FALSE"}


def digest(*places):
    """One hash for the content of files, and of all files below folders."""
    found = hashlib.sha256(sys.version.encode())
    for place in places:
        for path in sorted((ROOT / place).rglob("*")) or [ROOT / place]:
            name = path.relative_to(ROOT)
            if path.is_file() and not any(IGNORED.match(part) for part in name.parts):
                found.update(name.as_posix().encode() + path.read_bytes())
    return found.hexdigest().encode()


def kept(folder, *places):
    """Drop a folder of _build made under other conditions; gives its stamp and the conditions."""
    stamp, conditions = BUILD / f"{folder}.made-under", digest(*places)
    if (BUILD / folder).exists() and not (stamp.is_file() and stamp.read_bytes() == conditions):
        shutil.rmtree(BUILD / folder)
    return stamp, conditions


def open_store():
    """The notebooks that ran to their end under today's conditions."""
    stamp, conditions = kept(chapters.STORE.name, "kvcache", "requirements.txt")
    stamp.write_bytes(conditions)
    try:
        store = get_cache(chapters.STORE)
        store.list_cache_records()
    except (RuntimeError, SQLAlchemyError):  # cut off by a full disk, say
        shutil.rmtree(chapters.STORE)
        store = get_cache(chapters.STORE)
    return store


def told(error, where=None):
    """An error in words, and what to do about it."""
    again = "It runs again with the next build."
    restore = "'git restore' and its name bring back what was committed."
    cause = f"{type(error).__name__}: {error}"
    remedy = "If it stays: 'make distclean', and again." if where else restore
    match error:
        case CellExecutionError():
            cause = f"{error.ename}: {error.evalue}\n\n{error.traceback}\n"
            remedy = f"Mend the cell, or what it needs. {again}"
        case CellTimeoutError():
            cause = "it ran for longer than a cell may"
            remedy = f"Let it do less, or raise 'timeout:' in _config.yml. {again}"
        case DeadKernelError():
            cause = "the kernel died: too little memory, a crash, or code that ends the process"
            remedy = f"Close other programs, or mend the cell. {again}"
        case NoSuchKernel():
            cause = f"there is no kernel {error.name!r} here"
            remedy = "'make notebooks' sets Python's; in JupyterLab: Kernel > Change Kernel."
        case UnicodeDecodeError():
            cause, remedy = f"it is not UTF-8: {error}", f"Save it as UTF-8; or {restore}"
        case json.JSONDecodeError() if mark := re.search("^(<{7}|={7}|>{7})", error.doc, re.M):
            line = error.doc.count("\n", 0, mark.start()) + 1
            cause = f"it has the marks of a merge conflict, the first in line {line}"
            remedy = f"Keep one of the two sides, without the marks; or {restore}"
        case json.JSONDecodeError():
            cause = f"it is broken, no JSON: {error}" if error.doc.strip() else "it is empty"
        case MalformedError() | yaml.YAMLError():
            cause, remedy = f"_toc.yml or _config.yml cannot be read: {error}", "Mend it there."
    remedy = remedy_of_machine(f"{error} {error.__cause__}") or remedy
    return f"{COLOUR.sub('', cause)}\n    what to do: {remedy}"


def remedy_of_machine(said):
    """What to do where the machine does not let us write, or None."""
    if "No space left" in said or "disk is full" in said:
        return "Make room on the disk; 'make clean' removes what was built."
    if re.search("Permission denied|not permitted|read-?only", said, re.I):
        return "See whose it is, or copy the book to a folder that you may write to."
    return None


def code_cells(notebook):
    """Yield the index of each code cell, the cell, and what it is called in messages."""
    cells = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for number, (index, cell) in enumerate(cells, start=1):
        yield index, cell, f"code cell {number}" + (f" (id {cell.id})" if "id" in cell else "")


def execute(notebook, seconds):
    """Run a notebook in an empty folder, as in Colab. An error gets a note that names its cell."""
    options = {"record_timing": False, "shutdown_kernel": "immediate"}
    client, where = NotebookClient(notebook, timeout=seconds, **options), "its kernel"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        here, own = (os.path.join(folder, name) for name in ("here", "own"))
        os.mkdir(here)
        # With the kvcache of this folder, and without what a reader keeps for IPython at home.
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, **SETTINGS, "PYTHONPATH": paths, "IPYTHONDIR": own}
        try:
            with client.setup_kernel(cwd=here, env=env, transport_encryption="auto"):
                reply = client.wait_for_reply(client.kc.kernel_info())
                notebook.metadata["language_info"] = reply["content"]["language_info"]
                for index, cell, where in code_cells(notebook):  # noqa: B007 (a note)
                    client.execute_cell(cell, index)
                client.set_widgets_metadata()
        except Exception as error:
            error.add_note(where)
            raise


def up_to_date(notebook, name, store, seconds):
    """The notebook with its outputs: the kept ones, or those of a run of now."""
    try:
        _, notebook = store.merge_match_into_notebook(notebook)
        print(f" unchanged {name}", flush=True)
    except (KeyError, IndexError, ValueError):  # not there, or half of it
        print(f"   running {name}", flush=True)
        start = time.monotonic()
        execute(notebook, seconds)
        took = time.monotonic() - start
        # Its page is to be made anew, also where an older one is kept.
        (BUILD / ".doctrees" / name).with_suffix(".doctree").unlink(missing_ok=True)
        bundle = CacheBundleIn(notebook, name, data={"execution_seconds": took})
        store.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        print(f"   done in {took:.2f} seconds", flush=True)
    return notebook


def run_notebooks():
    """Run the notebooks of the book that did not yet run to their end; 1 if any of them fails."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    seconds = (config or {}).get("execute", {}).get("timeout", 600)
    store, failed = open_store(), []
    for path in chapters.paths():
        name, notebook = path.relative_to(ROOT).as_posix(), None
        try:
            notebook = chapters.read(path)
            notebook = up_to_date(notebook, name, store, seconds)
        except Exception as error:
            failed.append(name)
            where = getattr(error, "__notes__", [])
            print(f"    FAILED {', '.join([name, *where])}: {told(error, where)}", flush=True)
        for _, cell, where in code_cells(notebook) if notebook else ():
            # What the machine says (no home, an old driver) is for who builds, not for readers.
            if said := [out.text for out in cell.outputs if out.get("name") == "stderr"]:
                text = COLOUR.sub("", "".join(said)).strip()
                print(f"           {name}, {where}, on stderr:\n{indent(text, 13 * ' ')}")
    if failed:
        print("The pages are as they were. First mend", ", ".join(failed))
    return bool(failed)


def make_pages():
    """Let Jupyter Book write the HTML; show every warning. Returns its exit status."""
    places = "kvcache requirements.txt book chapters/glossary.md references.bib"
    tools = ("tools/address.py", "tools/measure.py")
    stamp, conditions = kept(".doctrees", *places.split(), *tools, "_config.yml")
    stamp.unlink(missing_ok=True)  # a warning comes once: after a bad end, all pages anew
    # As a module: the scripts beside Python hold the path of the folder they were made in.
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(ROOT), "-W", "-n", "--keep-going"]
    env = {**os.environ, **SETTINGS, "PYTHONIOENCODING": "utf-8"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    lines, shown = [], False
    with subprocess.Popen(command, cwd=ROOT, env=env, errors="replace", **pipes) as process:
        for line in process.stdout:
            lines.append(COLOUR.sub("", line).replace(f"{ROOT}{os.sep}", ""))
            if re.search(r"\b(WARNING|ERROR)\b", line):
                print(lines[-1].rstrip(), flush=True)
                shown = True
    LOG.write_text("".join(lines), encoding="utf-8")
    if process.returncode == 0:
        stamp.write_bytes(conditions)
    else:
        crash = {line for line in lines if re.match(r"[\w.]*(Error|Exception): .", line)}
        print("" if shown else "".join(crash or lines[-20:]))
        print(f"The pages have errors: see above. The whole log: {LOG}")
        print("    what to do:", remedy_of_machine("".join(crash)) or "Mend what is named there.")
    return process.returncode


def main():
    """Build the book, and return the exit status."""
    if odd := set(str(ROOT)) & set("%[]*?"):  # Sphinx would look for, and run, other files
        print(f"The book was not built. A folder has {' '.join(sorted(odd))} in its name: {ROOT}")
        print("    what to do: Give it another name, or copy the book elsewhere.")
        return 1
    try:
        BUILD.mkdir(exist_ok=True)
        status = run_notebooks() or make_pages() or told_numbers.main(check=True)
    except (MalformedError, yaml.YAMLError, OSError, RuntimeError, SQLAlchemyError) as error:
        print(f"The book was not built. {told(error)}")
        return 1
    if status == 0:
        print(f"The book lies in {BUILD / 'html' / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal that does not know all letters
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The next build goes on from here.")
