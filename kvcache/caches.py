"""Caches as objects. A model is handed one, and keeps nothing of it.

In each pass the model asks the cache where the new tokens stand and whom they may look at, hands
it the keys and values of each layer, gets back all that attention is to see, and says when it is
done:

    positions, mask = cache.begin(token_ids)
    keys, values = cache.update(layer, keys, values)  # in every layer
    cache.end(token_ids)

Until `end` nothing counts as stored: a pass that was interrupted leaves the tokens as they were.
What it took, blocks or longer tensors, the cache may keep until the next pass.
Shapes: keys and values (batch, n_kv_heads, n_tokens, head_dim).
"""

import torch

from .config import check_size, kv_heads


class Cache:
    """What all caches for a fixed batch share: the count of tokens, the positions, the mask.

    batch_size  sequences in the batch
    n_pad       (batch_size,): how many tokens at the left of each row only fill it up; or None

    `n_tokens` counts the tokens stored in each row, with those that fill it up.
    """

    max_tokens = window = None  # a limit that ends the text; how far back a token sees

    def __init__(self, cfg, batch_size=1, n_pad=None, dtype=None, device=None):
        check_size("batch_size", batch_size)
        if n_pad is not None and (
            not isinstance(n_pad, torch.Tensor)
            or n_pad.dtype not in (torch.int64, torch.int32)
            or tuple(n_pad.shape) != (batch_size,)
            or n_pad.min() < 0
        ):
            raise ValueError(
                f"n_pad is {n_pad!r}; pass a tensor of {batch_size} whole numbers, 0 or more: "
                "what pad_left returned."
            )
        self.batch_size, self.n_pad, self.n_tokens = batch_size, n_pad, 0
        self.made_for = made_for(cfg, dtype, device)

    def check(self, n_rows, n_new):
        """Raise ValueError if n_new more tokens for n_rows sequences cannot be stored."""
        if n_rows != self.batch_size:
            raise ValueError(
                f"token_ids has batch size {n_rows}, the cache {self.batch_size}; "
                "make a cache for each batch."
            )
        if self.max_tokens is not None and self.n_tokens + n_new > self.max_tokens:
            raise ValueError(
                f"the cache holds {self.n_tokens} tokens; {n_new} more exceed its max_tokens of "
                f"{self.max_tokens}. Make a larger one."
            )

    def begin(self, token_ids):
        """Where the new tokens stand, and which keys each of them may look at.

        token_ids  (batch, n_new)
        positions  (1 or batch, n_new)
        mask       (1 or batch, 1, n_new, n_keys), True where a query may look; None: at all
        """
        n_rows, n_new = token_ids.shape
        self.check(n_rows, n_new)
        if self.n_pad is None and n_new == 1:  # it sees all that is there
            return torch.tensor([[self.n_tokens]], device=token_ids.device), None
        slots = torch.arange(self.n_tokens, self.n_tokens + n_new, device=token_ids.device)
        keys, queries = self.key_slots(slots), slots[:, None]
        visible = (keys <= queries)[None]  # (1, n_new, n_keys)
        if self.window is not None:
            visible = visible & (keys > queries - self.window)
        if self.n_pad is None:
            return slots[None], visible[:, None]
        n_pad = self.n_pad.to(token_ids.device)[:, None]  # (batch, 1)
        # A token that only fills up sees itself, for attention needs something to see.
        visible = visible & (keys >= n_pad[..., None]) | (keys == queries)
        return (slots - n_pad).clamp(min=0), visible[:, None]

    def key_slots(self, slots):
        """(n_keys,): the place in the text of each key that `update` is going to return."""
        return torch.arange(slots[-1] + 1, device=slots.device)

    def end(self, token_ids):
        """All layers have stored these tokens."""
        self.n_tokens += token_ids.shape[1]

    @property
    def n_bytes(self):
        """Bytes of all tensors that the cache holds now."""
        return sum(tensor.nbytes for tensor in [*self.keys, *self.values] if tensor is not None)


class ConcatCache(Cache):
    """Makes a longer copy of everything for each new token, as the model in `cached.py` does."""

    def __init__(self, cfg, batch_size=1, n_pad=None):
        super().__init__(cfg, batch_size, n_pad)
        self.keys, self.values = [None] * cfg.n_layers, [None] * cfg.n_layers

    def update(self, layer, keys, values):
        for kept, new in ((self.keys, keys), (self.values, values)):
            old = [kept[layer][:, :, : self.n_tokens]] if self.n_tokens else []
            kept[layer] = torch.cat([*old, new], dim=2)
        return self.keys[layer], self.values[layer]


