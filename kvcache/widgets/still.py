"""Pieces of the still pictures: inline SVG in the page's own text colour."""

import html

from ..palette import NEW, RECOMPUTED, REUSED

CELL = 26  # from one square of a timeline to the next
LINE = 24  # from one row of a table to the next
LEGEND = "solid blue: new; hatched orange: recomputed; outlined green: reused"

SQUARE = '<rect x="1" y="1" width="22" height="22" stroke-width="2" stroke="{}" fill="{}"/>'
HATCH = '<path d="M1 12l11-11M1 23l22-22M12 23l11-11" stroke-width="3" stroke="{}"/>'
SQUARES = {
    "n": SQUARE.format(NEW, NEW),
    "c": SQUARE.format(RECOMPUTED, "none") + HATCH.format(RECOMPUTED),
    "r": SQUARE.format(REUSED, "none"),
}


def picture(label, width, height, *shapes):
    """An SVG with a description for those who cannot see it."""
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}" '
        f'style="max-width: {width}px; width: 100%" font-size="13" fill="currentColor">'
        f"{''.join(shapes)}</svg>"
    )


def text(x, y, words, **attributes):
    """A line of text; attributes such as font_weight="bold" or transform="rotate(...)"."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x}" y="{y}"{more}>{html.escape(str(words))}</text>'


def table_picture(label, width, rows, columns):
    """Rows of texts, the first of them in bold; `columns` says where each column begins."""
    shapes = (
        text(x, 18 + LINE * i, words, font_weight="normal" if i else "bold")
        for i, row in enumerate(rows)
        for x, words in zip(columns, row, strict=False)
    )
    return picture(label, width, LINE * len(rows) + 8, *shapes)


def timelines(name, panels):
    """A picture of timelines side by side: the first 8 steps and 24 tokens of each.

    panels  [(title, labels of the tokens, rows of letters: n, c or r), ...]
    """
    shapes, x, y = [], 0, 0
    for title, tokens, steps in panels:
        steps = [step[:24] for step in steps[:8]]
        shapes.append(text(x, 14, title, font_weight="bold"))
        for i, label in enumerate(tokens[: len(steps[-1])]):
            place = f"translate({x + 77 + CELL * i} 100) rotate(-60)"
            shapes.append(text(0, 0, label[:12], transform=place))
        for step, letters in enumerate(steps):
            shapes.append(text(x, 123 + CELL * step, f"step {step + 1}"))
            for i, letter in enumerate(letters):
                place = f"translate({x + 60 + CELL * i} {105 + CELL * step})"
                shapes.append(f'<g transform="{place}">{SQUARES[letter]}</g>')
        x += 120 + CELL * len(steps[-1])
        y = max(y, 124 + CELL * len(steps))
    shapes.append(text(0, y, LEGEND))
    return picture(f"{name}. {LEGEND}", max(x, 480), y + 16, *shapes)
