"""The notebooks: clean as they are stored, and whole as the build has run them."""

import ast
import re
import subprocess
import sys
import zipfile

import nbformat
import notebooks
import pytest
import told_numbers
import typed_numbers
from conftest import HTML, NOTEBOOKS, ROOT
from outputs import code_cells, executed

from kvcache.measurements import speed
from kvcache.measurements.records import recorded

NAMES = [path.stem for path in NOTEBOOKS]


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_an_introduction_and_eleven_chapters():
    assert NAMES == [
        "00-intro",
        "01-time-flies-fast",
        "02-inside-attention",
        "03-the-baseline",
        "04-five-changes",
        "05-same-text-faster",
        "06-when-caches-go-wrong",
        "07-what-it-costs",
        "08-better-caches",
        "09-a-real-llm",
        "10-serving-many",
        "11-what-comes-next",
    ]


def test_every_notebook_is_clean():
    done = subprocess.run([sys.executable, ROOT / "tools" / "notebooks.py", "--check"])
    assert done.returncode == 0, "`make notebooks` mends them"


@pytest.fixture
def copy(tmp_path):
    """Breaks a copy of a chapter: hands it to a function, and writes it."""

    def broken(change):
        path = tmp_path / NOTEBOOKS[1].name
        notebook = nbformat.read(NOTEBOOKS[1], as_version=4)
        change(notebook)
        nbformat.write(notebook, path)
        return path

    return broken


def save_outputs(notebook):
    code_cells(notebook)[1].execution_count = 1
    code_cells(notebook)[1].outputs = [nbformat.v4.new_output("stream", text="4 layers")]


def add_a_cell(notebook):
    notebook.cells.append(nbformat.v4.new_code_cell('print("one")', id="3f2a9c1e"))


def add_metadata(notebook):
    notebook.metadata["widgets"] = {}
    notebook.cells[0].metadata["editable"] = True


def spread_code(notebook):
    notebook.cells[-2].source = "x=( 1,2 )"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (save_outputs, "cell imports: stored with outputs"),
        (add_a_cell, "cell 3f2a9c1e: its id is no word"),
        (add_metadata, "metadata ['editable']"),
        (spread_code, ""),
    ],
)
def test_what_jupyterlab_leaves_behind_is_caught_and_mended(copy, capsys, change, complaint):
    path = copy(change)
    assert notebooks.main([path], check=True)
    assert complaint in capsys.readouterr().out
    assert not notebooks.main([path], check=False)
    assert not notebooks.main([path], check=True)


def test_mending_leaves_a_clean_notebook_as_it_is(copy):
    path = copy(lambda notebook: None)
    notebooks.mend(path)
    assert path.read_text(encoding="utf-8") == NOTEBOOKS[1].read_text(encoding="utf-8")


def test_the_first_code_cell_sets_up_colab_only(notebook):
    first = code_cells(notebook)[0]
    assert first.id == "setup"
    assert 'if "google.colab" in sys.modules:\n    %pip install -q "git+https://' in first.source


def test_cells_are_short(notebook):
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) - lines_of_claims(cell) <= 32, cell.id


def lines_of_claims(cell):
    """How many lines of a cell only say what is claimed of its experiments."""
    tree = ast.parse(cell.source) if "@experiment(" in cell.source else ast.Module([], [])
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    decorated = [node for node in functions if node.decorator_list]
    return sum(node.lineno - node.decorator_list[0].lineno for node in decorated)


def test_each_chapter_ends_with_summary_exercises_and_a_pointer(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "## Summary" in text
    assert "## Exercises" in text
    assert "**Next:**" in text
    solutions = [cell for cell in code_cells(notebook) if cell.id.startswith("solution-")]
    assert 2 <= len(solutions) <= 3
    assert all("hide-cell" in cell.metadata.tags for cell in solutions)


def test_every_number_in_the_text_is_what_a_cell_says(notebook):
    said = told_numbers.told(executed(notebook))
    assert list(told_numbers.complaints(notebook, said)) == []


def test_no_cell_disagrees_with_a_number_typed_into_the_text(notebook):
    assert typed_numbers.unknown(notebook, executed(notebook)) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("At 1,024 tok", "At 1,025 tok"),
    ],
)
def test_a_typed_number_that_disagrees_with_its_cell_is_caught(right, wrong):
    chapter = nbformat.read(ROOT / "chapters" / "07-what-it-costs.ipynb", as_version=4)
    built = executed(chapter)
    cell = next(cell for cell in chapter.cells if cell.id == "peaks-said")
    assert right in cell.source
    cell.source = cell.source.replace(right, wrong)
    number = wrong.split()[-2].replace(",", "")
    assert typed_numbers.unknown(chapter, built) == [("peaks-said", number)]


def test_a_typed_time_is_caught():
    chapter = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("It took 3.2 seconds.")]
    )
    assert [number for _, number in typed_numbers.unknown(chapter, chapter)] == ["3.2"]


def test_the_wheel_holds_the_package_and_its_data(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, str(ROOT)], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("kvcache-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    needed = ["r50k_base.tiktoken", "time_flies.safetensors", "SHA256SUMS", "NOTICE.md"]
    needed = [f"data/{name}" for name in needed]
    needed += ["widgets/kv_timeline.js", "widgets/controls.js", "widgets/figure.css"]
    assert {f"kvcache/{name}" for name in needed} <= set(names)
    assert all(name.startswith("kvcache") for name in names)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_outputs_and_no_error(name):
    page = (HTML / "chapters" / f"{name}.html").read_text(encoding="utf-8")
    assert 'class="cell_output' in page
    assert "Traceback" not in page
    assert "{glue:" not in page
    assert "vnd.kvcache.told" not in page
    assert "nboutput-error" not in page


def test_the_intro_and_chapter_5_tell_one_number():
    said = {}
    for name in ("00-intro", "05-same-text-faster"):
        chapter = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
        said |= told_numbers.told(executed(chapter))
    on_record = speed.ratio(recorded("writing"))
    assert said["intro-ratio"] == said["ratio-cache"] == f"{on_record:.1f}"


def test_no_chapter_has_a_clock_of_its_own(notebook):
    """What is timed is timed in an experiment; every limit comes from the one of the machine."""
    clocks = r"perf_counter|time\.time\(|time\.monotonic|memory_bandwidth|arithmetic_rate"
    for cell in code_cells(notebook):
        assert not re.search(clocks, cell.source), cell.id


def test_the_headline_speed_up_holds():
    """The book's claim: the same text, and several times as fast."""
    record = recorded("writing")
    assert speed.ratio(record) > 3
    assert record.gave[speed.NO_CACHE] == record.gave[speed.WITH_CACHE]
