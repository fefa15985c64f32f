"""The K/V timeline: which keys and values each step computed, and which it reused."""

import base64
import html

from ..tokenizer import token_label
from .figure import Figure, module_text

LETTER = {"new": "n", "recomputed": "c", "reused": "r"}


class KVTimeline(Figure):
    """A grid of steps by tokens for each trace, side by side.

    traces  one or two Trace objects, for example without and with a cache.
            Traced with vectors=True, a click on a cell shows its key and value.

    Raises ValueError for no trace, or for a trace without steps.
    """

    _esm = module_text("kv_timeline.js")

    def __init__(self, *traces, **kwargs):
        if not traces:
            raise ValueError("no trace was given; KVTimeline needs at least 1.")
        for trace in traces:
            if not trace.steps:
                raise ValueError("the trace has 0 steps; trace at least 1 new token.")
            if len(trace.steps[0]) != len(traces[0].steps[0]):
                counts = [len(each.steps[0]) for each in traces]
                raise ValueError(f"the traces have {counts} layers; compare models of equal depth.")
        super().__init__(data={"panels": [_panel(trace) for trace in traces]}, **kwargs)

    def still(self):
        """The last step of every panel, as SVG."""
        cell, left, pattern = 26, 60, f"again-{self.model_id}"
        shapes, x, height = [], 0, 0
        for panel in self.data["panels"]:
            rows = panel["marks"][0]
            shapes.append(f'<text x="{x}" y="14" font-weight="bold">{panel["title"]}</text>')
            for column, label in enumerate(panel["tokens"][: len(rows[-1])]):
                place = f"translate({x + left + column * cell + 17} 100) rotate(-60)"
                shapes.append(f'<text transform="{place}">{html.escape(label)}</text>')
            for step, row in enumerate(rows):
                y = 106 + step * cell
                shapes.append(f'<text x="{x}" y="{y + 17}">step {step + 1}</text>')
                for column, letter in enumerate(row):
                    shapes.append(
                        _still_cell(x + left + column * cell, y, cell - 4, letter, pattern)
                    )
            x += left + len(rows[-1]) * cell + 40
            height = max(height, 106 + len(rows) * cell)
        legend = "solid blue: new; hatched orange: recomputed; outlined green: reused"
        width, height = max(x, 420), height + 30
        hatch = (
            f'<defs><pattern id="{pattern}" width="6" height="6" '
            'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<rect width="3" height="6" fill="#D55E00"/></pattern></defs>'
        )
        return (
            f'<svg role="img" aria-label="K/V timeline. {legend}" '
            f'viewBox="0 0 {width} {height}" style="max-width: {width}px; width: 100%" '
            f'font-size="13" fill="currentColor">{hatch}{"".join(shapes)}'
            f'<text y="{height - 10}">{legend}</text></svg>'
        )


def _still_cell(x, y, size, letter, pattern):
    fill = {"n": "#0072B2", "c": f"url(#{pattern})", "r": "none"}[letter]
    line = {"n": "#0072B2", "c": "#D55E00", "r": "#009E73"}[letter]
    return (
        f'<rect x="{x}" y="{y}" width="{size}" height="{size}" '
        f'fill="{fill}" stroke="{line}" stroke-width="2"/>'
    )


def _panel(trace):
    """One trace as JSON. marks[layer][step] has a letter for each position: n, c or r."""
    by_layer = list(zip(*trace.steps, strict=True))  # [layer][step]
    return {
        "title": "With a cache" if trace.use_cache else "Without a cache",
        "tokens": [token_label(token_id) for token_id in trace.token_ids],
        "n_prompt": trace.n_prompt,
        "marks": [[_letters(step) for step in layer] for layer in by_layer],
        "vectors": [[_vectors(step) for step in layer] for layer in by_layer],
        "n_heads": by_layer[0][0].keys.shape[1] if by_layer[0][0].keys is not None else 0,
    }


def _letters(step):
    marks = {position: LETTER[name] for name in LETTER for position in getattr(step, name)}
    return "".join(marks[position] for position in sorted(marks))


def _vectors(step):
    """Keys, then values, as base64 of float32 (2, n_positions, emb_dim); None if not traced."""
    if step.keys is None:
        return None
    both = [
        vectors.flatten(1).float().cpu().numpy().tobytes() for vectors in (step.keys, step.values)
    ]
    return base64.b64encode(b"".join(both)).decode()
