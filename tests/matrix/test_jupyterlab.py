"""In JupyterLab: each chapter is opened in Chromium, all its cells are run, its figures are used.

The build has run each chapter in a fresh kernel, and this is the second time: what it shows must be
the same, but where a reader's own measurement stands beside the record. Before anything is run a
chapter must read as its page does.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import outputs
import pytest
import told_numbers
from conftest import FIGURES, NAMES, ROOT, WHOLE_BOOK
from playwright.sync_api import TimeoutError, expect

RUN = NAMES if WHOLE_BOOK else ["01-time-flies-fast", "05-same-text-faster"]
# The texts of a page or of a notebook without formulas, whose letters come in another order.
TEXTS = """(root) => [...document.querySelectorAll(root)].map((each) => {
  const copy = each.cloneNode(true);
  const others = "math, .math, mjx-container, .MathJax, .headerlink, p, li, ul, ol";
  copy.querySelectorAll(others).forEach((inner) => inner.remove());
  return copy.textContent.replace(/[‘’]/g, "'").replace(/[“”]/g, '"').replace(/\\s+/g, " ").trim();
})"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A running JupyterLab: its address, and its folder with the chapters as they are stored."""
    folder = tmp_path_factory.mktemp("lab")
    for name in NAMES:
        shutil.copy(ROOT / "chapters" / f"{name}.ipynb", folder)
    settings = folder / "settings"
    settings.mkdir()  # all cells are drawn, in view or not
    tracker = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
    (settings / "overrides.json").write_text(json.dumps(tracker))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", f"--LabApp.app_settings_dir={settings}"]
    command += ["--ServerApp.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.disable_check_xsrf=True"]
    with (folder / "lab.log").open("w") as log:
        env = {**os.environ, "KVCACHE_LIVE_SECONDS": "1"}
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=folder, env=env, **output)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield address, folder
    finally:
        process.terminate()
        process.wait(20)


def start_all_cells(page, address, name):
    """Open a chapter and start all its cells. Raises TimeoutError if none started.

    Until JupyterLab has connected the kernel, its menu takes the command and does nothing.
    """
    page.set_default_timeout(20_000)
    page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    started = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    for _ in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator(".lm-Menu-item", has_text=re.compile(r"^Run All Cells$")).click()
        page.wait_for_timeout(3000)
        if started.count():
            return
    raise TimeoutError("no cell has started")


@pytest.fixture
def run_all(chromium, lab):
    """Opens a chapter and runs it: the page, and the notebook as JupyterLab saved it.

    JupyterLab does not always start a kernel, and now and then it loses what it had queued: the
    reader runs all cells again, and so does this.
    """
    address, folder = lab
    pages = []

    def run(name):
        path = folder / f"{name}.ipynb"
        stored = path.read_text()
        for attempt in range(4):
            page = chromium.new_page(viewport={"width": 1400, "height": 1000})
            pages.append(page)
            try:
                start_all_cells(page, address, name)
                return page, finished(page, address, path)
            except TimeoutError:
                if attempt == 3:
                    raise
                page.close()
                end_kernels(address)
                path.write_text(stored)

    yield run
    for page in pages:
        page.close()
    end_kernels(address)


def kernels(address):
    with urllib.request.urlopen(f"{address}/api/kernels") as answer:
        return json.load(answer)


def end_kernels(address):
    for kernel in kernels(address):
        ended = urllib.request.Request(f"{address}/api/kernels/{kernel['id']}", method="DELETE")
        urllib.request.urlopen(ended)


def finished(page, address, path):
    """Save the notebook until all its cells have run; gives it.

    Raises TimeoutError if the kernel rests although cells are left.
    """
    resting = 0
    for _ in range(600):
        page.wait_for_timeout(1000)
        page.keyboard.press("Control+s")
        try:
            notebook = nbformat.read(path, as_version=4)
        except nbformat.reader.NotJSONError:
            continue  # it is just being written
        cells = outputs.code_cells(notebook)
        errors = [each for cell in cells for each in cell.outputs if each.output_type == "error"]
        assert not errors, "\n".join(errors[0].traceback)
        if all(cell.execution_count for cell in cells):
            return notebook
        busy = any(kernel["execution_state"] != "idle" for kernel in kernels(address))
        resting = 0 if busy else resting + 1
        if resting == 20:
            raise TimeoutError("the kernel rests, and not all cells have run")
    raise TimeoutError("not all cells have run in ten minutes")


