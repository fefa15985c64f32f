"""Brings the numbers in the chapters' text up to date with what the built cells say.

    python tools/told_numbers.py            writes them into the notebooks
    python tools/told_numbers.py --check    only says which are stale

A number in the text stands in a mark: `<span data-from="name">4.9</span>`. A cell of the same
chapter says what it is: `tell("name", "4.9")`.
"""

import html
import re
import sys

import chapters
import nbformat

MIME = "application/vnd.kvcache.told+json"
MARK = re.compile(r'<span data-from="([^"]*)">([^<]*)</span>')
PLACEHOLDER = re.compile(r"\{[a-z:-]+\}`[^`]*`")


def told(executed):
    """What the cells of an executed notebook said: name -> text."""
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    found = {}
    for said in (out.data[MIME] for out in outputs if MIME in out.get("data", {})):
        for name, text in said.items():
            if found.setdefault(name, text) != text:
                found[name] = f"{found[name]} and {text}"  # nothing in the text is both
    return found


def marked(notebook):
    """What stands in the marks of the text: [(name, text), ...]"""
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    return [
        (name, html.unescape(text)) for cell in cells for name, text in MARK.findall(cell.source)
    ]


def complaints(notebook, said):
    """Yield what is wrong with the numbers in a chapter's text."""
    names = set()
    for name, text in marked(notebook):
        names.add(name)
        if name not in said:
            yield f"no cell says '{name}', which stands in the text as {text!r}"
        elif said[name] != text:
            yield f"'{name}' is {said[name]}, and the text has {text!r}"
    yield from (f"'{name}' is said by a cell, and told nowhere" for name in said.keys() - names)
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        if len(re.findall("data-from", cell.source, re.I)) != len(MARK.findall(cell.source)):
            yield f'cell {cell.get("id")}: a mark is written <span data-from="name">text</span>'
        if role := PLACEHOLDER.search(cell.source):
            yield f"cell {cell.get('id')} has {role[0]}, which only the page understands"
        if re.search(r"(?m)^#+ .*data-from", cell.source):
            yield f"cell {cell.get('id')} has a number in a heading"


def update(notebook, said):
    """Write what was said into the marks."""
    marks = {
        name: f'<span data-from="{name}">{html.escape(text, quote=False)}</span>'
        for name, text in said.items()
    }
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = MARK.sub(lambda found: marks.get(found[1], found[0]), cell.source)


def main(check):
    """Mend or check all chapters that were built; the exit status."""
    wrong = []
    for path in chapters.paths():
        notebook = chapters.read(path)
        try:
            executed = chapters.executed(path)
        except KeyError:
            print(f"{path.name} was not built as it is now: make book")
            return 1
        said = told(executed)
        if not check:
            update(notebook, said)
            if [cell.source for cell in notebook.cells] != [c.source for c in executed.cells]:
                nbformat.write(notebook, path)
        wrong += [f"{path.name}: {complaint}" for complaint in complaints(notebook, said)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if wrong and check:
        print("    what to do: 'make numbers' writes what the cells say into the text.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
