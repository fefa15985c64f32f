"""Prints how the live model fares in this machine's browser, on the built book.

In the page "Talk to it": frames a second while the model writes, how long Stop takes, and whether a
second visit asks for the weights. Of the engine alone: WebAssembly beside plain JavaScript, and a
cache beside none.
"""

from pathlib import Path
from statistics import median

import browser
from playwright.sync_api import sync_playwright

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
LIVE = HTML / "_static" / "live"

FRAMES = """async (seconds) => {
    const end = performance.now() + 1000 * seconds;
    let frames = 0;
    for (; performance.now() < end; frames++) await new Promise(requestAnimationFrame);
    return frames / seconds;
}"""
STOP = """() => new Promise((resolve) => {
    const status = document.querySelector(".talk-status"), start = performance.now();
    const look = () => status.textContent.includes("Stopped") && resolve(performance.now() - start);
    new MutationObserver(look).observe(status, { childList: true, subtree: true });
    document.querySelector("[name=stop]").click();
})"""
START = """async (file) => {
    const module = new Blob([tffLive.page], { type: "text/javascript" });
    globalThis.engine = await (await import(URL.createObjectURL(module))).startEngine();
    await engine.loadGGUF(`../_static/live/${file}`);
}"""
STEPS = """async (options) => {
    const milliseconds = [];
    const steps = engine.generate({ text: "Time flies fast", max_new_tokens: 20, ...options });
    for await (const step of steps) milliseconds.push(step.milliseconds);
    return milliseconds;
}"""


def press(page, name, said):
    page.get_by_role("button", name=name).click()
    page.locator(".talk-status", has_text=said).wait_for()


def look_at_the_page(page, file):
    press(page, "Load SmolLM2", "is in this page")
    page.locator("[name=most]").fill("1000")
    press(page, "Run", "writes")
    page.locator(".talk-turns p", has_text="a second").wait_for()
    print(f"frames a second while it writes {page.evaluate(FRAMES, 3):8.0f}")
    print(f"Stop answers within             {page.evaluate(STOP):8.0f} ms")
    press(page, "Keep it on this device", "Kept")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    press(page, "Load SmolLM2", "is in this page")
    print(f"requests of a second visit      {sum(file in url for url in asked):8}")


def look_at_the_engine(page, file):
    page.add_script_tag(path=LIVE / "live.js")
    page.evaluate(START, file)
    fast, slow = (page.evaluate(STEPS, {"way": way}) for way in ("wasm", "plain"))
    print(f"a token, WebAssembly            {median(fast[1:]):8.0f} ms")
    print(
        f"   plain JavaScript             {median(slow[1:]) / median(fast[1:]):8.1f} times as long"
    )
    without = page.evaluate(STEPS, {"use_cache": False})
    print(f"20 tokens with a cache          {sum(fast) / 1000:8.2f} s")
    print(f"   without                      {sum(without) / 1000:8.2f} s")


def main():
    weights = next(LIVE.glob("*.gguf"))
    with browser.serving(HTML) as address, sync_playwright() as playwright:
        running = browser.launch(playwright)
        for look in (look_at_the_page, look_at_the_engine):
            page = running.new_page()
            page.goto(f"{address}/chapters/talk.html")
            look(page, weights.name)
        running.close()


if __name__ == "__main__":
    main()
