"""The figures where a kernel is: in JupyterLab, and on the interactive stack that Colab ships."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
import torch
from conftest import FIGURES, NAMES, ROOT
from nbclient import NotebookClient
from playwright.sync_api import TimeoutError, expect

# Versions in Google Colab, August 2026.
COLAB = [
    "anywidget==0.9.21",
    "ipykernel==6.17.1",
    "ipython==7.34.0",
    "ipywidgets==7.7.1",
    "jupyter-client==7.4.9",
    "psygnal==0.15.1",
    "traitlets==5.7.1",
    "backcall==0.2.0",
    "decorator==4.4.2",
    "ipython-genutils==0.2.0",
    "pickleshare==0.7.5",
]


@pytest.fixture(scope="session")
def colab_stack(tmp_path_factory):
    """A folder with Colab's interactive packages, to be put before this environment's own."""
    site = tmp_path_factory.mktemp("colab")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*command, *COLAB], check=True)
    return site


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_runs_and_shows_its_figures_on_colabs_stack(colab_stack, tmp_path, name):
    notebook = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    versions = "import ipywidgets, anywidget, IPython, ipykernel\n"
    versions += "print(*(m.__version__ for m in (ipywidgets, anywidget, IPython, ipykernel)))"
    notebook.cells.append(nbformat.v4.new_code_cell(versions))
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}})
    paths = os.pathsep.join([str(colab_stack), str(ROOT)])
    client.execute(env={**os.environ, "PYTHONPATH": paths, "TQDM_DISABLE": "1"})
    assert notebook.cells[-1].outputs[0].text.split() == ["7.7.1", "0.9.21", "7.34.0", "6.17.1"]
    widgets = notebook.metadata.get("widgets", {})
    states = widgets.get("application/vnd.jupyter.widget-state+json", {"state": {}})["state"]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    views = [o.data for o in outputs if "data" in o]
    views = [v[KIND]["model_id"] for v in views if KIND in v]
    shown = [states[view] for view in views]
    assert sum(each["model_module"] == "anywidget" for each in shown) == len(FIGURES[name])
    assert all("_esm" in e["state"] for e in shown if e["model_module"] == "anywidget")


KIND = "application/vnd.jupyter.widget-view+json"

# Which cells of which chapters make the notebook that is opened in JupyterLab: every figure once.
# Chapter 5 runs a large model for minutes; its two figures come from a small one.
CELLS = {
    "01-time-flies-fast": ["imports", "generation", "own-prompt"],
    "02-inside-attention": ["imports", "inputs", "matrices", "attention-figure"],
    "03-the-baseline": ["imports", "timeline"],
    "04-five-changes": ["imports", "walk-code"],
    "06-when-caches-go-wrong": [
        *("imports", "instruments-code", "still-code", "offset-code", "twice-code"),
        *("recorded", "break-it-figure"),
    ],
}
SMALL_RACE = """
from kvcache import cached, time_flies, baseline
from kvcache.timing import time_generation
from kvcache.widgets import MemoryCalculator, SpeedRace
prompt = torch.tensor([tokenizer.encode("Time")])
slow = time_generation(time_flies.load(baseline.GPTModel), prompt, 20, label="without a cache")
fast = time_generation(time_flies.load(), prompt, 20, True, label="with a cache")
print("ratio", round(slow.per_token.sum().item() / fast.per_token.sum().item(), 1))
SpeedRace(slow, fast)
"""
SMALL_BLOCKS = """
from kvcache import optimized
from kvcache.caches import PagedCache
from kvcache.widgets import BlockTables, block_shot
ids = tokenizer.encode("Time flies fast, but a cache")
small = time_flies.load(optimized.GPTModel)
pages = PagedCache(small.cfg, n_blocks=6, block_size=4)
first = pages.add()
small(torch.tensor([ids]), pages.batch([first]))
shots = [block_shot(pages, "A is stored", {"A": (first, ids)})]
both = {"A": (first, ids), "B": (pages.fork(first), ids)}
shots.append(block_shot(pages, "B shares its blocks", both))
BlockTables(shots)
"""


def collected():
    """One notebook with every figure."""
    notebook = nbformat.v4.new_notebook()
    for name, wanted in CELLS.items():
        chapter = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
        notebook.metadata = chapter.metadata  # without a kernel's name JupyterLab asks for one
        cells = {cell.id: cell.source for cell in chapter.cells}
        notebook.cells += [nbformat.v4.new_code_cell(cells[cell_id]) for cell_id in wanted]
    notebook.cells += [
        nbformat.v4.new_code_cell(s) for s in (SMALL_RACE, SMALL_BLOCKS, "MemoryCalculator()")
    ]
    return notebook


@pytest.fixture(scope="module")
def jupyterlab(tmp_path_factory):
    """The address of a JupyterLab with that notebook; it draws all cells, in view or not."""
    folder = tmp_path_factory.mktemp("lab")
    nbformat.write(collected(), folder / "figures.ipynb")
    settings = folder / "settings"
    settings.mkdir()
    tracker = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
    (settings / "overrides.json").write_text(json.dumps(tracker))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", f"--LabApp.app_settings_dir={settings}"]
    command += ["--ServerApp.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}"]
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def run_all_cells(page, address):
    """Open the notebook and run it. Raises TimeoutError if not every figure came.

    Until JupyterLab has connected the kernel, its menu takes the command and does nothing.
    """
    page.set_default_timeout(20_000)
    page.goto(f"{address}/lab/tree/figures.ipynb?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    started = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    for _ in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator(".lm-Menu-item", has_text=re.compile(r"^Run All Cells$")).click()
        page.wait_for_timeout(3000)
        if started.count():
            break
    page.locator(".tff[aria-label='Memory']").wait_for(timeout=120_000)


@pytest.fixture(scope="module")
def lab_page(chromium, jupyterlab):
    for _ in range(4):  # JupyterLab itself does not always start a notebook's kernel
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        try:
            run_all_cells(page, jupyterlab)
            yield page
            page.close()
            return
        except TimeoutError:
            page.close()
    pytest.fail("JupyterLab did not run the notebook in 4 attempts")


@pytest.fixture
def in_lab(lab_page):
    def found(name):
        scope = lab_page.get_by_role("group", name=name, exact=True).first
        scope.scroll_into_view_if_needed()
        return scope

    return found


def test_all_seven_figures_are_in_jupyterlab(lab_page):
    names = {each.get_attribute("aria-label") for each in lab_page.locator(".tff").all()}
    assert names == {name for names in FIGURES.values() for name in names}
    assert lab_page.locator(".tff-error").count() == 0


def test_the_timeline_in_jupyterlab(in_lab):
    scope = in_lab("K/V timeline")
    expect(scope.locator(".tff-place")).to_have_text("step 6 of 6")
    scope.get_by_label("Step back").click()
    expect(scope.locator(".tff-place")).to_have_text("step 5 of 6")
    assert scope.locator("[data-counter]").all_inner_texts() == ["15", "0", "10"]
    scope.get_by_role("button", name="step 3, token 2").click()
    expect(scope.locator(".tff-details")).to_contain_text("equal those of step 2")


def test_generation_in_jupyterlab(in_lab, trained, encode):
    scope = in_lab("Generation")
    scope.get_by_label("Step forward").press("Enter")
    with torch.no_grad():
        best = torch.softmax(trained[0](encode("Time flies"))[0, -1], dim=-1).max().item()
    shown = float(scope.locator("[data-probability]").first.get_attribute("data-probability"))
    assert shown == pytest.approx(best, abs=1e-6)
    assert scope.locator("[data-counter]").all_inner_texts() == ["2", "1"]


def test_attention_in_jupyterlab(in_lab):
    scope = in_lab("Attention")
    scope.get_by_label("Step", exact=True).fill("3")
    scope.get_by_role("button", name=re.compile("^key 3 of Time")).click()
    expect(scope.locator(".tff-say").nth(1)).to_contain_text("2.00 · 1.00 = 2.50")


def test_code_changes_in_jupyterlab(in_lab):
    scope = in_lab("Code changes")
    scope.get_by_label("Step", exact=True).fill("5")
    expect(scope.locator('[data-lit="+"]').last).to_contain_text("step_input = next_token")


def test_break_it_in_jupyterlab(in_lab):
    scope = in_lab("Break it")
    scope.get_by_label("Bug").select_option("3 a mask that forgets the offset")
    expect(scope.locator("tr:has(td b) th")).to_have_text(["mask"])


def test_the_race_in_jupyterlab(in_lab, lab_page):
    scope = in_lab("Speed race")
    printed = lab_page.locator(".jp-OutputArea-output", has_text=re.compile(r"^ratio ")).last
    ratio = printed.inner_text().split()[1]
    expect(scope.locator(".tff-say")).to_contain_text(f"{ratio} times as fast")
    scope.get_by_label("Speed").select_option("16×")
    scope.get_by_role("button", name="Play").click()
    expect(scope.get_by_label("Step forward")).to_be_disabled(timeout=20_000)


def test_the_blocks_in_jupyterlab(in_lab):
    scope = in_lab("Block tables")
    scope.get_by_label("Step forward").click()
    expect(scope.locator(".tff-say")).to_contain_text("Blocks free: 4, shared: 2.")


def test_the_calculator_in_jupyterlab(in_lab):
    scope = in_lab("Memory")
    scope.get_by_role("combobox", name="Model", exact=True).select_option("Llama 2 7B")
    value = scope.locator('[data-output="bytes-per-token"]').get_attribute("data-value")
    assert value == str(2 * 32 * 32 * 128 * 2)


def test_a_prompt_of_ones_own_in_jupyterlab(lab_page):
    """What the static book cannot do: another prompt through the model, by ipywidgets."""
    box = lab_page.locator(".widget-text input[type=text]").first
    box.scroll_into_view_if_needed()
    box.fill("<b>Time</b> flies")
    box.press("Tab")
    lab_page.get_by_role("button", name="Run the model").first.click()
    mine = lab_page.get_by_role("group", name="Generation", exact=True).nth(1)
    expect(mine.locator(".tff-say")).to_contain_text("<b>Time</b> flies", timeout=30_000)
    box.fill("")
    box.press("Tab")
    lab_page.get_by_role("button", name="Run the model").first.click()
    expect(lab_page.get_by_text("The prompt is empty")).to_be_visible()
    expect(mine).to_be_visible()  # an earlier figure stays
