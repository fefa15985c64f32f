"""The GPT that is handed its cache: the whole forward pass on one screen, made for speed.

It takes the state dicts of `baseline.GPTModel` and gives its logits, but only writes text: to
train, use the baseline. Three things make it fast. Queries, keys and values come from one product.
Each weight lies in memory as (in, out), so that a product with one vector streams long rows. And
there are no modules within modules: between two products the interpreter has little to do.
"""

import torch
from torch import nn
from torch.nn import functional as F

from . import baseline
from .baseline import LayerNorm
from .caches.base import one_pass


class FusedAttention(nn.Module):
    """What Attention computes, the fastest way, and with few keys for many queries.

    queries       (batch, n_heads, n_queries, head_dim)
    keys, values  (batch, n_kv_heads, n_keys, head_dim)
    mask          (1 or batch, 1, n_queries, n_keys), True where a query may look; None says it for
                  the causal order, and leaves PyTorch free to choose its fastest kernel
    returns       (batch, n_queries, emb_dim), the heads side by side again
    """

    def forward(self, queries, keys, values, mask):
        one_each = queries.shape[1:3] == (keys.shape[1], 1)  # one query for each head's keys
        if one_each and torch.compiler.is_compiling():  # sums, which fuse with what is around them
            scores = (keys * queries * queries.shape[-1] ** -0.5).sum(-1, keepdim=True)
            if mask is not None:
                scores = scores.masked_fill(~mask.mT, -torch.inf)
            context = (scores.softmax(2) * values).sum(2, keepdim=True)
        else:
            options = {"is_causal": mask is None and queries.shape[2] > 1, "enable_gqa": True}
            context = F.scaled_dot_product_attention(queries, keys, values, mask, **options)
        return context.transpose(1, 2).flatten(2)


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
        self.tok_emb = nn.Embedding(cfg.vocab_size, d)
        self.pos_emb = nn.Embedding(cfg.context_length, d)
        self.attend = FusedAttention()
        # The first gives queries, keys and values side by side.
        shapes = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
        self.blocks = nn.ModuleList(nn.ParameterDict() for _ in range(cfg.n_layers))
        for block in self.blocks:
            for name, shape in shapes.items():
                block[f"W_{name}"] = torch.empty(shape).normal_(std=0.02)
                block[f"b_{name}"] = torch.zeros(shape[1])
            for norm in ("norm1", "norm2"):
                block[f"{norm}_scale"], block[f"{norm}_shift"] = torch.ones(d), torch.zeros(d)
        self.final_norm = LayerNorm(d)
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
        self.compiled = torch.compile(GPTModel.run, dynamic=dynamic, **options)

    @torch.inference_mode()
    def forward(self, token_ids, cache=None, last_only=False):
        run = self.compiled if self.compiled and token_ids.shape[1] == 1 else GPTModel.run
        with one_pass(self, token_ids, cache) as (cache, positions, mask):
            return run(self, token_ids, positions, self.layers(), cache, mask, last_only)

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
            context = self.attend(queries, keys, values, mask).view(x.shape)
            x = torch.addmm(x + w["b_out"], context, w["W_out"])

            h = torch.layer_norm(x, emb_dim, w["norm2_scale"], w["norm2_shift"])
            h = F.gelu(torch.addmm(w["b_up"], h, w["W_up"]), approximate="tanh")
            x = torch.addmm(x + w["b_down"], h, w["W_down"])
        x = x.view(batch_size, n_tokens, -1)
        if last_only:
            x = x[:, -1:]  # (batch, 1, emb_dim)
        return self.final_norm(x) @ self.W_head


# Where the baseline has the weights of a block. Its linear layers keep them as (out, in).
LINEARS = {"qkv": ("att.W_query", "att.W_key", "att.W_value"), "out": ("att.out_proj",)}
LINEARS |= {"up": ("ff.layers.0",), "down": ("ff.layers.2",)}


def from_baseline(model, state_dict, *_):
    """Bring a state dict of the baseline into the form of this model; leave its own as it is."""
    if not any(name.startswith("trf_blocks.") for name in state_dict):
        return
    with torch.device("meta"):  # a baseline says what is missing in it, or is too much
        baseline.GPTModel(model.cfg).load_state_dict(state_dict, assign=True)
    state_dict["W_head"] = state_dict.pop("out_head.weight").t().contiguous()
    for layer in range(model.cfg.n_layers):
        old, new = f"trf_blocks.{layer}.", f"blocks.{layer}."
        state_dict.pop(f"{old}att.mask", None)
        for name in ("norm1.scale", "norm1.shift", "norm2.scale", "norm2.shift"):
            state_dict[new + name.replace(".", "_")] = state_dict.pop(old + name)
        for name, places in LINEARS.items():
            W = torch.cat([state_dict.pop(f"{old}{place}.weight") for place in places])
            b = W.new_zeros(len(W))
            if name != "qkv" or model.cfg.qkv_bias:
                b = torch.cat([state_dict.pop(f"{old}{place}.bias") for place in places])
            state_dict[f"{new}W_{name}"], state_dict[f"{new}b_{name}"] = W.t().contiguous(), b
