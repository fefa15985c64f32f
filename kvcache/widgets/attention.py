"""Attention by hand: every number of a tiny attention step, and what it was made from."""

import math

import torch

from .figure import Figure, module_text
from .still import LINE, picture, table, text

STAGES = [  # a name, what it does, the table it makes, what a number of it is called, made from
    ("vector", "what the model knows of it", "x", "x {c} of {word}"),
    ("query", "what it looks for", "queries", "query {c} of {word}", "x", "W_q"),
    ("key", "what it is found by", "keys", "key {c} of {word}", "x", "W_k"),
    ("value", "what it hands over", "values", "value {c} of {word}", "x", "W_v"),
    ("scores", "its query with each key", "scores", "score of {word} on {key}", "queries", "keys"),
    ("mask", "what it may see", "masked scores", "masked score of {word} on {key}", "scores"),
    ("softmax", "weights that sum to 1", "weights", "weight of {word} on {key}", "masked scores"),
    ("weighted sum", "its context", "context", "context {c} of {word}", "weights", "values"),
]
TABLES = {made: kind for _, _, made, *kind in STAGES}  # what its numbers are called, made from
TABLES |= {name: [name + " row {r}, column {c}"] for name in ("W_q", "W_k", "W_v")}
KEPT = ("keys", "values", "context")


class Attention(Figure):
    """One token's vector through query, key, value, scores, mask, softmax and weighted sum.

    words          list of n_tokens strings, at least 1
    x              (n_tokens, emb_dim), the vectors of the words
    W_q, W_k, W_v  (emb_dim, head_dim) each

    Everything is computed here, for the first 1, 2, ... n_tokens words, with and without a mask.

    Raises ValueError for no words, for shapes that disagree, and for numbers that are not finite.
    """

    _esm = module_text("attention.js")

    def __init__(self, words, x, W_q, W_k, W_v, **kwargs):  # noqa: N803
        words = list(words)
        _check(words, {"x": x, "W_q": W_q, "W_k": W_k, "W_v": W_v})
        x, *matrices = (matrix.detach().cpu().double() for matrix in (x, W_q, W_k, W_v))
        runs = [_runs(words, x, matrices, causal) for causal in (False, True)]
        stages = [[name, does, [*sources, made]] for name, does, made, _, *sources in STAGES]
        super().__init__(data={"words": words, "stages": stages, "runs": runs}, **kwargs)

    def still(self):
        """Keys, values, weights and context of the whole text, with the mask, as SVG."""
        words, run, shapes = self.data["words"], self.data["runs"][1][-1], []
        height = LINE * (len(words) + 1.5)
        for i, name in enumerate(("keys", "values", "weights", "context")):
            rows = [(name,)]
            for word, row in zip(words, run["tables"][name], strict=True):
                numbers = (f"{number:.2f} {mark}".replace("-", "−") for number, mark, *_ in row)
                rows.append((word[:8], *numbers))
            x, y = i % 2 * 320, i // 2 * height
            shapes.append(table(rows, (0, *range(120, 320, 60)), x, y, text_anchor="end"))
        shapes.append(text(0, 2 * height + 12, f"{run['said']} (= same, + new)"))
        return picture(f"Attention. {run['said']}", 640, 2 * height + 20, *shapes)


def _check(words, matrices):
    if not words:
        raise ValueError("there are 0 words; give at least 1.")
    emb_dim, head_dim = (matrices[name].shape[-1:].numel() for name in ("x", "W_q"))
    for name, matrix in matrices.items():
        shape = tuple(matrix.shape)
        wanted = (len(words), emb_dim) if name == "x" else (emb_dim, head_dim)
        if shape != wanted or 0 in shape:
            remedy = "give x (n_words, emb_dim) and each matrix (emb_dim, head_dim)"
            raise ValueError(f"{name} has shape {shape}, not {wanted}; {remedy}, with no 0.")
        if not matrix.isfinite().all():
            raise ValueError(f"{name} has a number that is infinite or NaN; give finite ones.")


def _runs(words, x, matrices, causal):
    """For each length of the text, its tables as JSON and what a cache could keep, in words."""
    runs, before = [], _tables(x[:0], *matrices, causal)
    for n in range(1, len(words) + 1):
        now = _tables(x[:n], *matrices, causal)
        tables = {name: _rows(words, now, before, name, *kind) for name, kind in TABLES.items()}
        said = _said(words[: n - 1], tables)
        said = f"Step {n}, causal mask {'on' if causal else 'off'}: {said}."
        runs.append({"tables": tables, "said": said})
        before = now
    return runs


def _tables(x, W_q, W_k, W_v, causal):  # noqa: N803
    queries, keys, values = x @ W_q, x @ W_k, x @ W_v
    scores = queries @ keys.T / keys.shape[1] ** 0.5
    may_look = torch.ones_like(scores).tril().bool()
    masked = scores.masked_fill(~may_look, -torch.inf) if causal else scores
    weights = torch.softmax(masked, dim=-1)
    made = (x, queries, keys, values, scores, masked, weights, weights @ values, W_q, W_k, W_v)
    return dict(zip(TABLES, made, strict=True))


def _rows(words, now, before, made, called, *sources):
    """Rows of [number or null for minus infinity, mark, what it is called, how it was made]."""
    rows = now[made].tolist()
    for r, row in enumerate(rows):
        for c, number in enumerate(row):
            word, key = ("".join(words[i : i + 1]) for i in (r, c))
            name = called.format(word=word, key=key, r=r + 1, c=c + 1)
            mark = " " if made[0] == "W" else _mark(number, before[made][r : r + 1, c : c + 1])
            shown = None if number == -torch.inf else round(number, 6)
            row[c] = [shown, mark, name, _how(now, r, c, made, *sources)]
    return rows


def _mark(number, old):
    """What became of a number since the last step; there is no old one if it is new."""
    if not old.numel():
        return "+"
    return "=" if math.isclose(number, old.item(), rel_tol=0, abs_tol=1e-6) else "≠"


def _how(now, r, c, made, left=None, right=None):
    """How a number was made, in words; {keys,0,2} stands for another number."""
    if not left:
        return "is given:"
    row = [f"{{{left},{r},{i}}}" for i in range(now[left].shape[1])]
    if made == "masked scores":
        return f"is {row[c]}, {'hidden' if now[made][r, c].isinf() else 'not hidden'} by the mask:"
    if made == "weights":
        return f"= exp({row[c]}) / ({' + '.join(f'exp({score})' for score in row)}) ≈"
    place = "{{keys,{c},{i}}}" if made == "scores" else "{{{right},{i},{c}}}"
    others = (place.format(right=right, i=i, c=c) for i in range(len(row)))
    terms = " + ".join(f"{a} · {b}" for a, b in zip(row, others, strict=True))
    if made == "scores":
        return f"= ({terms}) / √{len(row)} ≈"
    tables = (now[name] for name in (made, left, right))
    exact = all((table - table.round(decimals=2)).abs().max() < 1e-6 for table in tables)
    return f"= {terms} {'=' if exact else '≈'}"


def _said(old, tables):
    if not old:
        return "every number is new"
    changed = [name for name in KEPT if any("≠" in cell[1] for row in tables[name] for cell in row)]
    same = [name for name in KEPT if name not in changed]
    said = f"{_list(same)} of {_list(old)} are the same as at step {len(old)}"
    return said + (f"; their {_list(changed)} changed" if changed else "")


def _list(words):
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
