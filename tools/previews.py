"""Takes the pictures that are shown when a page is shared, from each chapter's own first figure.

They go to chapters/_static/previews/ and are committed, so that building the book needs no browser.
Take them again when a chapter's title, question or first figure changes.
"""

import base64
import html
import io
import sys
from pathlib import Path

import browser
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
STATIC = ROOT / "chapters" / "_static"
FOLDER = STATIC / "previews"
FIGURE = ".tff, .cell_output svg[role=img]:not(.tff *, .tff-still *)"
CARD = """
<!doctype html><style>
  * {{ margin: 0; box-sizing: border-box; }}
  body {{ height: 630px; overflow: hidden; background: #fff; color: #1a1f24;
    border-bottom: 14px solid #0072b2; font: 28px/1.35 "Liberation Sans", Arial, sans-serif; }}
  div {{ position: absolute; left: 52px; top: 52px; width: 370px; color: #48566b; }}
  div svg {{ width: 56px; display: block; margin-bottom: 14px; }}
  h1 {{ font-size: 54px; font-weight: 400; line-height: 1.1; margin: 44px 0 20px; color: #1a1f24; }}
  figure {{ position: absolute; left: 470px; top: 44px; width: 690px; height: 540px;
    display: flex; overflow: hidden; }}
  img {{ width: 100%; margin: auto; object-fit: contain; object-position: top; }}
  img.tall {{ margin-top: 0; }}
</style>
<div>{logo}Time Flies Fast<h1>{title}</h1><p>{question}</p></div>
<figure><img class="{shape}" src="data:image/png;base64,{picture}" alt=""></figure>
"""


def card(page):
    """The HTML of one preview."""
    figure = page.locator(FIGURE).first
    slider = figure.locator("input[type=range]")
    if slider.count() and slider.first.input_value() == "1":  # go where there is something to see
        slider.first.fill(str(1 + int(slider.first.get_attribute("max")) // 2))
    box = figure.bounding_box()
    return CARD.format(
        logo=(STATIC / "favicon.svg").read_text(encoding="utf-8"),
        title=html.escape(page.locator("meta[property='og:title']").get_attribute("content")),
        question=html.escape(page.locator("article h1 + p :is(em, strong)").first.inner_text()),
        shape="tall" if box["height"] > 0.78 * box["width"] else "",
        picture=base64.b64encode(figure.screenshot()).decode(),
    )


def main():
    if not HTML.is_dir():
        sys.exit("There is no book yet: run 'make book' first.")
    FOLDER.mkdir(exist_ok=True)
    with browser.serving(HTML) as address, sync_playwright() as playwright:
        running = browser.launch(playwright)
        context = running.new_context(
            viewport={"width": 1280, "height": 900}, device_scale_factor=2
        )
        page = context.new_page()
        blank = running.new_page(viewport={"width": 1200, "height": 630})
        for path in sorted(HTML.glob("chapters/[0-9]*.html")):
            page.goto(f"{address}/chapters/{path.name}")
            page.wait_for_load_state("networkidle")
            blank.set_content(card(page))
            with Image.open(io.BytesIO(blank.screenshot())) as taken:
                small = taken.convert("RGB").quantize(64)
                small.save(FOLDER / f"{path.stem}.png", optimize=True)
            print(f"took {path.stem}.png")
        running.close()


if __name__ == "__main__":
    main()
