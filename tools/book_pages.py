"""Sphinx extension: what the book's pages need beyond Jupyter Book.

Formulas become MathML while the book is built, so a page needs no script for them. thebe is taken
out: it asks another host, and its second copy throws an error. What the theme writes is mended in
the finished pages: what no page needs goes out, and what is no valid HTML becomes so.
"""

import re
import shutil
from pathlib import Path

import book_icons
import book_style
from docutils import nodes
from latex2mathml.converter import convert

# What is found in a finished page, what it becomes, and why.
MENDS = [
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in [
        # Icons are drawn by book_icons; no page has cards or tabs.
        (r'<link href="[^"]*fontawesome[^>]*>\s*', ""),
        (r'<script src="[^"]*fontawesome[^>]*></script>\s*', ""),
        (r'<link rel="stylesheet"[^>]*sphinx-design[^>]*>\s*', ""),
        (r"<script [^>]*design-tabs\.js[^>]*></script>\s*", ""),
        # No script holds up the text; the small one with the options is asked by others at once.
        (r"<script (?=[^>]*src=)(?![^>]*(?:defer|documentation_options))", "<script defer "),
        # The colours are known before anything is painted.
        (
            r'localStorage\.getItem\("theme"\) \|\| "auto"',
            'localStorage.getItem("theme") || '
            '(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")',
        ),
        # Every plot styles the whole page anew; book.css says the same for all plots, once.
        (r'<style type="text/css">\*\{stroke-linejoin: round; stroke-linecap: butt\}</style>', ""),
        # In code, names and punctuation have the colour of the text: elements that say nothing, and
        # half of all that are on a page.
        (r'<span class="(?:n|nn|p|w)">([^<]*)</span>', r"\1"),
        # Preloading a font is an error from file://.
        (r'<link rel="preload" as="font"[^>]*>\s*', ""),
        # The viewport is set three times.
        (r'(<meta name="viewport"[^>]*>)(.*?)<meta name="viewport"[^>]*>', r"\1\2"),
        (r'<meta name="viewport" content="width=device-width, initial-scale=1"/>\s*', ""),
        # A table that scrolls can be reached by key; the sidebar is a landmark.
        ('(<div class="pst-scrollable-table-container")>', r'\1 tabindex="0">'),
        (
            r'(<div class="bd-sidebar-primary bd-sidebar")>',
            r'\1 role="complementary" aria-label="The book">',
        ),
        # A summary may hold no paragraphs.
        (
            r'<summary aria-label="Toggle hidden content">\s*<p class="collapsed[^>]*>(.*?)</p>\s*'
            r'<p class="expanded[^>]*>(.*?)</p>\s*</summary>',
            r'<summary><span class="collapsed">\1</span><span class="expanded">\2</span></summary>',
        ),
        ("(Show|Hide) code cell content", r"\1 the solution"),  # what a hidden cell is, here
        ("(Show|Hide) code cell source", r"\1 the code"),
        # The search page has two fields of one name.
        (r'(id="search-input".*id=")search-input"', r'\1search-page-input"'),
    ]
]


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


def mend(page):
    for pattern, replacement in MENDS:
        page = pattern.sub(replacement, page)
    return book_icons.draw(page)


def mend_pages(app, exception):
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    for template in folder.glob("_static/*.html"):  # left there by the theme, as are its icons
        template.unlink()
    shutil.rmtree(folder / "_static" / "vendor", ignore_errors=True)
    # From file:// the search may not read other pages for its excerpts, and an attempt is an error.
    options = folder / "_static" / "documentation_options.js"
    text = options.read_text(encoding="utf-8")
    shown = 'SHOW_SEARCH_SUMMARY: location.protocol !== "file:"'
    options.write_text(text.replace("SHOW_SEARCH_SUMMARY: true", shown), encoding="utf-8")
    for page in folder.rglob("*.html"):
        before = page.read_text(encoding="utf-8")
        if (after := mend(before)) != before:
            page.write_text(after, encoding="utf-8")
    book_style.join(folder)


def setup(app):
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline_math, None), block_renderers=(display_math, None)
    )
    app.connect("config-inited", take_out_thebe)
    app.connect("build-finished", mend_pages, priority=900)  # after the theme's own last steps
    return {"parallel_read_safe": True, "parallel_write_safe": True}
