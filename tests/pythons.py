"""Runs uv, which resolves and makes environments.

uv does not read pip's settings. Here it is told them, so that both ask the same places.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

RUNNING = "{}.{}".format(*sys.version_info)
VERSIONS = ("3.11", "3.12", "3.13", "3.14")  # those that the book is for
NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
}


@functools.cache
def settings():
    """The environment for uv: pip's settings in uv's names, and pyenv's Pythons on the PATH."""
    told = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_HTTP_TIMEOUT": "180"}  # as pip does
    told |= {"UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}
    told["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # the oldest macOS that PyTorch is built for
    asked = [sys.executable, "-m", "pip", "config", "list"]
    for line in subprocess.run(asked, capture_output=True, text=True).stdout.splitlines():
        name, _, value = line.partition("=")
        if name := NAMES.get(name.split(".")[-1]):
            separator = "," if name == "UV_FIND_LINKS" else " "
            told[name] = separator.join(value.strip("'\"").split())
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin")
    return {**os.environ, **told, "PATH": os.pathsep.join([*map(str, pyenv), os.environ["PATH"]])}


def uv(*arguments, **options):
    """What uv prints. Raises RuntimeError with what it complains about."""
    command = [sys.executable, "-m", "uv", *map(str, arguments)]
    done = subprocess.run(command, env=settings(), capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}\n{done.stderr}")
    return done.stdout


def find(version):
    """The program of that Python, or None."""
    try:
        return uv("python", "find", "--system", version).strip()
    except RuntimeError:
        return None


def environment(folder, python, *needed, **options):
    """Make an environment with what `uv pip install` is asked for; gives its Python."""
    uv("venv", "--quiet", "--python", python, folder)
    program = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    uv("pip", "install", "--quiet", "--python", program, *needed, **options)
    return program
