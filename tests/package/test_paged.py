"""Paged memory: any order of appends, forks, crops and frees, and what sequences share."""

import copy

import pytest
import torch
from conftest import SMALL
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvcache.caches import PagedCache


class Paging(RuleBasedStateMachine):
    """Appends, forks, crops and frees in any order, beside a plain dictionary."""

    def __init__(self):
        super().__init__()
        self.pages = PagedCache(SMALL, n_blocks=7, block_size=3)
        # Of each sequence, the numbers that stand for its tokens.
        self.texts = {self.pages.add(): []}
        self.n = 0

    def shape(self, numbers):
        """Keys whose every entry tells which token they are of: (batch, heads, n, head_dim)."""
        numbers = torch.tensor(numbers, dtype=torch.float32)
        return numbers[:, None, :, None].expand(-1, SMALL.n_heads, -1, SMALL.head_dim)

    def some(self, data, most=3):
        """Up to that many of the sequences."""
        sequences = st.sampled_from(sorted(self.texts))
        return data.draw(st.lists(sequences, min_size=1, max_size=most, unique=True))

    @rule()
    def add(self):
        if len(self.texts) < 6:
            self.texts[self.pages.add()] = []

    @rule(data=st.data(), n_new=st.integers(1, 7))
    def append(self, data, n_new):
        chosen = self.some(data)
        batch = self.pages.batch(chosen)
        token_ids = torch.zeros(len(chosen), n_new, dtype=torch.long)
        n_free, needed = len(self.pages.free_blocks), self.pages.blocks_needed(chosen, n_new)
        if needed > n_free:
            before = copy.deepcopy((self.pages.n_users, self.pages.tables))
            with pytest.raises(ValueError, match="blocks"):
                batch.begin(token_ids)
            if len(chosen) == 1:
                with pytest.raises(ValueError, match="blocks"):
                    self.pages.reserve(chosen[0], n_new)
            assert before == (self.pages.n_users, self.pages.tables)
            return
        new = [[self.n + row * n_new + i for i in range(n_new)] for row in range(len(chosen))]
        self.n += len(chosen) * n_new
        batch.begin(token_ids)
        assert len(self.pages.free_blocks) == n_free - needed
        for layer in range(SMALL.n_layers):
            keys, values = batch.update(layer, self.shape(new), -self.shape(new))
        batch.end(token_ids)
        for row, sequence in enumerate(chosen):
            self.texts[sequence] = self.texts[sequence] + new[row]
            n = len(self.texts[sequence])
            assert keys[row, 0, :n, 0].tolist() == self.texts[sequence]
            # Nothing of any other sequence, also beyond its end.
            assert set(keys[row].unique().tolist()) == set(self.texts[sequence])
            assert torch.equal(values[row], -keys[row])

    @rule(data=st.data())
    def fork(self, data):
        if len(self.texts) < 6:
            (parent,) = self.some(data, most=1)
            self.texts[self.pages.fork(parent)] = self.texts[parent]

    @rule(data=st.data())
    def crop(self, data):
        chosen = self.some(data)
        longest = max(len(self.texts[sequence]) for sequence in chosen)
        n_tokens = data.draw(st.integers(0, longest))
        self.pages.batch(chosen).crop(n_tokens)
        for sequence in chosen:
            self.texts[sequence] = self.texts[sequence][:n_tokens]
            assert len(self.pages.tables[sequence]) == -(-len(self.texts[sequence]) // 3)

    @rule(data=st.data())
    def free(self, data):
        for sequence in self.some(data)[: len(self.texts) - 1]:  # one stays
            self.pages.free(sequence)
            del self.texts[sequence]

    @invariant()
    def nothing_leaks(self):
        used = [block for table in self.pages.tables.values() for block in table]
        assert self.pages.n_users == [used.count(block) for block in range(7)]
        assert sorted(self.pages.free_blocks) == [block for block in range(7) if block not in used]
        assert set(self.pages.tables) == set(self.pages.lengths) == set(self.texts)

    @invariant()
    def every_sequence_reads_its_own_tokens(self):
        for sequence, text in self.texts.items():
            table = self.pages.tables[sequence]
            slots = [3 * block + i for block in table for i in range(3)][: len(text)]
            for layer in range(SMALL.n_layers):
                assert self.pages.keys[layer, slots, 0, 0].tolist() == text
                assert self.pages.values[layer, slots, -1, -1].tolist() == [-n for n in text]


TestPaging = Paging.TestCase
TestPaging.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
