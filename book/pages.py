"""Sphinx extension: what the templates of the theme show.

Each page says what it is about in its own first sentences, shows the picture of its own figure
(`make previews` takes them), and names its one public address. All addresses follow from the
repository's.
"""

import re
import shutil
from pathlib import Path
from urllib.parse import quote, urlparse

from docutils import nodes

from tools import address

from .icons import icon

STATIC = Path(__file__).parent / "theme" / "static"
LENGTH = 300  # of a description; search engines and previews show half of it to all of it
SENTENCE = re.compile(r"(?<=[.?!]) +(?=[A-Z])")
SITE = ("index.html", "404.html", "sitemap.xml", "robots.txt")  # files beside the pages
AT_ONCE = "documentation_options.js"  # small, and asked by scripts in the page itself


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


def preview(pagename):
    """The picture of a page; pages without one show the book's."""
    own = f"previews/{Path(pagename).name}.png"
    return own if (STATIC / own).is_file() else "previews/00-intro.png"


def know_the_site(app, config):
    config.html_baseurl = address.site(config.html_theme_options["repository_url"])
    config.html_additional_pages = dict.fromkeys(config.html_context["moved"], "site/moved.html")


def give_icons(app, pagename, templatename, context, doctree):
    context["icon"] = icon


def fill_in(app, pagename, templatename, context, doctree):
    """Give the templates what they ask for; no script holds up the text."""
    context["metatags"] = ""  # of docutils; head.html has what a page needs
    for script in context["script_files"]:
        if script.filename and not script.filename.endswith(AT_ONCE):
            script.attributes["defer"] = "defer"
    if doctree is None:
        return
    context["site"] = app.config.html_baseurl
    context |= {"description": description(doctree), "preview": preview(pagename)}
    new = f"{app.config.html_theme_options['repository_url']}/issues/new"
    for group in context["header_buttons"]:
        for button in group.get("buttons", ()):
            if button.get("label") == "source-issues-button":  # to our form, the page filled in
                button["url"] = f"{new}?template=page.yml&page={quote(pagename, safe='')}"


def write_site(app, exception):
    """The front door, the page for what was not found, and what search engines read."""
    if exception or app.builder.format != "html":
        return
    root, site, out = app.config.root_doc, app.config.html_baseurl, Path(app.outdir)
    values = {
        "pages": {name: app.env.titles[name].astext() for name in sorted(app.env.found_docs)},
        "base": urlparse(site).path,
        "site": site,
        "root": root,
        "pagetitle": app.config.html_title,
        "pageurl": f"{site}{root}.html",
        "description": description(app.env.get_doctree(root)),
        "preview": preview(root),
    }
    for name in SITE:
        text = app.builder.templates.render(f"site/{name}", values)
        (out / name).write_text(text, encoding="utf-8")


def drop_unused(app, exception):
    """The theme's icon fonts, and its macros, which are no pages."""
    if not exception and app.builder.format == "html":
        static = Path(app.outdir) / "_static"
        shutil.rmtree(static / "vendor", ignore_errors=True)
        for macros in static.glob("*.html"):
            macros.unlink()


def setup(app):
    app.connect("config-inited", know_the_site)
    app.connect("html-page-context", give_icons, priority=100)  # before the theme tries its parts
    app.connect("html-page-context", fill_in, priority=900)  # after the theme's buttons
    app.connect("build-finished", write_site)
    app.connect("build-finished", drop_unused)
    for name in ("bootstrap", "pydata-sphinx-theme"):
        app.add_js_file(f"scripts/{name}.js")
    app.add_js_file("mount_widgets.js")
    app.add_css_file("book.css", priority=900)  # after those of all others
    return {"parallel_read_safe": True, "parallel_write_safe": True}
