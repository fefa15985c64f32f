"""Prints what pages and figures weigh, each beside its budget; fails if one is over it.

How fast pages are says `make lighthouse`.
"""

import gzip
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
CODE, LIVE, WIDGET_DATA, FIRST_VIEW, FIRST_VIEW_PACKED = 38, 30, 300, 2500, 1000  # kB
LOADED = re.compile(
    r'<(?:script|img|link rel="(?:icon|stylesheet)")[^>]* (?:src|href)="(?!data:)([^"?:]+)[^"]*"'
)
STATE = "application/vnd.jupyter.widget-state+json"


def packed(path):
    """Bytes of a file as a host of static pages sends it: compressed, if that is less."""
    content = path.read_bytes()
    return min(len(content), len(gzip.compress(content)))


def files():
    """All JavaScript and CSS of the figures; what runs a model is loaded when it is asked for."""
    mount = ROOT / "book" / "theme" / "static" / "mount_widgets.js"
    return [*(ROOT / "kvcache" / "widgets").glob("*.[jc]s*"), mount]


def widget_states(chapter):
    """What a page carries of its widgets: name -> module and state."""
    page = (HTML / "chapters" / f"{chapter}.html").read_text(encoding="utf-8")
    text = page.partition(f'<script type="{STATE}">')[2].partition("</script>")[0]
    return json.loads(text)["state"] if text else {}


def widget_data(chapter):
    """Bytes of the data that a page's widgets show."""
    states = widget_states(chapter).values()
    return sum(len(json.dumps(each["state"].get("data", ""))) for each in states)


def first_view(page):
    """Kilobytes of a page and of all that it loads: as they are, and packed."""
    found = LOADED.findall(page.read_text(encoding="utf-8"))
    loads = {page, *((page.parent / link).resolve() for link in found)}
    return sum(path.stat().st_size for path in loads) / 1000, sum(map(packed, loads)) / 1000


def weights():
    """Yield what is weighed, its kB, and its budget."""
    yield "JavaScript and CSS of all figures, packed", sum(map(packed, files())) / 1000, CODE
    live = (ROOT / "kvcache" / "widgets" / "live").glob("*.js")
    yield "JavaScript that runs a model in the page, packed", sum(map(packed, live)) / 1000, LIVE
    for path in sorted((HTML / "chapters").glob("*.html")):
        raw, small = first_view(path)
        yield f"widget data of {path.stem}", widget_data(path.stem) / 1000, WIDGET_DATA
        yield f"first view of {path.stem}", raw, FIRST_VIEW
        yield "   packed", small, FIRST_VIEW_PACKED


def main():
    if not HTML.is_dir():
        sys.exit("There is no book yet: run 'make book' first.")
    kept = True
    for what, value, limit in weights():
        kept &= value <= limit
        print(f"{what:44} {value:9,.1f} of {limit:6,} kB {'' if value <= limit else '  OVER'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
