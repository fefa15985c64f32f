"""The figures that move: by mouse, keyboard and touch, against numbers computed here."""

import html
import json
import random
import re
from pathlib import Path

import pytest
import torch
from conftest import FIGURES, HTML, NAMES, ROOT, state_of, twins
from playwright.sync_api import expect

from kvcache import GPTConfig, generate, trace
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
    BreakIt,
    CodeChanges,
    Generation,
    KVTimeline,
    MemoryCalculator,
    SpeedRace,
)

EVERYWHERE = pytest.mark.parametrize("where", ["server", "disk"])


def figure(page, name, nth=0):
    return page.get_by_role("group", name=name, exact=True).nth(nth)


def widget_data(chapter):
    """The data of the widgets in a built page, in order of their views."""
    text = (HTML / "chapters" / f"{chapter}.html").read_text(encoding="utf-8")
    kind = "application/vnd.jupyter.widget"
    state = re.search(rf'<script type="{kind}-state\+json">(.*?)</script>', text, re.DOTALL)[1]
    views = re.findall(rf'<script type="{kind}-view\+json">(.*?)</script>', text, re.DOTALL)
    entries = json.loads(state)["state"]
    found = [entries[json.loads(view)["model_id"]]["state"] for view in views]
    return [each["data"] for each in found if "data" in each]


def set_step(scope, step):
    scope.get_by_label("Step", exact=True).fill(str(step))


def act(scope, by, label):
    """Use a button by mouse, keyboard or touch."""
    button = scope.get_by_label(label, exact=True)
    if by == "mouse":
        button.click()
    elif by == "touch":
        button.tap()
    else:
        button.focus()
        scope.page.keyboard.press("Enter")


BY = pytest.mark.parametrize("by", ["mouse", "keyboard", "touch"])


def options(by):
    return {"has_touch": True, "width": 360, "is_mobile": True} if by == "touch" else {}


# ---------------------------------------------------------------- every figure


@pytest.mark.parametrize("chapter", NAMES)
def test_every_control_is_reached_by_keyboard_with_a_visible_focus(open_page, chapter):
    page = open_page(chapter)
    for place in range(len(FIGURES[chapter])):
        scope = page.locator(".tff").nth(place)
        controls = scope.locator(
            "button:visible:not([tabindex='-1']), select:visible, input:visible, a:visible"
        )
        assert controls.count() >= 1
        controls.first.focus()
        page.keyboard.press("Shift+Tab")
        reached = 0
        for _ in range(controls.count() + 40):
            page.keyboard.press("Tab")
            inside, outline = page.evaluate(
                """place => {
                    const now = document.activeElement;
                    return [document.querySelectorAll(".tff")[place].contains(now),
                            getComputedStyle(now).outlineStyle];
                }""",
                place,
            )
            if not inside:
                break
            assert outline != "none"
            reached += 1
        assert reached >= controls.count()


@pytest.mark.parametrize("chapter", NAMES)
def test_controls_are_large_enough_for_a_finger_and_have_names(open_page, chapter):
    page = open_page(chapter, width=360)
    for control in page.locator(".tff-controls button, .tff select, .tff input").all():
        box = control.bounding_box()
        assert box["height"] >= 24
        assert box["width"] >= 24
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
    for scope in page.locator(".tff").all():
        if scope.get_by_label("Step", exact=True).count():
            for label in ("Step back", "Step forward", "Step", "Speed"):
                expect(scope.get_by_label(label, exact=True)).to_have_count(1)
            expect(scope.get_by_role("button", name="Play")).to_have_count(1)


@pytest.mark.parametrize("chapter", [name for name in NAMES if FIGURES[name] != ["Memory"]])
def test_play_runs_to_the_end_and_pauses(open_page, chapter):
    page = open_page(chapter)
    for scope in page.locator(".tff").all():
        if not scope.get_by_role("button", name="Play").count():
            continue
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