@pytest.mark.parametrize("name", NAMES)
def test_before_it_is_run_a_chapter_reads_as_its_page_does(chromium, lab, server, name):
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{server}/chapters/{name}.html")
    told = page.evaluate(TEXTS, "article p:has([data-from]), article li:has([data-from])")
    page.goto(f"{lab[0]}/lab/tree/{name}.ipynb?reset")
    page.locator(".jp-MarkdownCell .jp-RenderedMarkdown").first.wait_for()
    rendered = page.locator(".jp-MarkdownCell .jp-MarkdownOutput")
    notebook = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    n_cells = sum(cell.cell_type == "markdown" for cell in notebook.cells)
    expect(rendered).to_have_count(n_cells)
    read = page.evaluate(TEXTS, ".jp-MarkdownOutput p, .jp-MarkdownOutput li")
    page.close()
    assert told or not list(told_numbers.marked(notebook))
    assert [text for text in told if text and text not in read] == []


@pytest.mark.parametrize("name", RUN)
def test_a_chapter_runs_in_jupyterlab_and_shows_the_same_again(run_all, name):
    page, notebook = run_all(name)
    figures = page.locator(".tff").all()
    assert [each.get_attribute("aria-label") for each in figures] == FIGURES[name]
    assert page.locator(".tff-error").count() == 0
    for figure in figures:
        figure.scroll_into_view_if_needed()
        USE[figure.get_attribute("aria-label")](figure)
    if name == "01-time-flies-fast":
        type_a_prompt(page)
    built = outputs.executed(nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4))
    assert outputs.differences(built, notebook) == []
    measuring = [cell for cell in outputs.code_cells(notebook) if "= measured(" in cell.source]
    shown = [str(cell.outputs) for cell in measuring]
    assert all("on record, CPU" in text and "here" in text for text in shown if "±" in text)
    assert name != "05-same-text-faster" or sum("±" in text for text in shown) == 2


def use_timeline(figure):
    place = figure.locator(".tff-place")
    last = int(place.inner_text().split()[-1])
    expect(place).to_have_text(f"step {last} of {last}")
    figure.get_by_label("Step back").click()
    expect(place).to_have_text(f"step {last - 1} of {last}")
    figure.get_by_role("button", name=f"step {last - 1}, token 1").first.click()
    expect(figure.locator(".tff-details")).to_contain_text(f"step {last - 2}")


def use_generation(figure):
    figure.get_by_label("Step forward").press("Enter")
    assert figure.locator("[data-counter]").all_inner_texts() == ["2", "1"]


def use_attention(figure):
    figure.get_by_label("Step", exact=True).fill("3")
    figure.get_by_role("button", name=re.compile("^key 3 of Time")).click()
    expect(figure.locator(".tff-say").nth(1)).to_contain_text("2.00 · 1.00 = 2.50")


def use_code_changes(figure):
    figure.get_by_label("Step", exact=True).fill("5")
    expect(figure.locator('[data-lit="+"]').last).to_contain_text("step_input = next_token")


def use_break_it(figure):
    figure.get_by_label("Bug").select_option("3 a mask that forgets the offset")
    expect(figure.locator("tr:has(td b) th")).to_have_text(["mask"])


def use_race(figure):
    figure.get_by_label("Speed").select_option("16×")
    figure.get_by_role("button", name="Play").click()
    expect(figure.get_by_label("Step forward")).to_be_disabled(timeout=20_000)
    expect(figure.locator(".tff-say")).to_contain_text("times as fast")


def use_blocks(figure):
    before = figure.locator(".tff-say").inner_text()
    figure.get_by_label("Step forward").click()
    expect(figure.locator(".tff-say")).not_to_have_text(before)
    expect(figure.locator(".tff-say")).to_contain_text("Blocks free:")


def use_calculator(figure):
    figure.get_by_role("combobox", name="Model", exact=True).select_option("Llama 2 7B")
    value = figure.locator('[data-output="bytes-per-token"]').get_attribute("data-value")
    assert value == str(2 * 32 * 32 * 128 * 2)


USE = {
    "Attention": use_attention,
    "Block tables": use_blocks,
    "Break it": use_break_it,
    "Code changes": use_code_changes,
    "Generation": use_generation,
    "K/V timeline": use_timeline,
    "Memory": use_calculator,
    "Speed race": use_race,
}


def type_a_prompt(page):
    """What the static book cannot do: another prompt through the model, by ipywidgets."""
    box = page.locator(".widget-text input[type=text]").first
    box.scroll_into_view_if_needed()
    box.fill("<b>Time</b> flies")
    box.press("Tab")
    page.get_by_role("button", name="Run the model").first.click()
    mine = page.get_by_role("group", name="Generation", exact=True).nth(1)
    expect(mine.locator(".tff-say")).to_contain_text("<b>Time</b> flies", timeout=30_000)
    box.fill("")
    box.press("Tab")
    page.get_by_role("button", name="Run the model").first.click()
    expect(page.get_by_text("The prompt is empty")).to_be_visible()
    expect(mine).to_be_visible()  # an earlier figure stays
