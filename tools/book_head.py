"""Sphinx extension: what search engines, link previews and lost readers get.

Each page says what it is about in its own first sentences, shows the picture of its own figure
(`make previews` takes them), and names its one public address. All addresses follow from the
repository's. The front door, the page for what was not found, robots.txt and sitemap.xml are
written here.
"""

import re
from html import escape
from pathlib import Path
from urllib.parse import quote, urlparse

import address
from docutils import nodes

STATIC = Path(__file__).resolve().parent.parent / "chapters" / "_static"
LENGTH = 300  # of a description; search engines and previews show half of it to all of it
SENTENCE = re.compile(r"(?<=[.?!]) +(?=[A-Z])")
FOLDER = Path(__file__).resolve().parent / "pages"


def description(doctree):
    """A page's first sentences, as many as fit."""
    found = doctree.findall(nodes.paragraph)
    paragraphs = [one for one in found if isinstance(one.parent, nodes.section)]
    text = ""
    for paragraph in paragraphs[:2]:
        for sentence in SENTENCE.split(" ".join(paragraph.astext().split())):
            if text and len(text) + len(sentence) >= LENGTH:
                return text
            text = f"{text} {sentence}".strip()
    return text


def picture(pagename):
    """The preview of a page; pages without one show the book's."""
    own = f"previews/{Path(pagename).name}.png"
    return own if (STATIC / own).is_file() else "previews/00-intro.png"


def tags(site, pagename, title, about):
    """The HTML for a page's head."""
    named = {"description": about, "twitter:card": "summary_large_image"}
    properties = {
        "og:type": "article",
        "og:site_name": "Time Flies Fast",
        "og:title": title,
        "og:description": about,
        "og:url": f"{site}{pagename}.html",
        "og:image": f"{site}_static/{picture(pagename)}",
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": f"A figure of {title}",
    }
    return "\n".join(
        f'<meta {kind}="{name}" content="{escape(value)}">'
        for kind, values in (("name", named), ("property", properties))
        for name, value in values.items()
    )


def know_the_site(app, config):
    config.html_baseurl = address.site(address.current_address())


def add_head(app, pagename, templatename, context, doctree):
    """Add the tags, and lead the button for issues to our form, with the page filled in."""
    if doctree is None:
        return
    title = doctree.next_node(nodes.title).astext()
    about = description(doctree)
    context["metatags"] += tags(app.config.html_baseurl, pagename, title, about)
    new = f"{address.current_address()}/issues/new"
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("label") == "source-issues-button":
                button["url"] = f"{new}?template=page.yml&amp;page={quote(pagename, safe='')}"


def write_others(app, exception):
    if exception or app.builder.format != "html":
        return
    site, out = app.config.html_baseurl, Path(app.outdir)
    root = app.config.root_doc
    names = sorted(app.env.found_docs)
    values = {
        "root": root,
        "site": site,
        "base": urlparse(site).path,
        "tags": tags(site, root, "Time Flies Fast", description(app.env.get_doctree(root))),
        "links": "\n".join(
            f'<li><a href="{name}.html">{escape(app.env.titles[name].astext())}</a></li>'
            for name in names
        ),
    }
    for page in FOLDER.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"\{\{ (\w+) \}\}", lambda found: values[found[1]], text)
        (out / page.name).write_text(text, encoding="utf-8")
    addresses = "".join(f"<url><loc>{site}{name}.html</loc></url>\n" for name in names)
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{addresses}</urlset>\n'
    )
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {site}sitemap.xml\n")


def setup(app):
    app.connect("config-inited", know_the_site)
    app.connect("html-page-context", add_head, priority=900)  # after the theme's buttons
    app.connect("build-finished", write_others, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
