"""The book as a site: links that lead somewhere, words for search engines and for readers.

Each check is also shown something broken, so that we know that it would notice.
"""

import functools
import json
import re
import tomllib
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import address
import pytest
import yaml
from conftest import HTML, NAMES, NOTEBOOKS, ROOT, violations
from PIL import Image
from playwright.sync_api import expect
from test_pages import PAGES

from book.icons import icon
from book.links import as_written

REPOSITORY = address.current_address()
SITE = address.site(REPOSITORY)


def source(name):
    return (HTML / "chapters" / f"{name}.html").read_text(encoding="utf-8")


def meta(page):
    """What a page says of itself, by name."""
    return dict(re.findall(r'<meta (?:name|property)="([^"]*)" content="([^"]*)">', page))


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


page_at = functools.cache(Page)


def wrong(path, link):
    """What is wrong with a link of a page, or None."""
    scheme, _, place, _, anchor = urlsplit(link)
    if scheme and link in page_at(path).loads:
        return "loads from another site" if scheme != "data" else None
    if scheme:
        return None if FORM.fullmatch(link) else "not a well-formed https address"
    file = (page_at(path).folder / unquote(place)).resolve() if place else path
    if not file.is_file():
        return "no such file"
    if anchor and file.suffix == ".html" and unquote(anchor) not in page_at(file).anchors:
        return "no such anchor"
    return None


def link_problems(folder):
    """Yield page, link and what is wrong with it."""
    for path in sorted(folder.rglob("*.html")):
        for link in page_at(path).leads + page_at(path).loads:
            if problem := wrong(path, link):
                yield path.relative_to(folder).as_posix(), link, problem


def test_every_link_and_anchor_leads_somewhere():
    """Links to other sites are only checked for their form; `make links` follows them."""
    assert list(link_problems(HTML)) == []


BROKEN = {
    '<a href="nowhere.html">': "no such file",
    '<a href="other.html#nowhere">': "no such anchor",
    '<a href="#nowhere">': "no such anchor",
    '<a href="http://example.org/">': "not a well-formed https address",
    '<a href="https://example/ org">': "not a well-formed https address",
    '<a href="javascript:alert(1)">': "not a well-formed https address",
    '<form action="nowhere.html">': "no such file",
    '<meta http-equiv="refresh" content="0; url=nowhere.html">': "no such file",
    '<img src="https://example.org/x.png" alt="">': "loads from another site",
    '<script src="//example.org/x.js"></script>': "no such file",
    '<link rel="stylesheet" href="https://example.org/x.css">': "loads from another site",
}


def test_each_broken_link_is_found_and_no_other(tmp_path):
    (tmp_path / "other.html").write_text('<p id="here"></p>')
    sound = '<a href="other.html#here"></a><a href="https://example.org/a?b=c">'
    (tmp_path / "page.html").write_text(sound + "".join(BROKEN))
    assert [said for _, _, said in link_problems(tmp_path)] == list(BROKEN.values())


def test_every_button_has_an_icon_of_those_drawn_and_the_one_for_colours_shows_one(open_page):
    page = open_page("01-time-flies-fast")
    for button in page.locator(".article-header-buttons button, .primary-toggle").all():
        assert button.locator("svg.book-icon").count() >= 1
    shown = page.locator(".theme-switch-button svg:visible")
    expect(shown).to_have_count(1)
    page.locator(".theme-switch-button").click()
    expect(shown).to_have_count(1)
    with pytest.raises(KeyError, match="unicorn"):
        icon("unicorn")


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_chapter_leads_to_its_neighbours_the_glossary_its_source_and_what_runs_it(number):
    name, page = NAMES[number], source(NAMES[number])
    leads = dict(re.findall(r'class="(left-prev|right-next)" href="([^"]*)"', page))
    files = [f"{each}.html" for each in [*NAMES, "talk"]]
    assert leads["right-next"] == files[number + 1]
    if number:  # the first page is the name of the book
        assert leads["left-prev"] == files[number - 1]
        assert re.search(rf'current active"><a class="current[^>]*>{number}\. ', page)
    terms = re.findall(r'<a class="term [^"]*" href="glossary.html#term-([^"]*)"', page)
    assert len(terms) >= 2
    assert len(terms) == len(set(terms))  # only the first use of each
    path = f"chapters/{name}.ipynb"
    owner = REPOSITORY.removeprefix("https://github.com/")
    for place in (
        f"https://colab.research.google.com/github/{owner}/blob/main/{path}",
        f"https://mybinder.org/v2/gh/{owner}/main?urlpath=lab/tree/{path}",
        f"{REPOSITORY}/blob/main/{path}",
        f"{REPOSITORY}/issues/new?template=page.yml&amp;page=chapters%2F{name}",
        f"../_sources/{path}",
    ):
        assert f'href="{place}' in page
    stored = json.loads((ROOT / path).read_text(encoding="utf-8"))
    assert json.loads((HTML / "_sources" / path).read_text(encoding="utf-8")) == stored
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "page.yml").read_text())
    assert form["body"][0]["id"] == "page"  # the field that the address fills in


