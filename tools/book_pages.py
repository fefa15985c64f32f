"""Sphinx extension: what the book's pages need beyond Jupyter Book.

Formulas become MathML while the book is built, so a page needs no script for them. thebe is taken
out: it asks another host, and its second copy throws an error. Two details of the theme are mended
in the pages: preloading a font is an error from file://, and the sidebar is no landmark.
"""

import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

FONT_PRELOAD = re.compile(r'<link rel="preload" as="font"[^>]*>\s*')
SIDEBAR = '<div class="bd-sidebar-primary bd-sidebar">'
LANDMARK = '<div class="bd-sidebar-primary bd-sidebar" role="complementary" aria-label="The book">'


def inline_math(writer, node):
    writer.body.append(f'<span class="math">{convert(node.astext())}</span>')
    raise nodes.SkipNode


def display_math(writer, node):
    formula = convert(node.astext(), display="block")
    writer.body.append(
        writer.starttag(node, "div", CLASS="math", tabindex="0") + formula + "</div>\n"
    )
    raise nodes.SkipNode


def take_out_thebe(app, config):
    for listeners in app.events.listeners.values():
        listeners[:] = [item for item in listeners if item.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files[:] = [file for file in app.registry.css_files if "thebe" not in file[0]]


def mend_pages(app, exception):
    if exception or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        before = page.read_text(encoding="utf-8")
        after = FONT_PRELOAD.sub("", before).replace(SIDEBAR, LANDMARK)
        if after != before:
            page.write_text(after, encoding="utf-8")


def setup(app):
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline_math, None), block_renderers=(display_math, None)
    )
    app.connect("config-inited", take_out_thebe)
    app.connect("build-finished", mend_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
