"""The same bytes: two builds of the same files give the same pages, whatever the clock says.

WHOLE_BOOK=1 compares the whole book in place of a few pages, which takes as long as two builds.
"""

import os
import re
import shutil
import subprocess
import sys

import matplotlib
import nbformat
import pytest
from conftest import ROOT, WHOLE_BOOK, tracked
from nbformat.v4 import new_code_cell, new_markdown_cell

LYING_CLOCK = ROOT / "tests" / "data" / "lying_clock"
MADE = "chapters/made"
FEW = [MADE, "chapters/references", "chapters/changelog", "chapters/cite"]
OUTPUTS = """\
import torch

from kvcache import baseline, load_tokenizer, plots, time_flies
from kvcache.widgets import Generation, OwnPrompt

print("printed", end=" ", flush=True)
print("in pieces")
model = time_flies.load(baseline.GPTModel)
prompt = torch.tensor([load_tokenizer().encode("Time")])
display(OwnPrompt(lambda token_ids, n: Generation(model, token_ids, n), "The cache"))
display(Generation(model, prompt, 3), Generation(model, prompt, 2))
plots.lines([("one", [0, 1], [1, 2]), ("other", [0, 1], [2, 1])], "x", "y", "Two lines.")
"""


@pytest.fixture
def houses(tmp_path):
    """Two folders, of which the second has a space in its name."""
    return tmp_path / "one" / "house", tmp_path / "two other" / "house"


def furnish(house, pages, code):
    """Put a copy of the project there, whose book has only the given pages; None: all its pages.

    code  what the notebook runs that is made for this test
    """
    for path in tracked():
        target = house / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    if pages:
        made = nbformat.read(ROOT / "chapters" / "01-time-flies-fast.ipynb", as_version=4)
        made.cells = [new_markdown_cell("# Made", id="title"), new_code_cell(code, id="code")]
        nbformat.write(made, house / f"{MADE}.ipynb")
        root, *others = [f"file: {page}\n" for page in pages]
        chapters = "chapters:\n" + "".join(f"  - {other}" for other in others) if others else ""
        (house / "_toc.yml").write_text(f"format: jb-book\nroot: {root[6:]}{chapters}")


def build(house, *paths, **settings):
    """Build the book that lies there; gives the folder of its pages."""
    settings["PYTHONPATH"] = os.pathsep.join(map(str, (house, *paths)))
    command = [sys.executable, "tools/build.py"]
    done = subprocess.run(
        command, cwd=house, env={**os.environ, **settings}, capture_output=True, text=True
    )
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


def content(path):
    return path.read_bytes() if path.is_file() else b""


def different(one, other):
    """Where each file that is not the same in two folders begins to differ: name -> both texts."""
    paths = [path for folder in (one, other) for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(one if path.is_relative_to(one) else other) for path in paths}
    found = {}
    for name in sorted(names):
        texts = content(one / name), content(other / name)
        if texts[0] != texts[1]:
            pairs = enumerate(zip(*texts, strict=False))
            start = next((i for i, (a, b) in pairs if a != b), min(map(len, texts)))
            found[name.as_posix()] = [text[max(0, start - 60) : start + 60] for text in texts]
    return found


def test_two_builds_in_two_folders_give_the_same_bytes_though_the_clock_lies(houses):
    for house in houses:
        furnish(house, None if WHOLE_BOOK else FEW, OUTPUTS)
    one, other = build(houses[0]), build_elsewhere(houses[1])
    assert different(one, other) == {}
    if not WHOLE_BOOK:
        page = (one / f"{MADE}.html").read_text(encoding="utf-8")
        assert ">printed in pieces\n" in page
        assert re.findall('data-still-of="(.*?)"', page) == ["widget-1", "widget-2", "widget-3"]


def test_a_page_that_shows_a_clock_is_found(houses):
    for house in houses:
        furnish(house, [MADE], "import time\n\nprint(time.perf_counter())")
    found = different(build(houses[0]), build_elsewhere(houses[1]))
    assert f"{MADE}.html" in found


def test_a_second_build_changes_no_byte(houses):
    house, kept = houses
    furnish(house, [MADE], OUTPUTS)
    shutil.copytree(build(house), kept)
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
