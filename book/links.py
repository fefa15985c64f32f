"""Sphinx extension: links into the glossary and into the bibliography.

Notebooks stay plain Markdown, as they are read in JupyterLab and Colab, too. In the pages the first
use of each term of the glossary links to it, and a link to a work of references.bib leads to its
entry there.
"""

import re

from docutils import nodes
from sphinx.util.nodes import make_refnode

ASIDE = (  # no term is looked for in these
    nodes.FixedTextElement,
    nodes.literal,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.reference,
    nodes.title,
)


def as_written(term):
    """A pattern for a term in a text, one or more of it."""
    stem = re.escape(term[:-1]) + "(?:y|ies)" if term.endswith("y") else re.escape(term) + "s?"
    return re.compile(rf"(?<![\w-]){stem}(?![\w-])", re.IGNORECASE)


def texts(doctree):
    """The pieces of running text."""
    for text in list(doctree.findall(nodes.Text)):
        parent = text.parent
        while parent and not isinstance(parent, ASIDE) and "cell" not in parent.get("classes", ()):
            parent = parent.parent
        if not parent:
            yield text


def link_term(text, found, link):
    """Put a link in the place of what was found; gives the two texts left."""
    before, after = nodes.Text(text[: found.start()]), nodes.Text(text[found.end() :])
    text.parent.replace(text, [before, link, after])
    return before, after


def link_terms(app, doctree, docname):
    terms = dict(app.env.domaindata["std"]["terms"])
    pieces = list(texts(doctree))
    for term in sorted(terms, key=len, reverse=True):  # "KV cache" before "cache"
        target, anchor = terms[term]
        for number, text in enumerate(pieces):
            if found := as_written(term).search(text):
                link = make_refnode(app.builder, docname, target, anchor, nodes.Text(found[0]))
                link["classes"].append("term")
                pieces[number : number + 1] = link_term(text, found, link)
                break


def link_works(app, doctree, docname):
    domain = app.env.get_domain("cite")
    entries = domain.bibdata.data.entries
    with_address = (found for found in domain.citations if "url" in entries[found.key].fields)
    places = {entries[found.key].fields["url"]: found for found in with_address}
    for reference in doctree.findall(nodes.reference):
        if found := places.get(reference.get("refuri")):
            page = app.builder.get_relative_uri(docname, found.bibliography_key.docname)
            reference["refuri"] = f"{page}#{found.citation_id}"
            reference["internal"] = True


def link(app, doctree, docname):
    if app.env.doc2path(docname).endswith(".ipynb"):
        link_terms(app, doctree, docname)
        link_works(app, doctree, docname)


def setup(app):
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
