"""The figures of measured times: inline SVG that takes on the page's text colour."""

import io

import matplotlib.pyplot as plt
import torch

NEW, RECOMPUTED, REUSED = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's palette
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
    "svg.hashsalt": "kvcache",
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


class Plot:
    """A matplotlib figure as SVG, with a description for those who cannot see it."""

    def __init__(self, figure, description):
        self.figure, self.description = figure, description
        plt.close(figure)  # the notebook shows the SVG, not the figure a second time

    def _repr_html_(self):
        text = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Title": self.description}
        with plt.rc_context(STYLE):
            self.figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata=metadata)
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor")
        ...
