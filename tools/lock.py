"""Resolves the direct dependencies of the book, [project.optional-dependencies] book in
pyproject.toml, into the pins of requirements.txt, for every Python from 3.11 and every system.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# PyTorch's CUDA builds ask for these themselves; pinned here, they would burden its CPU builds.
CUDA = ("cuda-bindings", "cuda-pathfinder", "cuda-toolkit", "triton")
NVIDIA = """
    cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse
    cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx
"""
CUDA += tuple(f"nvidia-{name}" for name in NVIDIA.split())

with tempfile.TemporaryDirectory() as folder:
    venv.create(folder, with_pip=True)
    subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "uv"], check=True)
    status = subprocess.run(
        [f"{folder}/bin/uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
        + ["--no-header", "--no-annotate", "--extra", "book", "--upgrade", "pyproject.toml"]
        + ["--output-file", "requirements.txt"]
        + [word for name in CUDA for word in ("--no-emit-package", name)],
        cwd=ROOT,
    ).returncode
sys.exit(status)
