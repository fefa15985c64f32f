"""Memory, timing and plots: numbers agree with tensors; speeds themselves are not asserted."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from kvcache import GPT2_124M, memory, plots
from kvcache.memory import BITS, MODEL_SHAPES, kv_cache_bytes, longest_context, weight_bytes
from kvcache.timing import Timing
from kvcache.told import tell

SHAPES = {shape.name: shape for shape in MODEL_SHAPES}
TINY = memory.ModelShape("tiny", 2, 4, 2, 8, 1001, 64)  # 64 numbers for each token
WINDOWS = memory.ModelShape("windows", 3, 4, 2, 8, 1001, 64, n_window_layers=2, window=10)

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


def test_bytes_per_token_of_every_model_and_the_source_of_its_shape():
    found = {name: kv_cache_bytes(shape, 1, dtype=torch.bfloat16) for name, shape in SHAPES.items()}
    assert found == PER_TOKEN
    assert kv_cache_bytes(SHAPES["GPT-2 124M"], 9, 3) == kv_cache_bytes(GPT2_124M, 9, 3)
    assert all(entry.source.startswith("https://") for entry in (*MODEL_SHAPES, *memory.GPUS))


def test_number_formats_of_caches_and_weights():
    """In 8 and 4 bits, with a scale of 4 bytes for each of the 8 vectors of a token."""
    for dtype, n_bytes in {"float32": 256, "float16": 128, "int8": 96, "int4": 64}.items():
        assert kv_cache_bytes(TINY, 1, dtype=dtype) == n_bytes
        assert kv_cache_bytes(TINY, 5, 3, dtype) == 15 * n_bytes
        if hasattr(torch, dtype):
            assert kv_cache_bytes(TINY, 1, dtype=getattr(torch, dtype)) == n_bytes
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
def test_the_longest_context_fits_and_one_token_more_does_not(shape, room, batch, dtype, weights):
    n_tokens = longest_context(shape, room, batch, dtype, weights)
    taken = weight_bytes(shape, weights)
    assert n_tokens >= 0
    if n_tokens == math.inf:
        assert shape.n_window_layers == shape.n_layers
        assert taken + kv_cache_bytes(shape, 10**9, batch, dtype) <= room
        return
    assert taken + kv_cache_bytes(shape, n_tokens + 1, batch, dtype) > room
    if n_tokens:
        assert taken + kv_cache_bytes(shape, n_tokens, batch, dtype) <= room


def test_windows_stop_growing_and_a_latent_is_one_vector():
    per_layer = 2 * 2 * 8 * 4  # keys and values, heads, numbers, bytes
    assert kv_cache_bytes(WINDOWS, 10) == 3 * 10 * per_layer
    assert kv_cache_bytes(WINDOWS, 25, 2) == 2 * (25 + 2 * 10) * per_layer
    latent = memory.ModelShape("latent", 2, 4, 4, 8, 1001, 64, latent_dim=6)
    assert kv_cache_bytes(latent, 5) == 2 * 5 * 6 * 4
    assert longest_context(SHAPES["Mistral 7B"], 24 * 2**30) == math.inf
    assert longest_context(SHAPES["Llama 3.1 8B"], 24e9) == 60_573


# Two repeats of three tokens
SECONDS = torch.tensor([[1.0, 4.0, 5.0], [3.0, 4.0, 3.0]], dtype=torch.float64)
TOKEN_IDS = torch.tensor([[1, 2, 3, 4]])


def test_a_timing_is_made_of_the_medians_of_its_repeats():
    timing = Timing("x", 1, SECONDS, TOKEN_IDS)
    assert timing.per_token.tolist() == [2, 4, 4]
    assert (timing.total, timing.tokens_per_second) == (10, 0.3)
    assert (timing.time_to_first_token, timing.time_per_output_token) == (2, 4)
    assert math.isnan(Timing("x", 1, SECONDS[:, :1], TOKEN_IDS[:, :2]).time_per_output_token)


def test_plots_are_svg_with_units_and_a_description():
    timings = [Timing(f"{words} <a> cache", 1, SECONDS, TOKEN_IDS) for words in ("with", "without")]
    rates = [(timing.label, timing.tokens_per_second) for timing in timings]
    colours = plots.RECOMPUTED, plots.REUSED
    found = {
        "(ms)": plots.time_per_token(timings),
        "per second": plots.bars(rates, "tokens per second", "Rates.", colours=colours),
    }
    for label, plot in found.items():
        svg = plot._repr_html_().lower()
        for part in ("<svg", 'role="img"', "currentcolor", label, *map(str.lower, colours)):
            assert part in svg
        assert plots.TEXT not in svg
        assert "<a>" not in svg


def test_plots_take_rows_and_curves_that_can_be_read_only_once():
    rows, colours = [("a", 1), ("b", 2)], [plots.REUSED]
    curves = [("a", [0, 1], [2, 3]), ("b", [0, 1], [3, 4])]
    once = plots.bars(iter(rows), "x", "d", iter(colours)), plots.lines(iter(curves), "x", "y", "d")
    lists = plots.bars(rows, "x", "d", colours), plots.lines(curves, "x", "y", "d")
    for found, right in zip(once, lists, strict=True):
        assert found._repr_html_() == right._repr_html_()


def test_a_number_is_told_without_being_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("kvcache.told.display", lambda *args, **kwargs: shown.append(args))
    tell("ratio", 5.3)
    assert shown == [({"application/vnd.kvcache.told+json": {"ratio": "5.3"}},)]
