"""The GPT with no cache, from top to bottom.

Shapes are written in one alphabet: batch, n_tokens, emb_dim, n_heads, head_dim, vocab_size.
`cached.py` holds the same classes after the five changes; what did not change it imports from here.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .config import GPTConfig, check_kinds


class LayerNorm(nn.Module):
    """Brings each token's vector to mean 0 and variance 1, then scales and shifts it."""

    def __init__(self, emb_dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, eps=1e-5)


class FeedForward(nn.Module):
    """Works on each token by itself: no token sees another here."""

    def __init__(self, cfg):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(cfg.emb_dim, 4 * cfg.emb_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * cfg.emb_dim, cfg.emb_dim),
        )

    def forward(self, x):
        return self.layers(x)


def split_heads(x, n_heads):
    """(batch, n_tokens, emb_dim) -> (batch, n_heads, n_tokens, head_dim)"""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(head_dim)) V for each head: Vaswani et al. 2017, equation 1.

    queries       (batch, n_heads, n_queries, head_dim)
    keys, values  (batch, n_heads, n_keys, head_dim)
    mask          (n_queries, n_keys), True where a query may look
    returns       (batch, n_queries, emb_dim), the heads side by side again
    """

    def __init__(self, drop_rate):
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, queries, keys, values, mask):
        scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask, -torch.inf)  # (batch, n_heads, n_queries, n_keys)
        # Before dropout each row adds up to 1.
        weights = self.dropout(torch.softmax(scores, dim=-1))
        context = weights @ values  # (batch, n_heads, n_queries, head_dim)
        return context.transpose(1, 2).flatten(2)


def causal_mask(n_tokens, device=None):
    """(n_tokens, n_tokens), True at [i, j] where token i may look at token j: j is not after i."""
    return torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=device).tril()


def trade_mask(attention):
    """Have checkpoints carry the mask of the public GPT, which is True where ours is False.

    One that is read may leave it out: the mask follows from the sizes.
    """
    attention.register_state_dict_post_hook(give_mask)
    attention.register_load_state_dict_pre_hook(keep_mask)


def give_mask(attention, state_dict, prefix, _):
    state_dict[prefix + "mask"] = ~attention.mask


def keep_mask(attention, state_dict, prefix, *_):
    device = state_dict.get(prefix + "W_key.weight", attention.mask).device
    state_dict[prefix + "mask"] = causal_mask(len(attention.mask), device)


class MultiHeadAttention(nn.Module):
    """Lets each token gather from itself and the tokens before it.

    forward: (batch, n_tokens, emb_dim) -> (batch, n_tokens, emb_dim)
    """

    def __init__(self, cfg):
        super().__init__()
        self.n_heads = cfg.n_heads
        self.W_query = nn.Linear(cfg.emb_dim, cfg.emb_dim, bias=cfg.qkv_bias)
        self.W_key = nn.Linear(cfg.emb_dim, cfg.emb_dim, bias=cfg.qkv_bias)
        self.W_value = nn.Linear(cfg.emb_dim, cfg.emb_dim, bias=cfg.qkv_bias)
        self.out_proj = nn.Linear(cfg.emb_dim, cfg.emb_dim)
        self.attend = Attention(cfg.drop_rate)
        self.register_buffer("mask", causal_mask(cfg.context_length))
        trade_mask(self)

    def forward(self, x):
        queries = split_heads(self.W_query(x), self.n_heads)
        keys = split_heads(self.W_key(x), self.n_heads)
        values = split_heads(self.W_value(x), self.n_heads)

        n_tokens = keys.shape[2]
        mask = self.mask[:n_tokens, :n_tokens]
        return self.out_proj(self.attend(queries, keys, values, mask))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward; each adds to what flows past it.

    forward: (batch, n_tokens, emb_dim) -> (batch, n_tokens, emb_dim)
    """

    def __init__(self, cfg):
        super().__init__()
        self.att = MultiHeadAttention(cfg)
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg.emb_dim)
        self.norm2 = LayerNorm(cfg.emb_dim)
        self.drop_resid = nn.Dropout(cfg.drop_rate)

    def forward(self, x):
        x = x + self.drop_resid(self.att(self.norm1(x)))
        return x + self.drop_resid(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    """Token ids in, a score for every possible next token out.

    forward: token_ids (batch, n_tokens) -> logits (batch, n_tokens, vocab_size),
    or (batch, 1, vocab_size), those of the last position, with last_only=True.

    Raises TypeError or ValueError for token ids that the model cannot take
    (see GPTConfig.check_token_ids), IndexError for one outside the vocabulary, and ValueError
    for use_cache=True: there is no cache here.
    """

    def __init__(self, cfg):
        super().__init__()
        check_kinds(cfg=(cfg, GPTConfig))
        self.cfg = cfg
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.pos_emb = nn.Embedding(cfg.context_length, cfg.emb_dim)
        self.drop_emb = nn.Dropout(cfg.drop_rate)
        blocks = [TransformerBlock(cfg) for _ in range(cfg.n_layers)]
        self.trf_blocks = nn.Sequential(*blocks)
        self.final_norm = LayerNorm(cfg.emb_dim)
        self.out_head = nn.Linear(cfg.emb_dim, cfg.vocab_size, bias=False)

    def forward(self, token_ids, use_cache=False, last_only=False):
        if use_cache:
            raise ValueError("use_cache=True: the baseline has no cache; use cached.GPTModel.")
        self.cfg.check_token_ids(token_ids, self.tok_emb.weight.device)
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)

        x = self.tok_emb(token_ids) + self.pos_emb(positions)  # (batch, n_tokens, emb_dim)
        x = self.drop_emb(x)
        x = self.trf_blocks(x)
        if last_only:
            x = x[:, -1:]  # (batch, 1, emb_dim)
        logits = self.out_head(self.final_norm(x))
        return logits
