"""Takes a picture of every figure of the built book: light and dark, on a laptop and on a phone.

They go to screenshots/, with an index.html that shows them all.
"""

import html
import re
import sys
from pathlib import Path

import browser
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
FOLDER = ROOT / "screenshots"


def take(page, address, chapter, theme, width):
    """Yield the names of the pictures of one page."""
    page.goto(f"{address}/chapters/{chapter}.html")
    page.wait_for_load_state("networkidle")
    for number, figure in enumerate(page.locator(".tff").all(), start=1):
        slider = figure.get_by_label("Step", exact=True)
        if slider.count():  # somewhere in the middle, where there is something to see
            slider.fill(str(1 + int(slider.get_attribute("max")) // 2))
        title = re.sub(r"\W+", "-", figure.get_attribute("aria-label").lower())
        name = f"{chapter}-{number}-{title}-{theme}-{width}.png"
        figure.screenshot(path=FOLDER / name)
        yield name


def main():
    if not HTML.is_dir():
        sys.exit("There is no book yet: run 'make book' first.")
    FOLDER.mkdir(exist_ok=True)
    chapters = sorted(path.stem for path in (HTML / "chapters").glob("[0-9]*.html"))
    names = []
    with browser.serving(HTML) as address, sync_playwright() as playwright:
        running = browser.launch(playwright)
        for theme in ("light", "dark"):
            for width in (1280, 360):
                context = running.new_context(
                    color_scheme=theme, viewport={"width": width, "height": 900}
                )
                page = context.new_page()
                for chapter in chapters:
                    names += take(page, address, chapter, theme, width)
                context.close()
        running.close()
    figures = "".join(
        f'<figure><figcaption>{html.escape(name)}</figcaption><img src="{name}" alt=""></figure>'
        for name in sorted(names)
    )
    index = FOLDER / "index.html"
    index.write_text(f"<!doctype html><title>figures</title>{figures}", encoding="utf-8")
    print(f"{len(names)} pictures; all of them: {index}")


if __name__ == "__main__":
    main()