def test_nothing_moves_by_itself_and_reduced_motion_jumps(open_page):
    page = open_page("00-intro", reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().length") == 0
    scope = figure(page, "Speed race")
    scope.get_by_role("button", name="Play").click()
    places = set()
    for _ in range(12):
        page.wait_for_timeout(50)
        places.add(scope.locator(".tff-place").inner_text())
    assert len(places) <= 2  # at most one jump a second
    assert page.evaluate("document.getAnimations().length") == 0


# ---------------------------------------------------------------- generation


@BY
@EVERYWHERE
def test_generation_shows_the_models_probabilities(open_page, trained, tokenizer, where, by):
    page = open_page("01-time-flies-fast", where, **options(by))
    scope = figure(page, "Generation")
    token_ids = torch.tensor([tokenizer.encode("Time")])
    for step in range(1, 5):
        expect(scope.locator(".tff-place")).to_have_text(f"step {step} of 12")
        with torch.no_grad():
            probabilities = torch.softmax(trained[0](token_ids)[0, -1], dim=-1)
        best = probabilities.topk(5)
        cells = scope.locator("[data-probability]")
        shown = [float(cell.get_attribute("data-probability")) for cell in cells.all()]
        assert shown[:5] == pytest.approx(best.values.tolist(), abs=1e-6)
        assert shown[5] == pytest.approx(1 - best.values.sum().item(), abs=1e-5)
        expect(cells.first).to_contain_text("✓ chosen")
        labels = scope.locator(".tff-bars th").all_inner_texts()
        assert labels[0].replace("␣", " ") == tokenizer.decode([best.indices[0].item()])
        counters = scope.locator("[data-counter]").all_inner_texts()
        assert [int(text) for text in counters] == [step, step * (step - 1) // 2]
        chips = scope.locator(".tff-chips li:visible small").all_inner_texts()
        assert chips == ["again"] * (step - 1) + ["first time", "written"]
        text = tokenizer.decode(token_ids[0].tolist())
        expect(scope.locator(".tff-say")).to_contain_text(f"Step {step} has the text “{text}”")
        token_ids = torch.cat([token_ids, best.indices[:1][None]], dim=1)
        act(scope, by, "Step forward")


# ---------------------------------------------------------------- K/V timeline


@pytest.fixture(scope="session")
def traces(trained, tokenizer):
    prompt = torch.tensor([tokenizer.encode("Time")])
    return trace(trained[0], prompt, 6), trace(trained[1], prompt, 6, use_cache=True)


def timeline(page, chapter):
    return figure(page, "K/V timeline", 1 if chapter == "04-five-changes" else 0)


def counted(observed, step, layer=0):
    """The counters after a step, from the trace of one layer."""
    counts = observed.counts(layer)[:step]
    total = {kind: sum(at[kind] for at in counts) for kind in counts[0]}
    return [total["new"] + total["recomputed"], total["reused"], total["recomputed"]]


def check_counters(scope, traces, step):
    expect(scope.locator(".tff-place")).to_have_text(f"step {step} of 6")
    for panel, observed in zip(scope.locator(".tff-panel").all(), traces, strict=False):
        shown = [int(text) for text in panel.locator("[data-counter]").all_inner_texts()]
        assert shown == counted(observed, step)


@pytest.mark.parametrize("chapter", ["00-intro", "04-five-changes"])
def test_both_grids_stand_side_by_side_on_a_laptop(open_page, chapter):
    scope = timeline(open_page(chapter), chapter)
    left, right = (box.bounding_box() for box in scope.locator(".tff-panel").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


@EVERYWHERE
@BY
@pytest.mark.parametrize("chapter", ["00-intro", "03-the-baseline", "04-five-changes"])
def test_the_timeline_counts_as_the_trace_does(open_page, traces, chapter, where, by):
    scope = timeline(open_page(chapter, where, **options(by)), chapter)
    check_counters(scope, traces, 6)
    expect(scope.get_by_label("Step forward")).to_be_disabled()
    for step in (5, 4, 3):
        act(scope, by, "Step back")
        check_counters(scope, traces, step)
    act(scope, by, "Step forward")
    check_counters(scope, traces, 4)


def test_the_slider_is_dragged(open_page, traces):
    page = open_page("00-intro")
    scope = figure(page, "K/V timeline")
    box = scope.get_by_label("Step", exact=True).bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.6, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, middle, steps=5)
    page.mouse.up()
    check_counters(scope, traces, 1)
    expect(scope.get_by_label("Step back")).to_be_disabled()


def test_dragging_over_the_grid_moves_through_the_steps(open_page, traces):
    page = open_page("00-intro")
    scope = figure(page, "K/V timeline")
    rows = scope.locator(".tff-panel").first.locator("tbody tr")
    for step, action in ((5, page.mouse.down), (2, None)):
        box = rows.nth(step - 1).locator("th").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5, steps=4)
        if action:
            action()
            page.mouse.move(box["x"] + 7, box["y"] + 6)
        check_counters(scope, traces, step)
    page.mouse.up()


def test_the_timeline_by_keyboard(open_page, traces):
    page = open_page("04-five-changes")
    scope = timeline(page, "04-five-changes")
    scope.get_by_label("Step", exact=True).focus()
    for key, step in (("Home", 1), ("ArrowRight", 2), ("End", 6)):
        page.keyboard.press(key)
        check_counters(scope, traces, step)
    scope.get_by_label("Step back").focus()
    page.keyboard.press("Enter")
    check_counters(scope, traces, 5)

    cached = scope.locator(".tff-panel").nth(1)
    cached.get_by_role("button").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "step 3, token 1 Time: reused"
    page.keyboard.press("Space")
    expect(scope.locator(".tff-title")).to_contain_text("step 3, layer 1, token 1")
    assert len(cached.locator('button[tabindex="0"]').all()) == 1


@BY
def test_layer_by_layer(open_page, traces, by):
    page = open_page("00-intro", **options(by))
    scope = figure(page, "K/V timeline")
    scope.get_by_label("Layer").select_option("all, one by one")
    place = scope.locator(".tff-place")
    expect(place).to_have_text("step 6 of 6, layer 4 of 4")
    for layer in (3, 2, 1):
        act(scope, by, "Step back")
        expect(place).to_have_text(f"step 6 of 6, layer {layer} of 4")
    act(scope, by, "Step back")
    expect(place).to_have_text("step 5 of 6, layer 4 of 4")
    for panel, observed in zip(scope.locator(".tff-panel").all(), traces, strict=True):
        shown = [int(text) for text in panel.locator("[data-counter]").all_inner_texts()]
        by_layer = [counted(observed, 5, layer) for layer in range(4)]
        assert shown == [sum(numbers) for numbers in zip(*by_layer, strict=True)]
        assert panel.locator("tbody tr").count() == 4
    expect(scope.locator(".tff-say")).to_contain_text("Step 5, layer 4 has the text")


def test_a_cell_shows_its_vectors_and_that_they_are_those_of_the_step_before(
    open_page, trained, tokenizer
):
    prompt = torch.tensor([tokenizer.encode("Time")])
    observed = trace(trained[1], prompt, 6, use_cache=True, vectors=True)
    scope = figure(open_page("00-intro"), "K/V timeline")
    scope.get_by_label("Layer").select_option("2 of 4")
    cached = scope.locator(".tff-panel").nth(1)
    cached.get_by_role("button", name="step 4, token 2").click()
    details = scope.locator(".tff-details")
    expect(details).to_contain_text("bit for bit")
    expect(details.locator("[data-same]")).to_have_attribute("data-same", "0")
    step = observed.steps[3][1]
    for name, vectors in (("key", step.keys), ("value", step.values)):
        cells = details.get_by_role("group", name=f"the {name}").locator("td").all_inner_texts()
        shown = torch.tensor([float(text.replace("−", "-")) for text in cells])
        torch.testing.assert_close(shown, vectors[1].flatten(), atol=0.0051, rtol=0)

    plain = scope.locator(".tff-panel").nth(0)
    plain.get_by_role("button", name="step 4, token 2").click()
    gap = float(details.locator("[data-same]").get_attribute("data-same"))
    assert 0 <= gap < 1e-5
    expect(details).to_contain_text("equal those of step 3")
    plain.get_by_role("button", name="step 4, token 4").click()
    expect(details).to_contain_text("new in this step")


def test_a_step_is_said_in_words(open_page):
    scope = figure(open_page("00-intro"), "K/V timeline")
    set_step(scope, 3)
    speech = scope.locator("[aria-live=polite].tff-say")
    expect(speech).to_contain_text("Step 3 has the text “Time flies fast” and writes “,”.")
    expect(speech).to_contain_text(
        "Without a cache: 1 new, 2 recomputed. With a cache: 1 new, 2 reused."
    )


def test_prefill_then_decode(open_page):
    scope = figure(open_page("04-five-changes"), "K/V timeline", 0)
    rows = scope.locator("tbody th").all_inner_texts()
    assert rows == ["1 prefill"] + [f"{n} decode" for n in range(2, 6)]
    set_step(scope, 1)
    expect(scope.locator(".tff-say")).to_contain_text(
        "Step 1 (prefill) has the text “Time flies fast” and writes “,”. With a cache: 3 new."
    )
    assert scope.locator("thead .tff-edge").count() == 1


# ---------------------------------------------------------------- code changes


def marked_lines(number):
    """The real lines with the mark of a change, without it."""
    text = "\n".join(
        (ROOT / "kvcache" / name).read_text(encoding="utf-8")
        for name in ("cached.py", "generate.py")
    )
    lines = [line for line in text.splitlines() if f"# CACHE {number}" in line]
    lines = [line for line in lines if "def check_cache" not in line]  # left out on purpose
    return [line.split("  # CACHE")[0].strip() for line in lines]


@EVERYWHERE
@BY
def test_the_five_changes_light_up_the_real_lines(open_page, trained, tokenizer, where, by):
    scope = figure(open_page("04-five-changes", where, **options(by)), "Code changes")
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "kvcache").glob("*.py")
    )
    for number in range(1, 6):
        expect(scope.locator(".tff-place")).to_have_text(f"change {number} of 5")
        lit = scope.locator('[data-lit="+"] code').all_inner_texts()
        assert marked_lines(number)
        for line in marked_lines(number):
            assert any(each.startswith(line) for each in lit), line
        for line in scope.locator("code").all_inner_texts():
            assert line.replace("  # ", "  # CACHE 5: ") in sources or line in sources
        if number < 5:
            act(scope, by, "Step forward")

    prompt = torch.tensor([tokenizer.encode("Time")])
    letters = {"new": "n", "recomputed": "c", "reused": "r"}
    for title, observed in (
        ("before change 5", trace(trained[0], prompt, 3)),
        ("after change 5", trace(trained[1], prompt, 3, use_cache=True)),
    ):
        table = scope.locator("table", has=scope.page.locator("caption", has_text=title))
        for row, step in zip(table.locator("tbody tr").all(), observed.steps, strict=True):
            names = [each.get_attribute("aria-label") for each in row.get_by_role("img").all()]
            counts = {kind: len(getattr(step[0], kind)) for kind in letters}
            assert {kind: names.count(kind) for kind in letters} == counts


