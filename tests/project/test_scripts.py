"""The scripts and styles of the figures: formatted by prettier, their types checked by tsc."""

import shutil
import subprocess

import pytest
from conftest import ROOT

NPM = shutil.which("npm")
INSTALLED = (ROOT / "tools" / "node_modules" / ".bin" / "tsc").exists()


@pytest.mark.skipif(not NPM, reason="there is no Node.js")
@pytest.mark.skipif(not INSTALLED, reason="npm ci --prefix tools brings prettier and tsc")
def test_scripts_are_formatted_and_their_types_agree(tmp_path):
    def check(folder):
        command = [NPM, "--prefix", folder / "tools", "run", "check"]
        return subprocess.run(command, capture_output=True, text=True)

    found = check(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
    for place in ("package.json", "tsconfig.json"):
        (tmp_path / "tools").mkdir(exist_ok=True)
        shutil.copy(ROOT / "tools" / place, tmp_path / "tools")
    (tmp_path / "tools" / "node_modules").symlink_to(ROOT / "tools" / "node_modules")
    shutil.copytree(ROOT / "kvcache" / "widgets", tmp_path / "kvcache" / "widgets")
    ring = tmp_path / "kvcache" / "widgets" / "ring.js"
    ring.write_text(ring.read_text().replace("counted(seen,", "counted(String(seen),"))
    found = check(tmp_path)
    assert found.returncode
    assert "ring.js" in found.stdout
