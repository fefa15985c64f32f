"""The ring: which slot of a sliding-window cache each new token overwrites."""

import torch

from ..caches import SlidingWindowCache
from ..config import check_one_text, need
from ..generate import inside, stream
from ..tokenizer import token_label
from .figure import Figure
from .still import table

MOST = 16  # slots that fit on a circle


class Ring(Figure):
    """A text fed to a model token by token, and what then lies in each slot of its ring.

    model      a model that is handed its cache, such as optimized.GPTModel
    token_ids  (1, n_tokens)
    window     slots of the SlidingWindowCache, at most 16

    The slots are seen in layer 1 of the real cache: a token lies where the keys have changed.

    Raises ValueError for a batch or another window, and what `stream` raises.
    """

    def __init__(self, model, token_ids, window, **kwargs):
        weight = inside(model).tok_emb.weight
        cache = SlidingWindowCache(model.cfg, window, dtype=weight.dtype, device=weight.device)
        need(cache.window <= MOST, f"window is {window}", f"show at most {MOST} slots")
        stream(model, token_ids, 0, cache=cache)  # the door: it checks what was handed in
        check_one_text(token_ids)
        slots, steps = [None] * cache.window, []
        for token, token_id in enumerate(token_ids.split(1, dim=1)):
            before = cache.keys[0].clone()  # (1, n_kv_heads, window, head_dim)
            with torch.no_grad():
                model(token_id, cache)
            (slot,) = (cache.keys[0] != before).any(dim=3).any(dim=1)[0].nonzero()[:, 0].tolist()
            gone, slots[slot] = slots[slot], token
            steps.append({"slots": slots[:], "written": slot, "gone": gone})
        labels = [token_label(token_id) for token_id in token_ids[0].tolist()]
        super().__init__(data={"tokens": labels, "steps": steps}, **kwargs)

    def still(self):
        """What lies in each slot after each token."""
        tokens, steps = self.data["tokens"], self.data["steps"]
        rows = [("after token", *(f"slot {i}" for i in range(len(steps[0]["slots"]))))]
        for number, step in enumerate(steps):
            held = ("" if i is None else f"{i} {tokens[i]}" for i in step["slots"])
            rows.append((f"{number} {tokens[number]}", *held))
        return table("The ring, after each token", rows)
