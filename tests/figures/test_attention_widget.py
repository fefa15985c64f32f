"""The attention widget: its numbers, their marks, and how it says they were made."""

import json
import math
import re
from xml.etree import ElementTree

import pytest
import torch

from kvcache.widgets.attention import Attention

WORDS = ["Time", "flies", "fast"]
X = torch.tensor([[1.0, 0.0, 2.0], [0.0, 2.0, 1.0], [2.0, 1.0, 0.0]])
W_Q = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]])
W_K = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 1.0]])
W_V = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 1.0, 0.0]])
GOOD = {"words": WORDS, "x": X, "W_q": W_Q, "W_k": W_K, "W_v": W_V}
VECTORS = ("x", "queries", "keys", "values")


@pytest.fixture
def widget():
    return Attention(**GOOD)


def part(run, table, i):
    """One part of every cell: 0 is the number, 1 the mark, 2 its name, 3 how it was made."""
    return [[cell[i] for cell in row] for row in run["tables"][table]]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_numbers_are_those_of_torch(widget, causal, n):
    run = widget.data["runs"][causal][n - 1]
    q, k, v = (X[:n] @ W for W in (W_Q, W_K, W_V))
    context = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=causal
    )[0]
    for name, table in {"x": X[:n], "queries": q, "keys": k, "values": v, "W_v": W_V}.items():
        assert part(run, name, 0) == table.tolist()
    torch.testing.assert_close(torch.tensor(part(run, "context", 0)), context, rtol=0, atol=2e-6)
    assert [[x is None for x in row] for row in part(run, "masked scores", 0)] == [
        [causal and c > r for c in range(n)] for r in range(n)
    ]
    for row in part(run, "weights", 0):
        assert sum(row) == pytest.approx(1, abs=1e-5)


def test_with_the_mask_nothing_old_changes(widget):
    runs = widget.data["runs"][True]
    marks = {name: part(runs[2], name, 1) for name in runs[2]["tables"]}
    for name in (*VECTORS, "context"):
        assert marks[name] == [["="] * 3] * 2 + [["+"] * 3]
    for name in ("scores", "masked scores", "weights"):
        assert marks[name] == [["=", "=", "+"]] * 2 + [["+"] * 3]
    assert marks["W_k"] == [[" "] * 3] * 3
    said = "Step 3, causal mask on: keys, values and context of Time and flies are the same"
    assert runs[2]["said"] == f"{said} as at step 2."
    assert runs[0]["said"] == "Step 1, causal mask on: every number is new."
    assert part(runs[0], "context", 1) == [["+"] * 3]


def test_without_the_mask_the_context_changes(widget):
    run = widget.data["runs"][False][2]
    for name in VECTORS:
        assert part(run, name, 1) == [["="] * 3] * 2 + [["+"] * 3]
    assert part(run, "weights", 1) == [["≠", "≠", "+"]] * 2 + [["+"] * 3]
    assert part(run, "context", 1) == [["≠"] * 3] * 2 + [["+"] * 3]
    same = "keys and values of Time and flies are the same as at step 2"
    assert run["said"] == f"Step 3, causal mask off: {same}; their context changed."


@pytest.mark.parametrize("causal", [False, True])
def test_what_it_says_gives_the_number(widget, causal):
    """Evaluate every "= ..." with the unrounded numbers in their places."""
    for run in widget.data["runs"][causal]:

        def number(found, run=run):
            table, r, c = found[1].split(",")
            value = run["tables"][table][int(r)][int(c)][0]
            return f"({'-inf' if value is None else value})"

        for name, rows in run["tables"].items():
            for result, _, called, how in (cell for row in rows for cell in row):
                sum_ = re.sub(r"\{(.*?)\}", number, how)
                if not sum_.startswith("= "):
                    assert name[0] in "xWm", called
                    continue
                sum_ = re.sub(r"√(\d+)", r"sqrt(\1)", sum_[2:-2]).replace("·", "*")
                value = eval(sum_, {"exp": math.exp, "sqrt": math.sqrt, "inf": math.inf})
                assert value == pytest.approx(result, abs=1e-5), called


def test_exact_sums_say_so(widget):
    tables = widget.data["runs"][True][2]["tables"]
    assert tables["keys"][0][2][2:] == [
        "key 3 of Time",
        "= {x,0,0} · {W_k,0,2} + {x,0,1} · {W_k,1,2} + {x,0,2} · {W_k,2,2} =",
    ]
    assert tables["context"][1][0][3].endswith("≈")
    assert tables["masked scores"][0][2][2:] == [
        "masked score of Time on fast",
        "is {scores,0,2}, hidden by the mask:",
    ]
    thirds = Attention(**GOOD | {"x": X / 3}).data["runs"][True][2]["tables"]
    assert thirds["keys"][0][2][3].endswith("≈")


def test_data_is_json_and_other_shapes_work():
    torch.manual_seed(0)
    matrices = {f"W_{letter}": torch.randn(5, 2) for letter in "qkv"}
    widget = Attention([" {x} <b>", "שלום", "a", "b"], torch.randn(4, 5), **matrices)
    assert json.loads(json.dumps(widget.data, allow_nan=False))["words"][0] == " {x} <b>"
    tables = widget.data["runs"][True][3]["tables"]
    assert {name: (len(rows), len(rows[0])) for name, rows in tables.items()} == {
        **dict.fromkeys(("W_q", "W_k", "W_v"), (5, 2)),
        **dict.fromkeys(("scores", "masked scores", "weights"), (4, 4)),
        **dict.fromkeys(("queries", "keys", "values", "context"), (4, 2)),
        "x": (4, 5),
    }
    assert set(tables) == {name for _, _, names in widget.data["stages"] for name in names}
    assert "<b>" not in widget.still()


def test_one_word_is_enough():
    widget = Attention(["Time"], X[:1], W_Q, W_K, W_V)
    assert part(widget.data["runs"][True][0], "weights", 0) == [[1.0]]


def test_the_still_picture_is_xml_with_the_numbers(widget):
    still = widget.still()
    ElementTree.fromstring(still)
    for piece in ("keys", "values", "weights", "context", "0.88 =", "1.35 +", "Step 3"):
        assert piece in still


BAD = {
    "no words": ({"words": []}, "0 words.*at least 1"),
    "a word too few": ({"words": WORDS[:2]}, r"x has shape \(3, 3\), not \(2, 3\); give x"),
    "x of rank 1": ({"x": X[0]}, r"x has shape \(3,\), not \(3, 3\)"),
    "a number": ({"x": torch.tensor(1.0)}, r"x has shape \(\)"),
    "emb_dim": ({"x": X[:, :2]}, r"W_q has shape \(3, 3\), not \(2, 3\); .*emb_dim, head_dim"),
    "head_dim": ({"W_k": W_K[:, :2]}, r"W_k has shape \(3, 2\), not \(3, 3\)"),
    "empty": ({"x": X[:, :0]}, r"x has shape \(3, 0\).*no 0"),
    "infinite": ({"W_v": W_V / 0}, "W_v has a number that is infinite or NaN; give finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_to_do(name):
    change, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        Attention(**GOOD | change)


def test_the_module_travels_as_one_text(widget):
    assert "import {" not in widget._esm
    assert widget._esm.count("export ") == 1
