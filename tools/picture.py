"""Draws the README's picture, images/timeline.svg: the still of the real K/V timeline.

The README is read on light and on dark pages, so the picture brings its own paper.
"""

import re
from pathlib import Path

from kvcache import baseline, cached, time_flies, trace
from kvcache.tokenizer import encode
from kvcache.widgets import KVTimeline

PICTURE = Path(__file__).resolve().parent.parent / "images" / "timeline.svg"
MARGIN = 16


def drawn():
    """The picture as SVG, in a file of its own."""
    prompt = encode("Time")
    without = trace(time_flies.load(baseline.GPTModel), prompt, 6)
    with_cache = trace(time_flies.load(cached.GPTModel), prompt, 6, use_cache=True)
    still = KVTimeline(without, with_cache).still()
    opening, rest = re.fullmatch(r"(<svg [^>]*>)(.*)", still, re.DOTALL).groups()
    label = re.search('aria-label="[^"]*"', opening)[0]
    width, height = (int(n) + 2 * MARGIN for n in re.search(r"0 0 (\d+) (\d+)", opening).groups())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {label} width="{width}" '
        f'height="{height}" viewBox="{-MARGIN} {-MARGIN} {width} {height}" '
        'font-family="sans-serif" font-size="13" fill="#1f2328">'
        f'<rect x="{-MARGIN}" y="{-MARGIN}" width="{width}" height="{height}" rx="8" fill="white"/>'
        f"{rest}\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
    print(f"drew {PICTURE}")
