"""In JupyterLab: a chapter is read in Chromium, all its cells are run, its figures are used.

Before anything is run it must read as its page does. The build has run it in a fresh kernel, and
this is the second time: what it shows must be the same, but where a reader's own measurement stands
beside the record.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
import told_numbers
from conftest import NAMES, OTHERS, ROOT, chapter, code_cells, differences, executed
from playwright.sync_api import expect

# The texts of a page or of a notebook without formulas, whose letters come in another order.
TEXTS = """(places) => [...document.querySelectorAll(places)].map((each) => {
  const copy = each.cloneNode(true);
  const others = "math, .math, mjx-container, .MathJax, .headerlink, p, li, ul, ol";
  copy.querySelectorAll(others).forEach((inner) => inner.remove());
  return copy.textContent.replace(/[‘’]/g, "'").replace(/[“”]/g, '"').replace(/\\s+/g, " ").trim();
})"""
READ = f"""(told) => {{
  const read = ({TEXTS})(".jp-MarkdownOutput p, .jp-MarkdownOutput li");
  return told.every((text) => read.includes(text));
}}"""
# Waits for the kernel and for all cells, as JupyterLab itself knows them; gives the notebook.
RUN_ALL = """async () => {
  const { shell, commands } = window.jupyterapp;
  await shell.currentWidget.sessionContext.ready;
  await shell.currentWidget.sessionContext.session.kernel.info;
  await commands.execute("notebook:run-all-cells");
  return shell.currentWidget.content.model.toJSON();
}"""
LABELS = "(figures) => figures.map((each) => each.getAttribute('aria-label'))"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a running JupyterLab with the chapters as they are stored."""
    folder = tmp_path_factory.mktemp("lab")
    for name in NAMES:
        shutil.copy(ROOT / "chapters" / f"{name}.ipynb", folder)
    settings = folder / "settings"
    settings.mkdir()  # all cells are drawn, in view or not
    tracker = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
    (settings / "overrides.json").write_text(json.dumps(tracker))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    command += ["--IdentityProvider.token=", f"--LabApp.app_settings_dir={settings}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    env = {**os.environ, "KVCACHE_LIVE_SECONDS": "1", "PYTHONPATH": str(ROOT)}
    log = folder / "lab.log"
    with log.open("w") as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
    while not (address := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    yield address[0]
    process.kill()  # kernels end with it
    process.wait()


@pytest.mark.parametrize("name", [NAMES[1], *OTHERS])
def test_a_chapter_reads_as_its_page_and_shows_the_same_when_run(open_page, new_page, lab, name):
    built = open_page(name)
    told = built.evaluate(TEXTS, "article p:has([data-from]), article li:has([data-from])")
    assert told or not told_numbers.marked(chapter(name))
    page = new_page(width=1400)
    page.goto(f"{lab}/lab/tree/{name}.ipynb?reset")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.wait_for_function(READ, arg=[text for text in told if text], polling=200)

    notebook = nbformat.from_dict(page.evaluate(RUN_ALL))
    assert differences(executed(name), notebook) == []
    figures = built.locator(".tff").evaluate_all(LABELS)
    assert page.locator(".tff").evaluate_all(LABELS) == figures
    for figure in page.locator(".tff", has=page.locator("[type=range], select")).all():
        use(figure)
    measuring = [cell for cell in code_cells(notebook) if "= measured(" in cell.source]
    shown = [str(cell.outputs) for cell in measuring]
    assert all("on record, CPU" in text and "here" in text for text in shown if "±" in text)
    if name == "01-time-flies-fast":
        type_a_prompt(page)
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def use(figure):
    """Operate a figure by keys, which JupyterLab has its own ideas about: its words must change."""
    control = figure.locator("input[type=range], select").first
    control.press("End")
    words = figure.text_content()
    control.press("Home")
    expect(figure).not_to_have_text(words)


def type_a_prompt(page):
    """Here Python answers, and what it refuses is said in the control."""
    own = page.get_by_role("group", name="A prompt of your own")
    box, run = own.get_by_label("Prompt"), own.get_by_role("button", name="Run")
    mine = page.get_by_role("group", name="Generation", exact=True).nth(1)
    for text in ("<b>Time</b> flies", ""):
        box.fill(text)
        run.click()
        expect(mine.locator(".tff-say")).to_contain_text("<b>Time</b> flies")
    expect(own.locator(".tff-say")).to_contain_text("The prompt is empty")
    expect(mine).to_be_visible()  # the earlier figure stays
