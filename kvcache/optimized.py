"""The GPT that is handed its cache: the whole forward pass on one screen, made for speed.

It takes the state dicts of `baseline.GPTModel` and gives its logits, but only writes text: to
train, use the baseline. Three things make it fast. Queries, keys and values come from one product.
Each weight lies in memory as (in, out), so that a product with one vector streams long rows. And
there are no modules within modules: between two products the interpreter has little to do.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .caches import begin_pass


class Block(NamedTuple):
    """The weights of one block. Shapes: d is emb_dim."""

    norm1_scale: Tensor  # (d,)
    norm1_shift: Tensor  # (d,)
    W_qkv: Tensor  # (d, 3 d): queries, keys and values side by side
    b_qkv: Tensor  # (3 d,)
    W_out: Tensor  # (d, d)
    b_out: Tensor  # (d,)
    norm2_scale: Tensor  # (d,)
    norm2_shift: Tensor  # (d,)
    W_up: Tensor  # (d, 4 d)
    b_up: Tensor  # (4 d,)
    W_down: Tensor  # (4 d, d)
    b_down: Tensor  # (d,)


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
        d = cfg.emb_dim
        shapes = ((d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,))
        shapes += ((d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,))
        self.tok_emb = nn.Embedding(cfg.vocab_size, d)
        self.pos_emb = nn.Embedding(cfg.context_length, d)
        # Each parameter holds those of all blocks: (n_layers, ...)
        self.blocks = nn.ParameterDict(
            {
                name: torch.empty(cfg.n_layers, *shape).normal_(std=0.02)
                for name, shape in zip(Block._fields, shapes, strict=True)
            }
        )
        self.final_norm = nn.LayerNorm(d)
        self.W_head = nn.Parameter(torch.empty(d, cfg.vocab_size).normal_(std=0.02))
        self.register_load_state_dict_pre_hook(from_baseline)
        self.views, self.views_of = [], None

    def layers(self):
        """A Block for each layer: views of the parameters, made anew only if those moved."""
        places = [parameter.data_ptr() for parameter in self.blocks.values()]
        if self.views_of != places:
            weights = zip(*(self.blocks[name].unbind() for name in Block._fields), strict=True)
            self.views, self.views_of = [Block(*each) for each in weights], places
        return self.views

    def _apply(self, *args, **options):
        """A move to another device or dtype: let go of the views of the old weights."""
        self.views, self.views_of = [], None
        return super()._apply(*args, **options)

    @torch.inference_mode()
    def forward(self, token_ids, cache=None, last_only=False):
        cache, positions, mask = begin_pass(self, token_ids, cache)
        batch_size, n_tokens = token_ids.shape

        x = self.tok_emb(token_ids) + self.pos_emb(positions)  # (batch, n_tokens, emb_dim)
        emb_dim = x.shape[2:]
        x = x.flatten(0, 1)  # all tokens one below the other
        heads = (batch_size, n_tokens, 3, self.cfg.n_heads, self.cfg.head_dim)
        for layer, w in enumerate(self.layers()):
            h = torch.layer_norm(x, emb_dim, w.norm1_scale, w.norm1_shift)
            qkv = torch.addmm(w.b_qkv, h, w.W_qkv)  # (batch * n_tokens, 3 * emb_dim)
            queries, keys, values = qkv.view(heads).permute(2, 0, 3, 1, 4).unbind()
            keys, values = cache.update(layer, keys, values)  # (batch, n_heads, n_keys, head_dim)
            context = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            context = context.transpose(1, 2).reshape(x.shape)
            x = (x + w.b_out).addmm_(context, w.W_out)

            h = torch.layer_norm(x, emb_dim, w.norm2_scale, w.norm2_shift)
            h = F.gelu(torch.addmm(w.b_up, h, w.W_up), approximate="tanh")
            x = (x + w.b_down).addmm_(h, w.W_down)
        cache.end(token_ids)
        x = x.view(batch_size, n_tokens, -1)
        if last_only:
            x = x[:, -1:]  # (batch, 1, emb_dim)
        return self.final_norm(x) @ self.W_head


# Where the baseline has the weights of a block. Its linear layers keep them as (out, in).
LINEARS = {
    "qkv": ("att.W_query", "att.W_key", "att.W_value"),
    "out": ("att.out_proj",),
    "up": ("ff.layers.0",),
    "down": ("ff.layers.2",),
}


def from_baseline(model, state_dict, *_):
    """Bring a state dict of the baseline into the form of this model; leave its own as it is."""
    if "out_head.weight" not in state_dict:
        return
    layers = [f"trf_blocks.{layer}." for layer in range(model.cfg.n_layers)]

    def stacked(*places):
        """(n_layers, ...): those of a block one after the other, those of all blocks stacked."""
        return torch.stack(
            [torch.cat([state_dict.pop(layer + place) for place in places]) for layer in layers]
        )

    state_dict["W_head"] = state_dict.pop("out_head.weight").t().contiguous()
    for name in ("norm1", "norm2"):
        state_dict[f"blocks.{name}_scale"] = stacked(f"{name}.scale")
        state_dict[f"blocks.{name}_shift"] = stacked(f"{name}.shift")
    for name, places in LINEARS.items():
        weights, biases = ([f"{place}.{kind}" for place in places] for kind in ("weight", "bias"))
        W = stacked(*weights).transpose(1, 2).contiguous()
        b = W.new_zeros(W.shape[0], W.shape[2])
        if name != "qkv" or model.cfg.qkv_bias:
            b = stacked(*biases)
        state_dict[f"blocks.W_{name}"], state_dict[f"blocks.b_{name}"] = W, b
    for layer in layers:
        state_dict.pop(f"{layer}att.mask", None)
    for ours, theirs in (("weight", "scale"), ("bias", "shift")):
        state_dict[f"final_norm.{ours}"] = state_dict.pop(f"final_norm.{theirs}")
