"""What a generation really computed, observed in the running model by hooks."""

from dataclasses import dataclass

import torch

from .generate import stream


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
        names = ("new", "recomputed", "reused")
        chosen = [step if layer is None else [step[layer]] for step in self.steps]
        return [
            {name: sum(len(getattr(at, name)) for at in step) for name in names} for step in chosen
        ]


def trace(model, token_ids, max_new_tokens, use_cache=False, vectors=False):
    """Generate greedily and record, for each step and layer, which keys and values were computed.

    token_ids  (1, n_tokens): the prompt
    vectors    also keep the keys and values themselves

    Raises TypeError for a model that is not one of the book's, and what `stream` raises.
    """
    layers = _attention_layers(model)
    tokens = stream(model, token_ids, max_new_tokens, use_cache)
    if token_ids.shape[0] != 1:
        raise ValueError(
            f"the batch size is {token_ids.shape[0]}; trace one sequence: token_ids[:1]."
        )
    projected = {}  # what W_key and W_value computed in the latest forward pass
    handles = [
        projection.register_forward_hook(
            lambda _module, _args, output, place=place: projected.update({place: output})
        )
        for number, attention in enumerate(layers)
        for place, projection in (
            ((number, "k"), attention.W_key),
            ((number, "v"), attention.W_value),
        )
    ]
    seen = [set() for _ in layers]
    steps, all_ids = [], token_ids[0].tolist()
    try:
        for next_token in tokens:
            steps.append(
                [
                    _observe(attention, projected, number, seen[number], use_cache, vectors)
                    for number, attention in enumerate(layers)
                ]
            )
            all_ids.append(next_token.item())
    finally:
        for handle in handles:
            handle.remove()
    return Trace(all_ids, token_ids.shape[1], use_cache, steps)


def _attention_layers(model):
    try:
        layers = [block.att for block in model.trf_blocks]
        for attention in layers:
            attention.W_key, attention.W_value  # noqa: B018  (AttributeError if it has none)
    except (AttributeError, TypeError):
        raise TypeError(
            f"trace cannot look into a {type(model).__name__}: it needs a model with "
            "trf_blocks[i].att.W_key and .W_value, such as baseline.GPTModel or cached.GPTModel."
        ) from None
    return layers


def _observe(attention, projected, number, seen, use_cache, vectors):
    keys, values = (projected[number, "k"], projected[number, "v"])  # (1, n_computed, emb_dim)
    n_computed = keys.shape[1]
    if use_cache:
        keys, values = (attention.cache_k, attention.cache_v)  # (1, n_heads, n_positions, head_dim)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    else:
        keys, values = (x.unflatten(-1, (attention.n_heads, -1)) for x in (keys, values))
    n_reused = keys.shape[1] - n_computed
    computed = range(n_reused, keys.shape[1])
    observed = LayerStep(
        new=[position for position in computed if position not in seen],
        recomputed=[position for position in computed if position in seen],
        reused=list(range(n_reused)),
        keys=keys[0].clone() if vectors else None,
        values=values[0].clone() if vectors else None,
    )
    seen.update(computed)
    return observed
