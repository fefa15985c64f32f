"""Generation step by step: what the model reads, how likely each next token is, what it takes."""

import torch

from ..config import check_size
from ..generate import stream
from ..tokenizer import token_label, token_texts
from .figure import Figure, module_text
from .still import picture, square, text


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
        hooks = [  # what the model is given, and the logits that come out, in the real run
            model.tok_emb.register_forward_hook(lambda _, i, o: seen.update(given=i[0].shape[1])),
            model.out_head.register_forward_hook(lambda _, i, o: seen.update(logits=o[0, -1])),
        ]
        try:
            for next_token in tokens:
                kept = min(n_read, len(all_ids) - seen["given"])
                probabilities = torch.softmax(seen["logits"].float(), dim=-1)  # (vocab_size,)
                best, chosen = probabilities.topk(n_best).indices.tolist(), next_token.item()
                if chosen not in best:  # it ties with others, and came behind them
                    best[-1] = chosen
                steps.append(
                    {
                        "kept": kept,
                        "again": n_read - kept,
                        "first": len(all_ids) - n_read,
                        "best": [token_label(token_id) for token_id in best],
                        "probabilities": probabilities[best].tolist(),
                        "chosen": best.index(chosen),
                    }
                )
                n_read = len(all_ids)
                all_ids.append(chosen)
        finally:
            for hook in hooks:
                hook.remove()
        data = {
            "tokens": [token_label(token_id) for token_id in all_ids],
            "texts": token_texts(all_ids),
            "n_vocab": model.cfg.vocab_size,
            "steps": steps,
        }
        super().__init__(data=data, **kwargs)

    def still(self):
        """Step 3, or the last one before it."""
        number = min(3, len(self.data["steps"]))
        step = self.data["steps"][number - 1]
        marks = "r" * step["kept"] + "c" * step["again"] + "n" * step["first"]
        shapes = [text(0, 16, f"Step {number} reads", font_weight="bold")]
        for column, mark in enumerate(marks[:12]):
            shapes.append(square(column * 70, 26, 26, mark))
            shapes.append(text(column * 70, 70, self.data["tokens"][column][:9]))
        shapes.append(text(0, 104, "and gives these probabilities:", font_weight="bold"))
        for row, probability in enumerate(step["probabilities"]):
            y = 128 + 24 * row
            mark = "✓ chosen" if row == step["chosen"] else ""
            shapes.append(text(0, y, step["best"][row][:12]))
            shapes.append(
                f'<rect x="110" y="{y - 13}" width="{1 + 220 * probability:.0f}" height="16"/>'
            )
            shapes.append(text(350, y, f"{probability:.1%} {mark}"))
        label = "Generation. Solid: read for the first time; hatched: again; outlined: kept."
        return picture(
            label, max(480, 70 * min(12, len(marks))), 128 + 24 * len(step["best"]), *shapes
        )
