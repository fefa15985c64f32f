"""What all caches share.

In each pass the model asks the cache where the new tokens stand and whom they may look at, hands
it the keys and values of each layer, gets back all that attention is to see, and says when it is
done:

    positions, mask = cache.begin(token_ids)
    keys, values, *scales = cache.update(layer, keys, values)  # in every layer
    cache.end(token_ids)

`scales` are there if keys and values are whole numbers of few bits: what each of them is to be
multiplied by. A cache has for each layer its `memory`, in a form that nobody else knows.

Until `end` nothing counts as stored: a pass that was interrupted is taken back, and the next one
begins where that one did. `crop` takes tokens back that do count.

Shapes: keys and values (batch, n_kv_heads, n_tokens, head_dim).
"""

from contextlib import contextmanager

import torch
import torch._dynamo

from ..config import GPTConfig, check_kinds, check_size, kv_heads, need, need_type


class Cache:
    """What all caches for a fixed batch share: the count of tokens, the positions, the mask.

    batch_size  sequences in the batch
    n_pad       (batch_size,): how many tokens at the left of each row only fill it up; or None

    `n_tokens` counts the tokens stored in each row, with those that fill it up. What `update` gets
    it stores as the tokens from number `n_tokens` on, in place of any that are there already.
    `n_changes` counts the passes and crops, so that a stream notices those of others.

    Raises TypeError for what is no cfg, ValueError for a batch size that cannot be, or an n_pad
    that does not fit it.
    """

    max_tokens = window = None  # a limit that ends the text; how far back a token sees

    def __init__(self, cfg, batch_size=1, n_pad=None, dtype=None, device=None):
        check_kinds(cfg=(cfg, GPTConfig))
        batch_size = check_size("batch_size", batch_size)
        if n_pad is not None:
            whole = getattr(n_pad, "dtype", None) in (torch.int64, torch.int32)
            right = whole and n_pad.shape == (batch_size,) and n_pad.min() >= 0
            need(right, f"n_pad is {n_pad!r}", f"pass {batch_size} whole numbers: see pad_left")
        self.batch_size, self.n_pad = batch_size, n_pad
        self.n_tokens = self.n_changes = 0
        self.memory = [None] * cfg.n_layers
        self.made_for = made_for(cfg) | {"dtype": dtype}
        if device is not None:  # "cuda" is the first of several
            self.made_for["device"] = torch.empty(0, device=device).device

    def check(self, n_rows, n_new):
        """Raise ValueError if n_new more tokens for n_rows sequences cannot be stored."""
        problem = f"token_ids has batch size {n_rows}, the cache {self.batch_size}"
        need(n_rows == self.batch_size, problem, "make a cache for each batch")
        if self.max_tokens is not None:
            problem = f"{self.n_tokens} cached + {n_new} new exceed max_tokens {self.max_tokens}"
            need(self.n_tokens + n_new <= self.max_tokens, problem, "make a larger cache")

    def begin(self, token_ids):
        """Where the new tokens stand, and which keys each of them may look at.

        token_ids  (batch, n_new)
        positions  (1 or batch, n_new)
        mask       (1 or batch, 1, n_new, n_keys), True where a query may look. None says it for
                   the causal order: each token looks at itself and at all that is before it.

        Raises ValueError if they cannot be stored.
        """
        n_rows, n_new = token_ids.shape
        self.check(n_rows, n_new)
        n_past, device = self.n_tokens, token_ids.device
        slots = torch.arange(n_past, n_past + n_new, device=device)
        # How many keys there are, and where new ones go.
        self.n_seen, self.slots = n_past + n_new, slots
        # A chunk needs no mask at the beginning, and a single token needs none anywhere.
        plain = n_new == 1 or (n_past == 0 and n_new <= (self.window or n_new))
        if self.n_pad is None and plain:
            return slots[None], None
        keys, queries = self.key_slots(n_new, device), slots[:, None]
        visible = (keys <= queries)[None]  # (1, n_new, n_keys)
        if self.window is not None:
            visible = visible & (keys > queries - self.window)
        if self.n_pad is None:
            return slots[None], visible[:, None]
        self.n_pad = self.n_pad.to(device)
        n_pad = self.n_pad[:, None]  # (batch, 1)
        # A token that only fills up sees itself, for attention needs something to see.
        visible = visible & (keys >= n_pad[..., None]) | (keys == queries)
        return (slots - n_pad).clamp(min=0), visible[:, None]

    def key_slots(self, n_new, device="cpu"):
        """(n_keys,): the place in the text of each key that `update` is going to return."""
        return torch.arange(self.n_tokens + n_new, device=device)

    def end(self, token_ids):
        """All layers have stored these tokens."""
        self.n_tokens += token_ids.shape[1]
        self.n_changes += 1

    def crop(self, n_tokens):
        """Take tokens back: the first n_tokens of each row stay, as if no more had been fed.

        Raises ValueError for more than the cache holds, or if it has let go of what it would need.
        """
        self.n_tokens = check_crop(n_tokens, self.n_tokens)
        self.n_changes += 1

    def update(self, layer, keys, values):
        """Store what a layer computed; returns all that attention is to see, see above."""
        return self.store(self.memory[layer], keys, values)

    @property
    def keys(self):
        """The keys in memory, of each layer."""
        return [memory[0] for memory in self.memory]

    @property
    def values(self):
        """The values in memory, of each layer."""
        return [memory[1] for memory in self.memory]

    @property
    def n_bytes(self):
        """Bytes of all tensors that the cache holds now."""
        return sum(tensor.nbytes for memory in self.memory for tensor in memory)


