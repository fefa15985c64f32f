"""What several tests share. The tests need the built book: `make test` builds it first."""

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import urlparse

import browser
import pytest
import torch
from playwright.sync_api import sync_playwright

from kvcache import GPTConfig, baseline, cached, load_tokenizer, time_flies

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
WHOLE_BOOK = bool(os.environ.get("WHOLE_BOOK"))  # all chapters in every way of reading: test-all
NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]

# The figures that move, by their names for screen readers, in their order on each page.
FIGURES = {
    "00-intro": ["K/V timeline", "Speed race"],
    "01-time-flies-fast": ["Generation"],
    "02-inside-attention": ["Attention"],
    "03-the-baseline": ["K/V timeline"],
    "04-five-changes": ["Code changes", "K/V timeline", "K/V timeline"],
    "05-same-text-faster": ["Speed race"],
    "06-when-caches-go-wrong": ["Break it"],
    "07-what-it-costs": ["Memory"],
    "08-better-caches": [],
    "09-a-real-llm": [],
    "10-serving-many": ["Block tables"],
    "11-what-comes-next": [],
}

SMALL = GPTConfig(
    vocab_size=50, context_length=24, emb_dim=16, n_heads=4, n_layers=2, drop_rate=0.1
)


def tracked():
    """The files of the project as it lies here. Skips where git does not know them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def twins(cfg=SMALL, seed=0, dtype=torch.float32):
    """A baseline and a cached model with the same random weights, in eval mode."""
    torch.manual_seed(seed)
    plain, caching = baseline.GPTModel(cfg), cached.GPTModel(cfg)
    caching.load_state_dict(plain.state_dict())
    return plain.to(dtype).eval(), caching.to(dtype).eval()


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture
def encode(tokenizer):
    return lambda text: torch.tensor([tokenizer.encode(text)])


@pytest.fixture(scope="session")
def trained():
    """The small trained model, without and with a cache."""
    return time_flies.load(baseline.GPTModel), time_flies.load(cached.GPTModel)


@pytest.fixture(scope="session")
def server():
    """The address of a local server of the built book."""
    with browser.serving(HTML) as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        running = browser.launch(playwright)
        yield running
        running.close()


@pytest.fixture
def new_page(chromium):
    """Open an empty page; it notes complaints of its console and requests to other hosts."""
    contexts = []

    def opened(width=1280, theme="light", **options):
        options.setdefault("viewport", {"width": width, "height": 900})
        context = chromium.new_context(color_scheme=theme, **options)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.foreign = [], []
        page.on("console", lambda message: note_complaint(page, message))
        page.on("pageerror", lambda problem: page.complaints.append(str(problem)))
        page.on("request", lambda request: note_foreign(page, request.url))
        return page

    def note_complaint(page, message):
        if message.type in ("error", "warning"):
            page.complaints.append(f"{message.type}: {message.text}")

    def note_foreign(page, url):
        parts = urlparse(url)
        if parts.scheme in ("http", "https") and parts.hostname != "127.0.0.1":
            page.foreign.append(url)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def open_page(new_page, server):
    """Open a chapter of the built book, from the server or from disk."""

    def opened(name, where="server", **options):
        page = new_page(**options)
        root = server if where == "server" else HTML.as_uri()
        page.goto(f"{root}/chapters/{name}.html")
        page.wait_for_load_state("networkidle")
        return page

    return opened


@pytest.fixture
def mount(new_page, server):
    """A page with the mounting script and the given widget states, as myst-nb writes them."""

    def mounted(*states, **options):
        page = new_page(**options)
        page.route(
            "**/made.html",
            lambda route: route.fulfill(content_type="text/html", body=document(states)),
        )
        page.goto(f"{server}/made.html")
        page.wait_for_load_state("networkidle")
        return page

    def document(states):
        entries = {f"w{i}": {"model_module": "anywidget", "state": s} for i, s in enumerate(states)}
        text = json.dumps({"state": entries}).replace("<", "\\u003c")
        kind = "application/vnd.jupyter.widget"
        views = "".join(
            f'<p>before</p><script type="{kind}-view+json">{{"model_id": "{name}"}}</script>'
            for name in entries
        )
        script = '<script defer src="_static/mount_widgets.js"></script>'
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>made</title>{script}'
            f'{script}<script type="{kind}-state+json">{text}</script>'
            f"<main><h1>made</h1>{views}<p>after</p></main>"
        )

    return mounted


def state_of(widget, **changes):
    """What a page carries of a widget."""
    return {"_esm": widget._esm, "_css": widget._css, "data": {**widget.data, **changes}}


def violations(page):
    """What axe-core finds in a page: the rule, and the elements."""
    import axe_core_python

    (path,) = ROOT.joinpath(axe_core_python.__path__[0]).glob("axe.min.js")
    page.add_script_tag(content=path.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found["violations"]]
