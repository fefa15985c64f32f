"""The memory of caches: models that people use, GPUs, and the longest context that fits."""

import json

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
from kvcache.widgets.memory_calculator import FIELDS, MemoryCalculator, size_text

SHAPES = {shape.name: shape for shape in MODEL_SHAPES}
TINY = ModelShape("tiny", 2, 4, 2, 8, 1001, 64)  # 64 numbers for each token

# Bytes per token in 16 bits, worked out apart from this code.
PER_TOKEN = {
    "GPT-2 124M": 36_864,
    "GPT-2 XL": 307_200,
    "SmolLM2-135M": 23_040,
    "Llama 2 7B": 524_288,
    "Llama 3.1 8B": 131_072,
    "Llama 3.1 70B": 327_680,
    "Llama 3.1 405B": 516_096,
    "Qwen2.5 7B": 57_344,
    "Falcon 7B": 8_192,
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
    for dtype, n_bytes in {"float32": 256, "float16": 128, "int8": 64, "int4": 32}.items():
        assert kv_cache_bytes(TINY, 1, dtype=dtype) == n_bytes
        assert kv_cache_bytes(TINY, 5, 3, dtype) == 15 * n_bytes
        if hasattr(torch, dtype):
            assert kv_cache_bytes(TINY, 1, dtype=getattr(torch, dtype)) == n_bytes


def test_weights():
    assert weight_bytes(TINY) == 2002
    assert weight_bytes(TINY, "int4") == 501  # half a byte is a byte begun
    assert weight_bytes(SHAPES["Llama 3.1 8B"]) == 16_060_522_496


@given(
    st.sampled_from([TINY, *MODEL_SHAPES]),
    st.integers(1, 10**13),
    st.integers(1, 64),
    st.sampled_from([*BITS, torch.float64]),
    st.sampled_from(list(BITS)),
)
def test_the_longest_context_fits_and_one_token_more_does_not(shape, memory, batch, dtype, weights):
    n_tokens = longest_context(shape, memory, batch, dtype, weights)
    taken = weight_bytes(shape, weights)
    assert n_tokens >= 0
    assert taken + kv_cache_bytes(shape, n_tokens + 1, batch, dtype) > memory
    if n_tokens:
        assert taken + kv_cache_bytes(shape, n_tokens, batch, dtype) <= memory


def test_the_edges_of_the_longest_context():
    assert longest_context(TINY, 2002) == 0  # the weights alone fill it
    assert longest_context(TINY, 2002 + 127) == 0
    assert longest_context(TINY, 2002 + 128) == 1
    assert longest_context(TINY, 1) == 0
    assert longest_context(SHAPES["Llama 3.1 8B"], 24e9) == 60_573


def test_sizes_and_formats_that_cannot_be():
    for memory in (0, -1, float("nan"), float("inf"), "24", None, 1j):
        with pytest.raises(ValueError, match=r"memory_bytes is .*above 0.*80 \* 10\*\*9"):
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
    with pytest.raises(ValueError, match=r"n_kv_heads 3 does not divide n_heads 4; .*divisor of 4"):
        ModelShape("x", 1, 4, 3, 8, 10, 10)


def test_the_widget_carries_everything_as_json():
    widget = MemoryCalculator()
    assert json.loads(json.dumps(widget.data)) == widget.data
    models, gpus, *formats = (each["items"] for each in widget.data["lists"])
    assert [model["name"] for model in models] == [*SHAPES, "your own"]
    assert [gpu["memory_bytes"] for gpu in gpus[:-1]] == [gpu.memory_bytes for gpu in GPUS]
    assert [[each["bits"] for each in items] for items in formats] == [list(BITS.values())] * 2
    keys = {key for key, *_ in FIELDS}
    assert keys - {"batch_size", "memory_bytes"} <= models[0].keys()
    for each in widget.data["fields"]:  # what is listed can be typed
        listed = [item[each["key"]] for item in models + gpus if each["key"] in item]
        assert all(value <= each["most"] * each["unit"] for value in listed)


def test_a_widget_needs_something_to_choose_from():
    for arguments in ({"shapes": []}, {"gpus": ()}):
        with pytest.raises(ValueError, match="at least 1 of each"):
            MemoryCalculator(**arguments)


def test_the_still_is_a_table_of_the_models():
    still = MemoryCalculator().still()
    assert 'role="img"' in still
    for words in ("Llama 3.1 8B", "131 kB", "17.2 GB (131,072 tokens)", "16.1 GB", "8.19 kB"):
        assert f">{words}</text>" in still


def test_sizes_in_words():
    sizes = {0: "0 B", 999: "999 B", 1000: "1 kB", 131_072: "131 kB", 999_499: "999 kB"}
    sizes |= {999_500: "1 MB", 17_179_869_184: "17.2 GB", 8 * 10**28: "80 RB"}
    assert {n_bytes: size_text(n_bytes) for n_bytes in sizes} == sizes
