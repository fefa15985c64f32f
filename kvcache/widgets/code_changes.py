"""The five changes: the real source before and after, and what each does to the timeline."""

import difflib
import inspect
import textwrap

import torch

from .. import baseline, cached
from ..config import need
from ..generate import next_tokens
from ..tokenizer import token_label
from ..trace import trace, watch
from .figure import Figure
from .kv_timeline import letters
from .still import timelines

PLACES = (  # of each change; left out is GPTModel.check_cache, which refuses what cannot be taken
    "MultiHeadAttention.__init__",
    "MultiHeadAttention.forward",
    "MultiHeadAttention.reset_cache",
    "TransformerBlock.forward GPTModel.__init__ GPTModel.forward GPTModel.reset_kv_cache",
    "next_tokens",
)


class CodeChanges(Figure):
    """A walk through the changes between `baseline.py` and `cached.py`, and in `generate.py`.

    plain, caching  the trained model without and with a cache
    token_ids       (1, n_tokens): a text of at least 2 tokens to run the steps on
    """

    def __init__(self, plain, caching, token_ids, **kwargs):
        if hasattr(plain, "reset_kv_cache") or not hasattr(caching, "reset_kv_cache"):
            raise TypeError("pass a baseline.GPTModel first, then a cached.GPTModel.")
        # The last experiment writes as many tokens as there are, after the first of them.
        caching.cfg.check_token_ids(token_ids, caching.tok_emb.weight.device, n_past=1)
        n_rows, n_tokens = shape = tuple(token_ids.shape)
        right = n_rows == 1 and n_tokens >= 2
        need(right, f"token_ids has shape {shape}", "pass (1, n_tokens), n_tokens >= 2")
        changes, experiments = [], _experiments(plain, caching, token_ids)
        for places, experiment in zip(PLACES, experiments, strict=True):
            tokens, before, after = experiment
            pieces = [_piece(place) for place in places.split()]
            changes.append({"pieces": pieces, "tokens": tokens, "before": before, "after": after})
        super().__init__(data={"changes": changes}, **kwargs)

    def still(self):
        """The timeline before and after the last change."""
        last = self.data["changes"][-1]
        rows = {side: [marks for marks, _ in last[side]] for side in ("before", "after")}
        panels = [(f"{side} the five changes", last["tokens"], rows[side]) for side in rows]
        return timelines("The five changes", panels)


def _piece(place):
    """The lines of the source before and after, and which of them belong together.

    `next_tokens` of generate.py works without a cache, too: there a line is of the change if it
    has its mark. Elsewhere the two classes are compared.
    """
    if place == "next_tokens":
        after = inspect.getsource(next_tokens).splitlines()
        before = [line for line in after if "# CACHE 5" not in line]
    else:
        before, after = (_source(module, place) for module in (baseline, cached))
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return {"where": place, "before": before, "after": after, "blocks": blocks}


def _source(module, place):
    """The lines of a method, or none where there is no such method."""
    owner, name = place.split(".")
    method = getattr(getattr(module, owner), name, None)
    return textwrap.dedent(inspect.getsource(method)).splitlines() if method else []


@torch.no_grad()
def _experiments(plain, caching, token_ids):
    """For each change: the tokens, and rows [marks, note] before and after it, as observed."""
    labels = [token_label(token_id) for token_id in token_ids[0].tolist()]
    n, block, old_attention = len(labels), caching.trf_blocks[0], plain.trf_blocks[0].att
    # What the first attention layer is given: (1, n, emb_dim)
    x = block.norm1(caching.tok_emb(token_ids) + caching.pos_emb.weight[:n])
    so_far = [x[:, : i + 1] for i in range(n)]
    alone = x.split(1, dim=1)
    attention = block.att
    attention.reset_cache()
    yield labels, _layer_rows(old_attention, so_far), _layer_rows(attention, so_far)

    yield labels, _layer_rows(attention, alone), _layer_rows(attention, alone, use_cache=True)

    stale = _layer_rows(attention, alone[:2], first=n, use_cache=True)
    attention.reset_cache()
    own = _layer_rows(attention, alone[:2], first=n, use_cache=True)
    yield labels + labels[:2], stale, own

    yield labels, *(_positions(caching, token_ids, counted) for counted in (False, True))

    traces = trace(plain, token_ids[:, :1], n), trace(caching, token_ids[:, :1], n, use_cache=True)
    caching.reset_kv_cache()
    written = [token_label(token_id) for token_id in traces[0].token_ids[:n]]
    yield written, *([_given(step[0]) for step in each.steps] for each in traces)


def _given(at):
    return [letters(at), f"given {len(at.new + at.recomputed)}"]


def _layer_rows(attention, inputs, first=0, **use_cache):
    """Run one attention layer on each input: letters for the tokens, and what is kept.

    Row i has letters up to token first + i. That one is new, others in the input were computed in
    earlier rows; a dot is a token that the layer has neither been given nor kept.
    """
    rows, computed = [], []
    with attention.W_key.register_forward_hook(lambda _, i, o: computed.append(o.shape[1])):
        for newest, x in enumerate(inputs, start=first):
            attention(x, **use_cache)
            kept = getattr(attention, "cache_k", None)
            n_kept = 0 if kept is None else kept.shape[2]
            note = f"buffer holds {n_kept}" if hasattr(attention, "cache_k") else "no buffer"
            marks = "r" * (n_kept - computed[-1]) + "c" * (computed[-1] - 1) + "n"
            rows.append([marks.rjust(newest + 1, "."), note])
    return rows


def _positions(model, token_ids, counted):
    """Feed a cached model token by token, with its positions counted, or standing still."""
    model.reset_kv_cache()
    with watch(model) as calls:
        for token in token_ids.split(1, dim=1):
            if not counted:
                model.current_pos = 0
            model(token, use_cache=True)
    return [["r" * (len(at.visible) - 1) + "n", f"position {at.positions[0]}"] for at in calls]