class PreallocatedCache(Cache):
    """Takes all its memory at the start, and writes each new token in its place.

    max_tokens  in each row; more raise ValueError
    """

    def __init__(
        self, cfg, max_tokens, batch_size=1, n_pad=None, dtype=torch.float32, device="cpu"
    ):
        super().__init__(cfg, batch_size, n_pad, dtype, device)
        check_size("max_tokens", max_tokens)
        self.max_tokens = max_tokens
        self.keys, self.values = buffers(cfg, batch_size, max_tokens, dtype, device)

    def update(self, layer, keys, values):
        seen = []
        for memory, new in ((self.keys[layer], keys), (self.values[layer], values)):
            end = self.n_tokens + new.shape[2]
            memory[:, :, self.n_tokens : end] = new
            seen.append(memory[:, :, :end])  # a view: nothing is copied
        return seen


class SlidingWindowCache(Cache):
    """A ring: token number t lies in slot t % window, where it takes the place of t - window.

    window  how many tokens each token sees, itself among them

    Its memory is fixed, but for a pass over several tokens: the keys and values of their chunk wait
    for the end of the pass. Read a long prompt in pieces.
    """

    def __init__(self, cfg, window, batch_size=1, n_pad=None, dtype=torch.float32, device="cpu"):
        super().__init__(cfg, batch_size, n_pad, dtype, device)
        check_size("window", window)
        self.window = window
        self.keys, self.values = buffers(cfg, batch_size, window, dtype, device)

    def begin(self, token_ids):
        self.chunk = []  # of several tokens: the rings, and what `end` writes into them
        return super().begin(token_ids)

    def update(self, layer, keys, values):
        seen = []
        for ring, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if new.shape[2] > 1:  # the first of them still look at what the last of them replace
                self.chunk.append((ring, new))
                seen.append(torch.cat([ring[:, :, : self.n_tokens], new], dim=2))
            else:
                ring[:, :, self.n_tokens % self.window] = new[:, :, 0]
                seen.append(ring[:, :, : self.n_tokens + 1])
        return seen

    def end(self, token_ids):
        past, end = self.n_tokens, self.n_tokens + token_ids.shape[1]
        last = torch.arange(max(past, end - self.window), end, device=token_ids.device)
        for ring, new in self.chunk:
            ring[:, :, last % self.window] = new[:, :, -len(last) :]
        self.chunk = []
        super().end(token_ids)

    def key_slots(self, slots):
        if len(slots) == 1:
            return self.held(slots[-1] + 1)
        return torch.cat([self.held(slots[0]), slots])

    def held(self, n):
        """(min(n, window),): which token lies in each slot when n have been stored."""
        ring = torch.arange(min(int(n), self.window), device=n.device)
        return n - 1 - (n - 1 - ring) % self.window


