"""Attention by hand: every number of a tiny attention step, and what it was made from."""

import torch

from ..config import check_all, check_kinds, need
from .figure import Figure
from .still import table


class Attention(Figure):
    """One token's vector through query, key, value, scores, mask, softmax and weighted sum.

    words          list of n_tokens strings, at least 1
    x              (n_tokens, emb_dim), the vectors of the words
    W_q, W_k, W_v  (emb_dim, head_dim) each

    Every number is computed here, for the first 1, 2, ... n_tokens words, with and without a mask.

    Raises TypeError for words that are no texts and for what is no tensor, ValueError for no words,
    for shapes that disagree, and for numbers that are not finite.
    """

    def __init__(self, words, x, W_q, W_k, W_v, **kwargs):
        words = check_all("words", words, str)
        _check(words, {"x": x, "W_q": W_q, "W_k": W_k, "W_v": W_v})
        x, *matrices = (matrix.detach().cpu().double() for matrix in (x, W_q, W_k, W_v))
        lengths = range(1, len(words) + 1)
        runs = [[_tables(x[:n], *matrices, causal) for n in lengths] for causal in (False, True)]
        super().__init__(data={"words": words, "runs": runs}, **kwargs)

    def still(self):
        """Weights and context of the whole text, with the mask."""
        words, tables = self.data["words"], self.data["runs"][1][-1]
        rows = [("weights of", *(f"on {word}" for word in words), "context")]
        for word, weights, context in zip(words, tables["weights"], tables["context"], strict=True):
            in_words = ", ".join(f"{n:.2f}" for n in context)
            rows.append((word, *(f"{n:.2f}" for n in weights), in_words))
        return table(f"Attention at step {len(words)}, with a causal mask", rows)


def _check(words, matrices):
    check_kinds(**{name: (matrix, torch.Tensor) for name, matrix in matrices.items()})
    emb_dim, head_dim = (matrices[name].shape[-1:].numel() for name in ("x", "W_q"))
    remedy = "give x (n_words, emb_dim) and each matrix (emb_dim, head_dim), with no 0"
    for name, matrix in matrices.items():
        shape = tuple(matrix.shape)
        wanted = (len(words), emb_dim) if name == "x" else (emb_dim, head_dim)
        need(shape == wanted and 0 not in shape, f"{name} has shape {shape}, not {wanted}", remedy)
        problem = f"{name} has a number that is infinite or NaN"
        need(matrix.isfinite().all(), problem, "give finite ones")


def _tables(x, W_q, W_k, W_v, causal):
    """{name: rows of numbers}, with None for minus infinity."""
    tables = {"x": x, "W_q": W_q, "W_k": W_k, "W_v": W_v}
    tables |= {"queries": x @ W_q, "keys": x @ W_k, "values": x @ W_v}
    scores = tables["queries"] @ tables["keys"].T / W_q.shape[1] ** 0.5
    may_look = torch.ones_like(scores, dtype=torch.bool)
    masked = scores.masked_fill(~(may_look.tril() if causal else may_look), -torch.inf)
    weights = torch.softmax(masked, dim=-1)
    tables |= {"scores": scores, "masked scores": masked, "weights": weights}
    tables["context"] = weights @ tables["values"]
    return {
        name: [[None if n == -torch.inf else round(n, 6) for n in row] for row in rows.tolist()]
        for name, rows in tables.items()
    }
