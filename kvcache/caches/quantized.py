"""The whole text in fewer bits: whole numbers, and the scales that bring them back."""

import torch

from ..config import check_size, kv_heads, need
from .base import Cache, fixed


class QuantizedCache(Cache):
    """Stores whole numbers of 8 or 4 bits, and one float32 scale for each head's vector.

    A number x of a vector is stored as round(x / scale), with scale = max|vector| / 127 (8 bits)
    or / 7 (4 bits): what comes back differs from x by at most half a scale. Everything is read
    back through the scales, the newest token too: how the text is cut makes no difference.

    Raises TypeError for what is no cfg, ValueError for sizes or bits that cannot be.
    """

    def __init__(self, cfg, max_tokens, bits=8, batch_size=1, n_pad=None, device="cpu"):
        super().__init__(cfg, batch_size, n_pad, device=device)
        max_tokens = check_size("max_tokens", max_tokens)
        need(bits in (4, 8), f"bits is {bits!r}", "choose 8 or 4")
        even = bits == 8 or cfg.head_dim % 2 == 0
        need(even, f"head_dim is {cfg.head_dim}", "4 bits need an even one")
        self.max_tokens, self.bits = max_tokens, int(bits)
        shape = (2, self.batch_size, kv_heads(cfg), max_tokens)  # 2: keys and values
        dtype = torch.int8 if bits == 8 else torch.uint8  # of one number, or of two
        kinds = ((cfg.head_dim * bits // 8, dtype), (1, torch.float32))  # the levels, the scales
        self.memory = [
            tuple(fixed(torch.zeros(*shape, n, dtype=t, device=device), 0, 2, 4) for n, t in kinds)
            for _ in range(cfg.n_layers)
        ]

    @property
    def scales(self):
        """(n_layers, 2, batch, n_kv_heads, max_tokens, 1), float32: of all keys and values."""
        return torch.stack([scales for _, scales in self.memory])

    def store(self, memory, keys, values):
        seen = []
        for kept, new in zip(memory, quantize(torch.stack([keys, values]), self.bits), strict=True):
            kept[:, :, :, self.slots] = new
            seen.append(kept[:, :, :, : self.n_seen])
        levels, scales = seen
        keys, values = unpack(levels, self.bits)
        return keys, values, scales.unbind()


def quantize(x, bits):
    """(..., head_dim) -> levels (..., head_dim * bits / 8), scales (..., 1)."""
    scales = x.float().abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)  # by 127 or 7
    levels = (x / scales.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
    if bits == 4:  # numbers i and i + head_dim / 2 share a byte: 1 .. 15 each
        low, high = (levels + 8).to(torch.uint8).chunk(2, dim=-1)
        levels = low | high << 4
    return levels, scales


def unpack(levels, bits):
    """Levels as whole numbers: int8 (..., head_dim)."""
    if bits == 8:
        return levels
    wide = levels.int()  # the compiler shifts bytes one by one, and these many at a time
    return torch.cat([wide & 15, wide >> 4], dim=-1).to(torch.int8) - 8


def dequantize(levels, scales, bits):
    """The way back: float32 (..., head_dim)."""
    return unpack(levels, bits) * scales
