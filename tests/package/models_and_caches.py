"""The models and caches that tests compare, with random weights."""

import torch
from conftest import SMALL, twins

from kvcache import caches, optimized
from kvcache.llama import LlamaConfig, LlamaModel

SIZES = {"emb_dim": 24, "n_heads": 6, "n_kv_heads": 2, "hidden_dim": 40}
SMALL_LLAMA = LlamaConfig(**{**vars(SMALL), **SIZES})
EXACT = ("concat", "preallocated", "whole window", "paged")
ALL = (*EXACT, "window", "int8", "int4")


def assert_near(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def make_cache(
    name, cfg=SMALL, batch=1, n_tokens=24, dtype=torch.float32, n_pad=None, device="cpu"
):
    """An empty cache for that many tokens; "window" lets each see 5, paged has blocks of 3."""
    place = {"dtype": dtype, "device": device}
    if name == "concat":
        return caches.ConcatCache(cfg, batch, n_pad)
    if name == "preallocated":
        return caches.PreallocatedCache(cfg, n_tokens, batch, n_pad, **place)
    if name == "paged":
        pages = caches.PagedCache(cfg, batch * -(-n_tokens // 3), 3, **place)
        return pages.batch([pages.add() for _ in range(batch)])
    if "window" in name:
        window = 5 if name == "window" else n_tokens
        return caches.SlidingWindowCache(cfg, window, batch, n_pad, **place)
    bits = int(name.removeprefix("int"))
    return caches.QuantizedCache(cfg, n_tokens, bits, batch, n_pad, device)


def make_gpt(plain=None):
    """The optimized GPT with the weights of a baseline, or of the first of `twins`."""
    plain = plain or twins()[0]
    fast = optimized.GPTModel(plain.cfg).to(plain.tok_emb.weight.dtype).eval()
    fast.load_state_dict(plain.state_dict())
    return fast


def with_weights(model, std=0.3, seed=0):
    """A model in eval mode, all its weights drawn from a normal distribution."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=std)
    return model.eval()


def make_llama(seed=0):
    return with_weights(LlamaModel(SMALL_LLAMA), seed=seed)


def in_chunks(model, cache, token_ids, sizes):
    return torch.cat([model(chunk, cache) for chunk in token_ids.split(sizes, dim=1)], dim=1)
