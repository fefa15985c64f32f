"""The five changes: the real source before and after, and what each does to the timeline."""

import difflib
import inspect
import re
import textwrap
from operator import attrgetter

import torch

from .. import baseline, cached
from ..generate import next_tokens
from ..tokenizer import token_label
from ..trace import trace, watch
from .figure import Figure, module_text
from .kv_timeline import letters
from .still import picture, square, text

# The name of each change, the experiment that shows what it is for, and where it is. Left out is
# GPTModel.check_cache, which refuses what the cache cannot take.
CHANGES = [
    (
        "a place to keep them",
        "One layer is given the whole text at each step. A place is there; nothing is stored yet.",
        "MultiHeadAttention.__init__",
    ),
    (
        "store or append",
        "One layer is given one token at a time. Before, each stands alone; now it finds the "
        "others.",
        "MultiHeadAttention.forward",
    ),
    (
        "forget",
        "A second text begins. Before, it finds the old one's keys; after a reset, only its own.",
        "MultiHeadAttention.reset_cache",
    ),
    (
        "positions, and the way down",
        "The whole model is given one token at a time. Before, each believes that it is the first.",
        "TransformerBlock.forward GPTModel.__init__ GPTModel.forward GPTModel.reset_kv_cache",
    ),
    (
        "feed only the new token",
        "The loop writes a text by itself, with use_cache=False and with use_cache=True.",
        "next_tokens",
    ),
]


class CodeChanges(Figure):
    """A walk through the changes between `baseline.py` and `cached.py`, and in `generate.py`.

    plain, caching  the trained model without and with a cache
    token_ids       (1, n_tokens): a text of at least 2 tokens to run the steps on
    """

    _esm = module_text("code_changes.js")

    def __init__(self, plain, caching, token_ids, **kwargs):
        if hasattr(plain, "reset_kv_cache") or not hasattr(caching, "reset_kv_cache"):
            raise TypeError("pass a baseline.GPTModel first, then a cached.GPTModel.")
        # The last experiment writes as many tokens as there are, after the first of them.
        caching.cfg.check_token_ids(token_ids, caching.tok_emb.weight.device, n_past=1)
        if token_ids.shape[0] != 1 or token_ids.shape[1] < 2:
            raise ValueError(
                f"token_ids has shape {tuple(token_ids.shape)}; pass (1, n_tokens), n_tokens >= 2."
            )
        runs = zip(CHANGES, _timelines(plain, caching, token_ids), strict=True)
        changes = [
            {
                "title": title,
                "effect": effect,
                "pieces": [{"where": place, "rows": _rows(place, n)} for place in places.split()],
                "before": before,
                "after": after,
            }
            for n, ((title, effect, places), (before, after)) in enumerate(runs, start=1)
        ]
        super().__init__(data={"changes": changes}, **kwargs)

    def still(self):
        """The timeline before and after the last change."""
        last = self.data["changes"][-1]
        shapes, legend = [], "hatched: recomputed; outlined: reused; solid: new"
        for x, title in ((0, "before"), (260, "after")):
            shapes.append(text(x, 16, f"{title} the five changes", font_weight="bold"))
            for row, (marks, _) in enumerate(last[title]["rows"]):
                shapes.append(text(x, 50 + 30 * row, f"step {row + 1}"))
                for column, letter in enumerate(marks):
                    shapes.append(square(x + 60 + 30 * column, 34 + 30 * row, 24, letter))
        height = 60 + 30 * len(last["after"]["rows"])
        shapes.append(text(0, height, legend))
        return picture(f"The five changes. {legend}", 520, height + 10, *shapes)


