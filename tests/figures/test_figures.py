"""The figures that move: by mouse, keyboard and touch, against numbers computed here."""

import html
import json
import random
import re

import pytest
import torch
from conftest import HTML, NAMES, ROOT, state_of, twins, violations
from playwright.sync_api import expect
from test_data import GOOD, block_shots

from kvcache import GPTConfig, generate, optimized, time_flies, trace
from kvcache.memory import (
    BITS,
    GPU,
    GPUS,
    MODEL_SHAPES,
    ModelShape,
    kv_cache_bytes,
    longest_context,
    weight_bytes,
)
from kvcache.timing import Timing
from kvcache.trace import watch
from kvcache.widgets import (
    Attention,
    BlockTables,
    BreakIt,
    CodeChanges,
    Generation,
    KVTimeline,
    MemoryCalculator,
    Ring,
    SpeedRace,
)

WIDGET = "application/vnd.jupyter.widget"


def figure(page, name, nth=0):
    return page.get_by_role("group", name=name, exact=True).nth(nth)


def set_step(scope, step):
    scope.get_by_label("Step", exact=True).fill(str(step))


def place(scope):
    return scope.locator(".tff-place")


def speech(scope):
    return scope.locator(".tff-say").first


def counters(scope):
    return [int(text) for text in scope.locator("[data-counter]").all_inner_texts()]


def act(scope, by, label):
    """Use a button by mouse, keyboard or touch."""
    button = scope.get_by_label(label, exact=True)
    if by == "keyboard":
        button.press("Enter")
    else:
        button.tap() if by == "touch" else button.click()


def phone(by):
    return {"has_touch": True, "width": 360, "is_mobile": True} if by == "touch" else {}


BY = pytest.mark.parametrize("by", ["mouse", "keyboard", "touch"])


def race(token_ids, n_prompt=1, slow=0.01):
    """Two generations of these tokens: the slower one, and one with 0.01 s for each token."""
    times = torch.full((1, token_ids.shape[1] - n_prompt), 0.01, dtype=torch.float64)
    runs = (("without", times * slow / 0.01), ("with", times))
    return SpeedRace(*(Timing(name, n_prompt, each, token_ids) for name, each in runs))


@pytest.fixture(scope="module")
def made(trained, tokenizer):
    """One widget of each kind."""
    plain, caching = trained
    prompt = torch.tensor([tokenizer.encode("Time flies")])
    with torch.no_grad(), watch(caching) as calls:
        caching.reset_kv_cache()
        caching(prompt, use_cache=True)
    return [
        KVTimeline(trace(plain, prompt, 3, vectors=True), trace(caching, prompt, 3, True)),
        Generation(plain, prompt, 3),
        CodeChanges(plain, caching, prompt),
        race(generate(plain, prompt, 4), n_prompt=2),
        BreakIt(plain, {"correct": (calls, 0)}),
        Attention(**GOOD),
        BlockTables(block_shots()),
        Ring(time_flies.load(optimized.GPTModel), generate(plain, prompt, 4), 3),
        MemoryCalculator(),
    ]


# ---------------------------------------------------------------- in the pages


def carried(chapter):
    """The states of the figures in a built page, in order of their views."""
    text = (HTML / "chapters" / f"{chapter}.html").read_text(encoding="utf-8")
    state = re.search(rf'<script type="{WIDGET}-state\+json">(.*?)</script>', text, re.DOTALL)
    views = re.findall(rf'<script type="{WIDGET}-view\+json">(.*?)</script>', text, re.DOTALL)
    entries = json.loads(state[1])["state"] if state else {}
    found = [entries[json.loads(view)["model_id"]]["state"] for view in views]
    return [each for each in found if "_esm" in each]


@pytest.mark.parametrize("chapter", NAMES)
def test_the_figures_of_a_page_are_there_and_play(open_page, chapter):
    page, figures = open_page(chapter), carried(chapter)
    names = [re.search(r'export default figure\("(.*?)"', each["_esm"])[1] for each in figures]
    shown = page.locator(".tff").all()
    assert [each.get_attribute("aria-label") for each in shown] == names
    for scope in shown:
        reached_by_keyboard(page, scope)
        if scope.get_by_role("button", name="Play").count():
            plays(scope)
    assert not page.complaints