# ---------------------------------------------------------------- speed race


@EVERYWHERE
@BY
@pytest.mark.parametrize("chapter", ["00-intro", "05-same-text-faster"])
def test_the_race_runs_on_the_measured_times(open_page, chapter, where, by):
    page = open_page(chapter, where, **options(by))
    scope = figure(page, "Speed race")
    (data,) = [each for each in widget_data(chapter) if "runs" in each and "same" in each]
    times = [torch.tensor(run["milliseconds"], dtype=torch.float64) for run in data["runs"]]
    totals = [each.sum().item() / 1000 for each in times]
    ratio = f"{totals[0] / totals[1]:.1f} times as fast"
    expect(scope.locator(".tff-say")).to_contain_text(ratio)
    if chapter == "00-intro":  # what the notebook printed, measured once
        expect(page.locator(".cell_output .stream").first).to_contain_text(ratio)

    ends = [each.cumsum(0) for each in times]
    for step in (1, 2, 57, 230):
        set_step(scope, step)
        moments = torch.cat([torch.zeros(1), *ends]).unique()
        now = moments[step - 1].item() + 1e-9
        expect(scope.locator(".tff-place")).to_have_text(re.compile(rf"{now / 1000:.2f} s"))
        counts = [int(each.inner_text()) for each in scope.locator("[data-counter]").all()]
        assert counts == [int((each <= now).sum()) for each in ends]
    before = scope.locator(".tff-place").inner_text()
    act(scope, by, "Step forward")
    assert float(scope.locator(".tff-place").inner_text()[:-2]) >= float(before[:-2])


