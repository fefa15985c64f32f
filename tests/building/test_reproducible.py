"""The same bytes: two builds of the same files give the same pages, whatever the clock says."""

import os
import shutil
import subprocess
import sys

import matplotlib
import nbformat
import pytest
from conftest import NAMES, ROOT, copy_project
from nbformat.v4 import new_code_cell, new_markdown_cell

pytestmark = pytest.mark.matrix
LYING_CLOCK = ROOT / "tests" / "data" / "lying_clock"
CLOCK = "import time\n\nprint(time.perf_counter())"
PRINTS = 'print("printed", end=" ", flush=True)\nprint("in pieces")'


def furnish(house, code):
    """Put a copy of the project there, whose book has one page; its notebook runs the code."""
    made = nbformat.read(ROOT / "chapters" / f"{NAMES[1]}.ipynb", as_version=4)
    made.cells = [new_markdown_cell("# Made", id="title"), new_code_cell(code, id="code")]
    nbformat.write(made, copy_project(house) / "chapters" / "made.ipynb")
    (house / "_toc.yml").write_text("format: jb-book\nroot: chapters/made\n")


def build(house, *paths, **settings):
    """Build the book that lies there; gives the folder of its pages."""
    settings["PYTHONPATH"] = os.pathsep.join(map(str, (house, *paths)))
    command, env = [sys.executable, "tools/build.py"], {**os.environ, **settings}
    done = subprocess.run(command, cwd=house, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return house / "_build" / "html"


def build_elsewhere(house):
    """Build it for another user, on the other side of the world, with a clock that lies."""
    home = house.parent / "home"
    home.mkdir()
    return build(
        house,
        LYING_CLOCK,
        HOME=str(home),
        MPLCONFIGDIR=matplotlib.get_cachedir(),  # without its list of fonts it warns
        PYTHONHASHSEED="77",
        TZ="Etc/GMT-14" if os.environ.get("TZ") != "Etc/GMT-14" else "Etc/GMT+12",
    )


def different(one, other):
    """Where each file that is not the same in two folders begins to differ: name -> both texts."""
    names = {p.relative_to(f) for f in (one, other) for p in f.rglob("*") if p.is_file()}
    found = {}
    for name in sorted(names):
        paths = one / name, other / name
        texts = [path.read_bytes() if path.is_file() else b"" for path in paths]
        if texts[0] != texts[1]:
            start = len(os.path.commonprefix(texts))  # noqa: RUF071 (of bytes)
            found[name.as_posix()] = [text[max(0, start - 60) : start + 60] for text in texts]
    return found


def test_two_builds_in_two_folders_give_the_same_bytes_though_the_clock_lies(tmp_path):
    one, other = tmp_path / "one" / "house", tmp_path / "two other" / "house"
    assert different(build(copy_project(one)), build_elsewhere(copy_project(other))) == {}


def test_a_page_that_shows_a_clock_is_found(tmp_path):
    one, other = tmp_path / "one" / "house", tmp_path / "two other" / "house"
    furnish(one, CLOCK)
    furnish(other, CLOCK)
    assert "chapters/made.html" in different(build(one), build_elsewhere(other))


def test_a_second_build_changes_no_byte(tmp_path):
    house, kept = tmp_path / "house", tmp_path / "kept"
    furnish(house, PRINTS)
    shutil.copytree(build(house), kept)
    assert ">printed in pieces\n" in (kept / "chapters" / "made.html").read_text(encoding="utf-8")
    shutil.rmtree(house / "_build" / ".doctrees")  # only the notebook that was run is used again
    assert different(kept, build(house)) == {}


def test_the_clock_lies_to_all_but_those_who_wait():
    program = "import asyncio, datetime, time; loop = asyncio.new_event_loop();"
    program += "print(abs(time.time() - datetime.datetime.now().timestamp()) > 24 * 60 * 60,"
    program += "abs(time.monotonic() - loop.time()) > 24 * 60 * 60,"
    program += "abs(loop.time() - time.clock_gettime(time.CLOCK_MONOTONIC)) < 1)"
    settings = {**os.environ, "PYTHONPATH": str(LYING_CLOCK)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3
