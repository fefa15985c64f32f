"""The whole text, as it is: in tensors that grow, or in memory that is there from the start."""

import torch

from ..config import check_size
from .base import Cache, buffers


class ConcatCache(Cache):
    """Makes a longer copy of everything for each new token, as the model in `cached.py` does.

    Raises ValueError for what `Cache` refuses.
    """

    def __init__(self, cfg, batch_size=1, n_pad=None):
        super().__init__(cfg, batch_size, n_pad)
        self.keys, self.values = [None] * cfg.n_layers, [None] * cfg.n_layers

    def update(self, layer, keys, values):
        for kept, new in ((self.keys, keys), (self.values, values)):
            old = [kept[layer][:, :, : self.n_tokens]] if self.n_tokens else []
            kept[layer] = torch.cat([*old, new], dim=2)
        return self.keys[layer], self.values[layer]

    def crop(self, n_tokens):
        super().crop(n_tokens)
        for kept in (self.keys, self.values):
            kept[:] = [each[:, :, :n_tokens].clone() if n_tokens else None for each in kept]


class PreallocatedCache(Cache):
    """Takes all its memory at the start, and writes each new token in its place.

    max_tokens  in each row; more raise ValueError, as a size does that cannot be
    """

    def __init__(
        self, cfg, max_tokens, batch_size=1, n_pad=None, dtype=torch.float32, device="cpu"
    ):
        super().__init__(cfg, batch_size, n_pad, dtype, device)
        self.max_tokens = check_size("max_tokens", max_tokens)
        self.keys, self.values = buffers(cfg, self.batch_size, self.max_tokens, dtype, device)

    def update(self, layer, keys, values):
        seen = []
        for memory, new in ((self.keys[layer], keys), (self.values[layer], values)):
            end = self.n_tokens + new.shape[2]
            memory[:, :, self.n_tokens : end] = new
            seen.append(memory[:, :, :end])  # a view: nothing is copied
        return seen