def test_the_race_runs_in_real_time(open_page):
    page = open_page("00-intro")
    scope = figure(page, "Speed race")
    scope.get_by_role("button", name="Play").click()
    page.wait_for_timeout(2500)
    scope.get_by_role("button", name="Pause").click()
    shown = float(scope.locator(".tff-place").inner_text()[:-2])
    assert 1 < shown < 4  # a busy machine may lag behind
    curves = scope.locator(".tff-chart path").all()
    assert all(curve.get_attribute("d") for curve in curves)


# ---------------------------------------------------------------- break it


@EVERYWHERE
@BY
def test_every_bug_shows_its_text_and_what_is_wrong(open_page, trained, tokenizer, where, by):
    page = open_page("06-when-caches-go-wrong", where, **options(by))
    scope = figure(page, "Break it")
    printed = html.unescape(page.locator("main").inner_text())
    names = scope.get_by_label("Bug").locator("option").all_inner_texts()
    wrong_row = {"1": "text", "2": "position", "3": "mask", "4": "position"}
    for name in names:
        scope.get_by_label("Bug").select_option(name)
        text = scope.locator("p", has_text="It writes").inner_text().split("“")[1].split("”")[0]
        assert text in printed
        wrong = scope.locator("tr:has(td b) th").all_inner_texts()
        right = tokenizer.decode(
            generate(trained[0], torch.tensor([tokenizer.encode("Time")]), 8)[0].tolist()
        )
        if name.startswith("none"):
            assert not wrong
            assert text == right
            expect(scope.locator(".tff-say")).to_contain_text("less than 0.001")
        else:
            assert wrong_row[name[0]] in wrong
            assert text != right
        expect(scope.get_by_label("Step forward")).to_be_disabled()
        act(scope, by, "Step back")
        expect(scope.get_by_label("Step forward")).to_be_enabled()


