"""Pieces of the still pictures: inline SVG in the page's own text colour."""

import html

from ..palette import NEW, RECOMPUTED, REUSED


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


def square(x, y, size, letter):
    """A square of the timeline: n is new (solid), c recomputed (hatched), r reused (outlined)."""
    colour = {"n": NEW, "c": RECOMPUTED, "r": REUSED}[letter]
    fill = colour if letter == "n" else "none"
    box = f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{fill}" stroke="{colour}" '
    hatch, half = "", size / 2
    if letter == "c":
        hatch = (
            f'<path stroke="{colour}" stroke-width="3" d="M{x} {y + half}l{half} {-half}'
            f'M{x} {y + size}l{size} {-size}M{x + half} {y + size}l{half} {-half}"/>'
        )
    return f'{box}stroke-width="2"/>{hatch}'
