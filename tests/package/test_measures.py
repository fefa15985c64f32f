"""Memory, timing and plots: numbers agree with tensors; speeds themselves are not asserted."""

import math

import pytest
import torch
from conftest import SMALL, twins
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache import GPT2_124M, generate, plots
from kvcache.memory import kv_cache_bytes, measured_cache_bytes
from kvcache.timing import Timing
from kvcache.told import tell


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 10),
    st.integers(1, 14),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_measured_bytes_equal_the_formula(batch, n_prompt, n_new, dtype):
    _, caching = twins(dtype=dtype)
    assert measured_cache_bytes(caching) == 0
    prompt = torch.randint(SMALL.vocab_size, (batch, n_prompt))
    generate(caching, prompt, n_new, use_cache=True)
    expected = kv_cache_bytes(SMALL, n_prompt + n_new - 1, batch, dtype)
    assert measured_cache_bytes(caching) == expected


def test_the_known_size_for_gpt2():
    assert kv_cache_bytes(GPT2_124M, 1) == 2 * 12 * 768 * 4


@pytest.fixture
def timings():
    """Two repeats of three tokens: 2, 4 and 4 seconds without a cache, half of that with one."""
    seconds = torch.tensor([[1.0, 4.0, 5.0], [3.0, 4.0, 3.0]], dtype=torch.float64)
    token_ids = torch.tensor([[1, 2, 3, 4]])
    without = Timing("without <a> cache", 1, seconds, token_ids)
    return [without, Timing("with a cache", 1, seconds / 2, token_ids)]


def test_a_timing_is_made_of_the_medians_of_its_repeats(timings):
    timing = timings[0]
    assert timing.per_token.tolist() == [2, 4, 4]
    assert (timing.total, timing.tokens_per_second) == (10, 0.3)
    assert (timing.time_to_first_token, timing.time_per_output_token) == (2, 4)
    one = Timing("x", 1, timing.seconds[:, :1], timing.token_ids[:, :2])
    assert math.isnan(one.time_per_output_token)


def test_plots_are_svg_with_units_and_a_description(timings):
    rates = [(timing.label, timing.tokens_per_second) for timing in timings]
    colours = plots.RECOMPUTED, plots.REUSED
    found = {
        "(ms)": plots.time_per_token(timings),
        "per second": plots.bars(rates, "tokens per second", "Rates.", colours=colours),
    }
    for label, plot in found.items():
        svg = plot._repr_html_()
        assert "<svg" in svg
        assert 'role="img"' in svg
        assert "currentColor" in svg
        assert plots.TEXT not in svg
        assert "<a>" not in svg
        assert label in svg
        assert plots.RECOMPUTED.lower() in svg.lower()
        assert plots.REUSED.lower() in svg.lower()


def test_a_number_is_told_without_being_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("kvcache.told.display", lambda *args, **kwargs: shown.append(args))
    tell("ratio", 5.3)
    assert shown == [({"application/vnd.kvcache.told+json": {"ratio": "5.3"}},)]
