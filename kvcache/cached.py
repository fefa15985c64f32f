"""The GPT with a key/value cache: the classes of `baseline.py` after the five changes.

Search for "CACHE" to find every changed statement and new method; the number is the change's:
1 buffers, 2 store or append, 3 reset, 4 positions and the way down, 5 generation (`generate.py`).
"""

import torch
from torch import nn

from .baseline import Attention, FeedForward, LayerNorm, causal_mask, split_heads, trade_mask
from .config import GPTConfig, check_kinds, need


class MultiHeadAttention(nn.Module):
    """Lets each token gather from itself and the tokens before it.

    forward: (batch, n_tokens, emb_dim) -> (batch, n_tokens, emb_dim)
    With use_cache=True the tokens before it may come from the cache.
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
        # (batch, n_heads, n_cached, head_dim), or None while the cache is empty
        self.register_buffer("cache_k", None, persistent=False)  # CACHE 1
        self.register_buffer("cache_v", None, persistent=False)  # CACHE 1

    def forward(self, x, use_cache=False):  # CACHE 2
        queries = split_heads(self.W_query(x), self.n_heads)
        keys = split_heads(self.W_key(x), self.n_heads)
        values = split_heads(self.W_value(x), self.n_heads)

        if use_cache:  # CACHE 2
            if self.cache_k is not None:  # CACHE 2
                keys = torch.cat([self.cache_k, keys], dim=2)  # CACHE 2
                values = torch.cat([self.cache_v, values], dim=2)  # CACHE 2
            self.cache_k, self.cache_v = keys, values  # CACHE 2

        n_tokens = keys.shape[2]
        n_past = n_tokens - queries.shape[2]  # CACHE 2
        mask = self.mask[n_past:n_tokens, :n_tokens]  # CACHE 2
        return self.out_proj(self.attend(queries, keys, values, mask))

    def reset_cache(self):  # CACHE 3
        self.cache_k, self.cache_v = None, None  # CACHE 3


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

    def forward(self, x, use_cache=False):  # CACHE 4
        x = x + self.drop_resid(self.att(self.norm1(x), use_cache))  # CACHE 4
        return x + self.drop_resid(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    """Token ids in, a score for every possible next token out.

    forward: token_ids (batch, n_tokens) -> logits (batch, n_tokens, vocab_size),
    or (batch, 1, vocab_size), those of the last position, with last_only=True.
    With use_cache=True the tokens continue those of the calls before, back to reset_kv_cache().

    Raises TypeError or ValueError for token ids that the model cannot take
    (see GPTConfig.check_token_ids), IndexError for one outside the vocabulary, and ValueError for
    use_cache=True in training mode or with a batch size or device that differs from the cache's.
    """

    def __init__(self, cfg):
        super().__init__()
        check_kinds(cfg=(cfg, GPTConfig))
        self.cfg = cfg
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.pos_emb = nn.Embedding(cfg.context_length, cfg.emb_dim)
        self.drop_emb = nn.Dropout(cfg.drop_rate)
        blocks = [TransformerBlock(cfg) for _ in range(cfg.n_layers)]
        self.trf_blocks = nn.ModuleList(blocks)  # CACHE 4
        self.final_norm = LayerNorm(cfg.emb_dim)
        self.out_head = nn.Linear(cfg.emb_dim, cfg.vocab_size, bias=False)
        self.current_pos, self.unfinished = 0, False  # CACHE 4
        self.register_load_state_dict_pre_hook(forget)  # CACHE 4

    def forward(self, token_ids, use_cache=False, last_only=False):
        start = self.current_pos if use_cache else 0  # CACHE 4
        self.cfg.check_token_ids(token_ids, self.tok_emb.weight.device, start)  # CACHE 4
        end = start + token_ids.shape[1]  # CACHE 4
        positions = torch.arange(start, end, device=token_ids.device)  # CACHE 4

        x = self.tok_emb(token_ids) + self.pos_emb(positions)  # (batch, n_tokens, emb_dim)
        x = self.drop_emb(x)
        if use_cache:  # CACHE 4
            self.check_cache(token_ids)  # CACHE 4
        for block in self.trf_blocks:  # CACHE 4
            x = block(x, use_cache)  # CACHE 4
        if last_only:
            x = x[:, -1:]  # (batch, 1, emb_dim)
        logits = self.out_head(self.final_norm(x))
        if use_cache:  # CACHE 4
            self.current_pos, self.unfinished = end, False  # CACHE 4
        return logits

    def reset_kv_cache(self):  # CACHE 4
        for block in self.trf_blocks:  # CACHE 4
            block.att.reset_cache()  # CACHE 4
        self.current_pos, self.unfinished = 0, False  # CACHE 4

    def stored(self):  # CACHE 5
        """All keys and values that the layers keep now, to see whether they are still the same."""
        parts = [block.att for block in self.trf_blocks]
        return [each for att in parts for each in (att.cache_k, att.cache_v)]

    def check_cache(self, token_ids):  # CACHE 4
        """Raise ValueError for what the cache cannot take, before any layer stores anything."""
        need(not self.training, "the model is in training mode", "call model.eval() first")
        remedy = "call model.reset_kv_cache() first"
        need(not self.unfinished, "the last call with the cache did not come to its end", remedy)
        cached = self.trf_blocks[0].att.cache_k
        if cached is not None:
            given, kept = (f"{len(rows)} on {rows.device}" for rows in (token_ids, cached))
            problem = f"token_ids has batch size {given}, the cache holds {kept}"
            need(given == kept, problem, remedy)
        self.unfinished = True


def forget(model, *_):
    """Other weights give other keys: those of the old ones go."""
    model.reset_kv_cache()
