"""The figures of measured times: inline SVG that takes on the page's text colour."""

import html
import io
import re

import matplotlib.pyplot as plt

from .palette import NEW, RECOMPUTED, REUSED

TEXT = "#7b7c7d"  # a stand-in: replaced by the colour of the text around the figure

COLOURED = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
STYLE = {
    **dict.fromkeys(COLOURED, TEXT),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "svg.fonttype": "none",
}

# Without a cache, with a cache, then others: told apart by line as well as by colour.
COLOURS = [RECOMPUTED, REUSED, RECOMPUTED, REUSED, NEW, NEW]
LINES = plt.cycler(color=COLOURS, linestyle=["--", "-", ":", ":", "-", "-."])
FILLS = ["none", "none", "none", "none", NEW, "none"]
HATCHES = ["///", "", "xxx", "|||", "", "\\\\\\"]
BARS = plt.cycler(edgecolor=COLOURS, facecolor=FILLS, hatch=HATCHES)


class Plot:
    """A matplotlib figure, shown as SVG with a description for those who cannot see it."""

    def __init__(self, figure, description):
        self.figure, self.description = figure, description
        plt.close(figure)  # the notebook shows the SVG, not the figure a second time

    def _repr_html_(self):
        text = io.StringIO()
        # The salt makes the names inside one picture differ from those of every other on the page.
        with plt.rc_context({**STYLE, "svg.hashsalt": self.description}):
            self.figure.savefig(text, format="svg", transparent=True, bbox_inches="tight")
        svg = text.getvalue()
        svg = re.sub("<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        label = html.escape(self.description)
        svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)
        svg = re.sub('width="[^"]*" height="[^"]*"|height="[^"]*" width="[^"]*"', "", svg, count=1)
        return f'<div style="max-width: 42em">{svg.replace(TEXT, "currentColor")}</div>'


def lines(curves, xlabel, ylabel, description, styles=LINES):
    """Curves over a common axis, with a legend where there are several.

    curves  [(label, x, y), ...], in the order of the styles
    """
    with plt.rc_context({**STYLE, "axes.prop_cycle": styles}):
        figure, axes = plt.subplots(figsize=(7, 3.6))
        for label, x, y in curves:
            axes.plot(x, y, label=label)
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        if len(curves) > 1:
            axes.legend()
    return Plot(figure, description)


def time_per_token(timings):
    """Milliseconds for each new token against its position. Without a cache first, then with."""
    curves, description = [], "Time per token against position."
    for timing in timings:
        times = 1000 * timing.per_token
        positions = range(timing.n_prompt, timing.n_prompt + len(times))
        curves.append((timing.label, positions, times))
        description += f" {timing.label}: from {times[0]:.0f} ms at the first new token "
        description += f"to {times[-1]:.0f} ms at the last."
    return lines(curves, "position of the new token", "time per token (ms)", description)


def tokens_per_second(timings):
    """A bar for each timing. Without a cache first, then with."""
    rates = [(timing.label, timing.tokens_per_second) for timing in timings]
    return bars(rates, "tokens per second", "Tokens per second.")


def bars(rows, xlabel, description, digits=1):
    """A bar with its number for each row. rows: [(label, value), ...], in the order of BARS."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 0.5 + 0.55 * len(rows)))
        for row, ((label, value), style) in enumerate(zip(rows, BARS(), strict=False)):
            bar = axes.barh(row, value, height=0.6, linewidth=2, **style)
            number = f"{value:,.{digits}f}"
            axes.bar_label(bar, [number], padding=6)
            description += f" {label}: {number}."
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.invert_yaxis()
        axes.set_xlabel(xlabel)
    return Plot(figure, description)


def speed_up(without, cached):
    """How many times as fast the cached generation is, against the number of new tokens."""
    lengths = len(without.per_token), len(cached.per_token)
    if lengths[0] != lengths[1]:
        raise ValueError(f"the generations have {lengths} new tokens; time the same number twice.")
    ratio = without.per_token.cumsum(0) / cached.per_token.cumsum(0)  # (n_new_tokens,)
    description = f"Speed-up against length: {ratio[0]:.1f} after the first new token, "
    description += f"{ratio[-1]:.1f} after {len(ratio)}."
    curves = [("speed-up", range(1, len(ratio) + 1), ratio)]
    ylabel = "times as fast with a cache"
    return lines(curves, "new tokens generated", ylabel, description, styles=LINES[4:])
