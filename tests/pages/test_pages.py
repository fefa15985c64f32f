"""Every built page in a real browser: quiet, accessible, on a phone, in the dark, on paper.

What should be noticed is also shown once where it is wrong.
"""

import budgets
import pytest
from conftest import NAMES, executed, n_figures, use_all, violations
from playwright.sync_api import expect

EXTRAS = ["talk", "measurements", "glossary", "references", "changelog", "cite"]
PAGES = [*NAMES, *EXTRAS]
FIGURE = ".tff:not(form)"  # not the form of "Talk to it"
SMALL_BOXES = "article pre, article .pst-scrollable-table-container, .cell_output > .output"
COLOURS = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
# The texts of what is wider than its place, with all that is folded open.
TOO_WIDE = """(boxes) => {
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    return [...document.querySelectorAll(boxes)]
        .filter((each) => each.scrollWidth > each.clientWidth + 1)
        .map((each) => each.textContent.trim().split("\\n")[0]);
}"""
STILL = "{} :is(svg[role=img], table, p)"  # a picture, a table, or what a control is for


def figures_on(name):
    """How many figures that move a page has: those that its chapter showed when it was run."""
    return n_figures(executed(name)) if name in NAMES else 0


@pytest.mark.parametrize(("where", "theme"), [("server", "light"), ("disk", "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_fits_a_laptop_and_can_be_printed(open_page, name, where, theme):
    page = open_page(name, where, theme=theme)
    assert page.locator(FIGURE).count() == figures_on(name)
    text, _ = page.locator("article p").first.evaluate(COLOURS)
    for output in page.locator(".cell_output .text_html").all():
        colour, background = output.evaluate(COLOURS)
        assert background == "rgba(0, 0, 0, 0)"
        assert colour == text or not output.locator("svg[role=img]").count()
    figures = page.locator(f"{FIGURE}:not(.tff .tff)")  # a control shows others within itself
    if theme == "dark" and figures_on(name):
        use_all(page)
    assert violations(page) == ""
    assert page.evaluate(TOO_WIDE, "article div.highlight pre") == []
    assert page.locator(".tff-error").count() == 0
    page.mouse.wheel(0, 20_000)
    page.emulate_media(media="print")  # stills stand for figures
    stills = page.locator(STILL.format(".tff-still"))
    assert stills.count() == figures_on(name)
    for still, figure in zip(stills.all(), figures.all(), strict=True):
        expect(still).to_be_visible()
        expect(figure).to_be_hidden()


def test_an_error_a_request_to_another_host_and_code_that_does_not_fit_are_noticed(open_page):
    page = open_page("03-the-baseline")
    page.route("**/x.png", lambda route: route.fulfill(content_type="image/png"))
    with page.expect_request("https://example.org/x.png"):
        page.evaluate("console.error('broken'); new Image().src = 'https://example.org/x.png'")
    assert {"broken", "https://example.org/x.png"} <= set(page.noticed)
    page.noticed.clear()
    page.locator("article .cell_input pre").first.evaluate("e => e.append('x'.repeat(120))")
    assert len(page.evaluate(TOO_WIDE, "article div.highlight pre")) == 1


@pytest.mark.parametrize("name", PAGES)
def test_on_a_phone_nothing_but_boxes_scrolls_sideways_and_those_show_it(open_page, name):
    page = open_page(name, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.evaluate(TOO_WIDE, SMALL_BOXES)  # it opens what is folded
    for box in page.locator(SMALL_BOXES).all():
        if box.evaluate("e => e.scrollWidth > e.clientWidth + 1 && e.checkVisibility()"):
            shadows = "e => getComputedStyle(e).backgroundAttachment"
            assert box.evaluate(shadows) == "local, local, scroll, scroll", box.inner_text()


@pytest.mark.parametrize("name", NAMES)
def test_without_javascript_still_pictures_stand_there(open_page, name):
    page = open_page(name, java_script_enabled=False)
    assert page.locator(".tff").count() == 0
    stills = page.locator(STILL.format("noscript"))
    assert stills.count() == figures_on(name)
    for still in stills.all():
        expect(still).to_be_visible()
        assert len(still.get_attribute("aria-label") or still.inner_text()) > 15


@pytest.mark.parametrize("java_script_enabled", [True, False])
def test_where_only_a_kernel_will_do_the_place_says_how_to_get_one(open_page, java_script_enabled):
    page = open_page("05-same-text-faster", java_script_enabled=java_script_enabled)
    note = page.locator("p:visible", has_text="that needs a kernel")
    expect(note).to_be_visible()
    expect(note).to_contain_text("Colab")


def test_nothing_jumps_while_a_figure_is_drawn_and_text_is_there_if_none_comes(new_page, server):
    page = new_page(width=412)
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver((list) => {"
        "  for (const entry of list.getEntries()) window.shift += entry.value;"
        "}).observe({ type: 'layout-shift', buffered: true });"
    )
    page.goto(f"{server}/chapters/00-intro.html", wait_until="networkidle")
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()
    assert page.evaluate("window.shift") < 0.05
    page.route("**/mount_widgets.js*", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()
    expect(page.locator(".tff")).to_have_count(0)
    page.noticed.clear()


def test_pages_and_figures_weigh_no_more_than_their_budgets(monkeypatch, capsys):
    assert budgets.main() == 0, capsys.readouterr().out
    monkeypatch.setattr(budgets, "FIRST_VIEW_PACKED", 100)
    assert budgets.main() == 1
