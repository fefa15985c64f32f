"""What a generation really computed, observed in the running model by hooks."""

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

import torch

from .generate import stream

KINDS = ("new", "recomputed", "reused")


@dataclass(frozen=True)
class LayerStep:
    """One layer in one step. Positions count from 0; each stands for one key and one value.

    new         computed for the first time
    recomputed  computed in an earlier step, and again in this one
    reused      read from the cache
    keys        (n_positions, n_heads, head_dim), what attention used; None unless asked for
    values      likewise
    """

    new: list[int]
    recomputed: list[int]
    reused: list[int]
    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None


@dataclass(frozen=True)
class Trace:
    """A whole generation: `steps[s][layer]` is the LayerStep of step s (from 0) in that layer."""

    token_ids: list[int]  # the prompt and every generated token
    n_prompt: int
    use_cache: bool
    steps: list[list[LayerStep]]

    def counts(self, layer=None):
        """For each step, how many key/value pairs were new, recomputed and reused.

        layer  one layer only; None adds up all layers
        """
        chosen = [step if layer is None else [step[layer]] for step in self.steps]
        return [
            {kind: sum(len(getattr(at, kind)) for at in step) for kind in KINDS} for step in chosen
        ]


def trace(model, token_ids, max_new_tokens, use_cache=False, vectors=False):
    """Generate greedily and record, for each step and layer, which keys and values were computed.

    token_ids  (1, n_tokens): the prompt
    vectors    also keep the keys and values themselves

    Raises TypeError for a model that is not one of the book's, and what `stream` raises.
    """
    try:
        layers = [block.att for block in model.trf_blocks]
        projections = [linear for layer in layers for linear in (layer.W_key, layer.W_value)]
    except (AttributeError, TypeError):
        raise TypeError(
            f"trace cannot look into a {type(model).__name__}: it needs a model with "
            "trf_blocks[i].att.W_key and .W_value, such as baseline.GPTModel or cached.GPTModel."
        ) from None
    tokens = stream(model, token_ids, max_new_tokens, use_cache)
    if token_ids.shape[0] != 1:
        raise ValueError(f"the batch size is {token_ids.shape[0]}; trace one: token_ids[:1].")

    outputs = defaultdict(list)  # what each projection computed since the last step
    all_ids, steps, seen = token_ids[0].tolist(), [], [set() for _ in layers]
    with ExitStack() as hooks:
        for linear in projections:
            note = linear.register_forward_hook(lambda linear, _, o: outputs[linear].append(o))
            hooks.enter_context(note)
        for next_token in tokens:
            all_ids.append(next_token.item())
            pairs = zip(layers, seen, strict=True)
            steps.append([_observe(*pair, outputs, use_cache, vectors) for pair in pairs])
            outputs.clear()
    return Trace(all_ids, token_ids.shape[1], use_cache, steps)


def _observe(attention, seen, outputs, use_cache, vectors):
    computed = [outputs[linear] for linear in (attention.W_key, attention.W_value)]
    if any(len(calls) != 1 for calls in computed) or (use_cache and attention.cache_k is None):
        found = f"one step computed keys and values {max(map(len, computed))} times"
        remedy = "call W_key and W_value once, uncompiled, and store what it is to reuse"
        raise RuntimeError(f"{found}; to trace it, each layer must {remedy}.")
    keys, values = (calls[0].unflatten(-1, (attention.n_heads, -1)) for calls in computed)
    n_computed = keys.shape[1]  # keys, values: (1, n_computed, n_heads, head_dim)
    if use_cache:
        keys, values = attention.cache_k.transpose(1, 2), attention.cache_v.transpose(1, 2)
    n_reused = keys.shape[1] - n_computed
    positions = range(n_reused, keys.shape[1])
    new = [position for position in positions if position not in seen]
    recomputed = [position for position in positions if position in seen]
    seen.update(positions)
    kept = (keys[0].clone(), values[0].clone()) if vectors else ()
    return LayerStep(new, recomputed, list(range(n_reused)), *kept)


@dataclass(frozen=True)
class Call:
    """One call of a model, right or wrong, as it was observed in its first layer.

    token_ids  what the model was given
    positions  the position that it took each of them for
    visible    for each key, cached ones first: whether the last of these tokens may look at it
    logits     (vocab_size,), those of the last position
    """

    token_ids: list[int]
    positions: list[int]
    visible: list[bool]
    logits: torch.Tensor


@contextmanager
def watch(model):
    """Record the calls of a model with a batch of one, also of a broken one.

    with watch(model) as calls: ... afterwards `calls` is a list of Call.

    Raises ValueError, at the call, for a larger batch.
    """
    calls, seen = [], {}

    def note_input(embedding, inputs, output):
        if len(inputs[0]) != 1:
            raise ValueError(f"the batch size is {len(inputs[0])}; watch one: token_ids[:1].")
        seen["token_ids"] = inputs[0][0]

    def note_call(model, inputs, logits):
        scores = softmax.call_args_list[-len(model.trf_blocks)].args[0]  # in the first layer
        softmax.reset_mock()
        visible = scores[0, 0, -1].isfinite().tolist()
        token_ids, positions = seen["token_ids"].tolist(), seen["positions"].tolist()
        calls.append(Call(token_ids, positions, visible, logits[0, -1]))

    with (
        mock.patch.object(torch, "softmax", wraps=torch.softmax) as softmax,
        model.tok_emb.register_forward_hook(note_input),
        model.pos_emb.register_forward_hook(lambda _, i, o: seen.update(positions=i[0])),
        model.register_forward_hook(note_call),
    ):
        yield calls
