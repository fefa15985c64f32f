"""The packaged files, each checked against SHA256SUMS before it is used."""

import hashlib
from pathlib import Path

from ..config import need

FOLDER = Path(__file__).resolve().parent


def checked_path(name):
    """The path of a packaged file whose content is what was packaged.

    Raises FileNotFoundError for a missing file, ValueError for a damaged one.
    """
    remedy = "install kvcache again (pip install --force-reinstall --no-deps ...)"
    for path in (FOLDER / "SHA256SUMS", FOLDER / name):
        need(path.is_file(), f"the data file {path} is missing", remedy, FileNotFoundError)
    expected, actual = hashes().get(name), sha256(path)
    problem = f"the data file {path} is damaged: its SHA-256 is {actual}, not {expected}"
    need(actual == expected, problem, remedy)
    return path


def sha256(path):
    """The SHA-256 of a file, as 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hashes():
    """What SHA256SUMS says: file name -> SHA-256, as 64 hex digits."""
    return {line[66:]: line[:64] for line in (FOLDER / "SHA256SUMS").read_text().splitlines()}