@pytest.mark.parametrize("where", ["server", "disk"])
def test_the_search_finds_stale_cache(open_page, where):
    page = open_page("00-intro", where)
    page.keyboard.press("Control+k")
    page.locator("#search-input").fill("stale cache")
    page.keyboard.press("Enter")
    found = page.locator("#search-results li a[href*='06-when-caches-go-wrong.html#the-stale']")
    expect(found.first).to_be_visible()
    expect(page.locator("#search-results")).to_contain_text("page")
    assert violations(page) == ""


def test_what_is_not_found_leads_back(new_page, server):
    text = (HTML / "404.html").read_text(encoding="utf-8")
    base = urlsplit(SITE).path
    page = new_page(width=360, theme="dark")

    def answer(route):  # as the host of the pages does
        path = HTML / urlsplit(route.request.url).path.removeprefix(base)
        if path.is_file():
            return route.fulfill(path=path)
        return route.fulfill(body=text, content_type="text/html")

    page.route("**/*", answer)
    page.goto(f"{server}{base}some/where/deep.html")
    expect(page.get_by_role("heading", name="A cache miss")).to_be_visible()
    assert violations(page) == ""
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("link", name="When caches go wrong").click()
    page.wait_for_url(f"**{base}chapters/06-when-caches-go-wrong.html")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_is_and_has_icons_of_our_own(name):
    page, said = source(name), meta(source(name))
    assert not re.search(r'class="[^"]*\bfa[srb]?[ "-]|fontawesome|images/logo_', page)
    assert '<html lang="en"' in page
    assert f'<link rel="canonical" href="{SITE}chapters/{name}.html"' in page
    assert said["og:url"] == f"{SITE}chapters/{name}.html"
    assert 30 <= len(said["description"]) <= 300
    assert said["og:description"] == said["description"]
    assert said["og:title"]
    assert said["twitter:card"] == "summary_large_image"
    shown = said["og:image"].removeprefix(SITE)
    assert shown.endswith(f"/{name}.png" if name in NAMES else "/00-intro.png")
    with Image.open(HTML / shown) as picture:
        assert (picture.format, picture.size) == ("PNG", (1200, 630))
    assert (HTML / shown).stat().st_size < 100_000


def test_the_front_door_leads_to_the_first_chapter_and_robots_to_all_pages(new_page, server):
    page = new_page()
    page.goto(f"{server}/index.html")
    page.wait_for_url("**/chapters/00-intro.html")
    door = (HTML / "index.html").read_text(encoding="utf-8")
    assert meta(door)["og:image"] == f"{SITE}_static/previews/00-intro.png"
    assert f"Sitemap: {SITE}sitemap.xml" in (HTML / "robots.txt").read_text()
    listed = re.findall("<loc>(.*?)</loc>", (HTML / "sitemap.xml").read_text())
    assert sorted(listed) == sorted(f"{SITE}chapters/{name}.html" for name in PAGES)


def test_no_two_pages_say_the_same():
    heads = [meta(source(name)) for name in PAGES]
    assert len({head["description"] for head in heads}) == len(PAGES)
    assert len({head["og:title"].casefold() for head in heads}) >= len(PAGES) - 1  # book, chapter 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("09-a-real-llm", "10-a-real-llm"),
        ("10-serving-many", "11-serving-many"),
        ("11-what-comes-next", "12-what-comes-next"),
    ],
)
def test_the_old_address_of_a_chapter_leads_to_its_new_one(new_page, server, old, new):
    assert f'rel="canonical" href="{SITE}chapters/{new}.html"' in source(old)
    page = new_page()
    page.goto(f"{server}/chapters/{old}.html")
    page.wait_for_url(f"**/chapters/{new}.html")


def test_the_built_site_can_be_published():
    files = [path for path in HTML.rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in files)
    assert sum(path.stat().st_size for path in files) < 10**9


def test_the_glossary_is_in_order_and_every_term_is_used_and_found_as_written():
    assert as_written("query").search("two Queries")
    assert as_written("token").search("its tokens.")
    assert not as_written("token").search("tokenizer")
    assert not as_written("hook").search("off-hook")
    terms = dict(re.findall(r'<dt id="term-([^"]*)">([^<]*)', source("glossary")))
    assert len(terms) > 30
    names = [name.replace("/", "").casefold() for name in terms.values()]
    assert names == sorted(names)
    linked = {term for name in NAMES for term in re.findall('#term-([^"]*)"', source(name))}
    assert set(terms) == linked


def test_every_work_of_the_bibliography_is_named_by_a_chapter_and_the_other_way_round():
    text = (ROOT / "references.bib").read_text(encoding="utf-8")
    works = dict(re.findall(r"@\w+\{(\w+),.*?url = \{(.*?)\}", text, re.DOTALL))
    chapters = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    for key, url in works.items():
        assert f"]({url})" in chapters, key
        assert f'<li id="{key}">' in source("references")
        assert any(f'href="references.html#{key}"' in source(name) for name in NAMES), key
    for paper in re.findall(r"\]\((https://arxiv\.org/abs/[\d.]+)\)", chapters):
        assert paper in works.values()


def test_the_citation_and_the_changelog_are_those_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["repository-code"] == REPOSITORY
    assert citation["license"] == project["license"]
    assert {"message", "title", "authors"} <= citation.keys()
    page = (ROOT / "chapters" / "cite.md").read_text(encoding="utf-8")
    assert citation["title"].partition(":")[0] in page
    assert f"Version {project['version']}" in page
    assert REPOSITORY in page
    assert f"\n## {project['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
