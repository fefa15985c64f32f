"""Generation step by step: what the model reads, how likely each next token is, what it takes."""

import torch

from ..config import check_size
from ..generate import stream
from ..tokenizer import token_label, token_texts
from ..trace import watch
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
        check_size("max_new_tokens", max_new_tokens)
        check_size("n_best", n_best)
        n_best = min(n_best, model.cfg.vocab_size)
        all_ids, n_read, steps = token_ids[0].tolist(), 0, []
        with watch(model) as calls:  # what the model is given, finds and gives, in the real run
            new_ids = [token.item() for token in tokens]
        for call, chosen in zip(calls, new_ids, strict=True):
            kept = len(call.visible) - len(call.token_ids)
            read = {"kept": kept, "again": n_read - kept, "first": len(all_ids) - n_read}
            probabilities = torch.softmax(call.logits.float(), dim=-1)  # (vocab_size,)
            best = probabilities.topk(n_best).indices.tolist()
            if chosen not in best:  # it ties with others, and came behind them
                best[-1] = chosen
            likely, shown = probabilities[best].tolist(), [token_label(each) for each in best]
            found = {"best": shown, "probabilities": likely, "chosen": best.index(chosen)}
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
