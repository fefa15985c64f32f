"""What the figures carry, against what was observed or computed apart; and their still pictures."""

import sys
import types
from functools import partial
from xml.etree import ElementTree

import pytest
import torch
from conftest import SMALL, twins

from kvcache import caches, generate, optimized, time_flies, trace, widgets
from kvcache.memory import MODEL_SHAPES
from kvcache.timing import Timing
from kvcache.tokenizer import encode
from kvcache.trace import watch
from kvcache.widgets import Attention, BreakIt, CodeChanges, Generation, KVTimeline, block_shot
from kvcache.widgets.figure import Figure

FIGURES = [each for each in Figure.__subclasses__() if each is not widgets.OwnPrompt]
X = torch.tensor([[1.0, 0.0, 2.0], [0.0, 2.0, 1.0], [2.0, 1.0, 0.0]])
W = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]])
ROWS = ["Time", "␣flies"], [("n", "given 1"), ("cn", "given 2")], [("n", ""), ("rn", "")]
CHANGES = [({"forward": (["a", "b"], ["a", "c"])}, *ROWS)] * 5
GOOD = {"words": ["Time", "flies", "fast"], "x": X, "W_q": W, "W_k": W.roll(1), "W_v": W.T}


def refused(error, message, make, *args, **kwargs):
    with pytest.raises(error, match=message):
        make(*args, **kwargs)


def timing(token_ids, label="with", seconds=0.01, n_prompt=1):
    """A generation of these tokens in which each new one took as long."""
    times = torch.full((1, token_ids.shape[1] - n_prompt), seconds, dtype=torch.float64)
    return Timing(label, n_prompt, times, token_ids)


def fed(model, text):
    """What is observed while a model is fed with its cache, token by token."""
    with torch.no_grad(), watch(model) as calls:
        for token in text.split(1, dim=1):
            model(token, use_cache=True)
    return calls


@torch.no_grad()
def block_shots():
    """A stores 6 tokens, B forks it, B writes one, A goes; blocks of 4."""
    model, pages = optimized.GPTModel(SMALL), caches.PagedCache(SMALL, 5, 4)
    a, ids = pages.add(), [7575, 17607, 3049, 11, 475, 257]  # Time flies fast, but a
    model(torch.zeros(1, 6, dtype=torch.long), pages.batch([a]))
    found = [block_shot(pages, "A comes", {"A": (a, ids)})]
    b = pages.fork(a)
    found.append(block_shot(pages, "B forks A", {"A": (a, ids), "B": (b, ids)}))
    model(torch.tensor([[0]]), pages.batch([b]))
    found.append(block_shot(pages, "B writes", {"A": (a, ids), "B": (b, [*ids, 12940])}))
    pages.free(a)
    found.append(block_shot(pages, "A goes", {"B": (b, [*ids, 12940])}))
    return found


def one_of_each(trained, prompt):
    """A widget of each kind, with words of its still picture."""
    plain, text = trained[0], generate(trained[0], prompt, 4)
    with_cache = trace(trained[1], prompt, 3, use_cache=True, vectors=True)
    return {
        KVTimeline(trace(plain, prompt, 3, vectors=True), with_cache): "Without a cache",
        Generation(plain, prompt, 3): "first read",
        CodeChanges(CHANGES): "after the last change",
        widgets.SpeedRace(timing(text, "without"), timing(text)): 'aria-label="Speed race. ',
        BreakIt(plain, {"correct": (fed(time_flies.load(), prompt), 0)}): "correct",
        Attention(**GOOD): "on flies",
        widgets.BlockTables(block_shots()): "block 1: free",
        widgets.Ring(time_flies.load(optimized.GPTModel), text, 3): "1 ␣flies",
        widgets.MemoryCalculator(): "16 GiB (131,072 tokens)",
    }


def test_display_gives_what_colab_asks_for(monkeypatch):
    """Without that metadata Colab does not draw widgets of others than its own."""
    output, shown = types.ModuleType("google.colab.output"), []
    output.enable_custom_widget_manager = lambda: None
    output._widgets = types.SimpleNamespace(_installed_url="https://colab.example/manager.js")
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    monkeypatch.setattr("kvcache.widgets.figure.display", lambda _, **given: shown.append(given))
    Attention(**GOOD)._ipython_display_()
    (asked,) = shown[0]["metadata"].values()
    assert asked["colab"]["custom_widget_manager"]["url"] == "https://colab.example/manager.js"


def test_every_figure_travels_as_one_text_and_has_a_still_that_is_described(trained):
    found = one_of_each(trained, encode("Time flies"))
    assert {type(each).__name__ for each in found} == {each.__name__ for each in FIGURES}
    for widget, words in found.items():
        assert "import {" not in widget._esm
        assert widget._esm.count("export ") == widget._esm.count("export default figure(") == 1
        still = widget.still()
        ElementTree.fromstring(f"<p>{still}</p>")
        assert '<svg role="img" aria-label="' in still or "<table><caption>" in still
        assert words in still


