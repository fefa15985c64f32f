"""The figures of measured times: inline SVG that takes on the page's text colour.

Without a cache, most of the work is recomputed, with one it is reused: these two have the book's
colours. All else is purple, or has the colour of the text. Lines and hatches tell them apart, too.
"""

import html
import io
import re
from textwrap import fill

import matplotlib.pyplot as plt

from .config import check_all, check_kinds
from .palette import OTHER, RECOMPUTED, REUSED
from .timing import Timing

TEXT = "#000000"  # in the page: the colour of the text around the figure
# Narrow: on a phone, its text is still large enough to read.
STYLE = {"figure.figsize": (5, 3.2), "font.size": 12.5, "lines.linewidth": 2}
STYLE |= dict.fromkeys(("axes.spines.right", "axes.spines.top", "legend.frameon"), False)
STYLE |= {"savefig.transparent": True, "svg.fonttype": "none"}

# Without a cache, with one; and once more, of another kind.
CACHES = plt.cycler(color=[RECOMPUTED, REUSED] * 2, linestyle=["--", "-", ":", "-."])
LIMITS = plt.cycler(color=[RECOMPUTED, REUSED, TEXT, TEXT], linestyle=["--", "-", ":", "-."])
OTHERS = plt.cycler(color=[OTHER, TEXT] * 2, linestyle=["-", "--", ":", "-."])


class Plot:
    """A matplotlib figure, shown as SVG with a description for those who cannot see it."""

    def __init__(self, figure, description):
        self.figure, self.description = figure, description
        plt.close(figure)  # the notebook shows the SVG, not the figure a second time

    def _repr_html_(self):
        text, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
        # The salt makes the names inside one picture differ from those of every other on the page.
        with plt.rc_context({**STYLE, "svg.hashsalt": self.description}):
            self.figure.savefig(text, format="svg", bbox_inches="tight", metadata=nothing)
        svg = text.getvalue().replace(TEXT, "currentColor")
        # Its style would hold for every picture of the page, and its names for every group.
        svg = re.sub("(?s)<style.*?</style>", "", svg[svg.index("<svg") :])
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)
        svg = re.sub('width="[^"]*" height="[^"]*"|height="[^"]*" width="[^"]*"', "", svg, count=1)
        label = html.escape(self.description)
        label = f'<svg role="img" aria-label="{label}" fill="currentColor" stroke-linejoin="round" '
        return f'<div style="max-width: 30em">{svg.replace("<svg ", label, 1)}</div>'


def lines(curves, xlabel, ylabel, description, styles=OTHERS):
    """Curves over a common axis, with a legend above where there are several.

    curves  [(label, x, y), ...], in the order of the styles: CACHES, LIMITS or OTHERS

    Raises TypeError for curves or texts of another kind, ValueError for no curve.
    """
    curves = check_all("curves", curves, tuple)
    check_kinds(xlabel=(xlabel, str), ylabel=(ylabel, str), description=(description, str))
    with plt.rc_context({**STYLE, "axes.prop_cycle": styles}):
        figure, axes = plt.subplots()
        for label, x, y in curves:
            axes.plot(x, y, label=label)
        # So many letters fit along each axis; a little room below, for a curve at 0.
        axes.set(xlabel=fill(xlabel, 45), ylabel=fill(ylabel, 33))
        axes.set_ylim(bottom=-0.04 * axes.get_ylim()[1])
        if len(axes.lines) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), handlelength=2.5)
    return Plot(figure, description)


def time_per_token(timings):
    """Milliseconds for each new token against its position. Without a cache first, then with.

    Raises TypeError for what is no Timing, ValueError for none.
    """
    curves, description = [], "Time per token against position."
    for timing in check_all("timings", timings, Timing):
        times = 1000 * timing.per_token
        curves.append((timing.label, range(timing.n_prompt, timing.n_prompt + len(times)), times))
        description += f" {timing.label}: from {times[0]:.0f} ms at the first new token "
        description += f"to {times[-1]:.0f} ms at the last."
    return lines(curves, "position of the new token", "time per token (ms)", description, CACHES)


def bars(rows, xlabel, description, colours=()):
    """A bar for each row, below its label and before its number.

    rows     [(label, value), ...]
    colours  of the palette, for the first bars; the others have the colour of the text

    Raises TypeError for rows, colours or texts of another kind, ValueError for no row.
    """
    rows, colours = check_all("rows", rows, tuple), check_all("colours", colours, str, least=0)
    check_kinds(xlabel=(xlabel, str), description=(description, str))
    with plt.rc_context({**STYLE, "figure.figsize": (5, 0.6 + 0.65 * len(rows))}):
        figure, axes = plt.subplots()
        for row, (label, value) in enumerate(rows):
            colour = colours[row] if row < len(colours) else TEXT
            hatch = "///" if colour == RECOMPUTED else ""
            bar = axes.barh(row, value, 0.4, fill=False, edgecolor=colour, hatch=hatch, linewidth=2)
            number = f"{value:,.1f}"
            axes.bar_label(bar, [number], padding=6)
            axes.annotate(label, (0, row - 0.3), (4, 0), textcoords="offset points")
            description += f" {label}: {number}."
        axes.set(xlabel=fill(xlabel, 45), yticks=[], ylim=(len(rows) - 0.6, -0.8))
    return Plot(figure, description)
