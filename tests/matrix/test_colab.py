"""In Colab: one notebook in an empty folder, on Colab's own packages, none of which may change.

The nearest thing to Colab that can be had: an environment with Colab's versions, in which the first
cell of each notebook installs the package with pip from a git address. A local repository stands in
for that address, and a folder for the model hub.
"""

import os
import re
import shutil
import subprocess
import tomllib

import address
import nbformat
import outputs
import pytest
import pythons
from conftest import FIGURES, NAMES, ROOT, WHOLE_BOOK, tracked
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from kvcache import hub

FREEZE = ROOT / "tests" / "data" / "colab-pip-freeze.txt"
# What the chapters use there, beside what these need.
USED = ["accelerate", "anywidget", "ipykernel", "ipywidgets", "matplotlib", "numpy", "pip"]
USED += ["safetensors", "setuptools", "tiktoken", "torch", "tqdm", "transformers"]
# Not from that list: torch's CUDA parts, which Colab has from PyTorch itself, and jedi, for which
# Colab's IPython asks, and which Colab does not have.
UNLISTED = re.compile(r"cuda-.*|nvidia-.*|triton|jedi")
VIEW = "application/vnd.jupyter.widget-view+json"
RUN = NAMES if WHOLE_BOOK else ["01-time-flies-fast", "05-same-text-faster"]


def freeze():
    """Colab's versions: name -> version."""
    lines = [line for line in FREEZE.read_text().splitlines() if not line.startswith("#")]
    pins = {normal(name): version for name, version in (line.split("==") for line in lines)}
    return {name: version for name, version in pins.items() if not UNLISTED.fullmatch(name)}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="session")
def constraints(tmp_path_factory):
    """Colab's versions as a file for a resolver."""
    path = tmp_path_factory.mktemp("constraints") / "colab.txt"
    path.write_text("\n".join(f"{name}=={version}" for name, version in freeze().items()))
    return path


def changes_in_colab(pyproject, constraints):
    """What installing the package would bring to Colab or change there: name -> version.

    Raises RuntimeError if the package cannot be had with Colab's versions.
    """
    system = ["--python-version", "3.13", "--python-platform", "linux"]
    wanted = pythons.resolved(*system, "--constraint", constraints, pyproject)
    there = freeze()
    return {
        name: version
        for name, version in wanted.items()
        if there.get(name) != version and not UNLISTED.fullmatch(name)
    }


def test_installing_changes_none_of_colabs_versions(constraints):
    assert changes_in_colab(ROOT / "pyproject.toml", constraints) == {}


def test_a_lower_bound_above_colabs_version_is_caught(constraints, tmp_path):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    broken = tmp_path / "pyproject.toml"
    broken.write_text(re.sub('"ipywidgets>=.*"', '"ipywidgets>=7.7.2"', text))
    with pytest.raises(RuntimeError, match=r"kvcache depends on ipywidgets>=7\.7\.2"):
        changes_in_colab(broken, constraints)


def test_what_the_package_needs_is_in_colab():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w-]+", each)[0] for each in project["dependencies"]}
    assert names <= set(freeze())


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A git repository with the project as it lies here."""
    folder = tmp_path_factory.mktemp("origin")
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory):
    """A folder of the model hub that holds SmolLM2, as after a download."""
    home = tmp_path_factory.mktemp("hub")
    model = home / "hub" / f"models--{hub.SMOLLM2.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    snapshot = model / "snapshots" / ("0" * 40)
    theirs = hub.load_transformers(hub.packaged_smollm2())
    theirs.hf_quantizer = None  # they are plain numbers by now
    del theirs.config.quantization_config
    theirs.save_pretrained(snapshot)
    hub.load_hub_tokenizer(hub.packaged_smollm2()).save_pretrained(snapshot)
    return home


@pytest.fixture(scope="session")
def colab(tmp_path_factory, constraints, repository, hub_folder):
    """Runs a notebook as Colab does. Colab has Python 3.13; without one, this Python stands in."""
    folder = tmp_path_factory.mktemp("colab")
    python = pythons.find("3.13") or pythons.find(pythons.RUNNING)
    program = pythons.environment(folder / "venv", python, "--constraint", constraints, *USED)
    (site,) = (folder / "venv").glob("lib/*/site-packages")
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "colab.py").write_text("import google.colab")  # there before the first cell
    subprocess.run(
        [program, "-m", "ipykernel", "install", "--prefix", folder, "--name", "colab"],
        check=True,
        capture_output=True,
    )
    settings = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": address.current_address(),
        "HF_HOME": str(hub_folder),
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "KVCACHE_LIVE_SECONDS": "1",
        "TQDM_DISABLE": "1",
    }

    def run(notebook, place):
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("JUPYTER_PATH", str(folder / "share" / "jupyter"))
            resources = {"metadata": {"path": place}}
            client = NotebookClient(notebook, timeout=900, kernel_name="colab", resources=resources)
            client.execute(env=settings)
        return notebook

    run.program = program
    return run


@pytest.fixture
def without_the_package(colab):
    """Colab as it comes: each notebook must install the package itself."""
    pythons.uv("pip", "uninstall", "--quiet", "--python", colab.program, "kvcache")


def installed(program):
    lines = pythons.uv("pip", "freeze", "--python", program).splitlines()
    return {normal(re.split("==| @ ", line)[0]): line for line in lines}


def test_the_environment_has_colabs_versions(colab):
    for name, line in installed(colab.program).items():
        if name in freeze():
            assert re.fullmatch(rf".*=={re.escape(freeze()[name])}(\+\w+)?", line), line


@pytest.mark.parametrize("name", RUN)
def test_a_chapter_runs_in_colab(colab, without_the_package, tmp_path, name):
    chapter = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    before = installed(colab.program)
    notebook = colab(chapter, tmp_path)
    after = installed(colab.program)
    assert {line for line in after.items() if line not in before.items()} == {
        ("kvcache", after["kvcache"])
    }
    assert f"git+{address.current_address()}" in after["kvcache"]
    assert len(figures_of(notebook)) == len(FIGURES[name])
    assert not list(tmp_path.iterdir())


def figures_of(notebook):
    """The states of the figures that a run shows, each with its module."""
    widgets = notebook.metadata.get("widgets", {})
    states = widgets.get("application/vnd.jupyter.widget-state+json", {"state": {}})["state"]
    everything = [output for cell in outputs.code_cells(notebook) for output in cell.outputs]
    views = [each.data[VIEW] for each in everything if VIEW in each.get("data", {})]
    figures = [states[view["model_id"]] for view in views]
    figures = [each for each in figures if each["model_module"] == "anywidget"]
    assert all("_esm" in each["state"] for each in figures)
    return figures


def test_a_first_cell_that_forgets_the_package_is_caught(colab, without_the_package, tmp_path):
    notebook = nbformat.read(ROOT / "chapters" / "01-time-flies-fast.ipynb", as_version=4)
    outputs.code_cells(notebook)[0].source = "import sys"
    with pytest.raises(CellExecutionError, match="No module named 'kvcache'"):
        colab(notebook, tmp_path)
