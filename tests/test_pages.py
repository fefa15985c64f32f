"""The built pages in a real browser: from a server and from disk, by mouse and by keyboard."""

import json
from urllib.parse import urlparse

import pytest
import torch
from conftest import HTML, NOTEBOOKS, ROOT
from playwright.sync_api import expect

from kvcache import trace
from kvcache.widgets import KVTimeline

NAMES = [path.stem for path in NOTEBOOKS]
WITH_TIMELINE = ["00-intro", "03-the-baseline", "04-five-changes"]


@pytest.fixture
def open_page(chromium, server):
    """Open a chapter; returns the page, which notes complaints and requests to other hosts."""
    contexts = []

    def opened(name, where="server", width=1280, theme="light", **options):
        options.setdefault("viewport", {"width": width, "height": 900})
        context = chromium.new_context(color_scheme=theme, **options)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.foreign = [], []
        page.on(
            "console",
            lambda m: (
                m.type in ("error", "warning") and page.complaints.append(f"{m.type}: {m.text}")
            ),
        )
        page.on("pageerror", lambda problem: page.complaints.append(str(problem)))
        page.on("request", lambda request: note_foreign(page, request.url))
        root = server if where == "server" else HTML.as_uri()
        page.goto(f"{root}/chapters/{name}.html")
        page.wait_for_load_state("networkidle")
        return page

    def note_foreign(page, url):
        parts = urlparse(url)
        if parts.scheme in ("http", "https") and parts.hostname != "127.0.0.1":
            page.foreign.append(url)

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("where", ["server", "disk"])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_quiet_and_asks_no_other_host(open_page, name, where):
    page = open_page(name, where)
    figures = page.locator(".tff")
    assert figures.count() == (1 if name in WITH_TIMELINE else 0)
    for place in range(figures.count()):
        expect(figures.nth(place).locator(".tff-controls")).to_be_visible()
    page.mouse.wheel(0, 20_000)
    assert not page.complaints
    assert not page.foreign


def test_the_front_door_leads_to_the_first_chapter(chromium, server):
    page = chromium.new_page()
    page.goto(f"{server}/index.html")
    page.wait_for_url("**/chapters/00-intro.html")
    page.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_scrolls_sideways_on_a_phone(open_page, name, theme):
    page = open_page(name, width=360, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.fixture(scope="session")
def traces(trained, tokenizer):
    prompt = torch.tensor([tokenizer.encode("Time")])
    return trace(trained[0], prompt, 6), trace(trained[1], prompt, 6, use_cache=True)


def counters(page, panel):
    panel = page.locator(".tff-panel").nth(panel)
    names = ("computed", "reused", "wasted")
    return [int(panel.locator(f'[data-counter="{name}"]').inner_text()) for name in names]


def counted(observed, step):
    """The counters after a step, from the trace of one layer."""
    total = {
        kind: sum(at[kind] for at in observed.counts(0)[:step]) for kind in observed.counts(0)[0]
    }
    return [total["new"] + total["recomputed"], total["reused"], total["recomputed"]]


def check_counters(page, traces, step):
    expect(page.locator(".tff-place")).to_have_text(f"step {step} of 6")
    for panel, observed in enumerate(traces):
        assert counters(page, panel) == counted(observed, step)


@pytest.mark.parametrize("name", ["00-intro", "04-five-changes"])
def test_both_grids_stand_side_by_side_on_a_laptop(open_page, name):
    left, right = (box.bounding_box() for box in open_page(name).locator(".tff-panel").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


@pytest.mark.parametrize("where", ["server", "disk"])
@pytest.mark.parametrize("name", ["00-intro", "04-five-changes"])
def test_the_timeline_by_mouse(open_page, traces, name, where):
    page = open_page(name, where)
    check_counters(page, traces, 6)
    back, forward = page.get_by_label("Step back"), page.get_by_label("Step forward")
    expect(forward).to_be_disabled()
    for step in (5, 4, 3):
        back.click()
        check_counters(page, traces, step)
    forward.click()
    check_counters(page, traces, 4)

    box = page.get_by_label("Step", exact=True).bounding_box()  # drag the slider to its left end
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.6, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, middle, steps=5)
    page.mouse.up()
    check_counters(page, traces, 1)
    expect(back).to_be_disabled()

    page.get_by_label("Speed").select_option("fast")
    page.get_by_role("button", name="Play").click()
    expect(page.locator(".tff-place")).to_have_text("step 6 of 6", timeout=5000)
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_dragging_over_the_grid_moves_through_the_steps(open_page, traces):
    page = open_page("00-intro")
    rows = page.locator(".tff-panel").first.locator("tbody tr")
    for step, action in ((5, page.mouse.down), (2, None)):
        box = rows.nth(step - 1).locator("th").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5, steps=4)
        if action:
            action()
            page.mouse.move(box["x"] + 7, box["y"] + 6)
        check_counters(page, traces, step)
    page.mouse.up()


def test_the_timeline_by_keyboard(open_page, traces):
    page = open_page("04-five-changes")
    page.get_by_label("Step", exact=True).focus()
    page.keyboard.press("Home")
    check_counters(page, traces, 1)
    page.keyboard.press("ArrowRight")
    check_counters(page, traces, 2)
    page.keyboard.press("End")
    page.get_by_label("Step back").focus()
    page.keyboard.press("Enter")
    check_counters(page, traces, 5)

    first = page.locator(".tff-panel").nth(1).get_by_role("button").first
    first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "step 3, token 1 Time: reused"
    page.keyboard.press("Space")
    expect(page.locator(".tff-title")).to_contain_text("step 3, layer 1, token 1")
    assert len(page.locator(".tff-panel").nth(1).locator('button[tabindex="0"]').all()) == 1


