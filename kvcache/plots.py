"""The figures of measured times: inline SVG that takes on the page's text colour."""

import html
import io
import itertools
import re

import matplotlib.pyplot as plt

from .palette import NEW, RECOMPUTED, REUSED

TEXT = "#7b7c7d"  # a stand-in: replaced by the colour of the text around the figure

STYLE = {
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "svg.fonttype": "none",
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


# Without a cache, with a cache, then others: told apart by line as well as by colour.
LINES = [
    {"color": RECOMPUTED, "linestyle": "--"},
    {"color": REUSED, "linestyle": "-"},
    {"color": RECOMPUTED, "linestyle": ":"},
    {"color": REUSED, "linestyle": ":"},
    {"color": NEW, "linestyle": "-"},
    {"color": NEW, "linestyle": "-."},
]
BARS = [
    {"facecolor": "none", "edgecolor": RECOMPUTED, "hatch": "///"},
    {"facecolor": "none", "edgecolor": REUSED},
    {"facecolor": "none", "edgecolor": RECOMPUTED, "hatch": "xxx"},
    {"facecolor": "none", "edgecolor": REUSED, "hatch": "|||"},
    {"facecolor": NEW, "edgecolor": NEW},
    {"facecolor": "none", "edgecolor": NEW, "hatch": "\\\\\\"},
]


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


def lines(curves, xlabel, ylabel, description):
    """Curves over a common axis. curves: [(label, x, y), ...], in the order of LINES."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.6))
        for (label, x, y), style in zip(curves, itertools.cycle(LINES), strict=False):
            axes.plot(x, y, label=label, **style)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        axes.legend()
    return Plot(figure, description)


def time_per_token(timings):
    """Milliseconds for each new token against its position. Without a cache first, then with."""
    curves = []
    for timing in timings:
        positions = range(timing.n_prompt, timing.n_prompt + len(timing.per_token))
        curves.append((timing.label, positions, 1000 * timing.per_token))
    description = "Time per token against position. " + " ".join(
        f"{timing.label}: from {1000 * timing.per_token[0]:.0f} ms at the first new token "
        f"to {1000 * timing.per_token[-1]:.0f} ms at the last."
        for timing in timings
    )
    return lines(curves, "position of the new token", "time per token (ms)", description)


def tokens_per_second(timings):
    """A bar for each timing. Without a cache first, then with."""
    rates = [(timing.label, timing.tokens_per_second) for timing in timings]
    return bars(rates, "tokens per second", "Tokens per second.")


def bars(rows, xlabel, description, digits=1):
    """A bar with its number for each row. rows: [(label, value), ...], in the order of BARS."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 0.5 + 0.55 * len(rows)))
        for row, ((_, value), style) in enumerate(zip(rows, itertools.cycle(BARS), strict=False)):
            axes.barh(row, value, height=0.6, linewidth=2, **style)
            number = f"{value:,.{digits}f}"
            axes.annotate(number, (value, row), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.invert_yaxis()
        axes.set_xlabel(xlabel)
    pairs = [f"{label}: {value:,.{digits}f}." for label, value in rows]
    return Plot(figure, " ".join([description, *pairs]))


def speed_up(without, cached):
    """How many times as fast the cached generation is, against the number of new tokens."""
    lengths = len(without.per_token), len(cached.per_token)
    if lengths[0] != lengths[1]:
        raise ValueError(f"the generations have {lengths} new tokens; time the same number twice.")
    ratio = without.per_token.cumsum(0) / cached.per_token.cumsum(0)  # (n_new_tokens,)
    figure = lines(
        [("speed-up", range(1, len(ratio) + 1), ratio)],
        "new tokens generated",
        "times as fast with a cache",
        f"Speed-up against length: {ratio[0]:.1f} after the first new token, "
        f"{ratio[-1]:.1f} after {len(ratio)}.",
    )
    axes = figure.figure.axes[0]
    axes.get_legend().remove()
    axes.lines[0].set(color=NEW, linestyle="-")
    return figure
