"""The models and caches that tests compare, and random configurations of them."""

import torch
from conftest import SMALL, twins
from hypothesis import strategies as st

from kvcache import GPTConfig, optimized
from kvcache.caches import (
    ConcatCache,
    PagedCache,
    PreallocatedCache,
    QuantizedCache,
    SlidingWindowCache,
)
from kvcache.llama import LlamaConfig, LlamaModel

LLAMA = LlamaConfig(
    **{**vars(SMALL), "emb_dim": 24, "n_heads": 6, "n_kv_heads": 2, "hidden_dim": 40}
)
EXACT = ("concat", "preallocated", "whole window", "paged")
ALL = (*EXACT, "window", "int8", "int4")


def assert_near(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def make_cache(name, cfg=SMALL, batch=1, n_tokens=24, dtype=torch.float32, n_pad=None):
    """An empty cache for that many tokens; "window" lets each see 5, paged has blocks of 3."""
    if name == "concat":
        return ConcatCache(cfg, batch, n_pad)
    if name == "preallocated":
        return PreallocatedCache(cfg, n_tokens, batch, n_pad, dtype)
    if name == "paged":
        pages = PagedCache(cfg, batch * -(-n_tokens // 3), 3, dtype)
        return pages.batch([pages.add() for _ in range(batch)])
    if "window" in name:
        return SlidingWindowCache(cfg, 5 if name == "window" else n_tokens, batch, n_pad, dtype)
    return QuantizedCache(cfg, n_tokens, int(name.removeprefix("int")), batch, n_pad)


def optimized_twin(plain):
    """The optimized model with the weights of a baseline."""
    fast = optimized.GPTModel(plain.cfg).to(plain.tok_emb.weight.dtype).eval()
    fast.load_state_dict(plain.state_dict())
    return fast


def make_gpt(seed=0, dtype=torch.float32):
    """An optimized GPT with random weights."""
    return optimized_twin(twins(SMALL, seed, dtype)[0])


def make_llama(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    model = LlamaModel(LLAMA).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.to(dtype)


def in_chunks(model, cache, token_ids, sizes):
    return torch.cat([model(chunk, cache) for chunk in token_ids.split(sizes, dim=1)], dim=1)


@st.composite
def cases(draw):
    """A random configuration, seed, input and a way to cut it into chunks."""
    n_heads = draw(st.integers(1, 4))
    cfg = GPTConfig(
        vocab_size=draw(st.integers(1, 60)),
        context_length=draw(st.integers(1, 20)),
        emb_dim=n_heads * draw(st.integers(1, 8)),
        n_heads=n_heads,
        n_layers=draw(st.integers(1, 3)),
        drop_rate=draw(st.sampled_from([0.0, 0.3])),
        qkv_bias=draw(st.booleans()),
    )
    n_tokens = draw(st.integers(1, cfg.context_length))
    sizes = []
    while sum(sizes) < n_tokens:
        sizes.append(draw(st.integers(1, n_tokens - sum(sizes))))
    return cfg, draw(st.integers(0, 999)), draw(st.integers(1, 3)), n_tokens, sizes
