"""Takes pictures of the built book's figures.

    python tools/pictures.py previews       what is shown when a page is shared: its first figure
    python tools/pictures.py screenshots    every figure, light and dark, on a laptop and a phone

Previews are committed, so that building the book needs no browser. Take them again when a chapter's
title, question or first figure changes. The others go to screenshots/, with a page of them all.
"""

import base64
import html
import io
import re
import sys
from pathlib import Path

import browser
from chapters import paths
from jinja2 import Template
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
THEME = ROOT / "book" / "theme"
FIGURE = ".tff, .cell_output svg[role=img]:not(.tff *, .tff-still *)"


def go_halfway(figure):
    """Go where there is something to see, unless the figure stands there by itself."""
    slider = figure.locator("input[type=range]")
    if slider.count() and slider.first.input_value() == "1":
        slider.first.fill(str(1 + int(slider.first.get_attribute("max")) // 2))


def card(page):
    """The HTML of one preview."""
    figure = page.locator(FIGURE).first
    go_halfway(figure)
    box = figure.bounding_box()
    return Template((THEME / "site" / "card.html").read_text(encoding="utf-8")).render(
        logo=(THEME / "static" / "favicon.svg").read_text(encoding="utf-8"),
        title=page.locator("meta[property='og:title']").get_attribute("content"),
        question=page.locator("article h1 + p :is(em, strong)").first.inner_text(),
        is_tall=box["height"] > box["width"],
        picture=base64.b64encode(figure.screenshot()).decode(),
    )


def take_previews(running, chapters):
    page = running.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=2)
    blank = running.new_page(viewport={"width": 1200, "height": 630})
    for name, address in chapters.items():
        page.goto(address, wait_until="networkidle")
        blank.set_content(card(page))
        with Image.open(io.BytesIO(blank.screenshot())) as taken:
            small = taken.convert("RGB").quantize(128)
            small.save(THEME / "static" / "previews" / f"{name}.png", optimize=True)
        print(f"took {name}.png")


def take_screenshots(running, chapters):
    folder = ROOT / "screenshots"
    folder.mkdir(exist_ok=True)
    shown = []
    for theme, width in (("light", 1280), ("light", 360), ("dark", 1280), ("dark", 360)):
        page = running.new_page(color_scheme=theme, viewport={"width": width, "height": 900})
        for chapter, address in chapters.items():
            page.goto(address, wait_until="networkidle")
            for number, figure in enumerate(page.locator(".tff").all(), start=1):
                go_halfway(figure)
                title = re.sub(r"\W+", "-", figure.get_attribute("aria-label").lower())
                name = f"{chapter}-{number}-{title}-{theme}-{width}.png"
                figure.screenshot(path=folder / name)
                shown.append(
                    f'<figure><figcaption>{html.escape(name)}</figcaption><img src="{name}">'
                )
        page.close()
    index = folder / "index.html"
    index.write_text("<!doctype html><title>figures</title>" + "".join(sorted(shown)), "utf-8")
    print(f"{len(shown)} pictures; all of them: {index}")


def main(what):
    if not HTML.is_dir():
        sys.exit("There is no book yet: run 'make book' first.")
    with browser.serving(HTML) as address, sync_playwright() as playwright:
        running = browser.launch(playwright)
        pages = [HTML / "chapters" / f"{path.stem}.html" for path in paths()]
        chapters = {page.stem: f"{address}/chapters/{page.name}" for page in pages}
        {"previews": take_previews, "screenshots": take_screenshots}[what](running, chapters)
        running.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
