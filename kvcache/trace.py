"""What a model really computed, observed by hooks: `watch` its calls, or `trace` a generation."""

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature

import torch

from .config import check_one_text, need, need_type
from .fast import scaled
from .generate import inside, stream

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


def trace(model, token_ids, max_new_tokens, use_cache=False, vectors=False, cache=None):
    """Generate greedily and record, for each step and layer, which keys and values were computed.

    token_ids  (1, n_tokens): the prompt
    vectors    also keep the keys and values themselves
    cache      an empty one, for a model that is handed its cache

    Raises TypeError for a model that is not one of the book's, and what `stream` raises.
    """
    tokens = stream(model, token_ids, max_new_tokens, use_cache, cache)
    check_one_text(token_ids)
    need(not getattr(cache, "n_tokens", 0), "the cache is not empty", "hand in an empty one")
    with watch(model, vectors) as calls:
        all_ids = token_ids[0].tolist() + [token.item() for token in tokens]
    steps, seen = [], defaultdict(set)  # seen: what a layer computed in earlier steps
    for call in calls:
        steps.append([])
        for layer, (reused, computed, *kept) in enumerate(call.layers):
            new = [position for position in computed if position not in seen[layer]]
            again = [position for position in computed if position in seen[layer]]
            seen[layer].update(computed)
            steps[-1].append(LayerStep(new, again, reused, *kept))
    return Trace(all_ids, token_ids.shape[1], use_cache or cache is not None, steps)


@dataclass(frozen=True)
class Call:
    """One call of a model, right or wrong, as it was observed.

    token_ids  what the model was given
    positions  the position that it took each of them for; if it has no table of positions, the
               place of each in the text
    visible    for each key of the first layer, cached ones first: whether the last of these tokens
               may look at it
    logits     (vocab_size,), those of the last position
    layers     of each layer: the places of the keys that came from a cache, those of the keys that
               were computed, and all keys and values (n_keys, n_heads, head_dim) if asked for
    """

    token_ids: list[int]
    positions: list[int]
    visible: list[bool]
    logits: torch.Tensor
    layers: list[tuple]


@contextmanager
def watch(model, vectors=False):
    """Record the calls of a model with a batch of one, also of a broken one.

    with watch(model) as calls: ... afterwards `calls` is a list of Call.

    A layer computes the keys of the tokens that the model is given, and asks as many queries. What
    else its `attend` finds comes from a cache.

    Raises TypeError for a model without such a module. At the call: ValueError for a larger batch,
    RuntimeError for a cache that hands over other keys than it tells of.
    """
    calls, noted, places, parameters = [], {}, [], signature(inside(model).forward)
    attends = [part for name, part in model.named_modules() if name.split(".")[-1] == "attend"]
    need_type(inside(model) is model and attends, "what is watched", model, "pass one not compiled")

    def before(model, args, kwargs):
        given = parameters.bind(*args, **kwargs).arguments
        token_ids, cache = given["token_ids"], given.get("cache")
        check_one_text(token_ids)
        noted.update(token_ids=token_ids[0].tolist(), layers=[])
        places[:] = [] if cache is None else cache.key_slots(token_ids.shape[1]).tolist()

    def note_positions(table, inputs, output):
        noted["positions"] = inputs[0].flatten().tolist()

    def note_attention(attend, inputs, output):
        queries, keys, values, mask, *scales = inputs
        n_keys, n_new = keys.shape[2], queries.shape[2]
        found = places or list(range(n_keys))
        problem = f"a cache handed over {n_keys} keys, and tells of {len(found)}"
        need(n_keys == len(found), problem, "let its key_slots tell of all", RuntimeError)
        if not noted["layers"]:
            everything = [True] * n_keys
            noted["visible"] = everything if mask is None else mask.reshape(-1, n_keys)[-1].tolist()
        order = sorted(range(n_keys), key=found.__getitem__)  # that of the text
        numbers = scaled(keys, values, *scales)
        both = [x[0].transpose(0, 1)[order] if vectors else None for x in numbers]
        in_order = sorted(found)
        noted["layers"].append((in_order[:-n_new], in_order[-n_new:], *both))

    def after(model, inputs, logits):
        noted.setdefault("positions", noted["layers"][0][1])
        calls.append(Call(logits=logits[0, -1], **noted))

    with ExitStack() as hooks:
        hooks.enter_context(model.register_forward_pre_hook(before, with_kwargs=True))
        for attend in attends:
            hooks.enter_context(attend.register_forward_hook(note_attention))
        if hasattr(model, "pos_emb"):
            hooks.enter_context(model.pos_emb.register_forward_hook(note_positions))
        hooks.enter_context(model.register_forward_hook(after))
        yield calls
