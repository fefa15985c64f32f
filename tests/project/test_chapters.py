"""The notebooks as they are stored: clean, short, each with all that a chapter has."""

import re

import nbformat
import notebooks
import pytest
from conftest import NAMES, NOTEBOOKS
from outputs import chapter, code_cells


@pytest.fixture(params=NAMES)
def notebook(request):
    return chapter(request.param)


def test_every_notebook_is_in_the_table_of_contents():
    assert sorted(NOTEBOOKS) == sorted(NOTEBOOKS[0].parent.glob("*.ipynb"))


def test_every_notebook_is_clean():
    assert not notebooks.main(NOTEBOOKS, check=True), "`make notebooks` mends them"


def save_outputs(cells):
    cells[-2].outputs = [nbformat.v4.new_output("stream", text="4 layers")]


def add_a_cell(cells):
    cells.append(nbformat.v4.new_code_cell('print("one")', id="3f2a9c1e"))


def add_metadata(cells):
    cells[0].metadata["editable"] = True


def spread_code(cells):
    cells[-2].source = "x=( 1,2 )"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (save_outputs, '"4 layers"'),
        (add_a_cell, '-   "id": "3f2a9c1e"'),
        (add_metadata, '-    "editable": true'),
        (spread_code, "-x=( 1,2 )"),
    ],
)
def test_what_jupyterlab_leaves_behind_is_shown_and_mended(tmp_path, capfd, change, shown):
    path, notebook = tmp_path / "chapter.ipynb", chapter(NAMES[1])
    change(notebook.cells)
    nbformat.write(notebook, path)
    assert notebooks.main([path], check=True)
    assert shown in capfd.readouterr().out
    assert not notebooks.main([path], check=False)
    assert not notebooks.main([path], check=True)


def test_mending_leaves_a_clean_notebook_as_it_is():
    assert notebooks.mended(NOTEBOOKS[1]) == NOTEBOOKS[1].read_text(encoding="utf-8")


def test_the_first_code_cell_sets_up_colab_only(notebook):
    first = code_cells(notebook)[0]
    assert first.id == "setup"
    assert 'if "google.colab" in sys.modules:\n    %pip install -q "git+https://' in first.source


def test_cells_are_short(notebook):
    for cell in code_cells(notebook):  # not counting what is claimed of an experiment
        source = re.sub(r"@experiment\(.*?\n\)", "", cell.source, flags=re.DOTALL)
        assert len(source.strip().splitlines()) <= 32, cell.id


def test_each_chapter_ends_with_summary_exercises_and_a_pointer(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "## Summary" in text
    assert "## Exercises" in text
    assert "**Next:**" in text
    solutions = [cell for cell in code_cells(notebook) if cell.id.startswith("solution-")]
    assert 2 <= len(solutions) <= 3
    assert all("hide-cell" in cell.metadata.tags for cell in solutions)


def test_no_chapter_has_a_clock_of_its_own(notebook):
    """What is timed is timed in an experiment; every limit comes from the one of the machine."""
    clocks = r"perf_counter|time\.time\(|time\.monotonic|memory_bandwidth|arithmetic_rate"
    for cell in code_cells(notebook):
        assert not re.search(clocks, cell.source), cell.id