class NoCache(Cache):
    """Keeps nothing: attention sees the keys and values of one pass, and then they are gone."""

    n_bytes = 0

    def store(self, memory, keys, values):
        return keys, values

    def end(self, token_ids):
        """Nothing is stored, and so nothing counts: the next pass begins at 0 again."""


def check_crop(n_tokens, n_stored):
    """n_tokens as an int. Raises ValueError unless a cache can be cropped to so many."""
    n_tokens = check_size("n_tokens", n_tokens, least=0)
    need(n_tokens <= n_stored, f"n_tokens is {n_tokens}, the cache holds {n_stored}", "keep fewer")
    return n_tokens


@contextmanager
def one_pass(model, token_ids, cache):
    """What a model does around its layers: check what it is given, ask the cache, let it count.

    Gives the cache, the positions and the mask. None as a cache becomes one that keeps
    nothing. Whatever ends the pass early, all is as it was. Raises TypeError or ValueError,
    before any work, for token ids or a cache that the model cannot take.
    """
    n_past = getattr(cache, "n_tokens", 0)
    model.cfg.check_token_ids(token_ids, model.tok_emb.weight.device, n_past)
    cache = NoCache(model.cfg, len(token_ids)) if cache is None else cache
    made = check_fit(cache, model)
    try:
        yield cache, *cache.begin(token_ids)
        cache.end(token_ids)
    except BaseException:
        cache.crop(n_past)
        raise
    cache.made_for = made


def check_fit(cache, model):
    """See whether a model can take a cache; what it will have been made for.

    Raises TypeError for what is no cache, ValueError for one made for a model of other sizes, dtype
    or device.
    """
    remedy = "pass an object of kvcache.caches, and of a PagedCache its batch([...])"
    need_type(hasattr(cache, "begin") and not isinstance(cache, type), "cache", cache, remedy)
    needs = made_for(model.cfg, model.tok_emb.weight)
    for name, needed in needs.items():
        made = cache.made_for[name]
        problem = f"the cache was made for {name} {made}, the model has {needed}"
        need(made in (None, needed), problem, "make one with the model's cfg, dtype and device")
    return needs


def made_for(cfg, like=None):
    """What a cache has in common with its model, whose tensors are like this one; None: any."""
    sizes = {"n_layers": cfg.n_layers, "n_kv_heads": kv_heads(cfg), "head_dim": cfg.head_dim}
    return {**sizes, "dtype": getattr(like, "dtype", None), "device": getattr(like, "device", None)}


def buffers(cfg, batch_size, n_tokens, dtype, device):
    """For each layer keys and values, zeros: two (batch, n_kv_heads, n_tokens, head_dim)."""
    shape = (batch_size, kv_heads(cfg), n_tokens, cfg.head_dim)
    kind = {"dtype": dtype, "device": device}
    return [[fixed(torch.zeros(shape, **kind), 1, 3) for _ in (0, 1)] for _ in range(cfg.n_layers)]


def fixed(tensor, *dims):
    """The tensor, and a word to the compiler: its sizes in these dimensions are always the same."""
    torch._dynamo.mark_static(tensor, dims)
    return tensor
