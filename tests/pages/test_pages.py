"""The built pages in a real browser: from a server and from disk."""

import pytest
from conftest import FIGURES, NAMES, violations
from playwright.sync_api import expect


@pytest.mark.parametrize("where", ["server", "disk"])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_quiet_and_asks_no_other_host(open_page, name, where):
    page = open_page(name, where)
    figures = page.locator(".tff")
    assert [each.get_attribute("aria-label") for each in figures.all()] == FIGURES[name]
    assert page.locator(".tff-error").count() == 0
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


@pytest.mark.parametrize("name", NAMES)
def test_figures_stand_on_the_dark_page_without_a_light_box(open_page, name):
    page = open_page(name, theme="dark")
    for output in page.locator(".cell_output .text_html").all():
        colour = output.evaluate("element => getComputedStyle(element).backgroundColor")
        assert colour == "rgba(0, 0, 0, 0)"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_any_state(open_page, name, theme):
    page = open_page(name, theme=theme)
    assert violations(page) == []
    for figure in page.locator(".tff").all():
        slider = figure.get_by_label("Step", exact=True)
        if slider.count():  # somewhere in the middle
            slider.fill(str(1 + int(slider.get_attribute("max")) // 2))
        for box in figure.locator("input[type=checkbox]").all():
            box.click()
        for choice in figure.locator("select").all():
            choice.select_option(index=choice.locator("option").count() - 1)
        if figure.locator("td button:visible").count():
            figure.locator("td button:visible").first.click()
    assert violations(page) == []


@pytest.mark.parametrize("name", NAMES)
def test_without_javascript_still_pictures_stand_there(open_page, name):
    page = open_page(name, java_script_enabled=False)
    assert page.locator(".tff").count() == 0
    stills = page.locator("noscript svg[role=img]")
    assert stills.count() == len(FIGURES[name])
    for still in stills.all():
        expect(still).to_be_visible()
        assert len(still.get_attribute("aria-label")) > 20


@pytest.mark.parametrize("name", NAMES)
def test_in_print_the_still_pictures_stand_there(open_page, name):
    page = open_page(name)
    page.emulate_media(media="print")
    stills = page.locator(".tff-still svg[role=img]")
    assert stills.count() == len(FIGURES[name])
    for still, figure in zip(stills.all(), page.locator(".tff").all(), strict=True):
        expect(still).to_be_visible()
        expect(figure).to_be_hidden()


@pytest.mark.parametrize("name", [name for name in NAMES if name[:2] in ("01", "03", "04", "05")])
def test_where_no_kernel_is_the_place_says_how_to_get_one(open_page, name):
    for options in ({}, {"java_script_enabled": False}):
        page = open_page(name, **options)
        note = page.locator("p", has_text="Type a prompt of your own:").last
        expect(note).to_be_visible()
        expect(note).to_contain_text("Colab")