class QuantizedCache(Cache):
    """Stores whole numbers of 8 or 4 bits, and one float32 scale for each head's vector.

    A number x of a vector is stored as round(x / scale), with scale = max|vector| / 127 (8 bits)
    or / 7 (4 bits): what comes back differs from x by at most half a scale. Everything is read
    back through the scales, the newest token too: how the text is cut makes no difference.
    """

    def __init__(self, cfg, max_tokens, bits=8, batch_size=1, n_pad=None, device="cpu"):
        super().__init__(cfg, batch_size, n_pad, device=device)
        check_size("max_tokens", max_tokens)
        if bits not in (4, 8):
            raise ValueError(f"bits is {bits!r}; choose 8 or 4.")
        if bits == 4 and cfg.head_dim % 2:
            raise ValueError(f"head_dim is {cfg.head_dim}; 4 bits need an even one.")
        self.max_tokens, self.bits = max_tokens, bits
        shape = (cfg.n_layers, 2, batch_size, kv_heads(cfg), max_tokens)  # 2: keys and values
        width, dtype = (cfg.head_dim, torch.int8) if bits == 8 else (cfg.head_dim // 2, torch.uint8)
        self.levels = torch.zeros(*shape, width, dtype=dtype, device=device)
        self.scales = torch.zeros(*shape, 1, device=device)

    def update(self, layer, keys, values):
        end = self.n_tokens + keys.shape[2]
        levels, scales = quantize(torch.stack([keys, values]), self.bits)
        self.levels[layer][..., self.n_tokens : end, :] = levels
        self.scales[layer][..., self.n_tokens : end, :] = scales
        levels, scales = self.levels[layer][..., :end, :], self.scales[layer][..., :end, :]
        return dequantize(levels, scales, self.bits).to(keys.dtype).unbind(0)

    @property
    def n_bytes(self):
        return self.levels.nbytes + self.scales.nbytes


def quantize(x, bits):
    """(..., head_dim) -> levels (..., head_dim * bits / 8), scales (..., 1)."""
    most = 2 ** (bits - 1) - 1  # 127 or 7
    scales = x.float().abs().amax(dim=-1, keepdim=True) / most
    levels = (x / scales.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
    if bits == 4:  # two neighbours share a byte: 1 .. 15 each
        low, high = (levels + 8).to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
        levels = low | high << 4
    return levels, scales


def dequantize(levels, scales, bits):
    """The way back: float32 (..., head_dim)."""
    if bits == 4:
        levels = torch.stack([levels & 15, levels >> 4], dim=-1).flatten(-2).to(torch.int8) - 8
    return levels * scales


class PagedCache:
    """Memory in blocks of a few tokens, handed to many sequences of any length.

    n_blocks, block_size  the memory: n_blocks blocks of block_size tokens, taken at the start

    Each sequence has a table of its blocks. A fork shares the blocks of its parent; who writes
    into a shared block first gets a copy of it. A block that no table has is free again.
    """

    def __init__(self, cfg, n_blocks, block_size=16, dtype=torch.float32, device="cpu"):
        check_size("n_blocks", n_blocks)
        check_size("block_size", block_size)
        self.block_size, self.made_for = block_size, made_for(cfg, dtype, device)
        shape = (2, cfg.n_layers, n_blocks * block_size, kv_heads(cfg), cfg.head_dim)
        self.memory = torch.zeros(shape, dtype=dtype, device=device)
        self.keys, self.values = self.memory
        self.n_users = [0] * n_blocks  # how many tables have the block
        self.tables, self.lengths = {}, {}  # of each sequence: its blocks, its stored tokens
        self.n_made = 0

    @property
    def free_blocks(self):
        return [block for block, n_users in enumerate(self.n_users) if n_users == 0]

    @property
    def n_bytes(self):
        """Bytes of all blocks, free or not."""
        return self.memory.nbytes

    def add(self):
        """Begin an empty sequence; returns its number."""
        self.n_made += 1
        self.tables[self.n_made], self.lengths[self.n_made] = [], 0
        return self.n_made

    def fork(self, sequence):
        """Begin a sequence with all tokens of another, in the same blocks; returns its number."""
        self.check(sequence)
        copy = self.add()
        n_filled = -(-self.lengths[sequence] // self.block_size)
        self.tables[copy] = self.tables[sequence][:n_filled]
        self.lengths[copy] = self.lengths[sequence]
        for block in self.tables[copy]:
            self.n_users[block] += 1
        return copy

    def free(self, sequence):
        """Forget a sequence. Blocks that no other one uses can be taken again."""
        self.check(sequence)
        for block in self.tables.pop(sequence):
            self.n_users[block] -= 1
        del self.lengths[sequence]

    def check(self, sequence):
        if sequence not in self.tables:
            raise ValueError(f"there is no sequence {sequence!r}; there are {list(self.tables)}.")

    def batch(self, sequences):
        """What a model takes: the cache of these sequences, one for each row."""
        for sequence in sequences:
            self.check(sequence)
        if len(set(sequences)) < len(sequences) or not sequences:
            raise ValueError(f"sequences is {sequences}; pass each one once, at least 1.")
        return PagedBatch(self, list(sequences))

    def blocks_needed(self, sequences, n_new):
        """How many free blocks it takes to give each of these sequences n_new more tokens."""
        n_users, needed = self.n_users[:], 0
        for sequence in sequences:
            table, length = self.tables[sequence], self.lengths[sequence]
            needed += max(0, -(-(length + n_new) // self.block_size) - len(table))
            for block in table[length // self.block_size :]:  # about to be written
                if n_users[block] > 1:
                    n_users[block] -= 1
                    needed += 1
        return needed

    def reserve(self, sequence, n_new):
        """Give a sequence blocks of its own for n_new more tokens."""
        table, length = self.tables[sequence], self.lengths[sequence]
        for i in range(length // self.block_size, len(table)):
            if self.n_users[table[i]] > 1:  # copy on write
                old, table[i] = table[i], self.take()
                self.n_users[old] -= 1
                blocks = self.memory.unflatten(2, (-1, self.block_size))
                blocks[:, :, table[i]] = blocks[:, :, old]
        while len(table) * self.block_size < length + n_new:
            table.append(self.take())

    def take(self):
        block = self.free_blocks[0]
        self.n_users[block] = 1
        return block


class PagedBatch:
    """Some sequences of a PagedCache, as a cache that a model takes. Their lengths may differ."""

    def __init__(self, pages, sequences):
        self.pages, self.sequences, self.batch_size = pages, sequences, len(sequences)
        self.made_for = pages.made_for

    @property
    def n_tokens(self):
        """Stored tokens of the longest sequence. Raises ValueError if one was freed."""
        for sequence in self.sequences:
            self.pages.check(sequence)
        return max(self.pages.lengths[sequence] for sequence in self.sequences)

    def check(self, n_rows, n_new):
        if n_rows != len(self.sequences):
            raise ValueError(
                f"token_ids has batch size {n_rows}, but {len(self.sequences)} sequences were "
                "chosen; give each its row."
            )
        needed, free = self.pages.blocks_needed(self.sequences, n_new), self.pages.free_blocks
        if needed > len(free):
            raise ValueError(
                f"{n_new} more tokens need {needed} blocks, and {len(free)} of "
                f"{len(self.pages.n_users)} are free; free a sequence, or make a larger cache."
            )

    def begin(self, token_ids):
        n_new, device, size = token_ids.shape[1], token_ids.device, self.pages.block_size
        self.check(*token_ids.shape)
        for sequence in self.sequences:
            self.pages.reserve(sequence, n_new)
        # The slots of each sequence, in the order of its text, filled up to the longest.
        tables = [torch.tensor(self.pages.tables[each]) for each in self.sequences]
        tables = torch.nn.utils.rnn.pad_sequence(tables, batch_first=True).to(device)
        slots = (tables[..., None] * size + torch.arange(size, device=device)).flatten(1)
        self.slots = slots[:, : self.n_tokens + n_new]  # (batch, n_keys)
        lengths = [self.pages.lengths[sequence] for sequence in self.sequences]
        positions = torch.tensor(lengths, device=device)[:, None] + torch.arange(
            n_new, device=device
        )
        self.new_slots = self.slots.gather(1, positions)  # (batch, n_new)
        places = torch.arange(self.slots.shape[1], device=device)
        # Beyond its end a row sees its newest token again, and nothing of another sequence.
        self.slots = self.slots.gather(1, places.minimum(positions[:, -1:]))
        return positions, (places <= positions[..., None])[:, None]

    def update(self, layer, keys, values):
        memory = self.pages.memory[:, layer]  # (2, n_slots, n_kv_heads, head_dim)
        memory[:, self.new_slots] = torch.stack([keys, values]).transpose(2, 3)
        return memory[:, self.slots].transpose(2, 3).unbind()

    def end(self, token_ids):
        for sequence in self.sequences:
            self.pages.lengths[sequence] += token_ids.shape[1]


def begin_pass(model, token_ids, cache):
    """What a model does first: check what it was given, then ask the cache.

    Returns the cache, the positions and the mask. None as a cache becomes one to throw away.
    """
    n_past = 0 if cache is None else cache.n_tokens
    model.cfg.check_token_ids(token_ids, model.tok_emb.weight.device, n_past)
    if cache is None:
        cache = ConcatCache(model.cfg, len(token_ids))
    check_fit(cache, model)
    return cache, *cache.begin(token_ids)


def check_fit(cache, model):
    """Raise ValueError for a cache that was made for a model of other sizes, dtype or device."""
    weight = model.tok_emb.weight
    for name, needed in made_for(model.cfg, weight.dtype, weight.device).items():
        made = cache.made_for[name]
        if made not in (None, needed):
            raise ValueError(
                f"the cache was made for {name} {made}, the model has {needed}; make one with the "
                "model's cfg, dtype and device."
            )


def made_for(cfg, dtype, device):
    """What a cache must have in common with its model. None: any will do."""
    sizes = {"n_layers": cfg.n_layers, "n_kv_heads": kv_heads(cfg), "head_dim": cfg.head_dim}
    return {**sizes, "dtype": dtype, "device": device and torch.device(device).type}


def buffers(cfg, batch_size, n_tokens, dtype, device):
    """For keys and for values, of each layer: zeros (batch, n_kv_heads, n_tokens, head_dim)."""
    shape = (batch_size, kv_heads(cfg), n_tokens, cfg.head_dim)
    return [
        [torch.zeros(shape, dtype=dtype, device=device) for _ in range(cfg.n_layers)]
        for _ in range(2)
    ]
