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
NO_REQUEST = ("canonical", "search", "next", "prev")  # relations that load nothing


class Page(HTMLParser):
    """A page's anchors, where it leads, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.leads, self.loads, self.has_base = set(), [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        addresses = [found.get(name) for name in ("href", "src", "action", "xlink:href")]
        if found.get("http-equiv") == "refresh":
            addresses = [found["content"].partition("url=")[2]]
        leads = tag in ("a", "form", "meta", "use") or found.get("rel") in NO_REQUEST
        if tag == "base":
            self.has_base = True
        else:
            (self.leads if leads else self.loads).extend(filter(None, addresses))


@cache
def read(path):
    return Page(path.read_text(encoding="utf-8"))


def target(folder, path, link):
    """The file that a link within the book leads to."""
    place = unquote(urlsplit(link).path)
    start = folder if read(path).has_base else path.parent
    return (start / place).resolve() if place else path


def inside(folder, path, link):
    """What is wrong with a link that stays in the book, or None."""
    file, anchor = target(folder, path, link), unquote(urlsplit(link).fragment)
    if not file.is_file():
        return "no such file"
    if anchor and file.suffix == ".html" and anchor not in read(file).anchors:
        return "no such anchor"
    return None


def problems(folder):
    """Yield page, link and what is wrong with it."""
    for path in sorted(folder.rglob("*.html")):
        page = read(path)
        for link in page.leads + page.loads:
            kind = urlsplit(link).scheme
            if not kind:
                wrong = inside(folder, path, link)
            elif link in page.loads:
                wrong = None if kind == "data" else "loads from another site"
            else:
                wrong = None if FORM.fullmatch(link) else "not a well-formed https address"
            if wrong:
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
    print(*map(": ".join, found), f"{len(found)} broken links", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
