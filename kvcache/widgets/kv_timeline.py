"""The K/V timeline: which keys and values each step computed, and which it reused."""

import base64

import torch

from ..config import check_all, check_kinds, need
from ..tokenizer import token_label, token_texts
from ..trace import LayerStep, Trace
from .figure import Figure
from .still import timelines


class KVTimeline(Figure):
    """A grid of steps by tokens for each trace, side by side; also layer by layer.

    traces  one or two Trace objects, for example without and with a cache.
            Traced with vectors=True, a click on a cell shows its key and value.

    Raises TypeError for what is no Trace, and ValueError for none, or for a trace without steps.
    """

    def __init__(self, *traces, **kwargs):
        check_all("traces", traces, Trace)
        for trace in traces:
            need(trace.steps, "the trace has 0 steps", "trace at least 1 new token")
        depths = [len(trace.steps[0]) for trace in traces]
        need(len(set(depths)) == 1, f"the traces have {depths} layers", "compare equal depths")
        super().__init__(data={"panels": [_panel(trace) for trace in traces]}, **kwargs)

    def still(self):
        """The first layer of every panel, up to step 8, as SVG."""
        panels = [(each["title"], each["tokens"], each["marks"][0]) for each in self.data["panels"]]
        return timelines("K/V timeline", panels)


def _panel(trace):
    """One trace as JSON. marks[layer][step] has a letter for each position: n, c or r."""
    by_layer = list(zip(*trace.steps, strict=True))  # [layer][step]
    title, keys = "With a cache" if trace.use_cache else "Without a cache", by_layer[0][0].keys
    panel = {"title": title, "use_cache": trace.use_cache, "n_prompt": trace.n_prompt}
    tokens = list(map(token_label, trace.token_ids))
    panel |= {"tokens": tokens, "texts": token_texts(trace.token_ids)}
    panel |= {"marks": [[letters(step) for step in layer] for layer in by_layer]}
    panel |= {"vectors": [[_vectors(step) for step in layer] for layer in by_layer]}
    return panel | {"n_heads": 0 if keys is None else keys.shape[1]}


def letters(step):
    """A letter for each position of a LayerStep, in order: r(eused), c (recomputed), n(ew).

    Raises TypeError for anything else, ValueError if it has not all positions, as in a window.
    """
    check_kinds(step=(step, LayerStep))
    n_places, newest = len(step.reused + step.recomputed + step.new), max(step.new, default=0)
    need(n_places > newest, "a step has let go of tokens", "trace with a cache that keeps all")
    return "r" * len(step.reused) + "c" * len(step.recomputed) + "n" * len(step.new)


def _vectors(step):
    """Keys, then values, as base64 of float32 (2, n_positions, emb_dim); None if not traced."""
    if step.keys is None:
        return None
    both = torch.stack([step.keys, step.values]).float().cpu()
    return base64.b64encode(both.numpy().tobytes()).decode()
