"""Memory, timing and plots: numbers agree with tensors; speeds themselves are not asserted."""

import math

import pytest
import torch
from conftest import SMALL, twins
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcache import GPT2_124M, generate, plots
from kvcache.memory import kv_cache_bytes, measured_cache_bytes
from kvcache.timing import time_generation
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


def test_timing_times_every_token_of_every_repeat():
    plain, caching = twins()
    prompt = torch.tensor([[1, 2, 3]])
    timing = time_generation(caching, prompt, 6, use_cache=True, label="x", repeats=3)
    assert timing.seconds.shape == (3, 6)
    assert (timing.seconds > 0).all()
    assert torch.equal(timing.token_ids, generate(plain, prompt, 6))
    assert math.isclose(timing.tokens_per_second * timing.total, 6)
    assert math.isclose(timing.total, timing.per_token.sum())
    assert timing.time_to_first_token == timing.per_token[0].item()
    assert timing.per_token.shape == (6,)


def test_one_token_has_no_time_per_output_token():
    plain, _ = twins()
    timing = time_generation(plain, torch.tensor([[1]]), 1, repeats=1)
    assert math.isnan(timing.time_per_output_token)


@pytest.fixture
def timings():
    plain, caching = twins()
    prompt = torch.tensor([[1, 2, 3]])
    return [
        time_generation(plain, prompt, 8, label="without <a> cache", repeats=1),
        time_generation(caching, prompt, 8, use_cache=True, label="with a cache", repeats=1),
    ]


@pytest.mark.parametrize("name", ["time_per_token", "tokens_per_second", "speed_up"])
def test_plots_are_svg_with_units_and_a_description(timings, name):
    function = getattr(plots, name)
    plot = function(*timings) if name == "speed_up" else function(timings)
    svg = plot._repr_html_()
    assert "<svg" in svg
    assert 'role="img"' in svg
    assert "currentColor" in svg
    assert plots.TEXT not in svg
    assert "<a>" not in svg
    label = {"time_per_token": "(ms)", "tokens_per_second": "per second", "speed_up": "times"}
    assert label[name] in svg
    if name != "speed_up":
        assert plots.RECOMPUTED.lower() in svg.lower()
        assert plots.REUSED.lower() in svg.lower()


def test_a_number_is_told_without_being_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("kvcache.told.display", lambda *args, **kwargs: shown.append(args))
    tell("ratio", 5.3)
    assert shown == [({"application/vnd.kvcache.told+json": {"ratio": "5.3"}},)]
