"""Finds numbers that were typed into a chapter's text and that none of its cells knows.

A number with a unit, a percent sign or a times sign either stands in a mark, since a cell says it,
or it stands in the code or in an output of the same chapter: what the code sets, the text may name.
Times and rates may only stand in marks. What stays are the few numbers in KNOWN, which are facts of
the world and not of a cell.
"""

import re

UNITS = r"""
    % | × | (?:per\ cent|times|tokens?|bytes?|bits?|layers?|heads?|numbers|dimensions|steps?|
    million|billion|users?|requests?|blocks?|pairs|[kMGT]B)\b
"""
MEASURED = r"(?:ms|milliseconds|seconds|GB/s|GFLOPs?|tokens/s|times\ as\ (?:fast|slow|long))\b"
WITH_UNIT = re.compile(rf"(?<![\w.,/])(\d[\d.,]*)\s?(?:{UNITS})", re.VERBOSE)
TIME = re.compile(rf"(?<![\w.,/])(\d[\d.,]*)\s?{MEASURED}")
NUMBER = re.compile(r"\d[\d.,_]*")
SHOWN = ("text/plain", "text/markdown")
# What is said of the world, not of a cell: (id of the cell, number).
KNOWN = {
    ("first-look", "124"),  # million weights: what the smallest GPT-2 is called after
    ("gpt2-real", "124"),
    ("claim-5", "5"),  # the claim that the chapter looks into
    ("predict-said", "5"),
    ("peaks-said", "255"),  # tokens: one less than the 256 that were measured
    ("grouped-real", "80"),  # GB, as an H100 is sold
    ("waste-said", "38"),  # per cent, reported by the authors of vLLM
}


def in_text(notebook, pattern):
    """(id of the cell, number) for each number of that kind in the Markdown cells."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"<span data-from.*?</span>|\]\([^)]*\)|\$[^$]+\$", " ", cell.source)
            for found in pattern.finditer(text):
                yield cell.id, plain(found[1])


def known(notebook):
    """Every number that stands in the code or in an output of an executed notebook."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts.append(cell.source)
            for output in cell.outputs:
                texts.append(output.get("text", ""))
                texts += [output.data[kind] for kind in SHOWN if kind in output.get("data", {})]
    return {plain(number) for text in texts for number in NUMBER.findall(text)}


def plain(number):
    return re.sub("[,_]", "", number).rstrip(".")


def unknown(chapter, executed):
    """(id of the cell, number) for what was typed into a chapter's text and no cell knows."""
    numbers = known(executed)
    typed = [each for each in in_text(chapter, WITH_UNIT) if each[1] not in numbers]
    return [each for each in typed + list(in_text(chapter, TIME)) if each not in KNOWN]
