"""What stands still where no script runs: HTML tables, and timelines as inline SVG."""

import html

from ..palette import NEW, RECOMPUTED, REUSED

CELL = 26  # from one square of a timeline to the next
LEGEND = "solid blue: new; hatched orange: recomputed; outlined green: reused"

SQUARE = '<rect x="1" y="1" width="22" height="22" stroke-width="2" stroke="{}" fill="{}"/>'
HATCH = '<path d="M1 12l11-11M1 23l22-22M12 23l11-11" stroke-width="3" stroke="{}"/>'
SQUARES = {"n": SQUARE.format(NEW, NEW), "r": SQUARE.format(REUSED, "none")}
SQUARES["c"] = SQUARE.format(RECOMPUTED, "none") + HATCH.format(RECOMPUTED)


def table(caption, rows):
    """Rows of texts as an HTML table; the first row is its head."""
    lines = []
    for i, row in enumerate(rows):
        tag = "td" if i else "th"
        # The space, as wide as a letter is high, keeps the columns apart.
        cells = (f"<{tag}>{html.escape(str(cell))}\u2003</{tag}>" for cell in row)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><caption>{html.escape(caption)}</caption>{''.join(lines)}</table>"


def timelines(name, panels):
    """A picture of timelines side by side: the first 8 steps and 24 tokens of each.

    panels  [(title, labels of the tokens, rows of letters: n, c or r), ...]
    """
    shapes, x, y = [], 0, 0
    for title, tokens, steps in panels:
        steps = [step[:24] for step in steps[:8]]
        shapes.append(f'<text x="{x}" y="14" font-weight="bold">{html.escape(title)}</text>')
        for i, label in enumerate(tokens[: len(steps[-1])]):
            place = f"translate({x + 77 + CELL * i} 100) rotate(-60)"
            shapes.append(f'<text transform="{place}">{html.escape(label[:12])}</text>')
        for step, letters in enumerate(steps):
            shapes.append(f'<text x="{x}" y="{123 + CELL * step}">step {step + 1}</text>')
            for i, letter in enumerate(letters):
                place = f"translate({x + 60 + CELL * i} {105 + CELL * step})"
                shapes.append(f'<g transform="{place}">{SQUARES.get(letter, "")}</g>')
        x += 120 + CELL * len(steps[-1])
        y = max(y, 124 + CELL * len(steps))
    width = max(x, 480)
    return (
        f'<svg role="img" aria-label="{html.escape(name)}. {LEGEND}" fill="currentColor" '
        f'viewBox="0 0 {width} {y + 16}" style="max-width: {width}px; width: 100%" font-size="13">'
        f'{"".join(shapes)}<text y="{y}">{LEGEND}</text></svg>'
    )