def test_the_timeline_has_the_marks_of_the_trace():
    plain, caching = twins()
    prompt = torch.tensor([[1, 2]])
    widget = KVTimeline(trace(plain, prompt, 4), trace(caching, prompt, 4, use_cache=True))
    without, with_cache = (panel["marks"] for panel in widget.data["panels"])
    assert without == [["nn", "ccn", "cccn", "ccccn"]] * 2
    assert with_cache == [["nn", "rrn", "rrrn", "rrrrn"]] * 2
    assert widget.still().count("<rect x") == 2 * (2 + 3 + 4 + 5)  # every cell
    refused(TypeError, "a trace is a list", KVTimeline, [1])


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
    refused(ValueError, "at least 1", Generation, plain, prompt, 0)
    plain.out_head.weight.data.zero_()  # every token ties: also then the chosen one is shown
    tied = Generation(plain, torch.tensor([[1]]), 1, n_best=3).data["steps"][0]
    assert tied["probabilities"] == pytest.approx([1 / 50] * 3)
    refused(ValueError, "n_best is 0", Generation, plain, prompt, 1, n_best=0)
    refused(ValueError, r"token_ids\[:1\]", Generation, plain, prompt.expand(2, 3), 1)


def test_the_race_has_the_times_of_the_timings():
    token_ids = torch.tensor([[1, 2, 3]])
    once, two = timing(token_ids, seconds=0.5), timing(token_ids.expand(2, 3))
    data = widgets.SpeedRace(once, timing(token_ids + 1)).data
    assert [run["milliseconds"] for run in data["runs"]] == [[500.0] * 2, [10.0] * 2]
    assert data["same"] is False
    assert widgets.SpeedRace(once, once).data["same"] is True
    for other in (timing(token_ids[:, :2]), two, timing(token_ids, n_prompt=2)):
        refused(ValueError, "shapes", widgets.SpeedRace, once, other)
    refused(ValueError, "batch size is 2", widgets.SpeedRace, two, two)
    endless = timing(token_ids, seconds=torch.nan)  # it would take all figures of a page away
    refused(ValueError, "a number is infinite or NaN", widgets.SpeedRace, endless, endless)


def test_code_changes_pairs_the_lines_that_belong_together():
    change, *_ = CodeChanges(CHANGES).data["changes"]
    assert change["pieces"][0]["blocks"] == [("equal", 0, 1, 0, 1), ("replace", 1, 2, 1, 2)]
    for none in ([], iter([])):
        refused(ValueError, "there are 0 changes; give the 5", CodeChanges, none)


def test_break_it_finds_what_is_wrong(trained):
    text = encode("Time flies fast")
    runs = {
        "right": (fed(time_flies.load(), text), 0),
        "stale": (fed(time_flies.load(), torch.cat([encode("Many users"), text], dim=1)), 2),
    }
    right, stale = (run["steps"] for run in BreakIt(trained[0], runs).data["runs"])
    assert all(step["error"] < 1e-3 for step in right)
    assert stale[2]["error"] > 1
    assert [key["at"] for key in stale[2]["keys"]] == [0, 1, 2, 3, 4]
    assert [key["place"] for key in stale[2]["keys"]] == [None, None, 0, 1, 2]
    assert [key["mark"] for key in stale[2]["keys"]] == list("rrrrn")
    refused(ValueError, "no runs", BreakIt, trained[0], {})
    refused(ValueError, "start is 9", BreakIt, trained[0], {"x": (runs["right"][0], 9)})
    plain, caching = twins()
    plain.train()  # a reference is compared in eval mode
    runs = {"x": (fed(caching, torch.tensor([[1]])), 0)}
    assert BreakIt(plain, runs).data["runs"][0]["steps"][0]["error"] < 1e-3
    assert plain.training


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_numbers_of_attention_are_those_of_torch(causal, n):
    tables = Attention(**GOOD).data["runs"][causal][n - 1]
    q, k, v = (X[:n] @ GOOD[name] for name in ("W_q", "W_k", "W_v"))
    attend = torch.nn.functional.scaled_dot_product_attention
    context = attend(q[None], k[None], v[None], is_causal=causal)[0]
    for name, table in {"x": X[:n], "queries": q, "keys": k, "values": v}.items():
        assert tables[name] == table.tolist()
    torch.testing.assert_close(torch.tensor(tables["context"]), context, rtol=0, atol=2e-6)
    hidden = [[number is None for number in row] for row in tables["masked scores"]]
    assert hidden == [[causal and c > r for c in range(n)] for r in range(n)]
    assert [sum(row) for row in tables["weights"]] == pytest.approx([1] * n, abs=1e-5)


