"""CONTRIBUTING.md: its examples run as they stand there, and the watch mode shows them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import chapters
import nbformat
import notebooks
import pytest
import torch
from conftest import ROOT, copy_project
from playwright.sync_api import expect

from kvcache import generate, optimized, time_flies

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def examples(heading):
    """The code below a heading, in order."""
    section = GUIDE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def project(tmp_path):
    """A copy of the project, with the notebooks that were run and an environment for make."""
    folder = copy_project(tmp_path / "project")
    shutil.copytree(ROOT / "_build", folder / "_build")
    (folder / ".venv" / "bin").mkdir(parents=True)
    program = folder / ".venv" / "bin" / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    for stamp in (".python", ".book", ".test"):
        (folder / ".venv" / stamp).touch()
    return folder


@pytest.fixture
def watch(project):
    """Starts `make watch` in the copy; gives a function that waits for a page with a text."""
    names = [name for name in os.environ if not name.startswith("MAKE")]
    settings = {name: os.environ[name] for name in names} | {"PYTHONPATH": str(project)}
    log = project / "watch.log"
    with log.open("w") as said:
        options = {"cwd": project, "env": settings, "start_new_session": True}
        process = subprocess.Popen(["make", "watch"], stdout=said, stderr=said, **options)

    def until(path, text):
        for _ in range(2400):
            if path.is_file() and text in path.read_text(encoding="utf-8"):
                return
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        pytest.fail(log.read_text())

    yield until
    os.killpg(process.pid, signal.SIGINT)
    process.wait(20)


def test_the_chapter_and_a_saved_text_appear_while_watching(project, watch):
    log, pages = project / "watch.log", project / "_build" / "html" / "chapters"
    watch(log, "http://127.0.0.1:")
    watch(log, "The book lies in")
    (example,) = examples("Add a chapter")
    subprocess.run([sys.executable, "-c", example], cwd=project, check=True)
    assert not notebooks.main([project / "chapters" / "12-new.ipynb"], check=True)
    watch(pages / "12-new.html", 'The answer is <span data-from="answer">42</span>')

    path = project / "chapters" / "01-time-flies-fast.ipynb"
    chapter = chapters.read(path)
    chapter.cells[0].source += "\n\nA sentence just saved."
    nbformat.write(chapter, path)
    watch(pages / "01-time-flies-fast.html", "A sentence just saved.")


def test_the_widget_counts_down_in_a_page(mount, tmp_path):
    shutil.copytree(ROOT / "kvcache", tmp_path / "kvcache")
    for example, suffix in zip(examples("Add a widget"), ("js", "py"), strict=True):
        (tmp_path / "kvcache" / "widgets" / f"count_down.{suffix}").write_text(example)
    program = """if True:
        import json
        from kvcache.widgets.count_down import CountDown
        widget = CountDown(3)
        state = {name: getattr(widget, name) for name in ("_esm", "_css", "data")}
        print(json.dumps([state, widget.still()]))"""
    settings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, check=True)
    state, still = json.loads(done.stdout)
    assert "3 left" in still
    page = mount(state)
    button = page.get_by_role("group", name="Count down").get_by_role("button")
    expect(button).to_have_text("3 left")
    button.press("Enter")
    expect(button).to_have_text("2 left")
    assert not page.complaints


def test_the_cache_writes_the_text_of_the_model_without_one(encode):
    (example,) = examples("Add a cache")
    names = {}
    exec(example, names)
    model = time_flies.load(optimized.GPTModel)
    prompt = encode("Time flies")
    text = generate(model, prompt, 20, cache=names["ListCache"](model.cfg))
    assert torch.equal(text, generate(model, prompt, 20))
