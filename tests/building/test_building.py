"""A build says what is wrong, where, why, and what to do about it; and two builds are the same."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import build
import chapters
import matplotlib
import nbformat
import pytest
from conftest import ROOT, copy_project
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

JULIA = {"name": "julia-1", "display_name": "Julia"}
ENDLESS = "import threading\nthreading.Event().wait()"
PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(*sources, text="# A page", **metadata):
    cells = [new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources, start=1)]
    cells = [new_markdown_cell(text, id="title"), *cells]
    return nbformat.writes(new_notebook(cells=cells, metadata=metadata or PYTHON))


class Book:
    """A copy of the project, with a single page if it has a name, and a Python that is a script."""

    def __init__(self, folder, page="page"):
        self.folder, self.page = copy_project(folder), folder / "chapters" / f"{page}.ipynb"
        self.html = folder / "_build" / "html" / "chapters" / f"{page}.html"
        self.settings = {n: text for n, text in os.environ.items() if not n.startswith("MAKE")}
        if page:
            (folder / "_toc.yml").write_text(f"format: jb-book\nroot: chapters/{page}\n")
        self.python = folder / ".venv" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        for stamp in (".python", ".book", ".test"):
            (folder / ".venv" / stamp).touch()
        self.use(f'exec {sys.executable} "$@"')

    def use(self, script):
        """Let the Python of its .venv be that script."""
        self.python.write_text(f"#!/bin/sh\n{script}\n")
        self.python.chmod(0o755)

    def run(self, *command, **settings):
        """The exit status, and all that was said."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        env = {**self.settings, **settings}
        done = subprocess.run(command, cwd=self.folder, env=env, **pipes)
        return done.returncode, done.stdout

    def build(self, *sources, text="# A page", **settings):
        if sources:
            self.page.write_text(notebook(*sources, text=text), encoding="utf-8")
        return self.run(sys.executable, "tools/build.py", **settings)


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path / "book")


def test_a_failed_notebook_and_a_page_with_a_warning_stay_failed_until_mended(book, tmp_path):
    cause = tmp_path / "network"
    code = f"from pathlib import Path\nassert Path({str(cause)!r}).exists(), 'no network'\n"
    sources = "1 + 1", code + "print('all ' + 'is well')"
    for status, said in (book.build(*sources), book.build()):
        assert status
        assert "chapters/page.ipynb, code cell 2 (id cell-2): AssertionError: no network" in said
        assert "what to do: Mend the cell" in said
    cause.touch()
    assert book.build()[0] == 0
    assert "all is well" in book.html.read_text(encoding="utf-8")
    for status, said in (book.build("1 + 1", text="# A page\n\n{ref}`nowhere`"), book.build()):
        assert status
        assert re.search(r"^chapters/page\.ipynb.* WARNING: .*nowhere", said, re.MULTILINE)


def test_files_may_be_untidy_and_what_the_machine_says_is_shown(tmp_path):
    book = Book(tmp_path / "my \"bö'ok", page="a.b")
    said_by_machine = "import os, sys\nprint('old ' + 'driver', file=sys.stderr)\n"
    page = json.loads(notebook(said_by_machine + "print(os.environ['KVCACHE_MEASUREMENTS'] + 's')"))
    page["nbformat_minor"] = 4
    for cell in page["cells"]:
        del cell["id"]
    book.page.write_text(json.dumps(page), encoding="utf-8-sig")  # with a byte order mark
    for name in (".~lock.a.b.ipynb#", "a.b.ipynb~", "._a.b.ipynb", "Copy of a.b.ipynb"):
        (book.page.parent / name).write_bytes(b"\x00\xff")
    for name in ("chapters/.#a.b.ipynb", "book/theme/static/.#book.css", "kvcache/.#config.py"):
        (book.folder / name).symlink_to("someone@host.1234")
    # Nor is there a home to write to.
    nowhere = {"HOME": "/proc/none", "MPLCONFIGDIR": "/proc/none", "JUPYTER_RUNTIME_DIR": "/proc/0"}
    status, said = book.build(**nowhere)
    assert status == 0, said
    assert "   running chapters/a.b.ipynb\n" in said
    assert "chapters/a.b.ipynb, code cell 1, on stderr:\n             old driver\n" in said
    html = book.html.read_text(encoding="utf-8")
    assert "old driver" not in html
    assert "records" in html


WHOLE = notebook("1 + 1")


@pytest.mark.parametrize(
    ("page", "where", "cause", "remedy"),
    [
        (notebook("import os\nos._exit(0)"), ", code cell 1 (id", "kernel died", "mend the cell"),
        (notebook("import os\nos.kill(os.getpid(), 9)"), ", code cell 1", "memory", "Close other"),
        (notebook("1 + 1", ENDLESS), ", code cell 2", "it ran for longer", "'timeout:'"),
        (notebook(kernelspec=JULIA), "", "no kernel 'julia-1'", "make notebooks"),
        (WHOLE[:200], "", "it is broken, no JSON", "git restore"),
        ("", "", "it is empty", "git restore"),
        (WHOLE.replace(' "cells', '<<<<<<< ours\n "cells'), "", "a merge conflict", "git restore"),
        (WHOLE.replace("A page", "Ein schönes"), "", "it is not UTF-8", "git restore"),
        ("[]", "", "it is no notebook", "git restore"),
        ('{"worksheets": [], "nbformat": 3}', "", "no notebook of format 4", "git restore"),
    ],
)
def test_a_notebook_that_does_not_run_is_named_with_a_remedy(book, page, where, cause, remedy):
    config = book.folder / "_config.yml"
    config.write_text(config.read_text().replace("timeout: 600", "timeout: 3"))
    book.page.write_text(page, encoding="latin-1")
    status, said = book.build()
    assert status
    lines = said[said.index(f"FAILED chapters/page.ipynb{where}") :].splitlines()
    assert cause in lines[0]
    assert remedy in lines[1]


