"""The Python side of the widgets: what they carry, and what stands there without JavaScript."""

import base64
import html
import json

import numpy as np
import pytest
import torch
from conftest import twins

from kvcache import trace
from kvcache.widgets import KVTimeline
from kvcache.widgets.figure import FOLDER, module_text


@pytest.fixture
def traces():
    plain, caching = twins()
    prompt = torch.tensor([[1, 2]])
    return (
        trace(plain, prompt, 4, vectors=True),
        trace(caching, prompt, 4, use_cache=True, vectors=True),
    )


def test_marks_are_those_of_the_trace(traces):
    panels = KVTimeline(*traces).data["panels"]
    assert [panel["title"] for panel in panels] == ["Without a cache", "With a cache"]
    assert panels[0]["marks"][1] == ["nn", "ccn", "cccn", "ccccn"]
    assert panels[1]["marks"][1] == ["nn", "rrn", "rrrn", "rrrrn"]
    assert all(len(panel["tokens"]) == 6 and panel["n_prompt"] == 2 for panel in panels)


def test_vectors_are_those_of_the_trace(traces):
    text = KVTimeline(*traces).data["panels"][1]["vectors"][0][2]
    numbers = np.frombuffer(base64.b64decode(text), dtype=np.float32).reshape(2, 4, 16)
    step = traces[1].steps[2][0]
    assert np.array_equal(numbers[0], step.keys.flatten(1).numpy())
    assert np.array_equal(numbers[1], step.values.flatten(1).numpy())


def test_without_vectors_nothing_is_carried():
    plain, _ = twins()
    panel = KVTimeline(trace(plain, torch.tensor([[1]]), 2)).data["panels"][0]
    assert panel["vectors"] == [[None, None], [None, None]]


def test_a_widget_is_one_text_and_json(traces):
    widget = KVTimeline(*traces)
    assert json.loads(json.dumps(widget.data)) == widget.data
    assert "import {" not in widget._esm
    assert widget._esm.count("export ") == 1
    assert "function stepControls" in widget._esm


def test_modules_import_only_from_their_folder():
    for path in FOLDER.glob("*.js"):
        assert "import " not in module_text(path.name).split("/**")[0].replace("// ", "")
        assert "http" not in path.read_text()


def test_the_still_picture_shows_every_cell_and_escapes_text(traces):
    widget = KVTimeline(*traces)
    widget.data["panels"][0]["tokens"][0] = "<b>&"
    still = widget.still()
    assert still.count("<rect x") == 2 * (2 + 3 + 4 + 5)
    assert html.escape("<b>&") in still
    assert "<b>" not in still
    assert 'role="img"' in still


def test_display_gives_the_view_and_the_still(traces, monkeypatch):
    shown = []
    monkeypatch.setattr("kvcache.widgets.figure.display", lambda *a, **k: shown.append(a[0]))
    widget = KVTimeline(*traces)
    widget._ipython_display_()
    view = shown[0]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == widget.model_id
    assert f'<noscript data-still-of="{widget.model_id}">' in shown[1].data