def test_a_cell_shows_its_vectors_and_that_they_are_those_of_the_step_before(
    open_page, trained, tokenizer
):
    prompt = torch.tensor([tokenizer.encode("Time")])
    observed = trace(trained[1], prompt, 6, use_cache=True, vectors=True)
    page = open_page("00-intro")
    page.get_by_label("Layer").select_option("2 of 4")
    cached = page.locator(".tff-panel").nth(1)
    cached.get_by_role("button", name="step 4, token 2").click()
    details = page.locator(".tff-details")
    expect(details).to_contain_text("bit for bit")
    expect(details.locator("[data-same]")).to_have_attribute("data-same", "0")
    step = observed.steps[3][1]
    for name, vectors in (("key", step.keys), ("value", step.values)):
        cells = details.get_by_role("region", name=f"the {name}").locator("td").all_inner_texts()
        shown = torch.tensor([float(text.replace("−", "-")) for text in cells])
        torch.testing.assert_close(shown, vectors[1].flatten(), atol=0.0051, rtol=0)

    plain = page.locator(".tff-panel").nth(0)
    plain.get_by_role("button", name="step 4, token 2").click()
    gap = float(details.locator("[data-same]").get_attribute("data-same"))
    assert 0 <= gap < 1e-5
    expect(details).to_contain_text("equal those of step 3")
    plain.get_by_role("button", name="step 4, token 4").click()
    expect(details).to_contain_text("new in this step")


def test_a_step_is_said_in_words(open_page):
    page = open_page("00-intro")
    page.get_by_label("Step", exact=True).fill("3")
    speech = page.locator("[aria-live=polite].tff-say")
    expect(speech).to_contain_text("Step 3 has the text “Time flies fast” and writes “,”.")
    expect(speech).to_contain_text(
        "Without a cache: 1 new, 2 recomputed. With a cache: 1 new, 2 reused."
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(open_page, name, theme):
    page = open_page(name, theme=theme)
    if name in WITH_TIMELINE:
        page.locator(".tff-panel").first.get_by_role("button", name="step 3, token 1").click()
    page.add_script_tag(content=axe_source())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found["violations"]] == []


def axe_source():
    import axe_core_python

    (path,) = ROOT.joinpath(axe_core_python.__path__[0]).glob("axe.min.js")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WITH_TIMELINE)
def test_without_javascript_a_still_picture_stands_there(open_page, name):
    page = open_page(name, java_script_enabled=False)
    still = page.locator("noscript svg[aria-label^='K/V timeline']")
    expect(still).to_be_visible()
    assert page.locator(".tff").count() == 0


def test_in_print_the_still_picture_stands_there(open_page):
    page = open_page("00-intro")
    page.emulate_media(media="print")
    expect(page.locator(".tff-still svg")).to_be_visible()
    expect(page.locator(".tff-controls")).to_be_hidden()


@pytest.fixture
def mount(chromium, server):
    """A page with the mounting script and the given widget states, as myst-nb writes them."""
    contexts = []

    def mounted(*states):
        context = chromium.new_context()
        contexts.append(context)
        page = context.new_page()
        page.route(
            "**/made.html",
            lambda route: route.fulfill(content_type="text/html", body=document(states)),
        )
        page.complaints = []
        page.on("pageerror", lambda problem: page.complaints.append(str(problem)))
        page.goto(f"{server}/made.html")
        page.wait_for_load_state("networkidle")
        return page

    def document(states):
        entries = {f"w{i}": {"model_module": "anywidget", "state": s} for i, s in enumerate(states)}
        text = json.dumps({"state": entries}).replace("<", "\\u003c")
        kind = "application/vnd.jupyter.widget"
        views = "".join(
            f'<p>before</p><script type="{kind}-view+json">{{"model_id": "{name}"}}</script>'
            for name in entries
        )
        script = '<script defer src="_static/mount_widgets.js"></script>'
        return (
            f'<!doctype html><meta charset="utf-8"><title>made</title>{script}{script}'
            f'<script type="{kind}-state+json">{text}</script>{views}<p>after</p>'
        )

    yield mounted
    for context in contexts:
        context.close()


def state_of(widget, **changes):
    return {"_esm": widget._esm, "_css": widget._css, "data": {**widget.data, **changes}}


@pytest.fixture
def widget(traces):
    return KVTimeline(*traces)


def test_text_of_a_prompt_is_never_html(mount, widget):
    evil = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"
    panels = json.loads(json.dumps(widget.data["panels"]))
    for panel in panels:
        panel["tokens"] = [evil] * len(panel["tokens"])
        panel["title"] = evil
    page = mount(state_of(widget, panels=panels))
    page.locator(".tff td button").first.click()
    expect(page.locator(".tff-details")).to_contain_text("<script>")
    assert page.evaluate("window.pwned") is None
    assert page.locator(".tff img").count() == 0


@pytest.mark.parametrize(
    "broken",
    [{"panels": []}, {"panels": None}, {"panels": [{"tokens": ["a"], "marks": [["x"]]}]}],
)
def test_malformed_data_is_said_in_place_and_the_rest_goes_on(mount, widget, broken):
    page = mount(state_of(widget, **broken), state_of(widget), {"_esm": "not a module", "data": {}})
    expect(page.locator(".tff-error")).to_have_count(2)
    expect(page.locator(".tff-error").first).to_contain_text("cannot be drawn")
    expect(page.locator(".tff-controls")).to_have_count(1)
    expect(page.get_by_text("after", exact=True)).to_be_visible()
    assert not page.complaints
