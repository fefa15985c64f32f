"""The GPT that is handed its cache: the whole forward pass on one screen, made for speed.

It takes the state dicts of `baseline.GPTModel` and gives its logits, but only writes text: to
train, use the baseline. Queries, keys and values come from one product, there are no modules within
modules, and all products and the attention are those of `fast`.
"""

import torch
from torch import nn
from torch.nn import functional as F

from . import baseline
from .caches.base import one_pass
from .config import GPTConfig, check_kinds
from .fast import FastModel, FusedAttention, product


class GPTModel(FastModel):
    """Token ids in, a score for every possible next token out.

    forward: token_ids (batch, n_tokens) -> logits (batch, n_tokens, vocab_size),
    or (batch, 1, vocab_size), those of the last position, with last_only=True.
    The tokens continue those that `cache` holds, and are stored in it. cache=None: nothing is.

    Raises TypeError or ValueError, before any work, for token ids that the model or the cache
    cannot take.
    """

    def __init__(self, cfg):
        super().__init__()
        check_kinds(cfg=(cfg, GPTConfig))
        self.cfg = cfg
        d = cfg.emb_dim
        self.tok_emb = nn.Embedding(cfg.vocab_size, d)
        self.pos_emb = nn.Embedding(cfg.context_length, d)
        self.attend = FusedAttention()
        # (out, in); the first gives queries, keys and values side by side.
        shapes = {"qkv": (3 * d, d), "out": (d, d), "up": (4 * d, d), "down": (d, 4 * d)}
        self.blocks = nn.ModuleList(nn.ParameterDict() for _ in range(cfg.n_layers))
        for block in self.blocks:
            for name, shape in shapes.items():
                block[f"W_{name}"] = torch.empty(shape).normal_(std=0.02)
                block[f"b_{name}"] = torch.zeros(shape[0])
            for norm in ("norm1", "norm2"):
                block[f"{norm}_scale"], block[f"{norm}_shift"] = torch.ones(d), torch.zeros(d)
        self.final_norm = baseline.LayerNorm(d)
        self.W_head = nn.Parameter(torch.empty(cfg.vocab_size, d).normal_(std=0.02))
        self.register_load_state_dict_pre_hook(from_baseline)

    @torch.inference_mode()
    def forward(self, token_ids, cache=None, last_only=False):
        with one_pass(self, token_ids, cache) as (cache, positions, mask):
            # In plain dicts: Python reads modules more slowly.
            weights = [block._parameters for block in self.blocks]
            run, cache, parts = self.way(token_ids, cache, weights)
            x = self.tok_emb(token_ids) + self.pos_emb(positions)  # (batch, n_tokens, emb_dim)
            for some in parts:
                x = run(self.some_blocks, x, some, cache, mask)
            if last_only:
                x = x[:, -1:]  # (batch, 1, emb_dim)
            return run(self.head, x)

    def some_blocks(self, x, some, cache, mask):
        """Blocks one after the other, each a layer and its weights."""
        for layer, w in some:
            x = self.block(x, w, layer, cache, mask)
        return x

    def block(self, x, w, layer, cache, mask):
        """One block with the weights w: (batch, n_tokens, emb_dim) -> the same shape."""
        h = F.layer_norm(x, x.shape[2:], w["norm1_scale"], w["norm1_shift"])
        qkv = product(h, w["W_qkv"]) + w["b_qkv"]  # (batch, n_tokens, 3 * emb_dim)
        qkv = qkv.unflatten(2, (3, self.cfg.n_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind()  # (batch, n_heads, n_tokens, head_dim)
        keys, values, *scales = cache.update(layer, keys, values)
        x = x + product(self.attend(queries, keys, values, mask, *scales), w["W_out"]) + w["b_out"]

        h = F.layer_norm(x, x.shape[2:], w["norm2_scale"], w["norm2_shift"])
        h = F.gelu(product(h, w["W_up"]) + w["b_up"], approximate="tanh")
        return x + product(h, w["W_down"]) + w["b_down"]

    def head(self, x):
        """(batch, n_tokens, emb_dim) -> logits (batch, n_tokens, vocab_size)"""
        return product(self.final_norm(x), self.W_head)


# Where the baseline has the weights of a block.
LINEARS = {"qkv": ("att.W_query", "att.W_key", "att.W_value"), "out": ("att.out_proj",)}
LINEARS |= {"up": ("ff.layers.0",), "down": ("ff.layers.2",)}


def from_baseline(model, state_dict, *_):
    """Bring a state dict of the baseline into the form of this model; leave its own as it is.

    Raises TypeError for a model whose cfg is none, as `baseline.GPTModel` does.
    """
    if not any(name.startswith("trf_blocks.") for name in state_dict):
        return
    with torch.device("meta"):  # a baseline says what is missing in it, or is too much
        baseline.GPTModel(model.cfg).load_state_dict(state_dict, assign=True)
    state_dict["W_head"] = state_dict.pop("out_head.weight")
    for layer in range(model.cfg.n_layers):
        old, new = f"trf_blocks.{layer}.", f"blocks.{layer}."
        state_dict.pop(f"{old}att.mask", None)
        for name in ("norm1.scale", "norm1.shift", "norm2.scale", "norm2.shift"):
            state_dict[new + name.replace(".", "_")] = state_dict.pop(old + name)
        for name, places in LINEARS.items():
            W = torch.cat([state_dict.pop(f"{old}{place}.weight") for place in places])
            none = W.new_zeros(len(W) // len(places))  # without biases of queries, keys and values
            b = torch.cat([state_dict.pop(f"{old}{place}.bias", none) for place in places])
            state_dict[f"{new}W_{name}"], state_dict[f"{new}b_{name}"] = W, b
