"""What several tests share.

Those in package, measurements and project need neither the built book nor a browser: `make check`.
All others need both: `make test` builds the book first. What is marked `matrix` tries every chapter
in every way of reading, and every Python: `make test-all`.
"""

import functools
import json
import re
import shutil
import subprocess

import browser
import chapters
import pytest
import torch

from kvcache import GPTConfig, baseline, cached, time_flies

ROOT = chapters.ROOT
HTML = ROOT / "_build" / "html"
NOTEBOOKS = chapters.paths()
NAMES = [path.stem for path in NOTEBOOKS]
# One chapter is for `make test`, the others for `make test-all`.
OTHERS = [pytest.param(name, marks=pytest.mark.matrix) for name in NAMES if name != NAMES[1]]
BAD = ("error", "warning")
FOREIGN = re.compile(r"https?://(?!127\.0\.0\.1[:/])")
WIDGET = "application/vnd.jupyter.widget"
PROGRESS = re.compile(r"it/s\]$")  # the end of a tqdm bar, which is drawn when there is time to
SMALL = GPTConfig(50, context_length=24, emb_dim=16, n_heads=4, n_layers=2, drop_rate=0.1)


def chapter(name):
    """A chapter as it is stored."""
    return chapters.read(chapters.ROOT / "chapters" / f"{name}.ipynb")


@functools.cache
def executed(name):
    """A chapter with its outputs, as the build left it: not to be changed."""
    return chapters.executed(chapters.ROOT / "chapters" / f"{name}.ipynb")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def displayed(cell):
    """What a cell displayed: the data of each output, by kind."""
    return [output.data for output in cell.outputs if "data" in output]


def n_figures(notebook):
    """How many figures that move an executed notebook shows."""
    widgets = notebook.metadata.get("widgets", {})
    states = widgets.get(f"{WIDGET}-state+json", {"state": {}})["state"]
    shown = [data for cell in code_cells(notebook) for data in displayed(cell)]
    views = [data[f"{WIDGET}-view+json"] for data in shown if f"{WIDGET}-view+json" in data]
    return sum("_esm" in states[view["model_id"]]["state"] for view in views)


def shown(cell):
    """What a reader sees below a cell: all that it printed, then what it displayed."""
    texts = ["".join(out.text for out in cell.outputs if out.get("name") == "stdout")]
    for data in displayed(cell):
        if not PROGRESS.search(data.get("text/plain", "")):
            kinds = {"text/markdown", "text/html"} & set(data) or {"text/plain"}
            texts += [data.get(kind, "") for kind in sorted(kinds)]
    # What differs from run to run, and where the raw data lies.
    odd = r'data-still-of="\w+"| at 0x\w+|href="[^"]*/records/'
    return [re.sub(odd, "", text) for text in texts]


def differences(first, second):
    """The cells that show something else in the second run: id, before, after.

    One that calls `measured` shows the reader's own measurement beside the record, and is left out.
    What the others tell of a clock, they read from records.
    """
    pairs = zip(code_cells(first), code_cells(second), strict=True)
    cells = [(one, other) for one, other in pairs if "measured(" not in one.source]
    return [(a.id, shown(a), shown(b)) for a, b in cells if shown(a) != shown(b)]


def tracked():
    """The files of the project as it lies here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def copy_project(folder):
    """Copy those files to a folder; gives the folder."""
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def twins(cfg=SMALL, seed=0, dtype=torch.float32):
    """A baseline and a cached model with the same random weights, in eval mode."""
    torch.manual_seed(seed)
    plain, caching = baseline.GPTModel(cfg), cached.GPTModel(cfg)
    caching.load_state_dict(plain.state_dict())
    return plain.to(dtype).eval(), caching.to(dtype).eval()


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
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield browser.launch(playwright)


@pytest.fixture
def new_page(chromium):
    """Open an empty page. No complaint of its console, and no request to another host may come.

    A test that asks for some looks at page.noticed, and clears it.
    """
    pages, noticed = [], []

    def opened(width=1280, theme="light", **options):
        options.setdefault("viewport", {"width": width, "height": 900})
        page = chromium.new_page(color_scheme=theme, **options)
        page.noticed = noticed
        page.on("pageerror", lambda problem: noticed.append(str(problem)))
        page.on("console", lambda said: said.type in BAD and noticed.append(said.text))
        page.on("request", lambda to: FOREIGN.match(to.url) and noticed.append(to.url))
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert noticed == []


@pytest.fixture
def open_page(new_page, server):
    """Open a chapter of the built book, from the server or from disk."""

    def opened(name, where="server", **options):
        page = new_page(**options)
        root = server if where == "server" else HTML.as_uri()
        page.goto(f"{root}/chapters/{name}.html")
        if options.get("java_script_enabled", True):
            wait_for_figures(page)
        return page

    return opened


@pytest.fixture
def mount(new_page, server):
    """A page with the mounting script and the given widget states, as myst-nb writes them."""

    def mounted(*states, **options):
        page = new_page(**options)
        body = document({f"w{n}": state for n, state in enumerate(states)})
        page.route("**/made.html", lambda to: to.fulfill(content_type="text/html", body=body))
        page.goto(f"{server}/made.html")
        wait_for_figures(page)
        return page

    return mounted


def wait_for_figures(page):
    """Wait until every figure of a page is marked as shown."""
    waiting = "script[type='application/vnd.jupyter.widget-view+json']:not([data-shown])"
    page.wait_for_function(f'document.querySelector("{waiting}") === null')


def document(states):
    """The text of such a page. The script is there twice, as in a page of the book."""
    entries = {name: {"model_module": "anywidget", "state": each} for name, each in states.items()}
    view = f'<p>before</p><script type="{WIDGET}-view+json">{{"model_id": "%s"}}</script>'
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>made</title>'
        + 2 * '<script defer src="_static/mount_widgets.js"></script>'
        + f'<script type="{WIDGET}-state+json">'
        + json.dumps({"state": entries}).replace("<", "\\u003c")
        + "</script><main><h1>made</h1>"
        + "".join(view % name for name in states)
        + "<p>after</p></main>"
    )


def state_of(widget, **changes):
    """What a page carries of a widget."""
    return {"_esm": widget._esm, "_css": widget._css, "data": {**widget.data, **changes}}


USE_ALL = """async () => {
    for (const figure of document.querySelectorAll(".tff")) {
        for (const button of figure.querySelectorAll("button")) button.click();
        for (const input of figure.querySelectorAll("select, input")) {
            if (input.type === "range") input.value = Math.ceil(input.max / 2); // in the middle
            else if (input.type === "checkbox") input.click();
            else input.selectedIndex = input.length - 1; // the last choice of a list
            input.dispatchEvent(new Event("input"));
            input.dispatchEvent(new Event("change"));
        }
        figure.querySelector("td button")?.click();
    }
    for (let i = 0; i < 20; i++) await new Promise(requestAnimationFrame);
}"""


def use_all(page):
    """Use all that can be used in the figures of a page; they are left in the middle."""
    page.evaluate(USE_ALL)


def violations(page):
    """What axe-core finds in a page, in words."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"preload": False})  # no styles are fetched from disk
    assert "error-occurred" not in json.dumps(found.response["incomplete"]), "a rule broke"
    return found.generate_report() if found.violations_count else ""
