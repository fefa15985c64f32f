"""Generation step by step: what the model reads, how likely each next token is, what it takes."""

import torch

from ..config import check_size
from ..generate import stream
from ..tokenizer import token_label, token_texts
from .figure import Figure, module_text
from .still import timelines


class Generation(Figure):
    """A greedy generation, with the probabilities of the most likely next tokens at each step.

    model           baseline.GPTModel or cached.GPTModel
    token_ids       (1, n_tokens): the prompt
    max_new_tokens  at least 1
    use_cache       as in `generate`
    n_best          how many candidates to show for each step

    Raises ValueError for a batch, for no new token and for no candidate, and what `stream` raises.
    """

    _esm = module_text("generation.js")

    def __init__(self, model, token_ids, max_new_tokens, use_cache=False, n_best=5, **kwargs):
        tokens = stream(model, token_ids, max_new_tokens, use_cache)
        if token_ids.shape[0] != 1:
            raise ValueError(f"the batch size is {token_ids.shape[0]}; show one: token_ids[:1].")
        if max_new_tokens == 0:
            raise ValueError("max_new_tokens is 0; generate at least 1 token.")
        check_size("n_best", n_best)
        n_best = min(n_best, model.cfg.vocab_size)
        all_ids, n_read, steps, seen = token_ids[0].tolist(), 0, [], {}
        with (  # what the model is given, and the logits that come out, in the real run
            model.tok_emb.register_forward_hook(lambda _, i, o: seen.update(given=i[0].shape[1])),
            model.out_head.register_forward_hook(lambda _, i, o: seen.update(logits=o[0, -1])),
        ):
            for next_token in tokens:
                kept = min(n_read, len(all_ids) - seen["given"])
                probabilities = torch.softmax(seen["logits"].float(), dim=-1)  # (vocab_size,)
                best, chosen = probabilities.topk(n_best).indices.tolist(), next_token.item()
                if chosen not in best:  # it ties with others, and came behind them
                    best[-1] = chosen
                read = {"kept": kept, "again": n_read - kept, "first": len(all_ids) - n_read}
                found = {
                    "best": [token_label(token_id) for token_id in best],
                    "probabilities": probabilities[best].tolist(),
                    "chosen": best.index(chosen),
                }
                steps.append(read | found)
                n_read = len(all_ids)
                all_ids.append(chosen)
        labels, texts = [token_label(token_id) for token_id in all_ids], token_texts(all_ids)
        data = {"tokens": labels, "texts": texts, "n_vocab": model.cfg.vocab_size, "steps": steps}
        super().__init__(data=data, **kwargs)

    def still(self):
        """What the first 3 steps read, and how likely the last of them finds each next token."""
        steps = self.data["steps"][:3]
        marks = ["r" * step["kept"] + "c" * step["again"] + "n" * step["first"] for step in steps]
        rows, last = [(f"Step {len(steps)} gives", "█ is 5%", "probability")], steps[-1]
        for i, (label, likely) in enumerate(zip(last["best"], last["probabilities"], strict=True)):
            chosen = "✓ chosen" if i == last["chosen"] else ""
            rows.append((label[:12], "█" * round(20 * likely), f"{likely:.1%} {chosen}"))
        panels = [("What each step reads", self.data["tokens"], marks)]
        return timelines("Generation", panels, rows, columns=(0, 110, 350))
