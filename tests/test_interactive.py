"""The widgets where a kernel is: in JupyterLab, and on the interactive stack that Colab ships."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from conftest import ROOT
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


@pytest.mark.parametrize("name", ["03-the-baseline", "04-five-changes"])
def test_a_chapter_with_a_widget_runs_on_colabs_stack(colab_stack, tmp_path, name):
    notebook = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    versions = "import ipywidgets, anywidget, IPython\n"
    versions += "print(ipywidgets.__version__, anywidget.__version__, IPython.__version__)"
    notebook.cells.append(nbformat.v4.new_code_cell(versions))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}})
    paths = os.pathsep.join([str(colab_stack), str(ROOT)])
    client.execute(env={**os.environ, "PYTHONPATH": paths, "TQDM_DISABLE": "1"})
    assert notebook.cells[-1].outputs[0].text.split() == ["7.7.1", "0.9.21", "7.34.0"]
    (timeline,) = [cell for cell in notebook.cells if cell.id == "timeline"]
    assert any(
        "application/vnd.jupyter.widget-view+json" in output.data for output in timeline.outputs
    )
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert any("panels" in entry["state"].get("data", {}) for entry in widgets.values())


@pytest.fixture
def jupyterlab(tmp_path):
    """The address of a JupyterLab with a notebook of the first chapter's first two code cells.

    A short one: JupyterLab draws only the cells that are in view.
    """
    notebook = nbformat.read(ROOT / "chapters" / "00-intro.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id in ("setup", "timeline")]
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, tmp_path / "short.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--port",
        str(port),
    ]
    command += ["--ServerApp.token=", "--ServerApp.password=", f"--ServerApp.root_dir={tmp_path}"]
    with (tmp_path / "lab.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
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
    """Open the notebook and run it; returns the figure. Raises TimeoutError if nothing ran.

    Until JupyterLab has connected the kernel, its menu takes the command and does nothing.
    """
    page.set_default_timeout(20_000)
    page.goto(f"{address}/lab/tree/short.ipynb?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    started = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    for _ in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator(".lm-Menu-item", has_text=re.compile(r"^Run All Cells$")).click()
        page.wait_for_timeout(3000)
        if started.count():
            break
    figure = page.locator(".tff")
    figure.wait_for(timeout=60_000)
    return figure


def test_the_timeline_in_jupyterlab(chromium, jupyterlab):
    for _ in range(4):  # JupyterLab itself does not always start a notebook's kernel
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        try:
            figure = run_all_cells(page, jupyterlab)
            break
        except TimeoutError:
            page.close()
    else:
        pytest.fail("JupyterLab did not run the notebook in 4 attempts")
    figure.scroll_into_view_if_needed()
    expect(figure.locator(".tff-place")).to_have_text("step 6 of 6")
    figure.get_by_label("Step back").click()
    expect(figure.locator(".tff-place")).to_have_text("step 5 of 6")
    counters = figure.locator("[data-counter]").all_inner_texts()
    assert counters == ["15", "0", "10", "5", "10", "0"]
    figure.locator(".tff-panel").nth(1).get_by_role("button", name="step 3, token 1").click()
    expect(figure.locator(".tff-details")).to_contain_text("bit for bit")
    page.close()
