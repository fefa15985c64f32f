"""The GPT that is handed its cache: the whole forward pass on one screen, made for speed.

It takes the state dicts of `baseline.GPTModel` and gives its logits, but only writes text: to
train, use the baseline. Three things make it fast. Queries, keys and values come from one product.
Each weight lies in memory as (in, out), so that a product with one vector streams long rows. And
there are no modules within modules: between two products the interpreter has little to do.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .caches import begin_pass


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
        self.cfg, self.compiled = cfg, None
        d = cfg.emb_dim
        shapes = {
            "norm1_scale": (d,),
            "norm1_shift": (d,),
            "norm2_scale": (d,),
            "norm2_shift": (d,),
            "W_qkv": (d, 3 * d),  # queries, keys and values side by side
            "b_qkv": (3 * d,),
            "W_out": (d, d),
            "b_out": (d,),
            "W_up": (d, 4 * d),
            "b_up": (4 * d,),
            "W_down": (4 * d, d),
            "b_down": (d,),
        }
        self.tok_emb = nn.Embedding(cfg.vocab_size, d)
        self.pos_emb = nn.Embedding(cfg.context_length, d)
        self.blocks = nn.ModuleList()
        for _ in range(cfg.n_layers):
            weights = {name: torch.empty(shape).normal_(std=0.02) for name, shape in shapes.items()}
            self.blocks.append(nn.ParameterDict(weights))
        self.final_norm = nn.LayerNorm(d)
        self.W_head = nn.Parameter(torch.empty(d, cfg.vocab_size).normal_(std=0.02))
        self.register_load_state_dict_pre_hook(from_baseline)

    def layers(self):
        """The weights of each block, by name, in a plain dict: Python reads modules more slowly."""
        return [block._parameters for block in self.blocks]

    def compile(self, dynamic=True, **options):
        """Have torch.compile fuse what lies between the products of a decode step.

        The first step then takes half a minute, and on a CPU it needs a C++ compiler. Nothing but
        the speed changes. The options are those of torch.compile.
        """
        self.compiled = torch.compile(self.run, dynamic=dynamic, **options)

    @torch.inference_mode()
    def forward(self, token_ids, cache=None, last_only=False):
        cache, positions, mask = begin_pass(self, token_ids, cache)
        run = self.compiled if self.compiled and token_ids.shape[1] == 1 else self.run
        logits = run(token_ids, positions, self.layers(), cache, mask, last_only)
        cache.end(token_ids)
        return logits

    def run(self, token_ids, positions, layers, cache, mask, last_only):
        """The pass itself, from token ids to logits."""
        batch_size, n_tokens = token_ids.shape
        x = self.tok_emb(token_ids) + self.pos_emb(positions)  # (batch, n_tokens, emb_dim)
        emb_dim = x.shape[2:]
        x = x.flatten(0, 1)  # all tokens one below the other
        heads = (batch_size, n_tokens, 3, self.cfg.n_heads, self.cfg.head_dim)
        for layer, w in enumerate(layers):
            h = torch.layer_norm(x, emb_dim, w["norm1_scale"], w["norm1_shift"])
            qkv = torch.addmm(w["b_qkv"], h, w["W_qkv"])  # (batch * n_tokens, 3 * emb_dim)
            queries, keys, values = qkv.view(heads).permute(2, 0, 3, 1, 4).unbind()
            keys, values = cache.update(layer, keys, values)  # (batch, n_heads, n_keys, head_dim)
            context = attend(queries, keys, values, mask)
            context = context.transpose(1, 2).reshape(x.shape)
            x = (x + w["b_out"]).addmm_(context, w["W_out"])

            h = torch.layer_norm(x, emb_dim, w["norm2_scale"], w["norm2_shift"])
            h = F.gelu(torch.addmm(w["b_up"], h, w["W_up"]), approximate="tanh")
            x = (x + w["b_down"]).addmm_(h, w["W_down"])
        x = x.view(batch_size, n_tokens, -1)
        if last_only:
            x = x[:, -1:]  # (batch, 1, emb_dim)
        return self.final_norm(x) @ self.W_head


def attend(queries, keys, values, mask):
    """(batch, n_heads, n_queries, head_dim) -> the same shape, and the fastest way there."""
    if not torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    # One query, compiled: sums of products, which fuse with what is around them.
    scores = (keys * queries * queries.shape[-1] ** -0.5).sum(-1, keepdim=True)
    if mask is not None:
        scores = scores.masked_fill(~mask.mT, -torch.inf)
    return (scores.softmax(2) * values).sum(2, keepdim=True)  # scores (batch, n_heads, n_keys, 1)


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
    state_dict["W_head"] = state_dict.pop("out_head.weight").t().contiguous()
    for layer in range(model.cfg.n_layers):
        old, new = f"trf_blocks.{layer}.", f"blocks.{layer}."
        state_dict.pop(f"{old}att.mask", None)
        for name in ("norm1", "norm2"):
            for part in ("scale", "shift"):
                state_dict[f"{new}{name}_{part}"] = state_dict.pop(f"{old}{name}.{part}")
        for name, places in LINEARS.items():
            W = torch.cat([state_dict.pop(f"{old}{place}.weight") for place in places])
            b = W.new_zeros(len(W))
            if name != "qkv" or model.cfg.qkv_bias:
                b = torch.cat([state_dict.pop(f"{old}{place}.bias") for place in places])
            state_dict[f"{new}W_{name}"], state_dict[f"{new}b_{name}"] = W.t().contiguous(), b
    for ours, theirs in (("weight", "scale"), ("bias", "shift")):
        state_dict[f"final_norm.{ours}"] = state_dict.pop(f"final_norm.{theirs}")
