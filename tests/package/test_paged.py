"""Paged memory: any order of appends, forks, crops and frees, and what sequences share."""

import pytest
import torch
from conftest import SMALL
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from models_and_caches import assert_near, make_gpt

from kvcache import generate
from kvcache.caches import PagedCache

GPT = make_gpt()


def test_sequences_of_unequal_length_share_one_paged_batch():
    pages = PagedCache(SMALL, 30, block_size=4)
    prompts = [torch.randint(50, (1, n)) for n in (3, 9, 4)]
    sequences = [pages.add() for _ in prompts]
    texts = []
    for sequence, prompt in zip(sequences, prompts, strict=True):
        texts.append(generate(GPT, prompt, 1, cache=pages.batch([sequence])))
    for _ in range(8):
        newest = torch.cat([text[:, -1:] for text in texts])
        chosen = GPT(newest, pages.batch(sequences)).argmax(-1)
        texts = [torch.cat([t, c[None]], dim=1) for t, c in zip(texts, chosen, strict=True)]
    for prompt, text in zip(prompts, texts, strict=True):
        assert torch.equal(text, generate(GPT, prompt, 9))


def test_nothing_of_one_sequence_reaches_another():
    pages = PagedCache(SMALL, 8, 4)
    long, short = pages.add(), pages.add()
    GPT(torch.randint(50, (1, 6)), pages.batch([long]))
    GPT(torch.randint(50, (1, 2)), pages.batch([short]))
    pages.keys[:, :4] = pages.values[:, :4] = torch.nan  # the first block of `long`
    assert GPT(torch.randint(50, (2, 1)), pages.batch([long, short]))[1].isfinite().all()


def test_a_crop_of_a_fork_leaves_its_parent_alone():
    pages = PagedCache(SMALL, 8, block_size=4)
    parent, text = pages.add(), torch.randint(50, (1, 10))
    GPT(text, pages.batch([parent]))
    child = pages.fork(parent)
    pages.crop(child, 6)
    assert pages.lengths == {parent: 10, child: 6}
    assert len(pages.free_blocks) == 8 - 3  # the child's two are its parent's
    new = torch.randint(50, (1, 3))
    for sequence, n_kept in ((child, 6), (parent, 10)):
        whole = GPT(torch.cat([text[:, :n_kept], new], dim=1))
        assert_near(GPT(new, pages.batch([sequence])), whole[:, -3:])
    pages.batch([parent, child]).crop(9)
    assert pages.lengths == {parent: 9, child: 9}


class Paging(RuleBasedStateMachine):
    """Appends, forks and frees in any order, beside a plain dictionary."""

    def __init__(self):
        super().__init__()
        self.pages = PagedCache(SMALL, n_blocks=7, block_size=3)
        self.texts = {}  # sequence -> the number that stands for each of its tokens
        self.n = 0

    def shape(self, numbers):
        """Keys whose every entry tells which token they are of: (batch, heads, n, head_dim)."""
        numbers = torch.tensor(numbers, dtype=torch.float32)
        return numbers[:, None, :, None].expand(-1, SMALL.n_heads, -1, SMALL.head_dim)

    @rule()
    def add(self):
        if len(self.texts) < 6:
            self.texts[self.pages.add()] = []

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), n_new=st.integers(1, 7))
    def append(self, data, n_new):
        chosen = data.draw(
            st.lists(st.sampled_from(sorted(self.texts)), min_size=1, max_size=3, unique=True)
        )
        batch = self.pages.batch(chosen)
        token_ids = torch.zeros(len(chosen), n_new, dtype=torch.long)
        fits = self.pages.blocks_needed(chosen, n_new) <= len(self.pages.free_blocks)
        before = (list(self.pages.n_users), {k: v[:] for k, v in self.pages.tables.items()})
        if not fits:
            with pytest.raises(ValueError, match="blocks"):
                batch.begin(token_ids)
            if len(chosen) == 1:
                with pytest.raises(ValueError, match="blocks"):
                    self.pages.reserve(chosen[0], n_new)
            assert before == (self.pages.n_users, self.pages.tables)
            return
        n_free, needed = len(self.pages.free_blocks), self.pages.blocks_needed(chosen, n_new)
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
            assert torch.equal(values[row, :, :n], -keys[row, :, :n])

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def fork(self, data):
        if len(self.texts) < 6:
            parent = data.draw(st.sampled_from(sorted(self.texts)))
            self.texts[self.pages.fork(parent)] = self.texts[parent]

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def crop(self, data):
        sequence = data.draw(st.sampled_from(sorted(self.texts)))
        n_tokens = data.draw(st.integers(0, len(self.texts[sequence])))
        self.pages.crop(sequence, n_tokens)
        self.texts[sequence] = self.texts[sequence][:n_tokens]
        assert len(self.pages.tables[sequence]) == -(-n_tokens // 3)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def free(self, data):
        sequence = data.draw(st.sampled_from(sorted(self.texts)))
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

    def teardown(self):
        for sequence in list(self.texts):
            self.pages.free(sequence)
        assert len(self.pages.free_blocks) == 7


TestPaging = Paging.TestCase
TestPaging.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
