"""The notebooks: clean as they are stored, and whole when they are run."""

import os
import re
import subprocess
import sys
import zipfile

import nbformat
import pytest
from conftest import HTML, NOTEBOOKS, ROOT
from nbclient import NotebookClient

NAMES = [path.stem for path in NOTEBOOKS]


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


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


def test_stored_without_outputs(notebook):
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_ids_are_words_and_metadata_is_minimal(notebook):
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z][a-z0-9-]+", cell.id)
        assert set(cell.metadata) <= {"tags", "jupyter", "cellView"}


def test_the_first_code_cell_sets_up_colab_only(notebook):
    first = code_cells(notebook)[0]
    assert first.id == "setup"
    assert 'if "google.colab" in sys.modules:\n    %pip install -q "git+https://' in first.source


def test_cells_are_short(notebook):
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 32, cell.id


def test_each_chapter_ends_with_summary_exercises_and_a_pointer(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "## Summary" in text
    assert "## Exercises" in text
    assert "**Next:**" in text
    solutions = [cell for cell in code_cells(notebook) if cell.id.startswith("solution-")]
    assert 2 <= len(solutions) <= 3
    assert all("hide-cell" in cell.metadata.tags for cell in solutions)


def test_every_glued_number_is_measured_in_the_same_notebook(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    used = set(re.findall(r"\{glue:text\}`([^`]+)`", prose))
    assert used == set(glued(executed(notebook)))


def test_no_measured_quantity_is_typed_into_the_prose(notebook):
    """Times, rates and sizes with a unit come from cells."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            typed = re.findall(
                r"\b\d[\d.,]*\s?(?:ms|milliseconds|seconds|GB/s|GFLOPs?|tokens/s)\b",
                cell.source,
            )
            assert not typed, (cell.id, typed)


def test_chapters_run_from_an_installed_wheel_in_an_empty_folder(tmp_path):
    """As in Colab: only the installed package, nothing of the repository around the notebook.

    All chapters run like this while the book is built (run_in_temp), on the package as it lies in
    the repository. Here the quick ones run on what a wheel would install.
    """
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            str(ROOT),
        ],
        cwd=tmp_path,
        check=True,
    )
    (wheel,) = tmp_path.glob("kvcache-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    needed = [
        "data/encoder.json",
        "data/vocab.bpe",
        "data/time_flies.safetensors",
        "data/SHA256SUMS",
    ]
    needed += [
        "data/NOTICE.md",
        "widgets/kv_timeline.js",
        "widgets/controls.js",
        "widgets/figure.css",
    ]
    assert {f"kvcache/{name}" for name in needed} <= set(names)
    assert all(name.startswith("kvcache") for name in names)

    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "TQDM_DISABLE": "1"}
    where = "import kvcache; print(kvcache.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(site))
    for path in NOTEBOOKS:
        if path.stem[:2] in ("00", "05", "08", "09", "10", "11"):
            continue  # minutes of measuring; the book's build has just run them
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": empty}})
        client.execute(env=environment)
    assert not list(empty.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_outputs_and_no_error(name):
    page = (HTML / "chapters" / f"{name}.html").read_text(encoding="utf-8")
    assert 'class="cell_output' in page
    assert "Traceback" not in page
    assert "{glue:" not in page
    assert "nboutput-error" not in page


def test_the_headline_speed_up_holds():
    """The book's claim about this very build: the same text, at least 5 times as fast."""
    chapter = nbformat.read(ROOT / "chapters" / "05-same-text-faster.ipynb", as_version=4)
    notebook = executed(chapter)
    measured = glued(notebook)
    print({name: measured[name] for name in ("ratio-published", "ratio-cache", "ratio-long")})
    texts = [str(output) for cell in code_cells(notebook) for output in cell.outputs]
    assert any("the same 204 tokens: True" in text for text in texts)
    assert any("the same tokens: True" in text for text in texts)


def sources(notebook):
    return [cell.source for cell in code_cells(notebook)]


def executed(chapter):
    """A chapter with its outputs, as the build left it."""
    for path in (ROOT / "_build" / ".jupyter_cache" / "executed").rglob("base.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        if sources(notebook) == sources(chapter):
            return notebook
    raise AssertionError("the book was built from another version of this chapter")


def glued(notebook):
    """What the cells of an executed notebook handed to the text: name -> text."""
    found = {}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                found[name] = output.data["application/papermill.record/text/plain"].strip("'")
    return found
