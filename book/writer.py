"""How the elements of a page are written, where Sphinx, its theme or myst-nb would do otherwise.

Formulas become MathML, so that a page needs no script for them.
"""

from docutils import nodes
from latex2mathml.converter import convert
from myst_nb.sphinx_ import HideCodeCellNode, depart_HideCellInput
from pygments.formatters import HtmlFormatter
from pygments.token import Name, Punctuation, Text
from sphinx.highlighting import PygmentsBridge

# They have the colour of the text: half of all elements of a page would say nothing.
PLAIN = (Name, Name.Namespace, Punctuation, Text.Whitespace)
HIDDEN = {"content": "the solution", "source": "the code"}  # what a folded cell is, here


class CodeFormatter(HtmlFormatter):
    """Has elements only for what has a colour."""

    def format_unencoded(self, tokensource, outfile):
        tokens = ((Text if kind in PLAIN else kind, text) for kind, text in tokensource)
        super().format_unencoded(tokens, outfile)


def inline_math(writer, node):
    writer.body.append(f'<span class="math">{convert(node.astext())}</span>')
    raise nodes.SkipNode


def display_math(writer, node):
    formula = convert(node.astext(), display="block")
    writer.body.append(
        writer.starttag(node, "div", CLASS="math", tabindex="0") + formula + "</div>\n"
    )
    raise nodes.SkipNode


def open_table(writer, node):
    """A table that scrolls can be reached by key."""
    writer.body.append('<div class="pst-scrollable-table-container mb-3" tabindex="0">')
    writer.body.append(writer.starttag(node, "table", CLASS="table mb-0"))
    writer._table_row_indices.append(0)


def close_table(writer, node):
    type(writer).depart_table(writer, node)


def open_folded(writer, node):
    """A cell that is folded; its summary may hold no paragraphs."""
    what = HIDDEN[node["prompt_show"]]
    writer.body += [
        writer.starttag(node, "details", CLASS="admonition hide"),
        f'<summary><span class="collapsed">Show {what}</span>',
        f'<span class="expanded">Hide {what}</span></summary>',
    ]


def setup(app):
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline_math, None), block_renderers=(display_math, None)
    )
    app.add_node(nodes.table, override=True, html=(open_table, close_table))
    app.add_node(HideCodeCellNode, override=True, html=(open_folded, depart_HideCellInput))
    PygmentsBridge.html_formatter = CodeFormatter
    return {"parallel_read_safe": True, "parallel_write_safe": True}
