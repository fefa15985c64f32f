"""Break it: what a cache bug does to the timeline, the mask, the positions and the text."""

import torch

from ..config import check_all, check_kinds, need
from ..generate import eval_mode, generate, inside
from ..tokenizer import token_label, token_texts
from ..trace import Call
from .figure import Figure
from .still import table


class BreakIt(Figure):
    """Recorded runs of broken caches, each beside what would have been right.

    reference  the model without a cache, for the right text and the right logits
    runs       {name of the bug: (calls, start)}: what `trace.watch` recorded, and the number (from
               0) of the call that is the prefill of the text to show; earlier ones are other texts

    Raises TypeError for other things, ValueError for no runs, or for a run without calls to show,
    and what `stream` raises.
    """

    def __init__(self, reference, runs, **kwargs):
        check_kinds(runs=(runs, dict))
        runs = [(bug, check_all(bug, calls, Call, 0), at) for bug, (calls, at) in runs.items()]
        need(runs, "no runs were given", "BreakIt needs at least 1")
        for name, calls, start in runs:
            problem = f"{name}: start is {start}, with {len(calls)} calls recorded"
            need(start in range(len(calls)), problem, "give the number of one of them")
        with torch.no_grad(), eval_mode(inside(reference)):
            super().__init__(data={"runs": [_run(reference, *run) for run in runs]}, **kwargs)

    def still(self):
        """Each bug, with the text that comes out of it."""
        rows = [("bug", "logits off by", "text")]
        for run in self.data["runs"]:
            rows.append((run["name"], f"{run['steps'][-1]['error']:.2g}", "".join(run["texts"])))
        return table("Cache bugs, and the text of each", rows)


def _run(reference, name, calls, start):
    """The steps of one run: every key that attention found, in its order in the cache.

    A key has the token's label, the position that the model took it for (`at`), its true place in
    this text (None if it is of an earlier one), its mark, and whether the newest token sees it.
    """
    device = reference.tok_emb.weight.device
    prompt = calls[start].token_ids
    text_ids, keys, seen, steps = list(prompt), [], set(), []
    for number, call in enumerate(calls):
        n_fed, n_old = len(call.token_ids), len(call.visible) - len(call.token_ids)
        problem = f"{name}: {n_old} keys were cached before call {number}"
        need(n_old <= len(keys), problem, "watch all calls")
        # The tokens that are fed are the last ones of the text, or of an earlier text.
        places = range(len(text_ids) - n_fed, len(text_ids)) if number >= start else [None] * n_fed
        keys = [{**key, "mark": "r"} for key in keys[len(keys) - n_old :]]
        for token_id, at, place in zip(call.token_ids, call.positions, places, strict=True):
            mark = "c" if place in seen else "n"
            keys.append({"label": token_label(token_id), "at": at, "place": place, "mark": mark})
        if number < start:
            continue
        seen.update(places)
        right = reference(torch.tensor([text_ids], device=device), last_only=True)[0, -1]
        found = [{**key, "visible": it} for key, it in zip(keys, call.visible, strict=True)]
        steps.append({"keys": found, "error": (call.logits - right).abs().max().item()})
        text_ids.append(call.logits.argmax().item())
    right_ids = generate(reference, torch.tensor([prompt], device=device), len(steps))[0].tolist()
    texts, right = token_texts(text_ids), token_texts(right_ids)
    return {"name": name, "n_prompt": len(prompt), "texts": texts, "right": right, "steps": steps}