# ---------------------------------------------------------------- robustness


@pytest.fixture(scope="module")
def made(trained, tokenizer):
    """One widget of each kind whose data has text from prompts."""
    plain, caching = trained
    prompt = torch.tensor([tokenizer.encode("Time flies")])
    token_ids = generate(plain, prompt, 4)
    seconds = torch.full((1, 4), 0.01, dtype=torch.float64)
    timings = [Timing(name, 2, seconds, token_ids) for name in ("without", "with")]
    with_calls = {}
    with torch.no_grad(), watch(caching) as calls:
        caching.reset_kv_cache()
        caching(prompt, use_cache=True)
    with_calls["correct"] = (calls, 0)
    return [
        KVTimeline(trace(plain, prompt, 3, vectors=True), trace(caching, prompt, 3, True)),
        Generation(plain, prompt, 3),
        CodeChanges(plain, caching, prompt),
        SpeedRace(*timings),
        BreakIt(plain, with_calls),
    ]


STRUCTURE = re.compile(r"(\d+[ncr])+|[ncr.]+|[A-Za-z0-9+/]{60,}={0,2}")
EVIL = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"


def poisoned(data):
    """The same data with the attack at every place that holds free text."""
    if isinstance(data, dict):
        return {key: poisoned(value) for key, value in data.items()}
    if isinstance(data, list):
        return [poisoned(value) for value in data]
    return EVIL if isinstance(data, str) and not STRUCTURE.fullmatch(data) else data


