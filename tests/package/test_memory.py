"""The memory of caches: models that people use, GPUs, and the longest context that fits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvcache import GPT2_124M
from kvcache.memory import (
    BITS,
    GPUS,
    MODEL_SHAPES,
    ModelShape,
    kv_cache_bytes,
    longest_context,
    weight_bytes,
)

SHAPES = {shape.name: shape for shape in MODEL_SHAPES}
TINY = ModelShape("tiny", 2, 4, 2, 8, 1001, 64)  # 64 numbers for each token
WINDOWS = ModelShape("windows", 3, 4, 2, 8, 1001, 64, n_window_layers=2, window=10)

# Bytes per token in 16 bits, worked out apart from this code.
PER_TOKEN = {
    "GPT-2 124M": 36_864,
    "GPT-2 XL": 307_200,
    "SmolLM2-135M": 23_040,
    "Llama 2 7B": 524_288,
    "Llama 3.1 8B": 131_072,
    "Llama 3.1 70B": 327_680,
    "Llama 3.1 405B": 516_096,
    "Qwen2.5 7B base": 57_344,
    "Falcon 7B": 8_192,
    "Mistral 7B": 131_072,
    "Gemma 3 27B": 507_904,
    "DeepSeek-V3": 70_272,
}


def test_bytes_per_token_of_every_model():
    found = {name: kv_cache_bytes(shape, 1, dtype=torch.bfloat16) for name, shape in SHAPES.items()}
    assert found == PER_TOKEN


def test_a_shape_and_a_config_of_the_same_model_agree():
    assert kv_cache_bytes(SHAPES["GPT-2 124M"], 1024, 3) == kv_cache_bytes(GPT2_124M, 1024, 3)


def test_every_shape_and_gpu_names_its_source():
    for entry in (*MODEL_SHAPES, *GPUS):
        assert entry.source.startswith("https://")


def test_number_formats():
    """In 8 and 4 bits, with a scale of 4 bytes for each of the 8 vectors of a token."""
    for dtype, n_bytes in {"float32": 256, "float16": 128, "int8": 96, "int4": 64}.items():
        assert kv_cache_bytes(TINY, 1, dtype=dtype) == n_bytes
        assert kv_cache_bytes(TINY, 5, 3, dtype) == 15 * n_bytes
        if hasattr(torch, dtype):
            assert kv_cache_bytes(TINY, 1, dtype=getattr(torch, dtype)) == n_bytes


def test_weights():
    assert weight_bytes(TINY) == 2002
    assert weight_bytes(TINY, "int4") == 501 + 2 * 32  # begun bytes, begun groups of 32
    assert weight_bytes(SHAPES["Llama 3.1 8B"]) == 16_060_522_496


@given(
    st.sampled_from([TINY, WINDOWS, *MODEL_SHAPES]),
    st.integers(1, 10**13),
    st.integers(1, 64),
    st.sampled_from([*BITS, torch.float64]),
    st.sampled_from(list(BITS)),
)
def test_the_longest_context_fits_and_one_token_more_does_not(shape, memory, batch, dtype, weights):
    n_tokens = longest_context(shape, memory, batch, dtype, weights)
    taken = weight_bytes(shape, weights)
    assert n_tokens >= 0
    if n_tokens == math.inf:
        assert shape.n_window_layers == shape.n_layers
        assert taken + kv_cache_bytes(shape, 10**9, batch, dtype) <= memory
        return
    assert taken + kv_cache_bytes(shape, n_tokens + 1, batch, dtype) > memory
    if n_tokens:
        assert taken + kv_cache_bytes(shape, n_tokens, batch, dtype) <= memory


def test_windows_stop_growing_and_a_latent_is_one_vector():
    per_layer = 2 * 2 * 8 * 4  # keys and values, heads, numbers, bytes
    assert kv_cache_bytes(WINDOWS, 10) == 3 * 10 * per_layer
    assert kv_cache_bytes(WINDOWS, 25, 2) == 2 * (25 + 2 * 10) * per_layer
    latent = ModelShape("latent", 2, 4, 4, 8, 1001, 64, latent_dim=6)
    assert kv_cache_bytes(latent, 5) == 2 * 5 * 6 * 4
    assert longest_context(SHAPES["Mistral 7B"], 24 * 2**30) == math.inf


def test_the_edges_of_the_longest_context():
    assert longest_context(TINY, 2002) == 0  # the weights alone fill it
    assert longest_context(TINY, 2002 + 127) == 0
    assert longest_context(TINY, 2002 + 128) == 1
    assert longest_context(TINY, 1) == 0
    assert longest_context(SHAPES["Llama 3.1 8B"], 24e9) == 60_573


def test_sizes_and_formats_that_cannot_be():
    for memory in (0, -1, float("nan"), float("inf"), "24", None, 1j):
        with pytest.raises(ValueError, match=r"memory_bytes is .*above 0.*80 \* 2\*\*30"):
            longest_context(TINY, memory)
    for batch in (0, -1, 1.5, "1", True, None):
        with pytest.raises(ValueError, match=f"batch_size is {batch!r}; .*at least 1"):
            longest_context(TINY, 10**9, batch)
    for dtype in ("int5", "", None, 16, ["int8"]):
        with pytest.raises(ValueError, match=r"dtype is .*bfloat16, float16"):
            kv_cache_bytes(TINY, 1, dtype=dtype)
        with pytest.raises(ValueError, match="dtype is"):
            longest_context(TINY, 10**9, weight_dtype=dtype)


def test_shapes_that_cannot_be():
    with pytest.raises(ValueError, match=r"n_layers is 0; .*at least 1"):
        ModelShape("x", 0, 4, 2, 8, 10, 10)
    with pytest.raises(ValueError, match=r"head_dim is 8\.0; .*whole"):
        ModelShape("x", 1, 4, 2, 8.0, 10, 10)
    with pytest.raises(ValueError, match="n_layers - n_window_layers is -1"):
        ModelShape("x", 1, 4, 2, 8, 10, 10, n_window_layers=2, window=4)
    with pytest.raises(ValueError, match=r"n_kv_heads 3 does not divide n_heads 4; .*divisor of 4"):
        ModelShape("x", 1, 4, 3, 8, 10, 10)
