"""The GPT that is handed its cache: fewer and larger operations, and nothing to reset.

It takes the state dicts of `baseline.GPTModel` and gives its logits, but only writes text: to
train, use the baseline. Two things make it fast. Queries, keys and values come from one product.
And each weight lies in memory as (in, out), so that a product with one vector streams long rows.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .baseline import LayerNorm
from .caches import ConcatCache

# The weights of a block, and where the baseline has them.
WEIGHTS = {
    "qkv": ("att.W_query", "att.W_key", "att.W_value"),
    "out": ("att.out_proj",),
    "up": ("ff.layers.0",),
    "down": ("ff.layers.2",),
}


class TransformerBlock(nn.Module):
    """Attention and feed-forward in one. x (batch * n_tokens, emb_dim) -> the same shape"""

    def __init__(self, cfg):
        super().__init__()
        emb_dim = cfg.emb_dim
        self.n_heads = cfg.n_heads
        self.norm1, self.norm2 = LayerNorm(emb_dim), LayerNorm(emb_dim)
        widths = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}  # in emb_dim
        for name, (n_in, n_out) in widths.items():
            weight = torch.empty(n_in * emb_dim, n_out * emb_dim)
            setattr(self, f"W_{name}", nn.Parameter(nn.init.normal_(weight, std=0.02)))
            setattr(self, f"b_{name}", nn.Parameter(torch.zeros(n_out * emb_dim)))
        self.register_load_state_dict_pre_hook(from_baseline)

    def forward(self, x, layer, cache, mask):
        h = self.norm1(x)
        qkv = torch.addmm(self.b_qkv, h, self.W_qkv)  # (batch * n_tokens, 3 * emb_dim)
        qkv = qkv.view(cache.batch_size, -1, 3, self.n_heads, x.shape[1] // self.n_heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind()
        keys, values = cache.update(layer, keys, values)  # (batch, n_heads, n_keys, head_dim)
        context = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        context = context.transpose(1, 2).reshape(x.shape)
        x = x + torch.addmm(self.b_out, context, self.W_out)

        h = torch.addmm(self.b_up, self.norm2(x), self.W_up)  # (batch * n_tokens, 4 * emb_dim)
        return x + torch.addmm(self.b_down, F.gelu(h, approximate="tanh"), self.W_down)


def from_baseline(block, state_dict, prefix, *_):
    """Turn a baseline's weights round, (out, in) to (in, out), and lay Q, K and V side by side."""
    state_dict.pop(prefix + "att.mask", None)
    for name, places in WEIGHTS.items():
        weights = [state_dict.pop(f"{prefix}{place}.weight", None) for place in places]
        biases = [state_dict.pop(f"{prefix}{place}.bias", None) for place in places]
        if None not in weights:
            state_dict[f"{prefix}W_{name}"] = torch.cat(weights).t()
            bias = getattr(block, f"b_{name}")
            state_dict[f"{prefix}b_{name}"] = (
                torch.zeros_like(bias) if None in biases else torch.cat(biases)
            )


class GPTModel(nn.Module):
    """Token ids in, a score for every possible next token out.

    forward: token_ids (batch, n_tokens) -> logits (batch, n_tokens, vocab_size),
    or (batch, 1, vocab_size), those of the last position, with last_only=True.
    The tokens continue those that `cache` holds, and are stored in it. cache=None: nothing is.

    Raises TypeError or ValueError, before any work, for token ids that the model or the cache
    cannot take.
    """

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.pos_emb = nn.Embedding(cfg.context_length, cfg.emb_dim)
        self.trf_blocks = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg.n_layers))
        self.final_norm = LayerNorm(cfg.emb_dim)
        self.out_head = nn.Linear(cfg.emb_dim, cfg.vocab_size, bias=False)
        self.out_head.weight = nn.Parameter(self.out_head.weight.t().contiguous().t())

    @torch.inference_mode()
    def forward(self, token_ids, cache=None, last_only=False):
        n_past = 0 if cache is None else cache.n_tokens
        self.cfg.check_token_ids(token_ids, self.tok_emb.weight.device, n_past)
        if cache is None:
            cache = ConcatCache(self.cfg, len(token_ids))
        positions, mask = cache.begin(token_ids)
        x = self.tok_emb(token_ids) + self.pos_emb(positions)  # (batch, n_tokens, emb_dim)
        batch_size, n_tokens, emb_dim = x.shape
        x = x.view(-1, emb_dim)  # all tokens one below the other
        for layer, block in enumerate(self.trf_blocks):
            x = block(x, layer, cache, mask)
        cache.end(token_ids)
        x = x.view(batch_size, n_tokens, emb_dim)
        if last_only:
            x = x[:, -1:]  # (batch, 1, emb_dim)
        return self.out_head(self.final_norm(x))
