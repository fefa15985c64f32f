"""The notebooks as the build has run them: no errors, and every number in the text is a cell's."""

import nbformat
import pytest
import told_numbers
import typed_numbers
from conftest import HTML, NAMES
from outputs import chapter, executed

from kvcache.measurements import speed
from kvcache.measurements.records import recorded


@pytest.mark.parametrize("name", NAMES)
def test_every_number_in_the_text_is_what_a_cell_says(name):
    said = told_numbers.told(executed(name))
    assert list(told_numbers.complaints(chapter(name), said)) == []


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_disagrees_with_a_number_typed_into_the_text(name):
    assert typed_numbers.unknown(chapter(name), executed(name)) == []


def test_a_typed_number_that_disagrees_with_its_cells_is_caught():
    name = "07-what-it-costs"
    changed = chapter(name)
    cell = next(cell for cell in changed.cells if cell.id == "peaks-said")
    assert "At 1,024 tok" in cell.source
    cell.source = cell.source.replace("At 1,024 tok", "At 1,025 tok")
    assert typed_numbers.unknown(changed, executed(name)) == [("peaks-said", "1025")]


def test_a_typed_time_is_caught():
    cell = nbformat.v4.new_markdown_cell("It took 3.2 seconds.", id="said")
    typed = nbformat.v4.new_notebook(cells=[cell])
    assert typed_numbers.unknown(typed, typed) == [("said", "3.2")]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_outputs_and_no_error(name):
    page = (HTML / "chapters" / f"{name}.html").read_text(encoding="utf-8")
    assert 'class="cell_output' in page
    for trace in ("Traceback", "nboutput-error", "vnd.kvcache.told"):
        assert trace not in page


def test_the_headline_speed_up_holds_and_is_one_number_in_the_intro_and_in_chapter_5():
    """The book's claim: the same text, and several times as fast."""
    record = recorded("writing")
    assert speed.ratio(record) > 3
    assert record.gave[speed.NO_CACHE] == record.gave[speed.WITH_CACHE]
    intro, chapter_5 = (told_numbers.told(executed(NAMES[number])) for number in (0, 5))
    told = f"{speed.ratio(record):.1f}"
    assert intro["intro-ratio"] == chapter_5["ratio-cache"] == told
