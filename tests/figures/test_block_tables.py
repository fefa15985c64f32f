"""Blocks and block tables: what the figure shows is what the cache holds."""

import pytest
import torch
from conftest import SMALL, state_of, violations
from playwright.sync_api import expect

from kvcache.caches import PagedCache
from kvcache.widgets import BlockTables, block_shot


def fill(pages, sequence, n_new):
    """Store zeros for n_new tokens."""
    batch, token_ids = pages.batch([sequence]), torch.zeros(1, n_new, dtype=torch.long)
    batch.begin(token_ids)
    for layer in range(SMALL.n_layers):
        new = torch.zeros(1, SMALL.n_heads, n_new, SMALL.head_dim)
        batch.update(layer, new, new)
    batch.end(token_ids)


@pytest.fixture
def shots():
    """A stores 6 tokens, B forks it, B writes one, A goes; blocks of 4."""
    pages = PagedCache(SMALL, 5, 4)
    a, ids = pages.add(), [7575, 17607, 3049, 11, 475, 257]  # Time flies fast, but a
    fill(pages, a, 6)
    found = [block_shot(pages, "A comes", {"A": (a, ids)})]
    b = pages.fork(a)
    found.append(block_shot(pages, "B forks A", {"A": (a, ids), "B": (b, ids)}))
    fill(pages, b, 1)
    found.append(block_shot(pages, "B writes", {"A": (a, ids), "B": (b, [*ids, 12940])}))
    pages.free(a)
    found.append(block_shot(pages, "A goes", {"B": (b, [*ids, 12940])}))
    return found


def test_the_data_is_what_the_cache_holds(shots):
    data = BlockTables(shots).data
    assert data["size"] == 4
    users = [[block["users"] for block in shot["blocks"]] for shot in data["shots"]]
    assert users == [
        [["A"], ["A"], [], [], []],
        [["A", "B"], ["A", "B"], [], [], []],
        [["A", "B"], ["A"], ["B"], [], []],
        [["B"], [], ["B"], [], []],
    ]
    assert [shot["tables"] for shot in data["shots"]] == [
        {"A": [0, 1]},
        {"A": [0, 1], "B": [0, 1]},
        {"A": [0, 1], "B": [0, 2]},
        {"B": [0, 2]},
    ]
    assert data["shots"][2]["blocks"][2]["tokens"] == ["␣but", "␣a", "␣cache"]
    marks = [[block["marks"] for block in shot["blocks"]] for shot in data["shots"]]
    assert marks[0] == ["nnnn", "nn", "", "", ""]
    assert marks[1] == ["rrrr", "rr", "", "", ""]
    assert marks[2] == ["rrrr", "rr", "nnn", "", ""]
    assert marks[3] == ["rrrr", "", "rrr", "", ""]


def test_it_steps_through_the_states(mount, shots):
    page = mount(state_of(BlockTables(shots)))
    scope = page.get_by_role("group", name="Block tables", exact=True)
    expect(scope.locator(".tff-say")).to_have_text("Step 1: A comes. Blocks free: 3, shared: 0.")
    scope.get_by_label("Step forward").click()
    expect(scope.locator(".tff-say")).to_have_text("Step 2: B forks A. Blocks free: 3, shared: 2.")
    scope.get_by_label("Step forward").press("Enter")
    expect(scope.get_by_text("B has the blocks 0, 2")).to_be_visible()
    row = scope.get_by_role("row", name="2: B")
    assert row.get_by_role("img", name="new").count() == 3
    scope.get_by_label("Step", exact=True).fill("4")
    expect(scope.get_by_role("row", name="1: free")).to_be_visible()
    expect(scope.get_by_text("A has")).to_have_count(0)
    assert not page.complaints
    assert violations(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone(mount, shots, theme):
    page = mount(state_of(BlockTables(shots)), width=360, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert violations(page) == []


def test_names_and_labels_are_text(mount, shots):
    evil = "<img src=x onerror=alert(1)>"
    shots[0]["label"] = evil
    shots[0]["blocks"][0]["users"] = [evil]
    shots[0]["tables"] = {evil: [0]}
    page = mount(state_of(BlockTables(shots)))
    assert page.locator(".tff img").count() == 0
    expect(page.locator(".tff-say")).to_contain_text(evil)


@pytest.mark.parametrize(
    "changes",
    [
        {"shots": []},
        {"shots": None},
        {"shots": [{}]},
        {"shots": [{"blocks": [], "tables": {}}]},
        {"shots": [{"label": "", "blocks": [{"users": [], "tokens": ["a"], "marks": "x"}]}]},
        {"shots": [{"label": "", "blocks": [{"tokens": [], "marks": ""}], "tables": {}}]},
        {
            "shots": [
                {
                    "label": "",
                    "blocks": [{"users": [], "tokens": [], "marks": ""}],
                    "tables": {"A": [3]},
                }
            ]
        },
    ],
)
def test_malformed_data_says_so_in_place(mount, shots, changes):
    page = mount(state_of(BlockTables(shots), **changes), state_of(BlockTables(shots)))
    expect(page.locator(".tff-error")).to_have_count(1)
    expect(page.get_by_label("Step forward")).to_have_count(1)  # the other figure goes on


def test_shots_that_do_not_fit_are_refused(shots):
    with pytest.raises(ValueError, match="0 shots"):
        BlockTables([])
    other = PagedCache(SMALL, 6, 4)
    with pytest.raises(ValueError, match="show one cache"):
        BlockTables([*shots, block_shot(other, "another", {})])
    with pytest.raises(ValueError, match="no sequence 9"):
        block_shot(other, "", {"A": (9, [])})
    a = other.add()
    fill(other, a, 3)
    with pytest.raises(ValueError, match="stores 3 tokens, 2 ids"):
        block_shot(other, "", {"A": (a, [1, 2])})


def test_the_still_shows_the_last_state(shots):
    still = BlockTables(shots).still()
    assert "block 0: B" in still
    assert "block 1: free" in still