def test_a_full_disk_and_a_folder_of_another_have_remedies():
    wrapped, remedies = RuntimeError("the store"), {errno.ENOSPC: "Make room"}
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES):
        wrapped.__cause__ = OSError(number, os.strerror(number), "_build/x")
        for error in (wrapped, wrapped.__cause__):
            assert remedies.get(number, "may write") in build.told(error)


def test_a_name_that_sphinx_misreads_is_told(tmp_path, monkeypatch, capsys):
    for name in ("a[b]", "100%20"):
        monkeypatch.setattr(build, "ROOT", tmp_path / name)
        assert build.main()
        assert f"in its name: {tmp_path / name}" in capsys.readouterr().out


def test_a_store_that_was_cut_off_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BUILD", tmp_path)
    monkeypatch.setattr(chapters, "STORE", tmp_path / "store")
    build.open_store()
    database = chapters.STORE / "global.db"
    for content in (b"", b"cut off" * 100, database.read_bytes()[:3000]):
        database.write_bytes(content)
        assert build.open_store().list_cache_records() == []


def test_only_files_of_the_project_make_the_notebooks_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("1")
    before = build.digest(".")
    for name in ("a.py~", ".a.py.swp", "#a.py#", ".DS_Store"):
        (tmp_path / name).write_text("2")
    (tmp_path / ".#a.py").symlink_to("someone@host.1234")
    assert build.digest(".") == before
    (tmp_path / "a.py").write_text("3")
    assert build.digest(".") != before


def test_an_interrupted_build_says_so(book):
    book.page.write_text(notebook(ENDLESS))
    command = [sys.executable, "-u", "tools/build.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=book.folder, env=book.settings, **pipes) as process:
        assert "running chapters/page.ipynb" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "Interrupted" in process.communicate(timeout=30)[1]
    assert process.returncode


@pytest.mark.parametrize(
    ("program", "script", "cause"),
    [
        ("python", "#!/bin/sh\nexit 1\n", "no working Python"),
        ("jupyter", "#!/old/.venv/bin/python", "made in another folder"),
        ("jupyter", "#!/bin/sh\n'exec' '/old/.venv/bin", "made in another folder"),
    ],
)
def test_an_environment_that_lost_its_python_or_was_moved_is_told(book, program, script, cause):
    book.python.with_name(program).write_text(script)
    status, said = book.run("make", "book")
    assert status
    assert cause in said
    assert "'make distclean'" in said


def test_pip_installs_into_the_environment_or_says_what_hinders_it(book):
    pip = 'case "$*" in *install*) echo "user=$PIP_USER target=$PIP_TARGET"; exit 1;; esac'
    book.use(f'{pip}\nexec {sys.executable} "$@"')
    stamp = book.folder / ".venv" / ".book"
    stamp.unlink()
    config = book.folder / "pip.conf"
    config.write_text("[global]\nuser = true\nno-index = true\n")
    told = {"PIP_CONFIG_FILE": str(config), "PIP_USER": "1", "PIP_TARGET": "/elsewhere"}
    status, said = book.run("make", "book", **told)
    assert status
    assert "user=0 target=\n" in said
    assert "global.no-index" in said
    assert "PIP_CONFIG_FILE=/dev/null make" in said
    assert not stamp.exists()


def test_a_python_that_cannot_be_used_is_told(book):
    shutil.rmtree(book.folder / ".venv")
    status, said = book.run("make", "book", "PYTHON=python3.99")
    assert status
    assert "There is no python3.99 here. Install Python 3.11" in said
    program = book.folder / "python"
    program.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n{sys.executable} "$@"')
    program.chmod(0o755)
    assert "apt install python3-venv" in book.run("make", "book", "PYTHON=./python")[1]
    assert not (book.folder / ".venv").exists()


def pages(book, *code, **settings):
    """Build the book; gives a hash of each of its files."""
    status, said = book.build(*code, **{"PYTHONPATH": str(book.folder), **settings})
    assert status == 0, said
    html = book.folder / "_build" / "html"
    paths = [path for path in html.rglob("*") if path.is_file()]
    return {path.relative_to(html).as_posix(): hash(path.read_bytes()) for path in paths}


def built_twice(folder, *code, **page):
    """Two builds, one of another user, on the other side of the world, with a clock that lies."""
    one, other = Book(folder / "one", **page), Book(folder / "two other" / "house", **page)
    elsewhere = {
        "PYTHONPATH": os.pathsep.join([str(other.folder), str(ROOT / "tests/data/lying_clock")]),
        "HOME": str(folder),
        "MPLCONFIGDIR": matplotlib.get_cachedir(),  # without its list of fonts it warns
        "PYTHONHASHSEED": "77",
        "TZ": "Etc/GMT-14" if os.environ.get("TZ") != "Etc/GMT-14" else "Etc/GMT+12",
    }
    return pages(one, *code), pages(other, *code, **elsewhere)


@pytest.mark.matrix
def test_two_builds_give_the_same_bytes_though_the_clock_lies_or_show_it(tmp_path):
    first, second = built_twice(tmp_path / "book", page="")
    assert first == second
    first, second = built_twice(tmp_path / "clock", "import time\n\nprint(time.perf_counter())")
    assert first["chapters/page.html"] != second["chapters/page.html"]
    assert first["_static/doctools.js"] == second["_static/doctools.js"]
