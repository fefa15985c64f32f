"""The notebooks of the book: where they lie, what is in them, and what the build made of them."""

import json
import os
import warnings
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "_build" / ".jupyter_cache"


def paths():
    """The notebooks of the table of contents, in its order."""
    pages = [page.removesuffix(".ipynb") for page in parse_toc_yaml(ROOT / "_toc.yml")]
    notebooks = [ROOT / f"{page}.ipynb" for page in pages]
    return [path for path in notebooks if os.path.lexists(path)]  # others are pages without code


def read(path):
    """The notebook in a file, of any program, without outputs."""
    text = path.read_text(encoding="utf-8-sig")
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("nbformat") != 4:
        raise ValueError("it is no notebook of format 4, which JupyterLab saves")
    with warnings.catch_warnings(action="ignore"):  # cells without ids
        notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        cell.source, cell.metadata  # noqa: B018 (there they must be)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def executed(path):
    """The notebook in a file with its outputs. Raises KeyError if the build did not run it."""
    return get_cache(STORE).merge_match_into_notebook(read(path))[1]