def test_attention_says_what_is_wrong_with_its_input():
    for change, message in (
        ({"words": []}, "0 words.*at least 1"),
        ({"words": ["a", "b"]}, r"x has shape \(3, 3\), not \(2, 3\); give x"),
        ({"x": X[0]}, r"x has shape \(3,\), not \(3, 3\)"),
        ({"x": torch.tensor(1.0)}, r"x has shape \(\)"),
        ({"x": X[:, :2]}, r"W_q has shape \(3, 3\), not \(2, 3\); .*emb_dim, head_dim"),
        ({"W_k": W[:, :2]}, r"W_k has shape \(3, 2\), not \(3, 3\)"),
        ({"x": X[:, :0]}, r"x has shape \(3, 0\).*no 0"),
        ({"W_v": W / 0}, "W_v has a number that is infinite or NaN; give finite"),
    ):
        refused(ValueError, message, Attention, **GOOD | change)


def test_blocks_are_those_of_the_cache():
    *_, shot, last = widgets.BlockTables(block_shots()).data["shots"]
    assert (shot["tables"], last["tables"]) == ({"A": [0, 1], "B": [0, 2]}, {"B": [0, 2]})
    assert shot["blocks"][2]["tokens"] == ["␣but", "␣a", "␣cache"]
    assert shot["lengths"] == {"A": 6, "B": 7}
    refused(ValueError, "0 shots", widgets.BlockTables, [])
    other = caches.PagedCache(SMALL, 6, 4)
    more = [*block_shots(), block_shot(other, "another", {})]
    refused(ValueError, "show one cache", widgets.BlockTables, more)
    refused(ValueError, "no sequence 9", block_shot, other, "", {"A": (9, [])})
    a = other.add()
    with torch.no_grad():
        optimized.GPTModel(SMALL)(torch.tensor([[1, 2, 3]]), other.batch([a]))
    refused(ValueError, "A: 2 ids, 3 tokens", block_shot, other, "", {"A": (a, [1, 2])})


def test_the_ring_has_each_token_where_the_cache_holds_it():
    model = time_flies.load(optimized.GPTModel)
    token_ids = generate(model, encode("Time"), 9)
    steps = widgets.Ring(model, token_ids, 4).data["steps"]
    assert [step["written"] for step in steps] == [t % 4 for t in range(10)]
    assert [step["gone"] for step in steps] == [None] * 4 + list(range(6))
    cache = caches.SlidingWindowCache(model.cfg, 4)
    for length, step in enumerate(steps, start=1):
        held = cache.held(length, "cpu").tolist()  # what the mask goes by
        assert step["slots"] == held + [None] * (4 - len(held))
    refused(ValueError, "window is 17", widgets.Ring, model, token_ids, 17)
    refused(ValueError, "batch size is 2", widgets.Ring, model, token_ids.expand(2, 10), 4)


@torch.no_grad()
def test_what_can_be_read_only_once_shows_the_same_as_a_list(trained):
    shots, text = block_shots(), encode("Time flies")
    assert widgets.BlockTables(iter(shots)).data == widgets.BlockTables(shots).data
    refused(ValueError, "0 shots", widgets.BlockTables, iter([]))
    assert CodeChanges(iter(CHANGES)).data == CodeChanges(CHANGES).data
    calls = fed(time_flies.load(), text)
    found, right = (BreakIt(trained[0], {"x": (each, 0)}) for each in (iter(calls), calls))
    assert found.data == right.data
    pages = caches.PagedCache(SMALL, 2, 4)
    sequence = pages.add()
    optimized.GPTModel(SMALL)(torch.zeros(1, 2, dtype=torch.long), pages.batch([sequence]))
    for token_ids in (iter([7575, 17607]), text[0]):
        shot = block_shot(pages, "", {"A": (sequence, token_ids)})
        assert shot["blocks"][0]["tokens"] == ["Time", "␣flies"]
    calculator = widgets.MemoryCalculator(shapes=iter(MODEL_SHAPES[:1]))
    names = [item["name"] for item in calculator.data["lists"][0]["items"]]
    assert names == [MODEL_SHAPES[0].name, "your own"]
    for none in ({"shapes": []}, {"gpus": ()}):
        refused(ValueError, "at least 1 of each", widgets.MemoryCalculator, **none)


def test_own_prompt_says_what_the_model_refuses(trained):
    own = widgets.OwnPrompt(partial(trace, trained[0]), "<|endoftext|>", 200)
    own.run()
    assert "context length 128" in own.said == own.message.value
    own.run({"prompt": "", "max_new_tokens": 1})  # as the control sends it
    assert own.said == "the prompt is empty; type at least 1 character."
    own.run({"prompt": "Time", "max_new_tokens": 1})
    assert own.said == ""
