"""The book's Pythons: the pins resolve for each, and the unit tests pass on each that is here."""

import os
import re
import subprocess

import pytest
import pythons
from conftest import ROOT

# What PyTorch's CUDA builds ask for themselves; requirements.txt leaves it to them.
CUDA = re.compile(r"cuda-.*|nvidia-.*|triton")
ON_LINUX = [(version, "linux") for version in pythons.VERSIONS]
ELSEWHERE = [(pythons.VERSIONS[-1], "macos"), (pythons.VERSIONS[-1], "windows")]
# The tests that need neither the built book nor a browser nor a large model.
UNIT = ["bad_input", "caches", "generate", "measures", "memory", "models"]
UNIT += ["time_flies", "tokenizer", "trace"]


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
def test_unit_tests_pass(version, tmp_path):
    if version == pythons.RUNNING:
        pytest.skip("this Python runs all the tests")
    if not (python := pythons.find(version)):
        pytest.skip(f"this machine has no Python {version}")
    needed = ["-r", ROOT / "requirements.txt", "-r", ROOT / "tests" / "requirements.txt"]
    program = pythons.environment(tmp_path / "venv", python, *needed)
    nodeps = ["-r", ROOT / "tests" / "requirements-nodeps.txt"]
    pythons.uv("pip", "install", "--quiet", "--python", program, "--no-deps", *nodeps)
    command = [program, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [ROOT / "tests" / "package" / f"test_{name}.py" for name in UNIT]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    print(done.stdout.splitlines()[-1])
