"""The Python side of the widgets: what they carry, and what stands there without JavaScript."""

import base64
import html
import json
import sys
import types

import numpy as np
import pytest
import torch
from conftest import twins

from kvcache import cached, generate, time_flies, trace
from kvcache.generate import eval_mode, pick
from kvcache.timing import Timing
from kvcache.trace import watch
from kvcache.widgets import (
    BreakIt,
    CodeChanges,
    Generation,
    KVTimeline,
    OwnPrompt,
    SpeedRace,
)


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
    assert panels[0]["marks"][1] == ["2n", "2c1n", "3c1n", "4c1n"]
    assert panels[1]["marks"][1] == ["2n", "2r1n", "3r1n", "4r1n"]
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


def test_the_still_picture_shows_every_cell_and_escapes_text(traces):
    widget = KVTimeline(*traces)
    widget.data["panels"][0]["tokens"][0] = "<b>&"
    widget.data["panels"][0]["title"] = "<i>"
    still = widget.still()
    assert still.count("<rect x") == 2 * (2 + 3 + 4 + 5)
    assert html.escape("<b>&") in still
    assert "<b>" not in still
    assert "<i>" not in still
    assert 'role="img"' in still


def test_display_gives_the_view_and_the_still(traces, monkeypatch):
    shown = []
    monkeypatch.setattr("kvcache.widgets.figure.display", lambda *a, **k: shown.append(a[0]))
    widget = KVTimeline(*traces)
    widget._ipython_display_()
    view = shown[0]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == widget.model_id
    assert f'<noscript data-still-of="{widget.model_id}">' in shown[1].data


def test_colab_gets_the_metadata_that_it_asks_for(traces, monkeypatch):
    """Without it Colab does not draw widgets of others than its own."""
    output = types.ModuleType("google.colab.output")
    output.enable_custom_widget_manager = lambda: None
    output._widgets = types.SimpleNamespace(_installed_url="https://colab.example/manager.js")
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    shown = []
    monkeypatch.setattr("kvcache.widgets.figure.display", lambda *a, **k: shown.append(k))
    KVTimeline(*traces)._ipython_display_()
    asked = shown[0]["metadata"]["application/vnd.jupyter.widget-view+json"]["colab"]
    assert asked["custom_widget_manager"]["url"] == "https://colab.example/manager.js"


def test_generation_is_that_of_the_model():
    plain, caching = twins()
    prompt = torch.tensor([[1, 2, 3]])
    data = Generation(plain, prompt, 4).data
    token_ids = generate(plain, prompt, 4)
    for number, step in enumerate(data["steps"]):
        with torch.no_grad():
            logits = plain(token_ids[:, : 3 + number])[0, -1]
        best = torch.softmax(logits, dim=-1).topk(5).values
        assert step["probabilities"] == pytest.approx(best.tolist(), abs=1e-6)
        read = 0 if number == 0 else 3 + number - 1
        assert (step["kept"], step["again"], step["first"]) == (0, read, 3 + number - read)
    with_cache = Generation(caching, prompt, 4, use_cache=True).data
    assert [step["kept"] for step in with_cache["steps"]] == [0, 3, 4, 5]
    assert [step["again"] for step in with_cache["steps"]] == [0, 0, 0, 0]
    assert with_cache["tokens"] == data["tokens"]


@pytest.mark.parametrize(
    "make", [lambda m, p: Generation(m, p, 0), lambda m, p: Generation(m, p.expand(2, 1), 1)]
)
def test_generation_refuses_nothing_and_batches(make):
    with pytest.raises(ValueError, match=r"at least 1|token_ids\[:1\]"):
        make(twins()[0], torch.tensor([[1]]))


def timing(token_ids, label="x", n_prompt=1):
    n_new = token_ids.shape[1] - n_prompt
    return Timing(label, n_prompt, torch.full((1, n_new), 0.5, dtype=torch.float64), token_ids)


def test_the_race_has_the_times_of_the_timings():
    token_ids = torch.tensor([[1, 2, 3]])
    data = SpeedRace(timing(token_ids, "slow"), timing(token_ids + 1, "fast")).data
    assert [run["milliseconds"] for run in data["runs"]] == [[500.0, 500.0]] * 2
    assert data["same"] is False
    assert SpeedRace(timing(token_ids), timing(token_ids)).data["same"] is True
    for other in (
        timing(token_ids[:, :2]),
        timing(token_ids.expand(2, 3)),
        timing(token_ids, n_prompt=2),
    ):
        with pytest.raises(ValueError, match="shapes"):
            SpeedRace(timing(token_ids), other)
    with pytest.raises(ValueError, match="batch size is 2"):
        SpeedRace(timing(token_ids.expand(2, 3)), timing(token_ids.expand(2, 3)))


def test_code_changes_are_those_of_the_source(trained, encode):
    data = CodeChanges(*trained, encode("Time flies fast")).data
    assert len(data["changes"]) == 5
    for number, change in enumerate(data["changes"], start=1):
        for piece in change["pieces"]:
            before = [row[0] for row in piece["rows"] if row[0] is not None]
            assert not any("CACHE" in line for line in before)
        lit = [row[1] for piece in change["pieces"] for row in piece["rows"] if row[2] and row[1]]
        assert lit, number
    grids = [[rows for rows, _ in change["after"]["rows"]] for change in data["changes"]]
    assert grids == [
        ["n", "cn", "ccn"],
        ["n", "rn", "rrn"],
        ["...n", "...rn"],
        ["n", "rn", "rrn"],
        ["n", "rn", "rrn"],
    ]
    notes = [[note for _, note in data["changes"][3][side]["rows"]] for side in ("before", "after")]
    assert notes == [["position 0"] * 3, ["position 0", "position 1", "position 2"]]
    assert trained[1].current_pos == 0  # nothing is left in the cache
    with pytest.raises(ValueError, match="n_tokens >= 2"):
        CodeChanges(*trained, encode("Time"))


