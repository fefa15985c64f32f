"""A reader's own prompt, answered by the small model in the page: it shows what Python computes."""

import pytest
import torch
from conftest import violations
from playwright.sync_api import expect
from safetensors.torch import load_file

from kvcache import data, generate, time_flies, trace
from kvcache.tokenizer import encode, token_label
from kvcache.widgets import KVTimeline

WORD = {"n": "new", "c": "recomputed", "r": "reused"}
PROMPT = "The model reads a zebra"
UNKNOWN = "unknown to the small model"
LIVE = "script[src*='_static/live']"


class Control:
    def __init__(self, page):
        self.root = page.get_by_role("group", name="A prompt of your own").first
        self.prompt = self.root.get_by_role("textbox")

    def press(self, name):
        self.root.get_by_role("button", name=name, exact=True).press("Enter")

    def says(self, words):
        expect(self.root.locator(".tff-say").first).to_contain_text(words, timeout=60_000)

    def write(self, prompt, n_new, end="Done.", **choices):
        """Fill in the control and press Run, by keyboard; wait until it says something."""
        self.prompt.fill(prompt)
        self.root.get_by_label("New tokens").fill(str(n_new))
        for label, option in choices.items():
            self.root.get_by_role("combobox", name=label).select_option(option)
        self.press("Run")
        self.says(end)

    def figure(self, name):
        return self.root.get_by_role("group", name=name, exact=True)


@pytest.mark.parametrize("where", ["server", "disk"])
def test_the_page_writes_what_python_writes_and_loads_nothing_before_it_is_touched(
    open_page, trained, where
):
    page = open_page("01-time-flies-fast", where)
    page.mouse.wheel(0, 20_000)
    resources = "performance.getEntriesByType('resource').map(({ name }) => name)"
    assert not [name for name in page.evaluate(resources) if "_static/live" in name]
    assert page.locator(LIVE).count() == 0
    own = Control(page)
    for cache in ("off", "on"):
        own.write(PROMPT, 8, Cache=cache)
        right = generate(trained[0], encode(PROMPT), 8)[0].tolist()
        labels = own.figure("Generation").locator(".tff-chips bdi").all_inner_texts()
        assert labels == [token_label(token_id) for token_id in right]
        again = own.figure("Generation").locator("[data-counter=again]").inner_text()
        assert (again == "0") == (cache == "on")
    assert page.locator(LIVE).count() == 3
    known = load_file(data.checked_path(time_flies.CHECKPOINT))["known_tokens"].tolist()
    row = own.root.get_by_label("The tokens of the prompt").locator("li").all_inner_texts()
    unknown = [token_id not in known for token_id in encode(PROMPT)[0].tolist()]
    assert [UNKNOWN in text for text in row] == unknown
    expect(own.root.get_by_text("is in none of the texts")).to_be_visible()


def test_the_timelines_are_those_of_the_trace(open_page, trained):
    own = Control(open_page("04-five-changes"))
    own.write(PROMPT, 5)
    traces = [trace(trained[i], encode(PROMPT), 5, bool(i), vectors=True) for i in (0, 1)]
    timeline = own.figure("K/V timeline")
    for layer in range(4):
        timeline.get_by_label("Layer").select_option(index=layer)
        for panel in KVTimeline(*traces).data["panels"]:
            marks = timeline.get_by_role("group", name=panel["title"]).locator("td .tff-mark")
            names = marks.evaluate_all("all => all.map(({ ariaLabel }) => ariaLabel)")
            found = [name.split()[-1] for name in names if not name.endswith("yet")]
            assert found == [WORD[letter] for step in panel["marks"][layer] for letter in step]
    marks.last.click()
    texts = timeline.locator(".tff-vector td").all_inner_texts()
    numbers = [float(text.replace("\N{MINUS SIGN}", "-")) for text in texts]
    newest = traces[1].steps[4][3]
    right = torch.stack([newest.keys[-1], newest.values[-1]]).flatten().tolist()
    assert numbers == pytest.approx(right, abs=0.006)


def test_the_race_counts_the_work_of_both(open_page):
    own = Control(open_page("00-intro"))
    own.write("Time flies fast", 30)
    expect(own.figure("Speed race")).to_contain_text("Both are done, with the same tokens")
    rows = own.root.locator("table").last.locator("tbody tr").all_inner_texts()
    assert rows[0].split("\t")[1:] == ["30", "30", "1.0×"]
    assert rows[1].split("\t")[1:3] == [str(sum(range(3, 33))), str(3 + 29)]


def test_a_bug_shows_on_the_live_model(open_page):
    own = Control(open_page("06-when-caches-go-wrong"))
    bugs = own.root.get_by_role("combobox", name="Bug").locator("option").all_inner_texts()
    for number, bug in enumerate(bugs):
        for n_new, wrong in ((6, number < 4), (1, number == 0)):  # most need a second step
            own.write("Time flies", n_new, Bug=bug)
            said = own.figure("Break it").locator(".tff-say").inner_text()
            assert ("less than 0.001" not in said) == wrong, (bug, n_new, said)


def test_an_error_and_stop_lose_nothing_and_the_next_run_works(open_page):
    page = open_page("03-the-baseline")
    own = Control(page)
    page.route("**/live.js*", lambda to: to.abort())
    own.write("Time flies", 2, "could not be loaded")
    page.noticed.clear()  # the browser says it, too
    page.unroute("**/live.js*")
    own.write("<b>Time</b>", 2)
    assert own.root.locator("p bdi").first.inner_text().startswith("<b>Time</b>")
    own.write("Time flies " * 90, 2, "128")
    expect(own.prompt).to_have_value("Time flies " * 90)
    expect(own.figure("K/V timeline")).to_be_visible()
    own.write("Time", 120, "Without a cache: the model writes")
    own.press("Stop")
    own.says("Stopped.")
    own.write("Time", 3)


def test_the_control_is_accessible_and_fits_a_phone_while_it_runs_and_afterwards(open_page):
    page = open_page("01-time-flies-fast", width=360, theme="dark")
    own = Control(page)
    own.write("", 5, "The prompt is empty")
    own.write(PROMPT, 110, "Without a cache: the model writes")
    assert violations(page) == ""
    own.says("Done.")
    assert violations(page) == ""
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
