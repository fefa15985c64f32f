"""The notebooks as they are stored: clean, short, each with all that a chapter has."""

import re

import nbformat
import notebooks
import pytest
from conftest import NAMES, NOTEBOOKS, chapter, code_cells


@pytest.fixture(params=NAMES)
def notebook(request):
    return chapter(request.param)


def test_every_notebook_is_in_the_table_of_contents_and_clean():
    assert sorted(NOTEBOOKS) == sorted(NOTEBOOKS[0].parent.glob("*.ipynb"))
    assert not notebooks.main(NOTEBOOKS, check=True), "`make notebooks` mends them"
    assert notebooks.mended(NOTEBOOKS[1]) == NOTEBOOKS[1].read_text(encoding="utf-8")


def test_what_jupyterlab_leaves_behind_is_shown_and_mended(tmp_path, capfd):
    (tmp_path / "ruff.toml").write_text("line-length = 84")  # as in chapters
    path, saved, spread = tmp_path / "chapter.ipynb", chapter(NAMES[1]), chapter(NAMES[1])
    saved.cells[0].metadata["editable"] = True
    saved.cells[-2].outputs = [nbformat.v4.new_output("stream", text="4 layers")]
    saved.cells.append(nbformat.v4.new_code_cell('print("one")', id="3f2a9c1e"))
    left = ('-    "editable": true', '"4 layers"', '-   "id": "3f2a9c1e"')
    spread.cells[-2].source = "x=( 1,2 )"
    for notebook, wrong in ((saved, left), (spread, ("-x=( 1,2 )",))):
        nbformat.write(notebook, path)
        assert notebooks.main([path], check=True)
        shown = capfd.readouterr().out
        assert all(each in shown for each in wrong)
        assert not notebooks.main([path], check=False)
        assert not notebooks.main([path], check=True)


def test_the_first_cell_sets_up_colab_only_and_all_are_short_without_a_clock(notebook):
    """What is timed is timed in an experiment; every limit comes from the one of the machine."""
    first = code_cells(notebook)[0]
    assert first.id == "setup"
    assert 'if "google.colab" in sys.modules:\n    %pip install -q "git+https://' in first.source
    clocks = r"perf_counter|time\.time\(|time\.monotonic|memory_bandwidth|arithmetic_rate"
    for cell in code_cells(notebook):
        assert not re.search(clocks, cell.source), cell.id
        # Not counting what is claimed of an experiment.
        source = re.sub(r"@experiment\(.*?\n\)", "", cell.source, flags=re.DOTALL)
        assert len(source.strip().splitlines()) <= 32, cell.id


def test_each_chapter_ends_with_summary_exercises_and_a_pointer(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in ("## Summary", "## Exercises", "**Next:**"):
        assert part in text
    solutions = [cell for cell in code_cells(notebook) if cell.id.startswith("solution-")]
    assert 2 <= len(solutions) <= 3
    assert all("hide-cell" in cell.metadata.tags for cell in solutions)
