"""CONTRIBUTING.md: its examples run as they stand there, and the watch mode shows them."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import notebooks
import pytest
import torch
from conftest import ROOT, state_of
from playwright.sync_api import expect
from test_building import Book

from kvcache import generate, optimized, time_flies, widgets
from kvcache.tokenizer import encode
from kvcache.widgets import figure

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def examples(heading):
    """The code below a heading, in order."""
    section = GUIDE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def watch(tmp_path):
    """A folder with the book, in which `make watch` runs; a function that waits for a text."""
    book = Book(tmp_path / "book", page="")
    shutil.copytree(ROOT / "_build", book.folder / "_build")
    with (book.folder / "log").open("w") as log:
        options = {"cwd": book.folder, "env": book.settings, "start_new_session": True}
        process = subprocess.Popen(["make", "watch"], stdout=log, stderr=log, **options)

    def until(name, text):
        for _ in range(2400):
            path = book.folder / name
            if path.is_file() and text in path.read_text(encoding="utf-8"):
                return
            assert process.poll() is None, (book.folder / "log").read_text()
            time.sleep(0.1)
        pytest.fail((book.folder / "log").read_text())

    yield book.folder, until
    os.killpg(process.pid, signal.SIGINT)
    process.wait(20)


def test_the_chapter_and_a_saved_text_appear_while_watching(watch):
    folder, until = watch
    until("log", "The book lies in")
    (example,) = examples("Add a chapter")
    subprocess.run([sys.executable, "-c", example], cwd=folder, check=True)
    assert not notebooks.main([folder / "chapters" / "13-new.ipynb"], check=True)
    pages = "_build/html/chapters"
    until(f"{pages}/13-new.html", 'The answer is <span data-from="answer">42</span>')
    path = folder / "chapters" / "03-the-baseline.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("## Summary", "## A saved summary"))
    until(f"{pages}/03-the-baseline.html", "A saved summary")


def test_the_widget_counts_down_in_a_page(mount, tmp_path, monkeypatch):
    folder = shutil.copytree(figure.FOLDER, tmp_path / "widgets")
    for example, suffix in zip(examples("Add a widget"), ("js", "py"), strict=True):
        (folder / f"count_down.{suffix}").write_text(example)
    monkeypatch.setattr(figure, "FOLDER", folder)
    monkeypatch.setattr(widgets, "__path__", [str(folder)])
    widget = importlib.import_module("kvcache.widgets.count_down").CountDown(3)
    assert "3 left" in widget.still()
    page = mount(state_of(widget))
    button = page.get_by_role("group", name="Count down").get_by_role("button")
    expect(button).to_have_text("3 left")
    button.press("Enter")
    expect(button).to_have_text("2 left")


def test_the_cache_writes_the_text_of_the_model_without_one():
    (example,) = examples("Add a cache")
    names = {}
    exec(example, names)
    model = time_flies.load(optimized.GPTModel)
    prompt = encode("Time flies")
    text = generate(model, prompt, 20, cache=names["ListCache"](model.cfg))
    assert torch.equal(text, generate(model, prompt, 20))
