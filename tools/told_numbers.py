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
    found = {}
    for output in (output for cell in executed.cells for output in cell.get("outputs", [])):
        for name, text in output.get("data", {}).get(MIME, {}).items():
            if found.setdefault(name, text) != text:
                found[name] = f"{found[name]} and {text}"  # nothing in the text is both
    return found


def markdown(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def marked(notebook):
    """What stands in the marks of the text: [(name, text), ...]"""
    marks = [mark for cell in markdown(notebook) for mark in MARK.findall(cell.source)]
    return [(name, html.unescape(text)) for name, text in marks]


def complaints(notebook, said):
    """Yield what is wrong with the numbers in a chapter's text."""
    for name, text in marked(notebook):
        if name not in said:
            yield f"no cell says '{name}', which stands in the text as {text!r}"
        elif said[name] != text:
            yield f"'{name}' is {said[name]}, and the text has {text!r}"
    for name in said.keys() - dict(marked(notebook)):
        yield f"'{name}' is said by a cell, and told nowhere"
    for cell in markdown(notebook):
        if len(re.findall("data-from", cell.source, re.I)) != len(MARK.findall(cell.source)):
            yield f'cell {cell.get("id")}: a mark is written <span data-from="name">text</span>'
        if role := PLACEHOLDER.search(cell.source):
            yield f"cell {cell.get('id')} has {role[0]}, which only the page understands"
        if re.search(r"(?m)^#+ .*data-from", cell.source):
            yield f"cell {cell.get('id')} has a number in a heading"


def update(notebook, said):
    """Write what was said into the marks."""

    def mark(found):
        text = html.escape(said[found[1]], quote=False) if found[1] in said else found[2]
        return f'<span data-from="{found[1]}">{text}</span>'

    for cell in markdown(notebook):
        cell.source = MARK.sub(mark, cell.source)


def main(check):
    """Mend or check all chapters that were built; the exit status."""
    wrong = []
    for path in chapters.paths():
        notebook = chapters.read(path)
        try:
            said = told(chapters.executed(path))
        except KeyError:
            print(f"{path.name} was not built as it is now: make book")
            return 1
        if not check:
            update(notebook, said)
            nbformat.write(notebook, path)
        wrong += [f"{path.name}: {complaint}" for complaint in complaints(notebook, said)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if wrong and check:
        print("    what to do: 'make numbers' writes what the cells say into the text.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
