"""Generation step by step: what the model reads, how likely each next token is, what it takes."""

import torch

from ..config import check_size
from ..generate import stream
from ..tokenizer import token_label, token_texts
from ..trace import watch
from .figure import Figure
from .still import table


class Generation(Figure):
    """A greedy generation, with the probabilities of the most likely next tokens at each step.

    model           baseline.GPTModel or cached.GPTModel
    token_ids       (1, n_tokens): the prompt
    max_new_tokens  at least 1
    use_cache       as in `generate`
    n_best          how many candidates to show for each step

    Raises ValueError for a batch, for no new token and for no candidate, and what `stream` raises.
    """

    def __init__(self, model, token_ids, max_new_tokens, use_cache=False, n_best=5, **kwargs):
        tokens = stream(model, token_ids, max_new_tokens, use_cache)
        check_size("max_new_tokens", max_new_tokens)
        n_best = min(check_size("n_best", n_best), model.cfg.vocab_size)
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
            found = {"probabilities": probabilities[best].tolist(), "chosen": best.index(chosen)}
            steps.append(read | found | {"best": [token_label(each) for each in best]})
            n_read = len(all_ids)
            all_ids.append(chosen)
        data = {"tokens": [token_label(each) for each in all_ids], "texts": token_texts(all_ids)}
        data |= {"n_vocab": model.cfg.vocab_size, "steps": steps}
        super().__init__(data=data, **kwargs)

    def still(self):
        """For each step, how many tokens it reads and writes, and how likely that token was."""
        rows = [("step", "first read", "read again", "kept", "writes", "probability")]
        for number, step in enumerate(self.data["steps"], start=1):
            reads = (step[name] for name in ("first", "again", "kept"))
            writes, likely = (step[name][step["chosen"]] for name in ("best", "probabilities"))
            rows.append((number, *reads, writes, f"{100 * likely:.1f}%"))
        return table("Generation: what each step reads", rows)
