"""Sphinx extension: what a notebook showed, written the same way in every build.

Some of it is chance: the ids of widgets, the order of their states, and in how many pieces a
printed text comes out of the kernel. The pages show none of that.
"""

import json
import re

from docutils import nodes
from myst_nb.core.render import sanitize_script_content

VIEW = "application/vnd.jupyter.widget-view+json"
NEEDED = ("_css", "_esm", "data")  # of a widget's state; mount_widgets.js asks for no more


def is_printed(node):
    return isinstance(node, nodes.literal_block) and "stream" in node["classes"]


def is_view(node):
    return isinstance(node, nodes.container) and node.get("mime_type") == VIEW


def say(node, text):
    """Put a text in the place of what a node holds."""
    node.rawsource = text
    node.clear()
    node += nodes.Text(text)


def join_printed(doctree):
    """Make one block of what a cell printed in a row."""
    for block in list(doctree.findall(is_printed)):
        if is_printed(before := block.previous_sibling()):
            say(before, before.astext() + block.astext())
            block.parent.remove(block)


def essence(entry):
    """What a page needs to know of a widget."""
    state = {name: value for name, value in entry["state"].items() if name in NEEDED}
    return {"model_module": entry["model_module"], "state": state}


def number_widgets(doctree, script):
    """Call the widgets of a page by their order; keep the states of those that it shows.

    script  the element of the page that holds all states
    """
    states, names, shown = json.loads(script["body"])["state"], {}, {}
    for view in doctree.findall(is_view):
        (raw,) = view.children
        old = re.search(r'"model_id": "(\w+)"', raw.astext())[1]
        new = names.setdefault(old, f"widget-{len(names) + 1}")
        say(raw, f'<script type="{VIEW}">{{"model_id": "{new}"}}</script>')
        shown[new] = essence(states[old])
    script["body"] = sanitize_script_content(json.dumps({"state": shown}, sort_keys=True))
    for raw in doctree.findall(nodes.raw):  # a still picture says of which widget it is
        say(raw, re.sub(r"\b[0-9a-f]{32}\b", lambda id: names.get(id[0], id[0]), raw.astext()))


def settle(app, doctree):
    join_printed(doctree)
    of_page = getattr(app.env, "nb_metadata", {}).get(app.env.docname, {})
    if "ipywidgets_state" in (scripts := of_page.get("js_files", {})):
        _, script = scripts["ipywidgets_state"]
        number_widgets(doctree, script)


def keep_pieces(app, config):
    """myst-nb would put the pieces of a printed text on lines of their own."""
    config.nb_merge_streams = False


def setup(app):
    app.connect("config-inited", keep_pieces)
    app.connect("doctree-read", settle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
