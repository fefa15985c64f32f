"""Checks the links of the built book: every internal one leads somewhere, nothing loads from afar.

There may be no network where this runs, so links to other sites are only checked for their form.

    python tools/links.py             prints what is wrong
    python tools/links.py external    prints the links to other sites, each once
"""

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
FORM = re.compile(r"https://([a-z0-9-]+\.)+[a-z]{2,}(/[^\s\"'<>\\]*)?")
LEADS = {("a", "href"), ("form", "action"), ("use", "xlink:href"), ("meta", "refresh")}
LOADS = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
NO_REQUEST = ("canonical", "index", "search", "next", "prev")  # relations that load nothing


class Page(HTMLParser):
    """A page's anchors, where it leads, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.leads, self.loads, self.base = set(), [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("http-equiv", "").lower() == "refresh":
            found["refresh"] = found["content"].partition("url=")[2]
        if tag == "base":
            self.base = found["href"]
        self.anchors.add(found.get("id"))
        for name, value in found.items():
            if (tag, name) in LEADS or found.get("rel") in NO_REQUEST:
                self.leads += [value] if name in ("href", "action", "xlink:href", "refresh") else []
            elif (tag, name) in LOADS:
                self.loads.append(value)


@cache
def read(path):
    return Page(path.read_text(encoding="utf-8"))


def inside(folder, path, link):
    """What is wrong with a link that stays in the book, or None."""
    parts = urlsplit(link)
    start = folder if read(path).base else path.parent
    target = (start / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no such file"
    if parts.fragment and target.suffix == ".html":
        anchors = read(target).anchors
        if unquote(parts.fragment) not in anchors:
            return "no such anchor"
    return None


def problems(folder):
    """Yield page, link and what is wrong with it."""
    for path in sorted(folder.rglob("*.html")):
        page = read(path)
        for link in page.leads:
            if not urlsplit(link).scheme:
                wrong = inside(folder, path, link)
            else:
                wrong = None if FORM.fullmatch(link) else "not a well-formed https address"
            if wrong:
                yield path.relative_to(folder).as_posix(), link, wrong
        for link in page.loads:
            kind = urlsplit(link).scheme
            if kind == "data":
                continue
            if wrong := "loads from another site" if kind else inside(folder, path, link):
                yield path.relative_to(folder).as_posix(), link, wrong


def external(folder):
    """All links to other sites."""
    pages = map(read, folder.rglob("*.html"))
    return sorted({link for page in pages for link in page.leads if urlsplit(link).scheme})


def main(what="problems"):
    if not HTML.is_dir():
        sys.exit("There is no book yet: run 'make book' first.")
    if what == "external":
        print(*external(HTML), sep="\n")
        return 0
    found = list(problems(HTML))
    for page, link, wrong in found:
        print(f"{page}: {link}: {wrong}")
    print(f"{len(found)} broken links")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
