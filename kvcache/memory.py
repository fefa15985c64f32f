"""How many bytes a cache takes: by the formula, and in the tensors."""

import torch


def kv_cache_bytes(cfg, n_tokens, batch_size=1, dtype=torch.float32):
    """Bytes of a full key/value cache.

    2 (key and value) x n_layers x batch_size x n_heads x n_tokens x head_dim x bytes per number
    """
    numbers = 2 * cfg.n_layers * batch_size * cfg.n_heads * n_tokens * cfg.head_dim
    return numbers * dtype.itemsize


def measured_cache_bytes(model):
    """Bytes of the tensors that a `cached.GPTModel` holds in its cache now."""
    caches = [
        cache for block in model.trf_blocks for cache in (block.att.cache_k, block.att.cache_v)
    ]
    return sum(cache.numel() * cache.element_size() for cache in caches if cache is not None)
