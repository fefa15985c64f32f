"""The figures that move: by mouse, keyboard and touch, against numbers computed here."""

import html
import json
import math
import random
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import NAMES, ROOT, SMALL, state_of, twins, use_all, violations
from playwright.sync_api import expect
from test_data import FIGURES, one_of_each, timing

from kvcache import generate, memory, trace, widgets
from kvcache.tokenizer import decode, encode
from kvcache.widgets import Generation, KVTimeline

WAYS = ("mouse", "keyboard", "touch")
TWENTY = torch.arange(21)[None]  # new tokens after the first


@pytest.fixture(scope="module")
def made(trained):
    return list(one_of_each(trained, encode("Time flies")))


@pytest.fixture
def show(mount):
    """The figure of a widget on a page of its own: a phone's, with a mouse and a keyboard, too."""
    options = {"width": 360, "has_touch": True}
    return lambda widget, **more: mount(state_of(widget), **options | more).locator(".tff")


def step(scope, to, way="mouse"):
    """With a button, "back" or "forward"; or with the slider, to a number."""
    if isinstance(to, int):
        return scope.get_by_label("Step", exact=True).fill(str(to))
    button = scope.get_by_label(f"Step {to}")
    {"mouse": button.click, "keyboard": lambda: button.press("Enter"), "touch": button.tap}[way]()


def says(scope, words, where=".tff-say"):
    expect(scope.locator(where).first).to_contain_text(words)


def choose(scope, label, option):
    scope.get_by_role("combobox", name=label, exact=True).select_option(option)


def counters(scope):
    return [int(text) for text in scope.locator("[data-counter]").all_inner_texts()]


def marks(scope):
    return scope.get_by_role("img").evaluate_all("all => all.map(each => each.ariaLabel)")


@pytest.mark.parametrize("chapter", NAMES)
def test_the_figures_of_a_page_fit_a_phone_are_reached_by_keyboard_and_play(open_page, chapter):
    page = open_page(chapter, width=360)
    for scope in page.locator(".tff", has=page.locator("button, select")).all():
        fits_a_phone(scope)
        reached_by_keyboard(scope)
    for scope in page.locator(".tff", has=page.get_by_label("Speed")).all():
        last = int(scope.get_by_label("Step", exact=True).get_attribute("max"))
        play, forward = scope.get_by_text("Play", exact=True), scope.get_by_label("Step forward")
        choose(scope, "Speed", "16×")
        step(scope, max(1, last - 3))
        play.click()
        expect(forward).to_be_disabled(timeout=20_000)
        expect(play).to_be_visible()
        choose(scope, "Speed", "¼×")
        play.click()  # from the start again
        scope.get_by_text("Pause").click()
        expect(forward).to_be_enabled()
    fonts = page.locator("article p, .tff, .tff button, .tff select, .tff th").evaluate_all(
        "all => all.map(each => getComputedStyle(each).fontFamily)"
    )
    assert len(set(fonts)) == 1
    assert violations(page) == ""


def reached_by_keyboard(scope):
    """The Tab key stops at each control, with an outline."""
    stops = ":is(button, select, input, textarea, a, summary, [tabindex='0'])"
    stops, keyboard = scope.locator(f"{stops}:visible:not([tabindex='-1'])"), scope.page.keyboard
    stops.first.focus()
    keyboard.press("Shift+Tab")
    scope.evaluate("""el => el.addEventListener("focusin", ({ target }) => {
        target.outlined = getComputedStyle(target).outlineStyle !== "none";
    })""")
    for _ in range(stops.count() + 5):  # a box that scrolls may be one more
        keyboard.press("Tab")
    assert stops.evaluate_all("all => all.length > 0 && all.every(each => each.outlined)")


def fits_a_phone(scope):
    assert scope.page.evaluate("document.documentElement.scrollWidth") <= 360
    controls = scope.locator(".tff-controls button, select, input")
    for box in filter(None, (control.bounding_box() for control in controls.all())):
        assert min(box["height"], box["width"]) >= 24
        assert 0 <= box["x"] <= 360 - box["width"]


