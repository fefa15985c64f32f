"""Prints what pages and figures weigh and how fast they are, each beside its budget.

Bytes do not change from run to run: over a budget, the command fails. Times are only shown.
"""

import gzip
import json
import re
import statistics
import sys
from pathlib import Path

import browser
import torch
from playwright.sync_api import sync_playwright

from kvcache import GPTConfig, baseline, cached, trace
from kvcache.widgets import Generation, KVTimeline

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
FIRST_VIEW, FIRST_VIEW_PACKED = 2500, 1000
SCRIPTS_PACKED = 25 * 1024  # bytes of all JavaScript and CSS of the figures
KIND = "application/vnd.jupyter.widget"

# Notes when the last figure of a page was drawn, from the start of the navigation.
NOTE_DRAWN = """
    window.drawn = 0;
    let count = 0;
    new MutationObserver(() => {
        const now = document.querySelectorAll(".tff > *").length;
        if (now !== count) { count = now; window.drawn = performance.now(); }
    }).observe(document, { childList: true, subtree: true });
"""
# Goes through all steps of a figure, one for each frame; gives the milliseconds of each frame.
STEP_THROUGH = """
    (name) => new Promise((done) => {
        const figure = document.querySelector(`.tff[aria-label="${name}"]`);
        const slider = figure.querySelector("input[type=range]");
        const times = [];
        let step = 0;
        requestAnimationFrame(function frame(now) {
            times.push(now);
            if (step === Number(slider.max)) {
                return done(times.slice(1).map((t, i) => t - times[i]));
            }
            slider.value = ++step;
            slider.dispatchEvent(new Event("input"));
            requestAnimationFrame(frame);
        });
    })
"""


def line(what, value, limit, unit, fails=True):
    """Print one figure beside its budget; returns whether it is kept."""
    kept = value >= limit if unit == "fps" else value <= limit
    print(f"{what:44} {value:9,.1f} of {limit:6,} {unit:4} {'' if kept else '  OVER'}")
    return kept or not fails


def files():
    """All JavaScript and CSS of the figures."""
    mount = ROOT / "chapters" / "_static" / "mount_widgets.js"
    return [*(ROOT / "kvcache" / "widgets").glob("*.[jc]s*"), mount]


def packed_bytes(paths):
    """Bytes of files that travel together, compressed as a host sends them."""
    return len(gzip.compress(b"".join(path.read_bytes() for path in sorted(paths))))


def widget_data(chapter):
    """Bytes of the data that a page's widgets carry."""
    text = (HTML / "chapters" / f"{chapter}.html").read_text(encoding="utf-8")
    found = re.search(rf'<script type="{KIND}-state\+json">(.*?)</script>', text, re.DOTALL)
    entries = json.loads(found[1])["state"].values() if found else []
    return sum(len(json.dumps(entry["state"].get("data", ""))) for entry in entries)


def first_view(page, address):
    """Kilobytes of all that a page loads: as they are, and compressed as a host sends them."""
    responses = []
    page.on("response", lambda response: responses.append(response))
    page.goto(address)
    page.wait_for_load_state("networkidle")
    bodies = [each.body() for each in responses if each.url.startswith("http")]
    packed = [min(len(body), len(gzip.compress(body))) for body in bodies]
    return sum(map(len, bodies)) / 1000, sum(packed) / 1000


def seconds_until_drawn(running, address, chapter):
    """The median of five navigations, each with an empty cache."""
    times = []
    for _ in range(5):
        context = running.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.add_init_script(NOTE_DRAWN)
        page.goto(f"{address}/chapters/{chapter}.html")
        page.wait_for_load_state("networkidle")
        times.append(page.evaluate("window.drawn") / 1000)
        context.close()
    return statistics.median(times)


def frames(running, address, widget, name):
    """Frames a second while the figure goes through its 200 steps, one for each frame."""
    page = running.new_page(viewport={"width": 1280, "height": 900})
    state = {"_esm": widget._esm, "_css": widget._css, "data": widget.data}
    entry = {"state": {"w": {"model_module": "anywidget", "state": state}}}
    text = json.dumps(entry).replace("<", "\\u003c")
    body = (
        f'<!doctype html><title>200</title><body><script type="{KIND}-state+json">{text}</script>'
        f'<script type="{KIND}-view+json">{{"model_id": "w"}}</script>'
        '<script src="_static/mount_widgets.js"></script>'
    )
    page.route("**/made.html", lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto(f"{address}/made.html")
    page.locator(".tff-controls").first.wait_for()
    times = page.evaluate(STEP_THROUGH, name)
    page.close()
    return 1000 * len(times) / sum(times)


def main():
    if not HTML.is_dir():
        sys.exit("There is no book yet: run 'make book' first.")
    sizes = {path.name: path.stat().st_size / 1000 for path in files()}
    limit = SCRIPTS_PACKED / 1000
    kept = [line("JavaScript and CSS, compressed", packed_bytes(files()) / 1000, limit, "kB")]
    print("   " + ", ".join(f"{name} {size:.1f}" for name, size in sorted(sizes.items())))
    chapters = sorted(path.stem for path in (HTML / "chapters").glob("[0-9]*.html"))
    for chapter in chapters:
        kept.append(line(f"widget data of {chapter}", widget_data(chapter) / 1000, 300, "kB"))
    cfg = GPTConfig(vocab_size=50257, context_length=256, emb_dim=8, n_heads=2, n_layers=2)
    plain, caching, prompt = baseline.GPTModel(cfg), cached.GPTModel(cfg), torch.tensor([[11]])
    traces = trace(plain, prompt, 200), trace(caching, prompt, 200, use_cache=True)
    with browser.serving(HTML) as address, sync_playwright() as playwright:
        running = browser.launch(playwright)
        for chapter in chapters:
            page = running.new_page()
            raw, packed = first_view(page, f"{address}/chapters/{chapter}.html")
            page.close()
            kept.append(line(f"first view of {chapter}", raw, FIRST_VIEW, "kB"))
            kept.append(line("   compressed", packed, FIRST_VIEW_PACKED, "kB"))
            seconds = seconds_until_drawn(running, address, chapter)
            line(f"usable: {chapter}", seconds, 1, "s", fails=False)
        for name, widget in (
            ("K/V timeline", KVTimeline(*traces)),
            ("Generation", Generation(plain, prompt, 200)),
        ):
            rate = frames(running, address, widget, name)
            line(f"stepping through 200 tokens: {name}", rate, 50, "fps", fails=False)
        running.close()
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
