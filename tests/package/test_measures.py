"""Timing, plots and told numbers; speeds themselves are not asserted."""

import math

import pytest
import torch
from conftest import twins

from kvcache import generate, plots
from kvcache.timing import time_generation
from kvcache.told import tell


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
    once = time_generation(plain, prompt, 1, repeats=1)
    assert math.isnan(once.time_per_output_token)


@pytest.mark.parametrize("name", ["time_per_token", "tokens_per_second", "speed_up"])
def test_plots_are_svg_with_units_and_a_description(name):
    model, prompt = twins()[0], torch.tensor([[1, 2, 3]])
    timings = [time_generation(model, prompt, 8, label="a <b> c", repeats=1) for _ in range(2)]
    plot = plots.speed_up(*timings) if name == "speed_up" else getattr(plots, name)(timings)
    svg = plot._repr_html_()
    label = {"time_per_token": "(ms)", "tokens_per_second": "per second", "speed_up": "times"}
    for words in ("<svg", 'role="img"', "currentColor", label[name]):
        assert words in svg
    assert plots.TEXT not in svg
    assert "<b>" not in svg
    colours = [plots.RECOMPUTED.lower() in svg.lower(), plots.REUSED.lower() in svg.lower()]
    assert colours == [name != "speed_up"] * 2


def test_a_number_is_told_without_being_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("kvcache.told.display", lambda *args, **kwargs: shown.append(args))
    tell("ratio", 5.3)
    assert shown == [({"application/vnd.kvcache.told+json": {"ratio": "5.3"}},)]
