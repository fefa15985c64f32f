"""Cells run in another order: each works, or says honestly which name it lacks.

The quick chapters are run backwards, and then as they stand, in the same kernel without a restart:
what the first run left behind must not change what is shown.
"""

import os

import nbformat
import outputs
import pytest
from conftest import NAMES, ROOT
from nbclient import NotebookClient

SETTINGS = {"TQDM_DISABLE": "1", "KVCACHE_MEASUREMENTS": "record"}
QUICK = [name for name in NAMES if name[:2] in ("01", "02", "03", "04", "06")]


@pytest.mark.matrix
@pytest.mark.parametrize("name", QUICK)
def test_backwards_and_then_as_it_stands(tmp_path, name):
    chapter = outputs.chapter(name)
    cells = outputs.code_cells(chapter)
    both = nbformat.v4.new_notebook(metadata=chapter.metadata)
    for number, cell in enumerate([*reversed(cells), *cells]):
        both.cells.append(nbformat.v4.new_code_cell(cell.source, id=f"{cell.id}-{number}"))
    resources = {"metadata": {"path": tmp_path}}
    client = NotebookClient(both, timeout=300, allow_errors=True, resources=resources)
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), **SETTINGS})
    backwards, both.cells = both.cells[: len(cells)], both.cells[len(cells) :]
    for cell in backwards:
        errors = [each for each in cell.outputs if each.output_type == "error"]
        assert all(each.ename == "NameError" for each in errors), errors[0].evalue
    assert outputs.differences(outputs.executed(name), both) == []