def _rows(place, number):
    """Lines of the source side by side: [before or None, after or None, whether it changed].

    `next_tokens` of generate.py works without a cache, too: there a line is of the change if it
    has its mark. Elsewhere the two classes are compared. The marks themselves are left out.
    """
    if place == "next_tokens":
        after = inspect.getsource(next_tokens).splitlines()
        before = [line for line in after if f"# CACHE {number}" not in line]
    else:
        before, after = _source(baseline, place), _source(cached, place)
    before, after = (textwrap.dedent("\n".join(lines)).splitlines() for lines in (before, after))
    rows = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, i, i_end, j, j_end in matcher.get_opcodes():
        mark = rf"  # CACHE {number}$|CACHE {number}: "
        old, new = before[i:i_end], [re.sub(mark, "", line) for line in after[j:j_end]]
        height = max(len(old), len(new))
        old, new = old + [None] * (height - len(old)), new + [None] * (height - len(new))
        rows += [[a, b, kind != "equal"] for a, b in zip(old, new, strict=True)]
    return rows


def _source(module, place):
    """The lines of a method, or none where there is no such method."""
    try:
        return inspect.getsource(attrgetter(place)(module)).splitlines()
    except AttributeError:
        return []


@torch.no_grad()
def _timelines(plain, caching, token_ids):
    """For each change, a timeline before and after it, observed in runs of the real classes."""
    labels = [token_label(token_id) for token_id in token_ids[0].tolist()]
    n, layer, old_layer = len(labels), caching.trf_blocks[0], plain.trf_blocks[0].att
    positions = torch.arange(n, device=token_ids.device)
    # What the first attention layer is given: (1, n, emb_dim)
    x = layer.norm1(caching.tok_emb(token_ids) + caching.pos_emb(positions))
    so_far = [x[:, : i + 1] for i in range(n)]
    alone = x.split(1, dim=1)
    attention = layer.att
    attention.reset_cache()

    def rows(layer, inputs, first=0, **use_cache):
        return [_row(layer, given, i, **use_cache) for i, given in enumerate(inputs, start=first)]

    one = rows(old_layer, so_far), rows(attention, so_far)
    two = rows(attention, alone), rows(attention, alone, use_cache=True)
    stale = rows(attention, alone[:2], first=n, use_cache=True)
    attention.reset_cache()
    three = stale, rows(attention, alone[:2], first=n, use_cache=True)
    four = (
        _positions(caching, token_ids, counted=False),
        _positions(caching, token_ids, counted=True),
    )
    traces = trace(plain, token_ids[:, :1], n), trace(caching, token_ids[:, :1], n, use_cache=True)
    five = tuple(
        [
            [letters(step[0]), f"given {len(step[0].new + step[0].recomputed)}"]
            for step in each.steps
        ]
        for each in traces
    )
    caching.reset_kv_cache()
    written = [token_label(token_id) for token_id in traces[0].token_ids[:n]]
    tokens = [labels, labels, labels + labels[:2], labels, written]
    return [
        tuple({"tokens": names, "rows": each} for each in pair)
        for names, pair in zip(tokens, (one, two, three, four, five), strict=True)
    ]


def _row(attention, x, newest, **use_cache):
    """Run one attention layer: a letter for each token up to number `newest`, and what is kept.

    The last of x is new, the others were computed in earlier rows; a dot is a token that the layer
    has neither been given nor kept.
    """
    computed = []
    with attention.W_key.register_forward_hook(lambda _, i, o: computed.append(o.shape[1])):
        attention(x, **use_cache)
    kept = getattr(attention, "cache_k", None)
    n_kept = 0 if kept is None else kept.shape[2]
    n_reused = max(0, n_kept - computed[0])
    missing = newest + 1 - n_reused - computed[0]
    note = "no buffer" if not hasattr(attention, "cache_k") else f"buffer holds {n_kept}"
    marks = "." * missing + "r" * n_reused + "c" * (computed[0] - 1) + "n"
    return [marks, note]


def _positions(model, token_ids, counted):
    """Feed a cached model token by token, with its positions counted, or standing still."""
    model.reset_kv_cache()
    with watch(model) as calls:
        for token in token_ids.split(1, dim=1):
            if not counted:
                model.current_pos = 0
            model(token, use_cache=True)
    return [
        ["r" * (len(call.visible) - 1) + "n", f"position {call.positions[0]}"] for call in calls
    ]
