"""The whole text, as it is: in tensors that grow, or in memory that is there from the start."""

import torch

from ..config import check_size
from .base import Cache, buffers


class ConcatCache(Cache):
    """Makes a longer copy of everything for each new token, as the model in `cached.py` does.

    Raises TypeError or ValueError for what `Cache` refuses.
    """

    def __init__(self, cfg, batch_size=1, n_pad=None):
        super().__init__(cfg, batch_size, n_pad)
        self.memory = [[] for _ in range(cfg.n_layers)]

    def store(self, memory, keys, values):
        if n_past := self.n_tokens:
            keys = torch.cat([memory[0][:, :, :n_past], keys], dim=2)
            values = torch.cat([memory[1][:, :, :n_past], values], dim=2)
        memory[:] = keys.contiguous(), values.contiguous()
        return keys, values

    def crop(self, n_tokens):
        super().crop(n_tokens)
        for memory in self.memory:
            memory[:] = [kept[:, :, :n_tokens].clone() for kept in memory if n_tokens]


class PreallocatedCache(Cache):
    """Takes all its memory at the start, and writes each new token in its place.

    max_tokens  in each row; more raise ValueError

    Raises TypeError for what is no cfg, ValueError for a size that cannot be.
    """

    def __init__(
        self, cfg, max_tokens, batch_size=1, n_pad=None, dtype=torch.float32, device="cpu"
    ):
        super().__init__(cfg, batch_size, n_pad, dtype, device)
        self.max_tokens = check_size("max_tokens", max_tokens)
        self.memory = buffers(cfg, self.batch_size, self.max_tokens, dtype, device)

    def store(self, memory, keys, values):
        seen = []
        for kept, new in zip(memory, (keys, values), strict=True):
            kept[:, :, self.slots] = new.to(kept.dtype)
            seen.append(kept[:, :, : self.n_seen])  # a view: nothing is copied
        return seen