def test_what_is_wrong_with_a_figure_is_noticed(show, made):
    for check, style in (
        (reached_by_keyboard, "button { outline: none !important }"),
        (fits_a_phone, ".tff { min-width: 400px }"),
        (fits_a_phone, "button { height: 20px !important; min-height: 0 !important }"),
    ):
        scope = show(made[3])
        check(scope)
        scope.page.add_style_tag(content=style)
        with pytest.raises(AssertionError):
            check(scope)


def test_generation_shows_the_models_probabilities(show, trained):
    widget = Generation(trained[0], encode("Time"), 5)
    scope = show(widget)
    for number, data in enumerate(widget.data["steps"][:4], start=1):
        says(scope, f"step {number} of 5", ".tff-place")
        rows = scope.locator(".tff-bars tr").all_inner_texts()
        first = f"{data['best'][0]} {100 * data['probabilities'][0]:.1f}% ✓ chosen"
        assert rows[0].split() == first.split()
        assert rows[5].split()[:2] == ["50,252", "others"]
        assert counters(scope) == [number, number * (number - 1) // 2]
        chips = scope.locator(".tff-chips li:visible small").all_inner_texts()
        assert chips == ["again"] * (number - 1) + ["first time", "written"]
        text = "".join(widget.data["texts"][:number])
        says(scope, f"Step {number} has the text “{text}”")
        step(scope, "forward", WAYS[number % 3])


@pytest.fixture(scope="module")
def traces(trained):
    plain, caching = trained
    with_cache = trace(caching, encode("Time"), 6, use_cache=True, vectors=True)
    return trace(plain, encode("Time"), 6, vectors=True), with_cache


def counts_as(traces, scope, n_steps, layers=(0,)):
    """The counters of both panels after some steps are those of the traces."""
    for panel, observed in zip(scope.locator(".tff-panel").all(), traces, strict=True):
        steps = [counts for layer in layers for counts in observed.counts(layer)[:n_steps]]
        total = {kind: sum(each[kind] for each in steps) for kind in steps[0]}
        computed = total["new"] + total["recomputed"]
        assert counters(panel) == [computed, total["reused"], total["recomputed"]]


def test_the_timeline_counts_as_the_trace_does_however_it_is_moved(show, traces):
    timeline = show(KVTimeline(*traces), width=1280)
    for number, way in zip((6, 5, 4), WAYS, strict=True):
        says(timeline, f"step {number} of 6", ".tff-place")
        counts_as(traces, timeline, number)
        step(timeline, "back", way)
    says(timeline, "Step 3 has the text “Time flies fast” and writes “,”. ")
    says(timeline, "Without a cache: 1 new, 2 recomputed. With a cache: 1 new, 2 reused.")
    left, right = (box.bounding_box() for box in timeline.locator(".tff-panel").all())
    assert left["y"] == right["y"]  # side by side
    step(timeline, 6)
    choose(timeline, "Layer", "all, one by one")
    for layer in (4, 3, 2, 1):
        says(timeline, f"step 6 of 6, layer {layer} of 4", ".tff-place")
        step(timeline, "back")
    says(timeline, "step 5 of 6, layer 4 of 4", ".tff-place")
    counts_as(traces, timeline, 5, layers=range(4))
    assert timeline.locator(".tff-panel").first.locator("tbody tr").count() == 4
    says(timeline, "Step 5, layer 4 has the text")
    choose(timeline, "Layer", "1 of 4")
    for key, number in (("Home", 1), ("ArrowRight", 2), ("End", 6)):
        timeline.get_by_label("Step", exact=True).press(key)
        counts_as(traces, timeline, number)
    expect(timeline.get_by_label("Step forward")).to_be_disabled()
    plain, cached = timeline.locator(".tff-panel").all()
    cached.get_by_role("button").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft"):
        timeline.page.keyboard.press(key)
    expect(cached.get_by_label("step 3, token 1 Time: reused")).to_be_focused()
    timeline.page.keyboard.press("Space")
    expect(timeline.locator(".tff-title")).to_contain_text("step 3, layer 1, token 1")
    assert cached.locator('button[tabindex="0"]').count() == 1
    mouse = timeline.page.mouse
    for number, button in ((5, mouse.down), (2, mouse.up)):
        box = plain.locator("tbody th").nth(number - 1).bounding_box()
        mouse.move(box["x"] + 5, box["y"] + 5, steps=4)
        button()
        mouse.move(box["x"] + 7, box["y"] + 6)
        counts_as(traces, timeline, number)


def test_a_cell_of_the_timeline_shows_its_vectors_until_the_view_changes(show, traces):
    timeline = show(KVTimeline(*traces), width=1280)
    plain, cached = timeline.locator(".tff-panel").all()
    choose(timeline, "Layer", "2 of 4")
    cached.get_by_role("button", name="step 4, token 2").click()
    details = timeline.locator(".tff-details")
    expect(details).to_contain_text("bit for bit")
    for name in ("key", "value"):
        cells = details.get_by_role("group", name=f"the {name}").locator("td").all_inner_texts()
        shown = torch.tensor([float(text.replace("−", "-")) for text in cells])
        vector = getattr(traces[1].steps[3][1], f"{name}s")[1].flatten()
        torch.testing.assert_close(shown, vector, atol=0.0051, rtol=0)
    for token, said in ((2, "equal those of step 3"), (4, "new in this step")):
        plain.get_by_role("button", name=f"step 4, token {token}").click()
        expect(details).to_contain_text(said)
    for change in (step, "back"), (choose, "Layer", "1 of 4"):
        plain.get_by_role("button", name="step 2, token 1").click()
        expect(details).to_contain_text("step 2")
        change[0](timeline, *change[1:])
        expect(details).to_have_text("Choose a square to see its key and value.")
        expect(timeline.locator('td [aria-pressed="true"]')).to_have_count(0)


def test_the_race_runs_on_the_measured_times(show):
    scope = show(widgets.SpeedRace(timing(TWENTY, "without", 0.03), timing(TWENTY)))
    says(scope, "Both are done, with the same tokens: 0.600 s without, 0.200 s with, 3.0 times as")
    for number, now, written in ((30, 0.45, [15, 20]), (17, 0.16, [5, 16]), (1, 0, [0, 0])):
        step(scope, number)
        says(scope, f"{now:.2f} s", ".tff-place")
        assert counters(scope) == written
    for n_fast, way in enumerate(WAYS, start=1):
        step(scope, "forward", way)
        slow = "1 token" if n_fast == 3 else "0 tokens"
        says(scope, f"After 0.0{n_fast} s: {slow} without, {n_fast} with.")


PLAY = """async (el) => {
    const [play] = el.querySelectorAll("button"), start = performance.now(), seen = new Set();
    let moving = document.getAnimations().length;
    for (play.click(); play.textContent === "Pause"; await new Promise(requestAnimationFrame))
        seen.add(el.querySelector(".tff-place").textContent);
    moving += document.getAnimations().length;
    return [(performance.now() - start) / 1000, seen.size, moving];
}"""


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_the_race_runs_in_real_time_and_jumps_where_motion_is_reduced(show, motion):
    race = widgets.SpeedRace(timing(TWENTY, "without", 0.05), timing(TWENTY))
    scope = show(race, reduced_motion=motion)
    seconds, n_seen, n_moving = scope.evaluate(PLAY)
    assert 0.9 < seconds < 3  # the slower one takes 1 second; a busy machine may lag behind
    assert n_seen <= 3 if motion == "reduce" else n_seen > 3
    assert n_moving == 0  # nothing moves by itself
    assert all(curve.get_attribute("d") for curve in scope.locator(".tff-chart path").all())


def test_what_the_first_race_says_is_what_its_page_tells(open_page):
    page = open_page("00-intro")
    race = page.get_by_role("group", name="Speed race").locator(".tff-say").inner_text()
    ratio = re.search(r"[\d.]+ times as fast", race)[0]
    expect(page.locator(".cell_output .stream").first).to_contain_text(ratio)


def test_the_five_changes_light_up_the_real_lines(open_page):
    scope = open_page("04-five-changes").get_by_role("group", name="Code changes")
    sources = [ROOT / "kvcache" / name for name in ("cached.py", "generate.py")]
    lines = "\n".join(path.read_text(encoding="utf-8") for path in sources).splitlines()
    for number in range(1, 6):
        says(scope, f"change {number} of 5", ".tff-place")
        marked = {line.strip() for line in lines if f"# CACHE {number}" in line}
        lit = scope.locator('[data-lit="+"] code').all_inner_texts()
        assert marked
        assert marked <= set(lit)
        if number < 5:
            step(scope, "forward", WAYS[number % 2])
    table = scope.locator("table", has=scope.page.locator("caption", has_text="after change 5"))
    assert [len(marks(row)) for row in table.locator("tbody tr").all()] == [1, 2, 3]


def test_every_bug_shows_its_text_and_what_is_wrong(open_page, trained):
    page = open_page("06-when-caches-go-wrong", width=360)
    scope = page.get_by_role("group", name="Break it")
    printed = html.unescape(page.locator("main").inner_text())
    right = decode(generate(trained[0], encode("Time"), 8))
    wrong_row = {"1": "text", "2": "position", "3": "mask", "4": "position"}
    for name in scope.get_by_label("Bug").locator("option").all_inner_texts():
        choose(scope, "Bug", name)
        text = scope.locator("p", has_text="It writes").inner_text().split("“")[1].split("”")[0]
        assert text in printed
        wrong = scope.locator("tr:has(td b) th").all_inner_texts()
        if name.startswith("none"):
            assert (wrong, text) == ([], right)
            says(scope, "less than 0.001")
        else:
            assert wrong_row[name[0]] in wrong
            assert text != right
        expect(scope.get_by_label("Step forward")).to_be_disabled()
        name, *_, newest = scope.locator("tbody tr").first.locator("th, td").all()
        name, newest = (cell.bounding_box() for cell in (name, newest))
        # Beside their names, on a phone too.
        assert 0 < name["x"] + name["width"] <= newest["x"] + 1 <= 361 - newest["width"]


def last_table(scope):
    """What the stage made: the name of the table, its numbers as text, and their signs."""
    name, *rows = scope.locator("table").last.evaluate(
        """table => [table.caption.textContent, ...[...table.rows].slice(1).map(
            row => [...row.querySelectorAll("button")].map(each => each.textContent))]"""
    )
    return name, [[t[:-1] for t in row] for row in rows], [[t[-1] for t in row] for row in rows]


def test_attention_shows_how_each_number_was_made_and_whether_it_changed(show, made):
    scope = show(made[5])
    says(scope, "stage 1 of 8: vector", ".tff-place")
    for causal in (1, 0):
        step(scope, 1)
        for stage in range(2, 9):
            step(scope, "forward", WAYS[stage % 3])
            name, numbers, _ = last_table(scope)
            digits = 3 if name == "weights" else 2
            assert numbers == [
                ["−∞" if x is None else f"{x:.{digits}f}" for x in row]
                for row in made[5].data["runs"][causal][2][name]
            ], stage
            check_sum(scope.locator(".tff-say").nth(1).inner_text())
        scope.get_by_role("checkbox", name="Causal mask").click()
    says(scope, "stage 8 of 8: weighted sum", ".tff-place")
    for stage in (3, 4, 8):  # keys, values, context
        step(scope, stage)
        assert last_table(scope)[2] == [["="] * 3] * 2 + [["+"] * 3]
    says(scope, "keys, values and context of Time and flies are the same as at step 2.")
    scope.get_by_role("checkbox", name="Causal mask").click()
    assert last_table(scope)[2] == [["≠"] * 3] * 2 + [["+"] * 3]
    says(scope, "as at step 2; their context changed.")
    choose(scope, "Text", "step 1: Time")
    says(scope, "Step 1, causal mask off: every number is new.")


def check_sum(said):
    """A sentence that says how a number was made gives the number."""
    found = re.fullmatch(r".*? = (.*) [=≈] (\S+)", said)
    assert found or "by the mask:" in said
    if found:
        formula = found[1].replace("·", "*").replace("−∞", "-inf")
        formula = re.sub(r"√(\d+)", r"sqrt(\1)", formula)
        assert eval(formula, vars(math).copy()) == pytest.approx(float(found[2]), abs=0.05)


@pytest.mark.parametrize("way", WAYS)
def test_attention_says_what_a_number_was_made_from(show, made, way):
    scope = show(made[5])
    step(scope, 2)
    second, third = (scope.get_by_label(re.compile(f"^query {i} of Time")) for i in (2, 3))
    arrow = partial(second.press, "ArrowRight")
    {"mouse": third.hover, "keyboard": arrow, "touch": third.tap}[way]()
    how = "query 3 of Time = 1.00 · 0.50 + 0.00 · 0.00 + 2.00 · 1.00 = 2.50"
    expect(scope.locator(".tff-say").nth(1)).to_have_text(how)
    sources = scope.locator(".tff-source")
    expect(sources).to_have_count(6)
    row_and_column = scope.get_by_label(re.compile("^(x . of Time|W_q row ., column 3)"))
    expect(sources.and_(row_and_column)).to_have_count(6)


def test_block_tables_step_through_the_states(show, made):
    scope = show(made[6])
    says(scope, "Step 1: A comes. Blocks free: 3, shared: 0.")
    step(scope, "forward", "touch")
    says(scope, "Step 2: B forks A. Blocks free: 3, shared: 2.")
    expect(scope.get_by_role("row", name="0: A, B shared")).to_be_visible()
    step(scope, "forward", "keyboard")
    copied, computed = "copied in this step", "computed in this step"
    assert marks(scope.get_by_role("row", name="2: B")) == [copied, copied, computed]
    assert marks(scope.get_by_role("row", name="1: A")) == ["kept"] * 2
    scope.get_by_role("button", name="B: 0, 2").click()
    linked = scope.locator("tr[data-current] th")
    expect(linked).to_have_text(["0: A, Bshared, part 1 of B", "2: Bpart 2 of B"])
    step(scope, "forward")
    expect(scope.get_by_role("row", name="1: free")).to_be_visible()
    expect(scope.get_by_role("button", name="A:")).to_have_count(0)
    last = scope.locator("thead th").last.bounding_box()
    assert last["x"] + last["width"] <= 360  # the last slot is there on a phone, too


def test_the_ring_shows_which_slot_is_written(show, made):
    scope = show(made[7])
    says(scope, "step 6 of 6", ".tff-place")
    step(scope, 3)
    says(scope, "Token 2, “␣fast”, goes into slot 2, which was empty. It sees 3 tokens, ")
    step(scope, "forward", "touch")
    says(scope, "goes into slot 0, where token 0, “Time”, lay.")
    ring = scope.get_by_role("list", name="The ring")
    expect(ring.locator("small")).to_have_text(["slot 0", "slot 1", "slot 2"])
    assert marks(ring) == ["written in this step", "kept", "kept"]
    first, *others = marks(scope.get_by_role("list", name="The text"))
    assert (first, len(others)) == ("overwritten: no longer seen", 3)


def outputs(scope):
    return scope.locator("[data-output]").evaluate_all(
        "all => Object.fromEntries(all.map(({dataset}) => [dataset.output, Number(dataset.value)]))"
    )


def test_the_calculator_agrees_with_memory_py(show, made):
    calculator, formats = show(made[-1]), list(memory.BITS)
    for number, shape in enumerate(memory.MODEL_SHAPES):
        gpu, at = memory.GPUS[number % len(memory.GPUS)], number % len(formats)
        bits, weights = formats[at], formats[-1 - at]
        choose(calculator, "Model", shape.name)
        choose(calculator, "GPU", gpu.name)
        assert calculator.get_by_label("Texts at once").input_value() == "1"
        calculator.get_by_label("Cache format").select_option(index=at)
        calculator.get_by_label("Weight format").select_option(index=len(formats) - 1 - at)
        calculator.get_by_label("Texts at once").fill(str(number + 1))
        found, n = outputs(calculator), shape.context_length
        assert found["bytes-per-token"] == memory.kv_cache_bytes(shape, 1, dtype=bits)
        assert found["cache"] == memory.kv_cache_bytes(shape, n, number + 1, bits)
        assert found["weights"] == memory.weight_bytes(shape, weights)
        longest = memory.longest_context(shape, gpu.memory_bytes, number + 1, bits, weights)
        assert found["longest-context"] == longest
        assert found["together"] == (longest >= n)
        if 1 < longest < float("inf") and number:
            expect(calculator.get_by_text(f"in each of {number + 1} texts")).to_be_visible()
        expect(calculator.locator(f'a[href="{shape.source}"]')).to_be_visible()


def test_the_calculator_takes_numbers_refuses_nonsense_and_warns(show, made):
    calculator = show(made[-1])
    before, layers = outputs(calculator), calculator.get_by_label("Layers")
    calculator.locator("summary").tap()
    layers.press("ControlOrMeta+a")
    calculator.page.keyboard.type("64")
    assert outputs(calculator)["bytes-per-token"] == 2 * before["bytes-per-token"]
    model = calculator.get_by_role("combobox", name="Model", exact=True)
    assert model.evaluate("select => select.selectedOptions[0].text") == "your own"
    for label, wrong, must in (
        ("Layers", "0", "a whole number of at least 1"),
        ("Layers", "", "Layers is no number"),
        ("Layers", "2.5", "a whole number"),
        ("Layers", "1e99", "at most 1,000,000,000"),
        ("K/V heads", "7", "a divisor of the 32 attention heads"),
        ("of these with a window", "65", "at most the 64 layers"),
        ("of these with a window", "1", "Window in tokens is 0; give at least 1"),
        ("Parameters in billions", "0", "a number above 0"),
    ):
        field = calculator.get_by_label(label)
        was = field.input_value()
        field.fill(wrong)
        expect(calculator.locator(".tff-error")).to_contain_text(must)
        expect(calculator.locator('[aria-invalid="true"]')).to_have_count(1)
        says(calculator, "last good result")
        field.fill(was)
    layers.fill("32")
    assert outputs(calculator) == before
    assert calculator.locator(".tff-error").count() == 0
    choose(calculator, "Model", "Llama 2 7B")
    says(calculator, "Cache 2 GiB and weights 12.55 GiB fit into 24 GiB.")
    calculator.get_by_label("Tokens in each").fill("4097")
    says(calculator, "But Llama 2 7B is made for at most 4,096 tokens.")
    choose(calculator, "Model", "Mistral 7B")
    expect(calculator.get_by_text("any: each layer keeps its last 4,096 tokens")).to_be_visible()


EVIL = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"
STRUCTURE = re.compile(r"[ncr.]+|equal|replace|insert|delete|[A-Za-z0-9+/]{60,}={0,2}")


def poisoned(data):
    """The same data with the attack at every place that holds free text."""
    if isinstance(data, dict):
        return {EVIL if key in "AB" else key: poisoned(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [poisoned(value) for value in data]
    return EVIL if isinstance(data, str) and not STRUCTURE.fullmatch(data) else data


def test_text_is_never_html_in_any_figure_nor_in_a_still(mount, trained):
    made = list(one_of_each(trained, encode("Time flies")))
    shape = memory.ModelShape(EVIL, 2, 4, 2, 8, 1000, 64, "https://example.org/")
    gpu = memory.GPU(EVIL, 10**9, "https://example.org/")
    for widget in made:
        widget.data = poisoned(widget.data)
    made[3] = widgets.SpeedRace(timing(TWENTY, EVIL), timing(TWENTY, EVIL))
    made[-1] = widgets.MemoryCalculator([shape], [gpu])
    page = mount(*map(state_of, made))
    names = {each.get_attribute("aria-label") for each in page.locator(".tff").all()}
    assert len(names) == len(FIGURES)
    for _ in range(2):
        for scope in page.locator(".tff").all():
            expect(scope).to_contain_text("<script>")
        use_all(page)
    assert page.locator(".tff-error, .tff img, .tff script").count() == 0
    assert page.evaluate("window.pwned") is None
    stills = [widget.still() for widget in made]
    assert not any("<script>" in still or "<img" in still for still in stills)
    # No script writes HTML but the book's own stills.
    paths = [*widgets.figure.FOLDER.rglob("*.js"), *(ROOT / "book" / "theme").rglob("*.*")]
    texts = [path.read_text(encoding="utf-8") for path in paths if path.suffix in (".js", ".html")]
    writing = r".*(?:innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser).*"
    found = [line.strip() for text in texts for line in re.findall(writing, text)]
    assert found == ["still.innerHTML = noscript.textContent;"]


ODD = " 😀 e\u0301 שלום\n\n 中文 \t🏳️‍🌈"


def test_odd_characters_show_sensibly(mount, trained):
    caching, prompt = trained[1], encode(ODD)
    timeline = KVTimeline(trace(caching, prompt, 3, use_cache=True))
    generation = Generation(caching, prompt, 3, use_cache=True)
    page = mount(state_of(timeline), state_of(generation), width=360)
    for scope in page.locator(".tff").all():
        step(scope, 1)
        expect(scope.locator(".tff-say bdi").first).to_have_text(ODD, use_inner_text=False)
        expect(scope.locator("bdi", has_text="␣").first).to_be_attached()
    says(page.locator(".tff").first, "Step 1 (prefill) has the text ")
    assert page.locator("tbody th small").all_text_contents() == [" prefill", *2 * [" decode"]]
    assert page.locator("thead .tff-edge").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


CORNER_IS_DRAWN = """canvas => canvas.getContext("2d")
    .getImageData(canvas.width - 3, canvas.height - 3, 3, 3).data.some(Boolean)"""


@pytest.mark.parametrize("n_new", [1, 200])
def test_one_token_and_two_hundred(mount, n_new):
    (plain, caching), prompt = twins(replace(SMALL, context_length=201)), torch.tensor([[1]])
    race = timing(generate(plain, prompt, n_new))
    page = mount(
        state_of(KVTimeline(trace(plain, prompt, n_new), trace(caching, prompt, n_new, True))),
        state_of(Generation(plain, prompt, n_new)),
        state_of(widgets.SpeedRace(race, race)),
    )
    scope = page.locator(".tff").first
    wasted = scope.locator('[data-counter="wasted"]').first
    expect(wasted).to_have_text(str(n_new * (n_new - 1) // 2))
    if n_new == 1:  # there is nothing to play, and playing ends
        scope.get_by_text("Play", exact=True).click()
        expect(scope.get_by_text("Play", exact=True)).to_be_visible()
        expect(page.locator(".tff").last).to_contain_text("1 of 1 token, done")
    else:  # drawn as one picture, to its last corner
        assert scope.locator("canvas").first.evaluate(CORNER_IS_DRAWN)
        step(scope, 50)
        expect(wasted).to_have_text(str(50 * 49 // 2))
        cursor, details = scope.locator(".tff-cursor").first, scope.locator(".tff-details")
        for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
            cursor.press(key)
        expect(cursor).to_have_attribute("aria-label", re.compile("^step 3, token 2 .*recomputed"))
        cursor.press("Enter")
        expect(details).to_contain_text("step 3, layer 1, token 2")
        box = scope.locator("canvas").nth(1).bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.7)
        expect(details).to_contain_text("reused")
    assert page.locator(".tff-error").count() == 0


def damaged(data, chance):
    """A deep copy with one place, at any depth, left out or replaced."""
    at = data = json.loads(json.dumps(data))
    while True:
        key = chance.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not (isinstance(at[key], (dict, list)) and at[key]) or chance.random() < 0.2:
            break
        at = at[key]
    if chance.random() < 0.5:
        del at[key]
    else:
        at[key] = chance.choice([None, -1, 1e300, "x", [], {}])
    return data


@pytest.mark.parametrize(("seed", "wrong"), [*enumerate([None, [], [{}] * 5, 3, "x"])])
def test_wrong_data_is_said_in_place_and_the_rest_goes_on(mount, made, seed, wrong):
    """All that a figure carries is the same wrong thing, or some place in it is damaged."""
    chance, states = random.Random(seed), [*map(state_of, made)]
    broken = [{**each, "data": dict.fromkeys(each["data"], wrong)} for each in states]
    page = mount(*broken, {"_esm": "not a module", "data": None}, states[0])
    expect(page.locator(".tff-error")).to_have_count(len(broken) + 1)
    expect(page.locator(".tff-error").first).to_contain_text("cannot be drawn")
    expect(page.locator(".tff-controls").first).to_be_visible()
    harmed = mount(*({**each, "data": damaged(each["data"], chance)} for each in 3 * states))
    use_all(harmed)
    for each in (page, harmed):
        expect(each.locator("main > p").last).to_be_visible()
