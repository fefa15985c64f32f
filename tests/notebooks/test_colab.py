"""In Colab: one notebook in an empty folder, on Colab's own packages, none of which may change.

The nearest thing to Colab that can be had: an environment with Colab's versions, in which the first
cell of each notebook installs the package with pip from a git address. A local repository stands in
for that address, and a folder for the model hub.
"""

import os
import re
import subprocess
import tomllib

import address
import outputs
import pytest
import pythons
from conftest import ROOT, all_but, copy_project
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from kvcache import hub

FREEZE = ROOT / "tests" / "data" / "colab-pip-freeze.txt"
# What the chapters use there, beside what these need.
USED = "accelerate anywidget ipykernel ipywidgets matplotlib numpy pip safetensors setuptools "
USED += "tiktoken torch tqdm transformers"
# Not from that list: torch's CUDA parts, which Colab has from PyTorch itself, and jedi, for which
# Colab's IPython asks, and which Colab does not have.
UNLISTED = re.compile(r"cuda-.*|nvidia-.*|triton|jedi")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def freeze():
    """Colab's versions: name -> version."""
    lines = [line for line in FREEZE.read_text().splitlines() if not line.startswith("#")]
    pins = {normal(name): version for name, version in (line.split("==") for line in lines)}
    return {name: version for name, version in pins.items() if not UNLISTED.fullmatch(name)}


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.match(r"[\w-]+", each)[0] for each in project["dependencies"]} <= set(freeze())


def test_a_lower_bound_above_colabs_version_is_caught(constraints, tmp_path):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    broken = tmp_path / "pyproject.toml"
    broken.write_text(re.sub('"ipywidgets>=.*"', '"ipywidgets>=7.7.2"', text))
    with pytest.raises(RuntimeError, match=r"kvcache depends on ipywidgets>=7\.7\.2"):
        changes_in_colab(broken, constraints)


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A git repository with the project as it lies here."""
    folder = copy_project(tmp_path_factory.mktemp("origin"))
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
def colab(tmp_path_factory, constraints, repository):
    """Runs a notebook as Colab does. Colab has Python 3.13; without one, this Python stands in."""
    folder = tmp_path_factory.mktemp("colab")
    python = pythons.find("3.13") or pythons.find(pythons.RUNNING)
    program = pythons.environment(
        folder / "venv", python, "--constraint", constraints, *USED.split()
    )
    (site,) = (folder / "venv").glob("lib/*/site-packages")
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "colab.py").write_text("import google.colab")  # there before the first cell
    kernel = ["-m", "ipykernel", "install", "--prefix", folder, "--name", "colab"]
    subprocess.run([program, *kernel], check=True, capture_output=True)
    settings = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": address.current_address(),
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "KVCACHE_LIVE_SECONDS": "1",
        "TQDM_DISABLE": "1",
    }

    def run(notebook, place, **more):
        pythons.uv("pip", "uninstall", "--quiet", "--python", program, "kvcache")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("JUPYTER_PATH", str(folder / "share" / "jupyter"))
            resources = {"metadata": {"path": place}}
            client = NotebookClient(notebook, timeout=900, kernel_name="colab", resources=resources)
            client.execute(env={**settings, **more})
        return notebook

    def installed():
        lines = pythons.uv("pip", "freeze", "--python", program).splitlines()
        return {normal(re.split("==| @ ", line)[0]): line for line in lines}

    run.installed = installed
    return run


def test_the_environment_has_colabs_versions(colab):
    there = freeze()
    for name, line in colab.installed().items():
        if name in there:
            assert re.fullmatch(rf".*=={re.escape(there[name])}(\+\w+)?", line), line


@pytest.mark.parametrize("name", all_but("01-time-flies-fast"))
def test_a_chapter_runs_in_colab(request, colab, tmp_path, name):
    has_weights = "smollm2" in str(outputs.chapter(name)).lower()
    home = {"HF_HOME": str(request.getfixturevalue("hub_folder"))} if has_weights else {}
    before = colab.installed()
    notebook = colab(outputs.chapter(name), tmp_path, **home)
    after = colab.installed()
    assert {each for each, _ in before.items() ^ after.items()} <= {"kvcache"}
    assert f"git+{address.current_address()}" in after["kvcache"]
    assert outputs.n_figures(notebook) == outputs.n_figures(outputs.executed(name))
    assert not list(tmp_path.iterdir())


def test_a_first_cell_that_forgets_the_package_is_caught(colab, tmp_path):
    notebook = outputs.chapter("01-time-flies-fast")
    outputs.code_cells(notebook)[0].source = "import sys"
    with pytest.raises(CellExecutionError, match="No module named 'kvcache'"):
        colab(notebook, tmp_path)