def test_text_is_never_html_in_any_figure(mount, made):
    page = mount(*[{**state_of(widget), "data": poisoned(widget.data)} for widget in made])
    assert page.locator(".tff-error").count() == 0
    for scope in page.locator(".tff").all():
        for step in (2, 1, 3):
            set_step(
                scope, min(step, int(scope.get_by_label("Step", exact=True).get_attribute("max")))
            )
        for choice in scope.locator("select").all():
            choice.select_option(index=choice.locator("option").count() - 1)
        if scope.locator("td button:visible").count():
            scope.locator("td button:visible").first.click()
        expect(scope).to_contain_text("<script>")
    assert page.evaluate("window.pwned") is None
    assert page.locator(".tff img, .tff script").count() == 0


def test_a_prompt_of_an_attack_is_shown_as_text(mount, trained, tokenizer):
    prompt = torch.tensor([tokenizer.encode(EVIL)])
    page = mount(
        state_of(KVTimeline(trace(trained[1], prompt, 2, use_cache=True))),
        state_of(Generation(trained[0], prompt, 2)),
    )
    for scope in page.locator(".tff").all():
        expect(scope.locator(".tff-say")).to_contain_text("window.pwned=1</script>")
    assert page.evaluate("window.pwned") is None


def others(name):
    """The two figures whose text does not come from a tokenizer, with a name for everything."""
    x, matrix = torch.rand(2, 3), torch.eye(3)
    shape = ModelShape(name, 2, 4, 2, 8, 1000, 64, "https://example.org/")
    return [
        Attention([name, name], x, matrix, matrix, matrix),
        MemoryCalculator([shape], [GPU(name, 10**9, "https://example.org/")]),
    ]


def test_names_are_never_html(mount):
    widgets = others(EVIL)
    page = mount(*map(state_of, widgets))
    assert page.locator(".tff-error").count() == 0
    for scope in page.locator(".tff").all():
        expect(scope).to_contain_text("<script>")
    set_step(figure(page, "Attention"), 8)
    figure(page, "Attention").locator("td button").last.click()
    assert page.evaluate("window.pwned") is None
    assert page.locator(".tff img, .tff script").count() == 0
    assert not any("<script>" in widget.still() for widget in widgets)


ODD = " 😀 e\u0301 שלום\n\n 中文 \t🏳️‍🌈"


def test_odd_characters_show_sensibly(mount, trained, tokenizer):
    prompt = torch.tensor([tokenizer.encode(ODD)])
    for width in (360, 1280):
        page = mount(
            state_of(KVTimeline(trace(trained[1], prompt, 3, use_cache=True))),
            state_of(Generation(trained[1], prompt, 3, use_cache=True)),
            width=width,
        )
        for scope in page.locator(".tff").all():
            set_step(scope, 1)
            expect(scope.locator(".tff-say bdi").first).to_have_text(ODD, use_inner_text=False)
            expect(scope.locator("bdi", has_text="␣").first).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not page.complaints