def test_without_the_marked_lines_the_loop_is_that_of_a_model_without_a_cache(trained, encode):
    data = CodeChanges(*trained, encode("Time flies fast")).data
    lines = [row[0] for row in data["changes"][4]["pieces"][0]["rows"] if row[0] is not None]
    assert not any("_cache(" in line or "cache_k" in line for line in lines)
    names = {"torch": torch, "eval_mode": eval_mode}
    exec("\n".join(lines), names)  # the very lines that the figure shows as "before"
    tokens = list(names["next_tokens"](trained[0], encode("Time"), 5, False, pick))
    expected = generate(trained[0], encode("Time"), 5)[0, 1:].tolist()
    assert [token.item() for token in tokens] == expected


def test_break_it_finds_what_is_wrong(trained, encode):
    class StandingStill(cached.GPTModel):
        def forward(self, *args, **kwargs):
            self.current_pos = 0
            return super().forward(*args, **kwargs)

    def fed(model, *texts):
        with torch.no_grad(), watch(model) as calls:
            for text in texts:
                for token in encode(text).split(1, dim=1):
                    model(token, use_cache=True)
        return calls

    text = "Time flies fast"
    runs = {
        "right": (fed(time_flies.load(), text), 0),
        "still": (fed(time_flies.load(StandingStill), text), 0),
        "stale": (fed(time_flies.load(), "Many users", text), 2),
    }
    right, still, stale = (run["steps"] for run in BreakIt(trained[0], runs).data["runs"])
    assert all(step["error"] < 1e-3 for step in right)
    assert [[key["at"] for key in step["keys"]] for step in still] == [[0], [0, 0], [0, 0, 0]]
    assert still[2]["error"] > 1
    assert [key["place"] for key in stale[2]["keys"]] == [None, None, 0, 1, 2]
    assert [key["mark"] for key in stale[2]["keys"]] == list("rrrrn")
    with pytest.raises(ValueError, match="no runs"):
        BreakIt(trained[0], {})
    with pytest.raises(ValueError, match="start is 9"):
        BreakIt(trained[0], {"x": (runs["right"][0], 9)})


def test_own_prompt_runs_the_readers_prompt_and_says_what_is_wrong(trained):
    asked = []

    def figure(token_ids, n):
        asked.append((token_ids.tolist(), n))
        return KVTimeline(trace(trained[0], token_ids, n))

    box = OwnPrompt(figure, "Time flies", 3)
    box.button.click()
    assert asked == [([[7575, 17607]], 3)]
    assert box.message.value == ""
    box.prompt.value = ""
    box.button.click()
    assert "at least 1 character" in box.message.value
    box.prompt.value = "<|endoftext|> <b>"
    box.max_new_tokens.value = 200
    box.button.click()
    assert "context length of 128" in box.message.value
    assert not box.button.disabled


def test_every_still_has_a_description(trained, encode):
    plain, _ = trained
    prompt = encode("Time flies")
    for widget in (
        Generation(plain, prompt, 1),
        CodeChanges(*trained, prompt),
        SpeedRace(timing(prompt), timing(prompt)),
    ):
        assert 'role="img" aria-label="' in widget.still()


def test_a_choice_that_ties_is_among_the_candidates():
    plain, _ = twins()
    plain.out_head.weight.data.zero_()  # every token is as likely as every other
    step = Generation(plain, torch.tensor([[1]]), 1, n_best=3).data["steps"][0]
    assert step["probabilities"] == pytest.approx([1 / 50] * 3)
    assert len(step["best"]) == 3
    with pytest.raises(ValueError, match="n_best is 0"):
        Generation(plain, torch.tensor([[1]]), 1, n_best=0)


def test_numbers_that_json_does_not_know_are_refused():
    """One NaN in the state of a page would take all of its figures away."""
    token_ids = torch.tensor([[1, 2]])
    endless = Timing("x", 1, torch.tensor([[float("nan")]]), token_ids)
    with pytest.raises(ValueError, match="SpeedRace: a number is infinite or NaN"):
        SpeedRace(endless, endless)


def test_wrong_arguments_are_named(trained, encode):
    plain, caching = trained
    text = encode("Time flies")
    with pytest.raises(TypeError, match=r"baseline\.GPTModel first"):
        CodeChanges(caching, plain, text)
    with pytest.raises(TypeError, match="token_ids is a list"):
        CodeChanges(plain, caching, [[1, 2]])
    with pytest.raises(ValueError, match="context length is 128"):
        CodeChanges(plain, caching, text[:, :1].expand(1, 128))
    with pytest.raises(TypeError, match="a trace is a list"):
        KVTimeline([1])
    with pytest.raises(ValueError, match="watch one"), torch.no_grad(), watch(caching):
        caching(text.expand(2, 2))


def test_a_reference_in_training_mode_is_compared_in_eval_mode():
    plain, caching = twins()
    with watch(caching) as calls:
        generate(caching, torch.tensor([[1, 2]]), 3, use_cache=True, temperature=1.0)
    plain.train()
    steps = BreakIt(plain, {"x": (calls[:1], 0)}).data["runs"][0]["steps"]
    assert steps[0]["error"] < 1e-3
    assert plain.training
