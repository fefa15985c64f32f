"""CONTRIBUTING.md: its examples run as they stand there, and the watch mode shows them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import nbformat
import notebooks
import pytest
import torch
from conftest import ROOT, tracked
from playwright.sync_api import expect

from kvcache import generate, optimized, time_flies

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def examples(heading):
    """The code below a heading, in order."""
    section = GUIDE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def project(tmp_path):
    """A copy of the project, with the notebooks that were run."""
    folder = tmp_path / "project"
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(ROOT / "_build", folder / "_build")
    return folder


@pytest.fixture
def watch(project):
    """Starts the watch mode in the copy; gives a function that waits for a page with a text."""
    settings = {**os.environ, "PYTHONPATH": str(project), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "tools/watch.py"]
    with (project / "watch.log").open("w") as log:
        process = subprocess.Popen(command, cwd=project, env=settings, stdout=log, stderr=log)

    def until(path, text, seconds=240):
        for _ in range(10 * seconds):
            if path.is_file() and text in path.read_text(encoding="utf-8"):
                return
            assert process.poll() is None, (project / "watch.log").read_text()
            time.sleep(0.1)
        pytest.fail((project / "watch.log").read_text())

    yield until
    process.terminate()
    process.wait(20)


def test_the_chapter_and_a_saved_text_appear_while_watching(project, watch):
    log, pages = project / "watch.log", project / "_build" / "html" / "chapters"
    watch(log, "Look at http://127.0.0.1:")
    (example,) = examples("Add a chapter")
    subprocess.run([sys.executable, "-c", example], cwd=project, check=True)
    assert list(notebooks.complaints(project / "chapters" / "12-new.ipynb")) == []
    watch(pages / "12-new.html", 'The answer is <span data-from="answer">42</span>')
    watch(log, "built in")

    path = project / "chapters" / "01-time-flies-fast.ipynb"
    chapter = nbformat.read(path, as_version=4)
    chapter.cells[0].source += "\n\nA sentence just saved."
    nbformat.write(chapter, path)
    start = time.monotonic()
    watch(pages / "01-time-flies-fast.html", "A sentence just saved.")
    print(f"a saved text is in its page after {time.monotonic() - start:.0f} seconds")


def test_the_widget_counts_down_in_a_page(mount, tmp_path):
    shutil.copytree(ROOT / "kvcache", tmp_path / "kvcache")
    for example, suffix in zip(examples("Add a widget"), ("js", "py"), strict=True):
        (tmp_path / "kvcache" / "widgets" / f"count_down.{suffix}").write_text(example)
    program = "import json; from kvcache.widgets.count_down import CountDown as C; w = C(3);"
    program += (
        "print(json.dumps([{n: getattr(w, n) for n in ('_esm', '_css', 'data')}, w.still()]))"
    )
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


def test_it_names_every_folder_and_only_commands_that_there_are():
    folders = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}
    for folder in folders - {".github", ".ci", "images"}:
        assert f"`{folder}/`" in GUIDE, folder
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for text in (GUIDE, (ROOT / "README.md").read_text(encoding="utf-8")):
        for command in re.findall(r"make ([a-z-]+)(?=[`\s])", text):
            if f"`make {command}" in text or f"    make {command}" in text:
                assert re.search(rf"^{command}:", makefile, re.MULTILINE), command