@pytest.mark.parametrize("n_new", [1, 200])
def test_one_token_and_two_hundred(mount, n_new):
    cfg = GPTConfig(vocab_size=50257, context_length=256, emb_dim=8, n_heads=2, n_layers=2)
    plain, caching = twins(cfg)
    prompt = torch.tensor([[11]])
    token_ids = generate(plain, prompt, n_new)
    seconds = torch.full((1, n_new), 0.01, dtype=torch.float64)
    race = [Timing(name, 1, seconds, token_ids) for name in ("without", "with")]
    page = mount(
        state_of(KVTimeline(trace(plain, prompt, n_new), trace(caching, prompt, n_new, True))),
        state_of(Generation(plain, prompt, n_new)),
        state_of(SpeedRace(*race)),
    )
    assert page.locator(".tff-error").count() == 0
    scope = figure(page, "K/V timeline")
    wasted = scope.locator('[data-counter="wasted"]').first
    expect(wasted).to_have_text(str(n_new * (n_new - 1) // 2))
    if n_new == 1:  # there is nothing to play, and playing ends
        scope.get_by_role("button", name="Play").click()
        expect(scope.get_by_role("button", name="Play")).to_be_visible()
    if n_new == 200:
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
    {},
    {"panels": []},
    {"panels": [{"tokens": ["a"], "marks": [["x"]]}]},
    {"steps": [{}], "tokens": [], "texts": []},
    {"runs": [{}, {}], "changes": [{}]},
    {"runs": 3, "changes": "x", "steps": 7, "panels": {}},
    {"words": ["a"], "stages": [["x", "y", ["z"]]], "runs": [[{}], [{}]]},
    {"fields": [{"key": "a"}], "lists": [{"label": "x", "items": []}] * 4},
]


@pytest.mark.parametrize("broken", BROKEN)
def test_malformed_data_is_said_in_place_and_the_rest_goes_on(mount, made, broken):
    widgets = [*made, *others("a")]
    states = [{**state_of(widget), "data": broken} for widget in widgets]
    page = mount(*states, state_of(made[0]), {"_esm": "not a module", "data": {}})
    expect(page.locator(".tff-error")).to_have_count(len(widgets) + 1)
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


@pytest.mark.parametrize("seed", range(4))
def test_damaged_data_never_throws_also_when_the_reader_goes_on(mount, made, seed):
    chance = random.Random(seed)
    widgets = [*made, *others("a")]
    page = mount(
        *({**state_of(w), "data": damaged(w.data, chance)} for w in widgets for _ in range(4))
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
            await new Promise((done) => setTimeout(done, 300));
        }"""
    )
    assert not page.complaints
    expect(page.locator("main > p").last).to_be_visible()


def test_the_modules_stand_alone_and_are_typed():
    for path in Path(ROOT / "kvcache" / "widgets").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// "), path.name
        assert "@param" in text or "@typedef" in text, path.name
        assert "innerHTML" not in text
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


# ---------------------------------------------------------------- attention


def by_hand(x, causal):
    """Attention of chapter 2's made-up vectors, computed anew."""
    w_q = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]])
    w_k = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 1.0]])
    w_v = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 1.0, 0.0]])
    scores = (x @ w_q) @ (x @ w_k).T / 3**0.5
    masked = scores
    if causal:
        masked = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
    weights = torch.softmax(masked, dim=-1)
    return {
        "x": x,
        "queries": x @ w_q,
        "keys": x @ w_k,
        "values": x @ w_v,
        "scores": scores,
        "masked scores": masked,
        "weights": weights,
        "context": weights @ (x @ w_v),
    }


def shown_table(scope, name):
    """The numbers of one table of the figure, and their marks."""
    table = scope.locator("table", has=scope.page.get_by_text(name, exact=True))
    texts = [
        [
            cell.inner_text().replace("−∞", "-inf").replace("−", "-")
            for cell in row.locator("button").all()
        ]
        for row in table.locator("tr").all()[1:]
    ]
    numbers = torch.tensor(
        [[float(re.match(r"-?(inf|[\d.]+)", t)[0]) for t in row] for row in texts]
    )
    return numbers, [[text[-1] for text in row] for row in texts]


VECTORS = torch.tensor([[1.0, 0.0, 2.0], [0.0, 2.0, 1.0], [2.0, 1.0, 0.0]])


@EVERYWHERE
@BY
def test_attention_shows_the_numbers_of_the_notebook(open_page, where, by):
    scope = figure(open_page("02-inside-attention", where, **options(by)), "Attention")
    expect(scope.locator(".tff-place")).to_have_text("stage 1 of 8: vector")
    for _ in range(7):
        act(scope, by, "Step forward")
    expect(scope.locator(".tff-place")).to_have_text("stage 8 of 8: weighted sum")
    for causal in (True, False):
        if not causal:
            scope.get_by_role("checkbox", name="Causal mask").click()
        for n in (3, 2):
            scope.get_by_role("combobox", name="Text").select_option(index=n - 1)
            for name, expected in by_hand(VECTORS[:n], causal).items():
                numbers, _ = shown_table(scope, name)
                torch.testing.assert_close(numbers, expected, atol=0.0051, rtol=0)


def test_attention_marks_what_did_not_change_and_what_did(open_page):
    scope = figure(open_page("02-inside-attention"), "Attention")
    set_step(scope, 8)
    speech = scope.locator(".tff-say").first
    for name in ("keys", "values", "context"):
        assert shown_table(scope, name)[1][:2] == [["="] * 3] * 2
        assert shown_table(scope, name)[1][2] == ["+"] * 3
    expect(speech).to_contain_text("are the same as at step 2")
    scope.get_by_role("checkbox", name="Causal mask").click()
    assert shown_table(scope, "keys")[1][:2] == [["="] * 3] * 2
    assert shown_table(scope, "context")[1][:2] == [["≠"] * 3] * 2
    expect(speech).to_contain_text("their context changed")