def reached_by_keyboard(page, scope):
    """The Tab key stops at each control, with an outline."""
    controls = "button:visible:not([tabindex='-1']), select:visible, input:visible, a:visible"
    controls = scope.locator(controls)
    assert controls.count() >= 1
    controls.first.focus()
    page.keyboard.press("Shift+Tab")
    reached = 0
    for _ in range(controls.count() + 40):
        page.keyboard.press("Tab")
        inside, outline = scope.evaluate(
            """el => [el.contains(document.activeElement),
                      getComputedStyle(document.activeElement).outlineStyle]"""
        )
        if not inside:
            break
        assert outline != "none"
        reached += 1
    assert reached >= controls.count()


def plays(scope):
    last = scope.get_by_label("Step", exact=True).get_attribute("max")
    scope.get_by_label("Speed").select_option("16×")
    set_step(scope, max(1, int(last) - 5))
    scope.get_by_role("button", name="Play").click()
    expect(scope.get_by_label("Step forward")).to_be_disabled(timeout=20_000)
    expect(scope.get_by_role("button", name="Play")).to_be_visible()
    scope.get_by_label("Speed").select_option("¼×")
    scope.get_by_role("button", name="Play").click()  # from the start again
    scope.get_by_role("button", name="Pause").click()
    expect(scope.get_by_label("Step forward")).to_be_enabled()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_fits_a_phone_and_is_accessible(mount, made, theme):
    page = mount(*map(state_of, made), width=360, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in page.locator(".tff-controls button, .tff select, .tff input").all():
        if not control.is_visible():
            continue
        box = control.bounding_box()
        assert box["height"] >= 24
        assert box["width"] >= 24
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
    for scope in page.locator(".tff").all():
        if scope.get_by_label("Step", exact=True).count():
            for label in ("Step back", "Step forward", "Step", "Speed"):
                expect(scope.get_by_label(label, exact=True)).to_have_count(1)
            set_step(scope, 2)
    assert violations(page) == []


def test_figures_have_the_font_of_the_page(mount, made):
    page = mount(*map(state_of, made))
    page.add_style_tag(content="body { font-family: 'Some Font', serif }")
    fonts = page.locator(".tff, .tff button, .tff select, .tff th").evaluate_all(
        "all => all.map(each => getComputedStyle(each).fontFamily)"
    )
    assert set(fonts) == {'"Some Font", serif'}


def test_nothing_moves_by_itself_and_reduced_motion_jumps(mount, made):
    page = mount(state_of(made[3]), reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().length") == 0
    seen = page.locator(".tff").evaluate(
        """async el => {
            const seen = new Set();
            el.querySelector("button").click();
            for (const start = performance.now(); performance.now() - start < 600;) {
                await new Promise(requestAnimationFrame);
                seen.add(el.querySelector(".tff-place").textContent);
            }
            return [...seen];
        }"""
    )
    assert len(seen) <= 2  # at most one jump a second
    assert page.evaluate("document.getAnimations().length") == 0


def test_what_the_first_race_says_is_what_its_page_tells(open_page):
    page = open_page("00-intro")
    ratio = re.search(r"[\d.]+ times as fast", speech(figure(page, "Speed race")).inner_text())[0]
    expect(page.locator(".cell_output .stream").first).to_contain_text(ratio)


# ---------------------------------------------------------------- generation


@BY
def test_generation_shows_the_models_probabilities(mount, trained, tokenizer, by):
    widget = Generation(trained[0], torch.tensor([tokenizer.encode("Time")]), 5)
    scope = figure(mount(state_of(widget), **phone(by)), "Generation")
    for step, data in enumerate(widget.data["steps"][:4], start=1):
        expect(place(scope)).to_have_text(f"step {step} of 5")
        rows = scope.locator(".tff-bars tr").all_inner_texts()
        first = f"{data['best'][0]} {100 * data['probabilities'][0]:.1f} % ✓ chosen"
        assert rows[0].split() == first.split()
        assert rows[5].split()[:2] == ["50,252", "others"]
        assert counters(scope) == [step, step * (step - 1) // 2]
        chips = scope.locator(".tff-chips li:visible small").all_inner_texts()
        assert chips == ["again"] * (step - 1) + ["first time", "written"]
        text = "".join(widget.data["texts"][:step])
        expect(scope.locator(".tff-say")).to_contain_text(f"Step {step} has the text “{text}”")
        act(scope, by, "Step forward")


# ---------------------------------------------------------------- K/V timeline


@pytest.fixture(scope="module")
def traces(trained, tokenizer):
    prompt = torch.tensor([tokenizer.encode("Time")])
    with_cache = trace(trained[1], prompt, 6, use_cache=True, vectors=True)
    return trace(trained[0], prompt, 6, vectors=True), with_cache


@pytest.fixture
def timeline(mount, traces):
    def opened(**options):
        return figure(mount(state_of(KVTimeline(*traces)), **options), "K/V timeline")

    return opened


def counted(observed, step, layer=0):
    """The counters after a step, from the trace of one layer."""
    counts = observed.counts(layer)[:step]
    total = {kind: sum(at[kind] for at in counts) for kind in counts[0]}
    return [total["new"] + total["recomputed"], total["reused"], total["recomputed"]]


def check_counters(scope, traces, step):
    expect(place(scope)).to_have_text(f"step {step} of 6")
    for panel, observed in zip(scope.locator(".tff-panel").all(), traces, strict=True):
        assert counters(panel) == counted(observed, step)


@BY
def test_the_timeline_counts_as_the_trace_does(timeline, traces, by):
    scope = timeline(**phone(by))
    check_counters(scope, traces, 6)
    expect(scope.get_by_label("Step forward")).to_be_disabled()
    for step in (5, 4):
        act(scope, by, "Step back")
        check_counters(scope, traces, step)
    act(scope, by, "Step forward")
    check_counters(scope, traces, 5)
    set_step(scope, 3)
    expect(speech(scope)).to_have_text(
        "Step 3 has the text “Time flies fast” and writes “,”. "
        "Without a cache: 1 new, 2 recomputed. With a cache: 1 new, 2 reused."
    )
    left, right = (box.bounding_box() for box in scope.locator(".tff-panel").all())
    assert left["y"] == right["y"]  # side by side


def test_slider_and_grid_are_dragged(timeline, traces):
    scope = timeline()
    mouse, box = scope.page.mouse, scope.get_by_label("Step", exact=True).bounding_box()
    middle = box["y"] + box["height"] / 2
    mouse.move(box["x"] + box["width"] * 0.6, middle)
    mouse.down()
    mouse.move(box["x"] + 2, middle, steps=5)
    mouse.up()
    check_counters(scope, traces, 1)
    expect(scope.get_by_label("Step back")).to_be_disabled()
    rows = scope.locator(".tff-panel").first.locator("tbody tr")
    for step, action in ((5, mouse.down), (2, None)):
        box = rows.nth(step - 1).locator("th").bounding_box()
        mouse.move(box["x"] + 5, box["y"] + 5, steps=4)
        if action:
            action()
            mouse.move(box["x"] + 7, box["y"] + 6)
        check_counters(scope, traces, step)
    mouse.up()


def test_the_timeline_by_keyboard(timeline, traces):
    scope = timeline()
    slider = scope.get_by_label("Step", exact=True)
    for key, step in (("Home", 1), ("ArrowRight", 2), ("End", 6)):
        slider.press(key)
        check_counters(scope, traces, step)
    cached = scope.locator(".tff-panel").nth(1)
    cached.get_by_role("button").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft"):
        scope.page.keyboard.press(key)
    focused = scope.page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "step 3, token 1 Time: reused"
    scope.page.keyboard.press("Space")
    expect(scope.locator(".tff-title")).to_contain_text("step 3, layer 1, token 1")
    assert len(cached.locator('button[tabindex="0"]').all()) == 1


def test_layer_by_layer(timeline, traces):
    scope = timeline()
    scope.get_by_label("Layer").select_option("all, one by one")
    expect(place(scope)).to_have_text("step 6 of 6, layer 4 of 4")
    for layer in (3, 2, 1):
        act(scope, "mouse", "Step back")
        expect(place(scope)).to_have_text(f"step 6 of 6, layer {layer} of 4")
    act(scope, "mouse", "Step back")
    expect(place(scope)).to_have_text("step 5 of 6, layer 4 of 4")
    for panel, observed in zip(scope.locator(".tff-panel").all(), traces, strict=True):
        by_layer = [counted(observed, 5, layer) for layer in range(4)]
        assert counters(panel) == [sum(numbers) for numbers in zip(*by_layer, strict=True)]
        assert panel.locator("tbody tr").count() == 4
    expect(speech(scope)).to_contain_text("Step 5, layer 4 has the text")


def test_a_cell_shows_its_vectors_until_the_view_changes(timeline, traces):
    scope = timeline()
    plain, cached = scope.locator(".tff-panel").all()
    scope.get_by_label("Layer").select_option("2 of 4")
    cached.get_by_role("button", name="step 4, token 2").click()
    details = scope.locator(".tff-details")
    expect(details).to_contain_text("bit for bit")
    expect(details.locator("[data-same]")).to_have_attribute("data-same", "0")
    step = traces[1].steps[3][1]
    for name, vectors in (("key", step.keys), ("value", step.values)):
        cells = details.get_by_role("group", name=f"the {name}").locator("td").all_inner_texts()
        shown = torch.tensor([float(text.replace("−", "-")) for text in cells])
        torch.testing.assert_close(shown, vectors[1].flatten(), atol=0.0051, rtol=0)
    plain.get_by_role("button", name="step 4, token 2").click()
    assert 0 <= float(details.locator("[data-same]").get_attribute("data-same")) < 1e-5
    expect(details).to_contain_text("equal those of step 3")
    plain.get_by_role("button", name="step 4, token 4").click()
    expect(details).to_contain_text("new in this step")
    for change in (
        lambda: act(scope, "mouse", "Step back"),
        lambda: scope.get_by_label("Layer").select_option("1 of 4"),
    ):
        plain.get_by_role("button", name="step 2, token 1").click()
        expect(details).to_contain_text("step 2")
        change()
        expect(details).to_have_text("Choose a square to see its key and value.")
        expect(scope.locator('td [aria-pressed="true"]')).to_have_count(0)


def test_prefill_then_decode(mount, trained, tokenizer):
    prompt = torch.tensor([tokenizer.encode("Time flies fast")])
    page = mount(state_of(KVTimeline(trace(trained[1], prompt, 3, use_cache=True))))
    scope = figure(page, "K/V timeline")
    rows = scope.locator("tbody th").all_inner_texts()
    assert rows == ["1 prefill", "2 decode", "3 decode"]
    set_step(scope, 1)
    expect(speech(scope)).to_contain_text("Step 1 (prefill) has the text “Time flies fast”")
    assert scope.locator("thead .tff-edge").count() == 1


# ---------------------------------------------------------------- code changes


def marked_lines(number):
    """The real lines with the mark of a change."""
    sources = [ROOT / "kvcache" / name for name in ("cached.py", "generate.py")]
    lines = "\n".join(path.read_text(encoding="utf-8") for path in sources).splitlines()
    marked = [line.strip() for line in lines if f"# CACHE {number}" in line]
    return [line for line in marked if "def check_cache" not in line]  # left out on purpose


@BY
def test_the_five_changes_light_up_the_real_lines(mount, trained, tokenizer, by):
    text = torch.tensor([tokenizer.encode("Time flies fast")])
    page = mount(state_of(CodeChanges(*trained, text)), **phone(by))
    scope = figure(page, "Code changes")
    for number in range(1, 6):
        expect(place(scope)).to_have_text(f"change {number} of 5")
        lit = scope.locator('[data-lit="+"] code').all_inner_texts()
        assert marked_lines(number)
        assert set(marked_lines(number)) <= set(lit)
        if number < 5:
            act(scope, by, "Step forward")
    table = scope.locator("table", has=page.locator("caption", has_text="after change 5"))
    marks = [row.get_by_role("img").count() for row in table.locator("tbody tr").all()]
    assert marks == [1, 2, 3]


# ---------------------------------------------------------------- speed race


@BY
def test_the_race_runs_on_the_measured_times(mount, by):
    token_ids = torch.arange(21)[None]
    widget = race(token_ids, slow=0.03)
    scope = figure(mount(state_of(widget), **phone(by)), "Speed race")
    expect(speech(scope)).to_have_text(
        "Both are done, with the same tokens: 0.6 s without, 0.2 s with, 3.0 times as fast."
    )
    times = [torch.tensor(run["milliseconds"]).double() for run in widget.data["runs"]]
    moments = torch.cat([torch.zeros(1), *(each.cumsum(0) for each in times)]).unique()
    for step in (1, 2, 17, 30):
        set_step(scope, step)
        now = moments[step - 1].item() + 1e-9
        expect(place(scope)).to_have_text(f"{now / 1000:.2f} s")
        assert counters(scope) == [int((each.cumsum(0) <= now).sum()) for each in times]
    set_step(scope, 1)
    act(scope, by, "Step forward")
    expect(speech(scope)).to_have_text("After 0.01 s: 0 tokens without, 1 with.")


def test_the_race_runs_in_real_time(mount):
    scope = figure(mount(state_of(race(torch.arange(21)[None], slow=0.05))), "Speed race")
    took = scope.evaluate(
        """async el => {
            const [play] = el.querySelectorAll("button"), start = performance.now();
            play.click();
            while (play.textContent === "Pause") await new Promise(requestAnimationFrame);
            return (performance.now() - start) / 1000;
        }"""
    )
    assert 0.9 < took < 3  # the slower one takes 1 second; a busy machine may lag behind
    assert all(curve.get_attribute("d") for curve in scope.locator(".tff-chart path").all())


# ---------------------------------------------------------------- break it


def test_every_bug_shows_its_text_and_what_is_wrong(open_page, trained, tokenizer):
    page = open_page("06-when-caches-go-wrong", width=360)
    scope = figure(page, "Break it")
    printed = html.unescape(page.locator("main").inner_text())
    prompt = torch.tensor([tokenizer.encode("Time")])
    right = tokenizer.decode(generate(trained[0], prompt, 8)[0].tolist())
    wrong_row = {"1": "text", "2": "position", "3": "mask", "4": "position"}
    for name in scope.get_by_label("Bug").locator("option").all_inner_texts():
        scope.get_by_label("Bug").select_option(name)
        text = scope.locator("p", has_text="It writes").inner_text().split("“")[1].split("”")[0]
        assert text in printed
        wrong = scope.locator("tr:has(td b) th").all_inner_texts()
        if name.startswith("none"):
            assert not wrong
            assert text == right
            expect(speech(scope)).to_contain_text("less than 0.001")
        else:
            assert wrong_row[name[0]] in wrong
            assert text != right
        expect(scope.get_by_label("Step forward")).to_be_disabled()
        newest = (
            scope.locator("tbody tr")
            .first.locator("th, td")
            .evaluate_all(
                "cells => [cells[0], cells.at(-1)].map(each => each.getBoundingClientRect().right)"
            )
        )
        assert 0 < newest[0] < newest[1] <= 360  # beside their names, on a phone too


# ---------------------------------------------------------------- attention


def last_table(scope):
    """What the stage made: the name of the table, its numbers as text, and their marks."""
    name, *rows = scope.locator("table").last.evaluate(
        """table => [table.caption.textContent, ...[...table.rows].slice(1).map(
            row => [...row.querySelectorAll("button")].map(each => each.textContent))]"""
    )
    return name, [[t[:-1] for t in row] for row in rows], [[t[-1] for t in row] for row in rows]


@BY
def test_attention_shows_the_numbers_of_each_stage_and_what_they_are_made_of(mount, by):
    widget = Attention(**GOOD)
    scope = figure(mount(state_of(widget), **phone(by)), "Attention")
    expect(place(scope)).to_have_text("stage 1 of 8: vector")
    for causal in (1, 0):
        set_step(scope, 1)
        for stage in range(2, 9):
            act(scope, by, "Step forward")
            name, numbers, _ = last_table(scope)
            digits = 3 if name == "weights" else 2
            assert numbers == [
                ["−∞" if x is None else f"{x:.{digits}f}" for x in row]
                for row in widget.data["runs"][causal][2][name]
            ], stage
            check_sum(scope.locator(".tff-say").nth(1).inner_text())
        scope.get_by_role("checkbox", name="Causal mask").click()
    expect(place(scope)).to_have_text("stage 8 of 8: weighted sum")


def check_sum(said):
    """A sentence that says how a number was made gives the number."""
    found = re.fullmatch(r".*? = (.*) [=≈] (\S+)", said)
    if not found:
        assert "by the mask:" in said
        return
    formula = re.sub(r"√(\d+)", r"\1 ** 0.5", found[1].replace("·", "*").replace("−∞", "-inf"))
    names = {"exp": lambda x: torch.tensor(x).exp().item(), "inf": float("inf")}
    assert eval(formula, names) == pytest.approx(float(found[2]), abs=0.05)


def test_attention_marks_what_did_not_change_and_what_did(mount):
    scope = figure(mount(state_of(Attention(**GOOD))), "Attention")
    same = [["="] * 3] * 2 + [["+"] * 3]
    for step in (3, 4, 8):  # keys, values, context
        set_step(scope, step)
        assert last_table(scope)[2] == same
    expect(speech(scope)).to_contain_text(
        "keys, values and context of Time and flies are the same as at step 2."
    )
    scope.get_by_role("checkbox", name="Causal mask").click()
    assert last_table(scope)[2] == [["≠"] * 3] * 2 + [["+"] * 3]
    expect(speech(scope)).to_contain_text("as at step 2; their context changed.")
    scope.get_by_role("combobox", name="Text").select_option(index=0)
    expect(speech(scope)).to_contain_text("Step 1, causal mask off: every number is new.")


@BY
def test_attention_says_what_a_number_was_made_from(mount, by):
    scope = figure(mount(state_of(Attention(**GOOD)), **phone(by)), "Attention")
    set_step(scope, 2)
    number = scope.get_by_role("button", name=re.compile("^query 3 of Time"))
    if by == "touch":
        number.tap()
    elif by == "mouse":
        number.hover()
    else:
        scope.get_by_role("button", name=re.compile("^query 1 of Time")).focus()
        for _ in range(2):
            scope.page.keyboard.press("ArrowRight")
    made = scope.locator(".tff-say").nth(1)
    expect(made).to_have_text("query 3 of Time = 1.00 · 0.50 + 0.00 · 0.00 + 2.00 · 1.00 = 2.50")
    names = [each.get_attribute("aria-label") for each in scope.locator(".tff-source").all()]
    assert [name.split(":")[0] for name in names if name.startswith("x")] == [
        f"x {i} of Time" for i in (1, 2, 3)
    ]
    assert len(names) == 6


# ---------------------------------------------------------------- blocks, and the ring


def test_block_tables_step_through_the_states(mount):
    scope = figure(mount(state_of(BlockTables(block_shots())), width=360), "Block tables")
    expect(speech(scope)).to_have_text("Step 1: A comes. Blocks free: 3, shared: 0.")
    act(scope, "mouse", "Step forward")
    expect(speech(scope)).to_have_text("Step 2: B forks A. Blocks free: 3, shared: 2.")
    expect(scope.get_by_role("row", name="0: A, B shared")).to_be_visible()
    act(scope, "keyboard", "Step forward")
    row = scope.get_by_role("row", name="2: B")
    assert row.get_by_role("img", name="copied in this step").count() == 2
    assert row.get_by_role("img", name="computed in this step").count() == 1
    assert scope.get_by_role("row", name="1: A").get_by_role("img", name="kept").count() == 2
    scope.get_by_role("button", name="B: 0, 2").click()
    linked = scope.locator("tr[data-current] th").all_inner_texts()
    assert [" ".join(each.split()) for each in linked] == [
        "0: A, B shared, part 1 of B",
        "2: B part 2 of B",
    ]
    set_step(scope, 4)
    expect(scope.get_by_role("row", name="1: free")).to_be_visible()
    expect(scope.get_by_role("button", name="A:")).to_have_count(0)
    last = scope.locator("thead th").last.bounding_box()
    assert last["x"] + last["width"] <= 360  # the last slot is there on a phone, too


@BY
def test_the_ring_shows_which_slot_is_written(mount, tokenizer, by):
    model = time_flies.load(optimized.GPTModel)
    token_ids = generate(model, torch.tensor([tokenizer.encode("Time")]), 6)
    scope = figure(mount(state_of(Ring(model, token_ids, 3)), **phone(by)), "Ring")
    expect(place(scope)).to_have_text("step 7 of 7")
    set_step(scope, 3)
    expect(speech(scope)).to_have_text(
        "Token 2, “␣fast”, goes into slot 2, which was empty. It sees 3 tokens, itself among them."
    )
    act(scope, by, "Step forward")
    expect(speech(scope)).to_contain_text("goes into slot 0, where token 0, “Time”, lay.")
    ring = scope.get_by_role("list", name="The ring").get_by_role("listitem")
    assert [each.inner_text().split()[:2] for each in ring.all()] == [
        ["slot", f"{i}"] for i in range(3)
    ]
    marks = ring.get_by_role("img").evaluate_all("all => all.map(each => each.ariaLabel)")
    assert marks == ["written in this step", "kept", "kept"]
    text = scope.get_by_role("list", name="The text").get_by_role("img")
    assert text.first.get_attribute("aria-label") == "overwritten: no longer seen"
    assert text.count() == 4


# ---------------------------------------------------------------- memory


def outputs(scope):
    return scope.locator("[data-output]").evaluate_all(
        "all => Object.fromEntries(all.map(({dataset}) => [dataset.output, Number(dataset.value)]))"
    )


def test_the_calculator_agrees_with_memory_py(mount):
    scope = figure(mount(state_of(MemoryCalculator())), "Memory")
    for number, shape in enumerate(MODEL_SHAPES):
        gpu, bits = GPUS[number % len(GPUS)], list(BITS)[number % len(BITS)]
        weights = list(BITS)[-1 - number % len(BITS)]
        for label, option in (("Model", shape.name), ("GPU", gpu.name)):
            scope.get_by_role("combobox", name=label, exact=True).select_option(option)
        assert scope.get_by_label("Texts at once").input_value() == "1"
        for label, index in (("Cache format", bits), ("Weight format", weights)):
            scope.get_by_role("combobox", name=label).select_option(index=list(BITS).index(index))
        scope.get_by_label("Texts at once").fill(str(number + 1))
        found, n = outputs(scope), shape.context_length
        assert found["bytes-per-token"] == kv_cache_bytes(shape, 1, dtype=bits)
        assert found["cache"] == kv_cache_bytes(shape, n, number + 1, bits)
        assert found["weights"] == weight_bytes(shape, weights)
        longest = longest_context(shape, gpu.memory_bytes, number + 1, bits, weights)
        assert found["longest-context"] == longest
        assert found["together"] == (longest >= n)
        if 1 < longest < float("inf") and number:
            expect(scope.get_by_text(f"in each of {number + 1} texts")).to_be_visible()
        expect(scope.locator(f'a[href="{shape.source}"]')).to_be_visible()


@BY
def test_the_calculator_takes_numbers_and_refuses_nonsense(mount, by):
    scope = figure(mount(state_of(MemoryCalculator()), **phone(by)), "Memory")
    before, layers = outputs(scope), scope.get_by_label("Layers")
    scope.locator("summary").click()
    if by == "keyboard":
        layers.press("ControlOrMeta+a")
        scope.page.keyboard.type("64")
    else:
        layers.tap() if by == "touch" else layers.click()
        layers.fill("64")
    assert outputs(scope)["bytes-per-token"] == 2 * before["bytes-per-token"]
    model = scope.get_by_role("combobox", name="Model", exact=True)
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
        field = scope.get_by_label(label)
        was = field.input_value()
        field.fill(wrong)
        expect(scope.locator(".tff-error")).to_contain_text(must)
        expect(scope.locator('[aria-invalid="true"]')).to_have_count(1)
        expect(speech(scope)).to_contain_text("last good result")
        field.fill(was)
    layers.fill("32")
    assert outputs(scope) == before
    assert scope.locator(".tff-error").count() == 0


def test_the_calculator_says_when_a_text_is_longer_than_its_model_takes(mount):
    scope = figure(mount(state_of(MemoryCalculator())), "Memory")
    model = scope.get_by_role("combobox", name="Model", exact=True)
    model.select_option("Llama 2 7B")
    expect(speech(scope)).to_have_text("Cache 2 GiB and weights 12.6 GiB fit into 24 GiB.")
    scope.get_by_label("Tokens in each").fill("4097")
    expect(speech(scope)).to_contain_text("But Llama 2 7B is made for at most 4,096 tokens.")
    model.select_option("Mistral 7B")
    expect(scope.get_by_text("any: each layer keeps its last 4,096 tokens")).to_be_visible()


# ---------------------------------------------------------------- robustness


EVIL = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"
STRUCTURE = re.compile(r"[ncr.]+|equal|replace|insert|delete|[A-Za-z0-9+/]{60,}={0,2}")


def poisoned(data):
    """The same data with the attack at every place that holds free text."""
    if isinstance(data, dict):
        return {EVIL if key in "AB" else key: poisoned(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [poisoned(value) for value in data]
    return EVIL if isinstance(data, str) and not STRUCTURE.fullmatch(data) else data


def test_text_is_never_html_in_any_figure(mount, made):
    shape = ModelShape(EVIL, 2, 4, 2, 8, 1000, 64, "https://example.org/")
    calculator = MemoryCalculator([shape], [GPU(EVIL, 10**9, "https://example.org/")])
    states = [{**state_of(widget), "data": poisoned(widget.data)} for widget in made[:-1]]
    page = mount(*states, state_of(calculator))
    assert page.locator(".tff-error").count() == 0
    for scope in page.locator(".tff").all():
        if scope.get_by_label("Step", exact=True).count():
            last = int(scope.get_by_label("Step", exact=True).get_attribute("max"))
            for step in (2, 1, 3):
                set_step(scope, min(step, last))
        for choice in scope.locator("select").all():
            choice.select_option(index=choice.locator("option").count() - 1)
        if scope.locator("td button:visible").count():
            scope.locator("td button:visible").first.click()
        expect(scope).to_contain_text("<script>")
    assert page.evaluate("window.pwned") is None
    assert page.locator(".tff img, .tff script").count() == 0
    assert "<script>" not in calculator.still()


ODD = " 😀 e\u0301 שלום\n\n 中文 \t🏳️‍🌈"


def test_odd_characters_show_sensibly(mount, trained, tokenizer):
    prompt = torch.tensor([tokenizer.encode(ODD)])
    page = mount(
        state_of(KVTimeline(trace(trained[1], prompt, 3, use_cache=True))),
        state_of(Generation(trained[1], prompt, 3, use_cache=True)),
        width=360,
    )
    for scope in page.locator(".tff").all():
        set_step(scope, 1)
        expect(scope.locator(".tff-say bdi").first).to_have_text(ODD, use_inner_text=False)
        expect(scope.locator("bdi", has_text="␣").first).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert not page.complaints


@pytest.mark.parametrize("n_new", [1, 200])
def test_one_token_and_two_hundred(mount, n_new):
    cfg = GPTConfig(vocab_size=50257, context_length=256, emb_dim=8, n_heads=2, n_layers=2)
    plain, caching = twins(cfg)
    prompt = torch.tensor([[11]])
    page = mount(
        state_of(KVTimeline(trace(plain, prompt, n_new), trace(caching, prompt, n_new, True))),
        state_of(Generation(plain, prompt, n_new)),
        state_of(race(generate(plain, prompt, n_new))),
    )
    assert page.locator(".tff-error").count() == 0
    scope = figure(page, "K/V timeline")
    wasted = scope.locator('[data-counter="wasted"]').first
    expect(wasted).to_have_text(str(n_new * (n_new - 1) // 2))
    if n_new == 1:  # there is nothing to play, and playing ends
        scope.get_by_role("button", name="Play").click()
        expect(scope.get_by_role("button", name="Play")).to_be_visible()
        expect(figure(page, "Speed race")).to_contain_text("1 of 1 token, done")
    else:
        set_step(scope, 150)
        expect(wasted).to_have_text(str(150 * 149 // 2))
        cursor = scope.locator(".tff-cursor").first
        cursor.focus()
        for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        expect(cursor).to_have_attribute("aria-label", re.compile("^step 3, token 2 .*recomputed"))
        page.keyboard.press("Enter")
        expect(scope.locator(".tff-title").last).to_contain_text("step 3, layer 1, token 2")
        box = scope.locator("canvas").nth(1).bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.7)
        expect(scope.locator(".tff-details")).to_contain_text("reused")
    assert not page.complaints


BROKEN = [
    None,
    {"panels": [], "steps": [], "changes": [], "runs": [], "lists": [], "shots": []},
    {"panels": [{"tokens": ["a"], "marks": [["x"]]}], "steps": [{}], "tokens": [], "texts": []},
    {"runs": [{}, {}], "changes": [{}] * 5, "shots": [{}], "lists": [{"items": []}] * 4},
    {"runs": 3, "changes": "x", "steps": 7, "panels": {}, "words": ["a"], "shots": 1},
]


@pytest.mark.parametrize("broken", BROKEN)
def test_malformed_data_is_said_in_place_and_the_rest_goes_on(mount, made, broken):
    states = [{**state_of(widget), "data": broken} for widget in made]
    page = mount(*states, state_of(made[0]), {"_esm": "not a module", "data": {}})
    expect(page.locator(".tff-error")).to_have_count(len(made) + 1)
    expect(page.locator(".tff-error").first).to_contain_text("cannot be drawn")
    expect(page.locator(".tff-controls").first).to_be_visible()
    expect(page.get_by_text("after", exact=True)).to_be_visible()
    assert not page.complaints


def damaged(data, chance):
    """A deep copy with one place, at any depth, left out or replaced."""
    data = json.loads(json.dumps(data))
    at = data
    while True:
        key = chance.choice(list(at) if isinstance(at, dict) else range(len(at)))
        deeper = isinstance(at[key], (dict, list)) and len(at[key]) > 0
        if not deeper or chance.random() < 0.2:
            break
        at = at[key]
    if chance.random() < 0.5:
        del at[key]
    else:
        at[key] = chance.choice([None, -1, 1e300, "x", [], {}])
    return data


@pytest.mark.parametrize("seed", range(3))
def test_damaged_data_never_throws_also_when_the_reader_goes_on(mount, made, seed):
    chance = random.Random(seed)
    page = mount(
        *({**state_of(w), "data": damaged(w.data, chance)} for w in made for _ in range(4))
    )
    page.evaluate(
        """async () => {
            for (const figure of document.querySelectorAll(".tff")) {
                for (const input of figure.querySelectorAll("select, input")) {
                    if (input.tagName === "SELECT") input.selectedIndex = input.length - 1;
                    else if (input.type === "range") input.value = 1;
                    input.dispatchEvent(new Event("input"));
                    input.dispatchEvent(new Event("change"));
                }
                for (const button of figure.querySelectorAll("button")) button.click();
            }
            for (let i = 0; i < 20; i++) await new Promise(requestAnimationFrame);
        }"""
    )
    assert not page.complaints
    expect(page.locator("main > p").last).to_be_visible()


def test_scripts_make_text_never_html_and_ask_no_other_host():
    for path in (ROOT / "kvcache" / "widgets").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// "), path.name
        assert "innerHTML" not in text
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
