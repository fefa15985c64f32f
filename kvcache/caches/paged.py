"""Memory in blocks: many sequences of any length share it, and what they have in common."""

import heapq
from collections import Counter

import torch
from torch.nn.utils.rnn import pad_sequence

from ..config import GPTConfig, check_kinds, check_size, kv_heads, need
from .base import Cache, check_crop, fixed, made_for


class PagedCache:
    """Memory in blocks of a few tokens, handed to many sequences of any length.

    n_blocks, block_size  the memory: n_blocks blocks of block_size tokens, taken at the start

    Each sequence has a table of its blocks. A fork shares the blocks of its parent; who writes
    into a shared block first gets a copy of it. A block that no table has is free again.

    Raises TypeError for what is no cfg, ValueError for sizes that cannot be.
    """

    def __init__(self, cfg, n_blocks, block_size=16, dtype=torch.float32, device="cpu"):
        check_kinds(cfg=(cfg, GPTConfig))
        n_blocks = check_size("n_blocks", n_blocks)
        block_size = self.block_size = check_size("block_size", block_size)
        shape = (2, n_blocks * block_size, kv_heads(cfg), cfg.head_dim)  # 2: keys and values
        kind = {"dtype": dtype, "device": device}
        self.memory = [fixed(torch.zeros(shape, **kind), 0, 2, 3) for _ in range(cfg.n_layers)]
        self.made_for = made_for(cfg, self.memory[0])
        self.n_users = [0] * n_blocks  # how many tables have the block
        self.free_blocks = list(range(n_blocks))  # a heap: the lowest number is taken first
        # Of each sequence: its blocks, its stored tokens, its passes and crops.
        self.n_made, self.tables, self.lengths, self.n_changes = 0, {}, {}, Counter()

    @property
    def n_bytes(self):
        """Bytes of all blocks, free or not."""
        return sum(memory.nbytes for memory in self.memory)

    def add(self):
        """Begin an empty sequence; returns its number."""
        self.n_made += 1
        self.tables[self.n_made], self.lengths[self.n_made] = [], 0
        return self.n_made

    def fork(self, sequence):
        """Begin a sequence with all tokens of another, in the same blocks; returns its number.

        Raises ValueError if there is no such sequence.
        """
        self.check(sequence)
        copy = self.add()
        self.lengths[copy] = self.lengths[sequence]
        self.tables[copy] = self.tables[sequence][: self.n_filled(sequence)]
        for block in self.tables[copy]:
            self.n_users[block] += 1
        return copy

    def crop(self, sequence, n_tokens):
        """Take tokens of a sequence back: its first n_tokens stay, and the blocks of these.

        Raises ValueError if there is no such sequence, or for more tokens than it has.
        """
        self.check(sequence)
        self.lengths[sequence] = check_crop(n_tokens, self.lengths[sequence])
        self.n_changes[sequence] += 1
        table = self.tables[sequence]
        while len(table) > self.n_filled(sequence):
            self.let_go(table.pop())

    def free(self, sequence):
        """Forget a sequence. Blocks that no other one uses can be taken again.

        Raises ValueError if there is no such sequence.
        """
        self.crop(sequence, 0)
        del self.tables[sequence], self.lengths[sequence]

    def check(self, *sequences):
        """Raise ValueError unless there are these sequences."""
        for each in sequences:
            need(each in self.tables, f"there is no sequence {each!r}", "begin one with add()")

    def batch(self, sequences):
        """What a model takes: the cache of these sequences, one for each row.

        Raises ValueError if one is not there or named twice, or if there are none.
        """
        sequences = list(sequences)
        self.check(*sequences)
        right = 0 < len(sequences) == len(set(sequences))
        need(right, f"sequences is {sequences}", "pass each one once, at least 1")
        return PagedBatch(self, sequences)

    def n_filled(self, sequence):
        """How many blocks the tokens of a sequence fill, the last one begun counted in full."""
        return -(-self.lengths[sequence] // self.block_size)

    def blocks_needed(self, sequences, n_new):
        """How many free blocks it takes to give each of these sequences n_new more tokens.

        Raises ValueError if one is not there.
        """
        needed, written = 0, Counter()  # written: shared blocks, by how many of the sequences
        for sequence in sequences:
            self.check(sequence)
            table, length = self.tables[sequence], self.lengths[sequence]
            needed += max(0, -(-(length + n_new) // self.block_size) - len(table))
            written.update(table[length // self.block_size :])
        # Each gets a copy, but the last one if nobody else has the block.
        return needed + sum(min(n, self.n_users[block] - 1) for block, n in written.items())

    def check_room(self, sequences, n_new):
        """Raise ValueError if there are not blocks enough."""
        needed, n_free = self.blocks_needed(sequences, n_new), len(self.free_blocks)
        problem = f"{n_new} more tokens need {needed} blocks, and {n_free} are free"
        remedy = f"free a sequence, or make a cache of more than {len(self.n_users)}"
        need(needed <= n_free, problem, remedy)

    def reserve(self, sequence, n_new):
        """Give a sequence blocks of its own for n_new more tokens; ValueError if there are none."""
        self.check_room([sequence], n_new)
        table, length = self.tables[sequence], self.lengths[sequence]
        for i in range(length // self.block_size, len(table)):
            if self.n_users[table[i]] > 1:  # copy on write
                for memory in self.memory:
                    blocks = memory.unflatten(1, (-1, self.block_size))
                    blocks[:, self.free_blocks[0]] = blocks[:, table[i]]  # what `take` gives
                old, table[i] = table[i], self.take()
                self.let_go(old)
        while len(table) * self.block_size < length + n_new:
            table.append(self.take())

    def take(self):
        block = heapq.heappop(self.free_blocks)
        self.n_users[block] = 1
        return block

    def let_go(self, block):
        self.n_users[block] -= 1
        if self.n_users[block] == 0:
            heapq.heappush(self.free_blocks, block)


class PagedBatch(Cache):
    """Some sequences of a PagedCache, as a cache that a model takes. Their lengths may differ.

    n_bytes counts all blocks of the PagedCache, free or not.
    """

    def __init__(self, pages, sequences):
        self.pages, self.sequences, self.batch_size = pages, sequences, len(sequences)
        self.made_for = pages.made_for
        self.memory = pages.memory

    @property
    def n_tokens(self):
        """Stored tokens of the longest sequence. Raises ValueError if one was freed."""
        return max(self.lengths())

    @property
    def n_changes(self):
        return sum(self.pages.n_changes[sequence] for sequence in self.sequences)

    def lengths(self):
        """The stored tokens of each sequence. Raises ValueError if one was freed."""
        self.pages.check(*self.sequences)
        return [self.pages.lengths[sequence] for sequence in self.sequences]

    def check(self, n_rows, n_new):
        super().check(n_rows, n_new)
        self.pages.check_room(self.sequences, n_new)

    def begin(self, token_ids):
        n_new, device, pages = token_ids.shape[1], token_ids.device, self.pages
        self.check(*token_ids.shape)
        lengths = self.lengths()
        for sequence in self.sequences:
            pages.reserve(sequence, n_new)
        tables = [torch.tensor(pages.tables[sequence], device="cpu") for sequence in self.sequences]
        tables = pad_sequence(tables, batch_first=True)
        # Sent to the device, and nobody waits for it.
        tables = tables.to(device, non_blocking=True)
        n_past = torch.tensor(lengths, device="cpu").to(device, non_blocking=True)[:, None]

        def slots(places):
            """Where the tokens at these places of each text lie in memory."""
            blocks = tables.gather(1, places // pages.block_size)
            return blocks * pages.block_size + places % pages.block_size

        positions = n_past + torch.arange(n_new, device=device)  # (batch, n_new)
        self.new_slots, places = slots(positions), self.key_slots(n_new, device)
        # Beyond its end a row sees its newest token again, and nothing of another sequence.
        self.slots = slots(places.minimum(positions[:, -1:]))  # (batch, n_keys)
        if len(set(lengths)) == 1 and (n_new == 1 or lengths[0] == 0):
            return positions, None
        return positions, (places <= positions[..., None])[:, None]

    def store(self, memory, keys, values):
        # memory: (2, n_slots, n_kv_heads, head_dim)
        memory[:, self.new_slots] = torch.stack([keys, values]).transpose(2, 3).to(memory.dtype)
        return memory[:, self.slots].transpose(2, 3).unbind()

    def end(self, token_ids):
        """All layers have stored these tokens. Raises ValueError if a sequence was freed."""
        lengths = [length + token_ids.shape[1] for length in self.lengths()]
        self.pages.lengths.update(zip(self.sequences, lengths, strict=True))  # of all at once
        self.pages.n_changes.update(self.sequences)

    def crop(self, n_tokens):
        """Take tokens back: of each sequence the first n_tokens stay, or all if it has fewer.

        Raises ValueError for more than the longest one has, or if one was freed.
        """
        check_crop(n_tokens, self.n_tokens)
        for sequence in self.sequences:
            self.pages.crop(sequence, min(n_tokens, self.pages.lengths[sequence]))
