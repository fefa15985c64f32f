"""A Llama, readable: rotary positions, grouped-query attention, gated feed-forward. Runs SmolLM2.

Beside the GPT of the book: RMSNorm in place of LayerNorm; no table of positions, but queries and
keys that are turned by an angle which grows with the position; fewer keys and values than
queries; a third matrix in the feed-forward. The caches are the same objects.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from .baseline import split_heads
from .caches.base import one_pass
from .config import TINY, GPTConfig, check_kinds, check_kv_heads, check_number, need, set_sizes
from .fast import FastModel, FusedAttention, product


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(GPTConfig):
    """The sizes of a Llama: those of a GPT, and

    n_kv_heads  heads with a key and a value; each serves n_heads / n_kv_heads query heads
    hidden_dim  numbers inside the feed-forward
    rope_base   how slowly the slowest pair of numbers turns
    norm_eps    what RMSNorm adds before it divides

    Raises ValueError for sizes that cannot be built.
    """

    n_kv_heads: int
    hidden_dim: int
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        set_sizes(self, ("n_kv_heads", "hidden_dim"))
        check_kv_heads(self.n_heads, self.n_kv_heads)
        check_number("rope_base", self.rope_base, TINY, math.inf)
        check_number("norm_eps", self.norm_eps, TINY, math.inf)
        remedy = "rotary positions turn pairs: choose an even one"
        need(self.head_dim % 2 == 0, f"head_dim is {self.head_dim}", remedy)


def rms_norm(cfg):
    """Brings each token's vector to a mean square of 1, then scales it (Zhang, Sennrich 2019)."""
    return nn.RMSNorm(cfg.emb_dim, eps=cfg.norm_eps)


def rotation(cfg, positions):
    """Cosines and sines of the angles at these positions (Su et al. 2021, RoPE).

    positions (1 or batch, n_tokens) -> two tensors (1 or batch, 1, n_tokens, head_dim / 2)
    Pair i turns by rope_base ** (-2 i / head_dim) for each position.
    """
    pairs = torch.arange(0, cfg.head_dim, 2, device=positions.device).float()
    speeds = cfg.rope_base ** (-pairs / cfg.head_dim)  # (head_dim / 2,)
    angles = positions[:, None, :, None] * speeds  # (1 or batch, 1, n_tokens, head_dim / 2)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Turn each pair (x[i], x[i + head_dim / 2]) by its angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Linear(nn.Linear):
    """(..., in_features) -> (..., out_features); made without a bias."""

    def forward(self, x):
        return product(x, self.weight)


class GroupedQueryAttention(nn.Module):
    """(batch, n_tokens, emb_dim) -> the same shape. Ainslie et al. 2023."""

    def __init__(self, cfg):
        super().__init__()
        self.n_heads, self.n_kv_heads = cfg.n_heads, cfg.n_kv_heads
        kv_dim = cfg.n_kv_heads * cfg.head_dim
        self.W_query = Linear(cfg.emb_dim, cfg.emb_dim, bias=False)
        self.W_key = Linear(cfg.emb_dim, kv_dim, bias=False)
        self.W_value = Linear(cfg.emb_dim, kv_dim, bias=False)
        self.out_proj = Linear(cfg.emb_dim, cfg.emb_dim, bias=False)
        self.attend = FusedAttention()

    def forward(self, x, turn, layer, cache, mask):
        queries = rotate(split_heads(self.W_query(x), self.n_heads), *turn)
        keys = rotate(split_heads(self.W_key(x), self.n_kv_heads), *turn)
        values = split_heads(self.W_value(x), self.n_kv_heads)
        keys, values, *scales = cache.update(layer, keys, values)
        return self.out_proj(self.attend(queries, keys, values, mask, *scales))


class FeedForward(nn.Module):
    """(batch, n_tokens, emb_dim) -> the same shape. SwiGLU: Shazeer 2020."""

    def __init__(self, cfg):
        super().__init__()
        self.gate = Linear(cfg.emb_dim, cfg.hidden_dim, bias=False)
        self.up = Linear(cfg.emb_dim, cfg.hidden_dim, bias=False)
        self.down = Linear(cfg.hidden_dim, cfg.emb_dim, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class TransformerBlock(nn.Module):
    """(batch, n_tokens, emb_dim) -> the same shape."""

    def __init__(self, cfg):
        super().__init__()
        self.att, self.ff = GroupedQueryAttention(cfg), FeedForward(cfg)
        self.norm1, self.norm2 = rms_norm(cfg), rms_norm(cfg)

    def forward(self, x, turn, layer, cache, mask):
        x = x + self.att(self.norm1(x), turn, layer, cache, mask)
        return x + self.ff(self.norm2(x))


class LlamaModel(FastModel):
    """Token ids in, a score for every possible next token out; see optimized.GPTModel.

    The output head is the embedding's table, as in SmolLM2. With a cache no gradients are kept.
    Raises TypeError or ValueError as that does.
    """

    def __init__(self, cfg):
        super().__init__()
        check_kinds(cfg=(cfg, LlamaConfig))
        self.cfg = cfg
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.trf_blocks = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg.n_layers))
        self.final_norm = rms_norm(cfg)

    def forward(self, token_ids, cache=None, last_only=False):
        learns = cache is None and torch.is_grad_enabled()
        with one_pass(self, token_ids, cache) as given, torch.set_grad_enabled(learns):
            cache, positions, mask = given
            run, cache, parts = self.way(token_ids, cache, self.trf_blocks)
            x = self.tok_emb(token_ids)  # (batch, n_tokens, emb_dim)
            turn = [part.to(x.dtype) for part in rotation(self.cfg, positions)]
            for some in parts:
                x = run(self.some_blocks, x, some, turn, cache, mask)
            if last_only:
                x = x[:, -1:]  # (batch, 1, emb_dim)
            return run(self.head, x)

    def some_blocks(self, x, some, turn, cache, mask):
        """Blocks one after the other, each with its layer; or the weights of one."""
        for layer, block in some:
            plain, args = isinstance(block, dict), (x, turn, layer, cache, mask)
            x = functional_call(self.plain[0], block, args) if plain else block(*args)
        return x

    def head(self, x):
        """(batch, n_tokens, emb_dim) -> logits (batch, n_tokens, vocab_size)"""
        return product(self.final_norm(x), self.tok_emb.weight)