@BY
def test_attention_says_what_a_number_was_made_from(open_page, by):
    page = open_page("02-inside-attention", **options(by))
    scope = figure(page, "Attention")
    set_step(scope, 8)
    number = scope.get_by_role("button", name=re.compile("^key 3 of Time"))
    if by == "touch":
        number.tap()
    elif by == "mouse":
        number.hover()
    else:
        scope.get_by_role("button", name=re.compile("^key 1 of Time")).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
    made = scope.locator(".tff-say").nth(1)
    expect(made).to_have_text("key 3 of Time = 1.00 · 0.50 + 0.00 · 0.00 + 2.00 · 1.00 = 2.50")
    names = [each.get_attribute("aria-label") for each in scope.locator(".tff-source").all()]
    assert [name.split(":")[0] for name in names if name.startswith("x")] == [
        f"x {i} of Time" for i in (1, 2, 3)
    ]
    assert len(names) == 6


# ---------------------------------------------------------------- memory


def memory_outputs(scope):
    cells = scope.locator("[data-output]").all()
    return {
        cell.get_attribute("data-output"): float(cell.get_attribute("data-value")) for cell in cells
    }


@EVERYWHERE
def test_the_calculator_agrees_with_memory_py(open_page, where):
    scope = figure(open_page("07-what-it-costs", where), "Memory")
    for number, shape in enumerate(MODEL_SHAPES):
        gpu, bits = GPUS[number % len(GPUS)], list(BITS)[number % len(BITS)]
        for label, option in (("Model", shape.name), ("GPU", gpu.name)):
            scope.get_by_role("combobox", name=label, exact=True).select_option(option)
        cache_format = scope.get_by_role("combobox", name="Cache format")
        cache_format.select_option(f"{bits}: {BITS[bits] / 8:g} bytes")
        scope.get_by_label("Batch").fill(str(number + 1))
        outputs = memory_outputs(scope)
        n = shape.context_length
        assert outputs["bytes-per-token"] == kv_cache_bytes(shape, 1, dtype=bits)
        assert outputs["cache"] == kv_cache_bytes(shape, n, number + 1, bits)
        assert outputs["weights"] == weight_bytes(shape)
        longest = longest_context(shape, gpu.memory_bytes, number + 1, bits)
        assert outputs["longest-context"] == longest
        assert outputs["together"] == (longest >= n)
        expect(scope.locator(f'a[href="{shape.source}"]')).to_be_visible()


@BY
def test_the_calculator_takes_numbers_and_refuses_nonsense(open_page, by):
    page = open_page("07-what-it-costs", **options(by))
    scope = figure(page, "Memory")
    before = memory_outputs(scope)
    layers = scope.get_by_label("Layers")
    if by == "keyboard":
        layers.focus()
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("64")
    else:
        layers.tap() if by == "touch" else layers.click()
        layers.fill("64")
    assert memory_outputs(scope)["bytes-per-token"] == 2 * before["bytes-per-token"]
    model = scope.get_by_role("combobox", name="Model", exact=True)
    assert model.evaluate("select => select.selectedOptions[0].text") == "your own"
    for wrong in ("0", "-3", "", "2.5", "1e99"):
        layers.fill(wrong)
        expect(layers).to_have_attribute("aria-invalid", "true")
        expect(scope.locator(".tff-error")).to_contain_text("Layers is")
        expect(scope.locator(".tff-say")).to_contain_text("last good result")
    layers.fill("32")
    scope.get_by_label("K/V heads").fill("7")
    expect(scope.locator(".tff-error")).to_contain_text("a divisor of the 32 attention heads")
    scope.get_by_label("K/V heads").fill("8")
    assert memory_outputs(scope) == before
    assert scope.locator(".tff-error").count() == 0
