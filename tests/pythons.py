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
TOLD = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
}


def uv(*arguments, **options):
    """What uv prints. Raises RuntimeError with what it complains about."""
    command = [sys.executable, "-m", "uv", *map(str, arguments)]
    done = subprocess.run(command, env=settings(), capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}\n{done.stderr}")
    return done.stdout


@functools.cache
def settings():
    """The environment for uv: pip's settings in uv's names, and pyenv's Pythons on the PATH."""
    told = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_HTTP_TIMEOUT": "180"}  # as pip does
    told["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # the oldest macOS that PyTorch is built for
    told |= {"UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}
    asked = [sys.executable, "-m", "pip", "config", "list"]
    for line in subprocess.run(asked, capture_output=True, text=True).stdout.splitlines():
        name, _, value = line.partition("=")
        if name := TOLD.get(name.split(".")[-1]):
            value = value.strip("'\"").split()
            told[name] = ("," if name == "UV_FIND_LINKS" else " ").join(value)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin")
    told["PATH"] = os.pathsep.join([*map(str, pyenv), os.environ["PATH"]])
    return {**os.environ, **told}


def find(version):
    """The program of that Python, or None."""
    try:
        return uv("python", "find", "--system", version).strip()
    except RuntimeError:
        return None


def resolved(*arguments, **options):
    """What uv resolves: name -> version, without what names a build, such as +cpu.

    It asks the package index only if what uv has kept is not enough.
    """
    quiet = ("pip", "compile", "--quiet", "--no-header", "--no-annotate")
    try:
        lines = uv(*quiet, "--offline", *arguments, **options)
    except RuntimeError:
        lines = uv(*quiet, *arguments, **options)
    pins = (line.split(" ;")[0].split("==") for line in lines.splitlines() if "==" in line)
    return {name: version.split("+")[0] for name, version in pins}


def environment(folder, python, *arguments):
    """Make an environment with what `uv pip install` is asked for; gives its Python."""
    uv("venv", "--quiet", "--python", python, folder)
    program = Path(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    uv("pip", "install", "--quiet", "--python", program, *arguments)
    return program
