"""The last tokens only: a ring in which each new token takes the place of the oldest."""

import torch

from ..config import check_size, need
from .base import Cache, buffers, check_crop


class SlidingWindowCache(Cache):
    """A ring: token number t lies in slot t % window, where it takes the place of t - window.

    window  how many tokens each token sees, itself among them

    Its memory is fixed, but for a pass over several tokens: the keys and values of their chunk wait
    for the end of the pass. Read a long prompt in pieces. Once the ring has been round, `crop` can
    take back one token only: for an earlier one it has let go of what that one would look at.

    Raises TypeError for what is no cfg, ValueError for a window or a batch size that cannot be.
    """

    def __init__(self, cfg, window, batch_size=1, n_pad=None, dtype=torch.float32, device="cpu"):
        super().__init__(cfg, batch_size, n_pad, dtype, device)
        self.window = check_size("window", window)
        self.n_written = 0  # tokens, at the most: the ring has the last ones of them
        self.memory = buffers(cfg, self.batch_size, self.window, dtype, device)

    def begin(self, token_ids):
        self.chunk = []  # of several tokens: the rings, and what `end` puts into them
        positions, mask = super().begin(token_ids)
        self.n_written = max(self.n_written, self.n_tokens + 1)  # `update` writes a single token
        self.slots = self.slots % self.window
        self.held_slots = torch.arange(min(self.n_tokens + 1, self.window), device=token_ids.device)
        return positions, mask

    def store(self, memory, keys, values):
        seen = []
        for ring, new in zip(memory, (keys, values), strict=True):
            if new.shape[2] > 1:  # the first of them still look at what the last of them replace
                self.chunk.append((ring, new))
                seen.append(torch.cat([ring[:, :, : self.n_tokens], new], dim=2))
            else:
                ring[:, :, self.slots] = new.to(ring.dtype)
                seen.append(ring[:, :, self.held_slots])
        return seen

    def end(self, token_ids):
        past, end = self.n_tokens, self.n_tokens + token_ids.shape[1]
        last = torch.arange(max(past, end - self.window), end, device=token_ids.device)
        slots, n_last, rings = last % self.window, len(last), []
        with torch.inference_mode(False), torch.no_grad():  # so that any mode can write into them
            for ring, new in self.chunk:
                rings.append(ring.index_copy(2, slots, new[:, :, -n_last:].to(ring.dtype)))
        if rings:  # all at once: an interruption leaves the old ones
            self.memory = list(zip(rings[0::2], rings[1::2], strict=True))
        self.chunk, self.n_written = [], max(self.n_written, end)
        self.n_tokens, self.n_changes = end, self.n_changes + 1

    def crop(self, n_tokens):
        check_crop(n_tokens, self.n_tokens)
        first, oldest = max(0, n_tokens - self.window + 1), self.n_written - self.window
        problem = f"n_tokens is {n_tokens}, and the window has let go of all before token {oldest}"
        remedy = f"keep at least {self.n_written - 1}, or 0 and feed the text again"
        need(n_tokens == 0 or first >= oldest, problem, remedy)
        super().crop(n_tokens)
        self.n_written = self.n_written if n_tokens else 0

    def key_slots(self, n_new, device="cpu"):
        if n_new == 1:
            return self.held(self.n_tokens + 1, device)
        new = torch.arange(self.n_tokens, self.n_tokens + n_new, device=device)
        return torch.cat([self.held(self.n_tokens, device), new])

    def held(self, n, device):
        """(min(n, window),): which token lies in each slot when n have been stored."""
        return n - 1 - (n - 1 - torch.arange(min(n, self.window), device=device)) % self.window
