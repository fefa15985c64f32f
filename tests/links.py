"""Checks links: every internal one leads somewhere, and nothing is loaded from afar.

There may be no network where the tests run, so links to other sites are only checked for their
form; `make links` follows them.
"""

import re
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

from conftest import HTML

FORM = re.compile(r"https://([a-z0-9-]+\.)+[a-z]{2,}(/[^\s\"'<>\\]*)?")
NO_REQUEST = ("canonical", "search", "next", "prev")  # relations that load nothing


class Page(HTMLParser):
    """A page's anchors, where it leads, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.folder, self.anchors, self.leads, self.loads = path.parent, set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        addresses = [found.get(name) for name in ("href", "src", "action", "xlink:href")]
        if found.get("http-equiv") == "refresh":
            addresses = [found["content"].partition("url=")[2]]
        leads = tag in ("a", "form", "meta", "use") or found.get("rel") in NO_REQUEST
        if tag == "base":  # the book's own place
            self.folder = HTML
        else:
            (self.leads if leads else self.loads).extend(filter(None, addresses))


read = cache(Page)


def target(path, link):
    """The file that a link within the book leads to."""
    place = unquote(urlsplit(link).path)
    return (read(path).folder / place).resolve() if place else path


def wrong(path, link):
    """What is wrong with a link of a page, or None."""
    scheme, file, anchor = urlsplit(link).scheme, target(path, link), urlsplit(link).fragment
    if scheme and link in read(path).loads:
        return "loads from another site" if scheme != "data" else None
    if scheme:
        return None if FORM.fullmatch(link) else "not a well-formed https address"
    if not file.is_file():
        return "no such file"
    if anchor and file.suffix == ".html" and unquote(anchor) not in read(file).anchors:
        return "no such anchor"
    return None


def problems(folder):
    """Yield page, link and what is wrong with it."""
    for path in sorted(folder.rglob("*.html")):
        for link in read(path).leads + read(path).loads:
            if problem := wrong(path, link):
                yield path.relative_to(folder).as_posix(), link, problem
