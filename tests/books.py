"""A copy of the project in a folder of its own, in which the book is built."""

import os
import subprocess
import sys

import nbformat
from conftest import copy_project
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(*sources, text="# A page", **metadata):
    cells = [new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources, start=1)]
    cells = [new_markdown_cell(text, id="title"), *cells]
    return nbformat.writes(new_notebook(cells=cells, metadata=metadata or PYTHON))


class Book:
    """A copy of the project, with a single page if it has a name, and a Python that is a script."""

    def __init__(self, folder, page="page"):
        self.folder, self.page = copy_project(folder), folder / "chapters" / f"{page}.ipynb"
        self.html = folder / "_build" / "html" / "chapters" / f"{page}.html"
        self.settings = {n: text for n, text in os.environ.items() if not n.startswith("MAKE")}
        if page:
            (folder / "_toc.yml").write_text(f"format: jb-book\nroot: chapters/{page}\n")
        self.python = folder / ".venv" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        for stamp in (".python", ".book", ".test"):
            (folder / ".venv" / stamp).touch()
        self.use(f'exec {sys.executable} "$@"')

    def use(self, script):
        """Let the Python of its .venv be that script."""
        self.python.write_text(f"#!/bin/sh\n{script}\n")
        self.python.chmod(0o755)

    def run(self, *command, **settings):
        """The exit status, and all that was said."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        env = {**self.settings, **settings}
        done = subprocess.run(command, cwd=self.folder, env=env, **pipes)
        return done.returncode, done.stdout

    def build(self, *sources, text="# A page", **settings):
        if sources:
            self.page.write_text(notebook(*sources, text=text), encoding="utf-8")
        return self.run(sys.executable, "tools/build.py", **settings)
