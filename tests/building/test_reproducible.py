"""The same bytes: two builds of the same files give the same pages, whatever the clock says."""

import hashlib
import os

import matplotlib
import pytest
from conftest import ROOT
from test_building import Book

pytestmark = pytest.mark.matrix


def pages(book, *code, **settings):
    """Build the book; gives the hash of each of its files."""
    status, said = book.build(*code, **{"PYTHONPATH": str(book.folder), **settings})
    assert status == 0, said
    html = book.folder / "_build" / "html"
    paths = [path for path in html.rglob("*") if path.is_file()]
    return {str(p.relative_to(html)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def elsewhere(book):
    """The settings of another user, on the other side of the world, with a clock that lies."""
    return {
        "PYTHONPATH": os.pathsep.join([str(book.folder), str(ROOT / "tests/data/lying_clock")]),
        "HOME": str(book.folder.parent),
        "MPLCONFIGDIR": matplotlib.get_cachedir(),  # without its list of fonts it warns
        "PYTHONHASHSEED": "77",
        "TZ": "Etc/GMT-14" if os.environ.get("TZ") != "Etc/GMT-14" else "Etc/GMT+12",
    }


def test_two_builds_in_two_folders_give_the_same_bytes_though_the_clock_lies(tmp_path):
    one, other = Book(tmp_path / "one", page=""), Book(tmp_path / "two other" / "house", page="")
    assert pages(one) == pages(other, **elsewhere(other))


def test_a_page_that_shows_a_clock_is_found(tmp_path):
    code = "import time\n\nprint(time.perf_counter())"
    one, other = Book(tmp_path / "one"), Book(tmp_path / "other")
    first, second = pages(one, code), pages(other, code, **elsewhere(other))
    assert first["chapters/page.html"] != second["chapters/page.html"]
    assert first["_static/doctools.js"] == second["_static/doctools.js"]
