"""The notebooks beside what the build has run: every number in the text is a cell's.

The build itself compares the marked numbers, and what it complains about is tried on broken texts.
Those that were typed are looked at here: a number with a unit, a percent sign or a times sign must
stand in the code or in an output of the same chapter: what the code sets, the text may name. Times
and rates may only stand in marks. Quick chapters are also run in another order.
"""

import os
import re

import nbformat
import pytest
import told_numbers
import torch
from conftest import NAMES, ROOT, chapter, code_cells, differences, displayed, executed
from nbclient import NotebookClient

from kvcache import generate, time_flies
from kvcache.generate import eval_mode, pick
from kvcache.measurements.records import recorded
from kvcache.tokenizer import encode

UNITS = r"""
    % | × | (?:per\ cent|times|tokens?|bytes?|bits?|layers?|heads?|numbers|dimensions|steps?|
    million|billion|users?|requests?|blocks?|pairs|[kMGT]B)\b
"""
MEASURED = r"(?:ms|milliseconds|seconds|GB/s|GFLOPs?|tokens/s|times\ as\ (?:fast|slow|long))\b"
WITH_UNIT = re.compile(rf"(?<![\w.,/])(\d[\d.,]*)\s?(?:{UNITS})", re.VERBOSE)
TIME = re.compile(rf"(?<![\w.,/])(\d[\d.,]*)\s?{MEASURED}")
SETTINGS = {"TQDM_DISABLE": "1", "KVCACHE_MEASUREMENTS": "record"}
QUICK = [name for name in NAMES if name[:2] in ("01", "02", "03", "04", "06")]
KINDS = ("plain", "markdown")
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


def plain(number):
    return re.sub("[,_]", "", number).rstrip(".")


def known(notebook):
    """Every number that stands in the code or in an output of an executed notebook."""
    texts = [cell.source for cell in code_cells(notebook)]
    for cell in code_cells(notebook):
        texts += [output.get("text", "") for output in cell.outputs]
        texts += [data.get(f"text/{kind}", "") for data in displayed(cell) for kind in KINDS]
    return {plain(number) for text in texts for number in re.findall(r"\d[\d.,_]*", text)}


def unknown(stored, built):
    """(id of the cell, number) for what was typed into a chapter's text and no cell knows."""
    numbers, found = known(built), []
    for cell in stored.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"<span data-from.*?</span>|\]\([^)]*\)|\$[^$]+\$", " ", cell.source)
            typed = [n for n in map(plain, WITH_UNIT.findall(text)) if n not in numbers]
            found += [(cell.id, n) for n in [*typed, *map(plain, TIME.findall(text))]]
    return [each for each in found if each not in KNOWN]


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_disagrees_with_a_number_typed_into_the_text(name):
    assert unknown(chapter(name), executed(name)) == []


def a_chapter(text):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="said")])


def test_a_typed_number_that_no_cell_has_and_a_typed_time_are_caught():
    typed = a_chapter("At 1,024 tokens, not at 1,025 tokens, it took 3.2 seconds.")
    typed.cells.append(nbformat.v4.new_code_cell("n_tokens = 1_024"))
    assert unknown(typed, typed) == [("said", "1025"), ("said", "3.2")]


def test_the_headline_speed_up_is_one_number_in_the_intro_and_in_chapter_5():
    intro, chapter_5 = (told_numbers.told(executed(NAMES[number])) for number in (0, 5))
    record = recorded("writing")
    told = f"{record['without a cache'].total / record['with a cache'].total:.1f}"
    assert intro["intro-ratio"] == chapter_5["ratio-cache"] == told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('It is <span data-from="ratio">4.9</span>.', None),
        ('It is <span data-from="ratio">5.0</span>.', "'ratio' is 4.9, and the text has '5.0'"),
        ('It is <span data-from="other">4.9</span>.', "no cell says 'other'"),
        ("It is 4.9.", "'ratio' is said by a cell, and told nowhere"),
        ("It is <span data-from='ratio'>4.9</span>.", "a mark is written"),
        ('<span data-from="ratio">4.9, <span data-from="ratio">4.9</span>', "a mark is written"),
        ("It is {glue:text}`ratio`.", "has {glue:text}`ratio`, which only the page understands"),
        ('# <span data-from="ratio">4.9</span> times', "has a number in a heading"),
    ],
)
def test_a_number_that_is_stale_or_has_no_source_is_caught(text, complaint):
    found = list(told_numbers.complaints(a_chapter(text), {"ratio": "4.9"}))
    assert (complaint is None and not found) or any(complaint in each for each in found)


def test_a_number_is_brought_up_to_date():
    chapter = a_chapter('**<span data-from="a">?</span>** and <span data-from="b">2</span>')
    told_numbers.update(chapter, {"a": "1 < 2", "b": "2"})
    text = chapter.cells[0].source
    assert text == '**<span data-from="a">1 &lt; 2</span>** and <span data-from="b">2</span>'
    assert told_numbers.marked(chapter) == [("a", "1 < 2"), ("b", "2")]


@pytest.mark.matrix
@pytest.mark.parametrize("name", QUICK)
def test_backwards_and_then_as_it_stands(tmp_path, name):
    """In the same kernel without a restart: each cell works, or says which name it lacks."""
    stored = chapter(name)
    cells = code_cells(stored)
    both = nbformat.v4.new_notebook(metadata=stored.metadata)
    for number, cell in enumerate([*reversed(cells), *cells]):
        both.cells.append(nbformat.v4.new_code_cell(cell.source, id=f"{cell.id}-{number}"))
    resources = {"metadata": {"path": tmp_path}}
    client = NotebookClient(both, timeout=300, allow_errors=True, resources=resources)
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), **SETTINGS})
    backwards, both.cells = both.cells[: len(cells)], both.cells[len(cells) :]
    for cell in backwards:
        errors = [each for each in cell.outputs if each.output_type == "error"]
        assert all(each.ename == "NameError" for each in errors), errors[0].evalue
    assert differences(executed(name), both) == []


def test_the_five_changes_are_those_of_the_source_and_without_them_the_loop_runs():
    states = executed(NAMES[4]).metadata.widgets["application/vnd.jupyter.widget-state+json"]
    data = (each["state"].get("data", {}) for each in states["state"].values())
    (changes,) = (each["changes"] for each in data if "changes" in each)
    for number, change in enumerate(changes, start=1):
        assert "CACHE" not in str([piece["before"] for piece in change["pieces"]])
        assert f"# CACHE {number}" in str([piece["after"] for piece in change["pieces"]])
    grids = [[rows for rows, _ in change["after"]] for change in changes]
    by_one = ["n", "rn", "rrn"]
    assert grids == [["n", "cn", "ccn"], by_one, ["...n", "...rn"], by_one, by_one]
    notes = [[note for _, note in changes[3][side]] for side in ("before", "after")]
    assert notes == [["position 0"] * 3, ["position 0", "position 1", "position 2"]]
    lines = changes[4]["pieces"][0]["before"]
    assert not any("_cache(" in line or "cache_k" in line for line in lines)
    names = {"torch": torch, "eval_mode": eval_mode}
    exec("\n".join(lines), names)  # the very lines that the figure shows as "before"
    model, prompt = time_flies.load(), encode("Time")
    tokens = list(names["next_tokens"](model, prompt, 5, False, pick))
    assert torch.equal(torch.cat([prompt, *tokens], dim=1), generate(model, prompt, 5))
