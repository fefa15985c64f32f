"""Changes the repository's address in every place that holds it.

    python tools/address.py https://github.com/me/book

The setting is [project.urls] Repository in pyproject.toml; the other places are found by it.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = (
    "pyproject.toml",
    "_config.yml",
    "README.md",
    "CITATION.cff",
    "chapters/*.ipynb",
    "chapters/*.md",
)
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")


def current_address():
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def site(repository):
    """Where GitHub publishes the book of a repository."""
    owner, name = repository.removeprefix("https://github.com/").split("/")
    host = f"https://{owner.lower()}.github.io/"
    return host if name.lower() == f"{owner.lower()}.github.io" else f"{host}{name}/"


def places():
    """Every file that may hold the address."""
    return [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]


def change(new):
    old = current_address()
    # Colab and Binder name the repository as owner/name.
    old_name, new_name = (address.removeprefix("https://github.com/") for address in (old, new))
    for path in places():
        before = path.read_text(encoding="utf-8")
        after = re.sub(rf"{re.escape(old_name)}(?![\w-])", lambda _: new_name, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"changed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not ADDRESS.fullmatch(sys.argv[1]):
        given = " ".join(sys.argv[1:]) or "nothing"
        sys.exit(
            f"the address is {given!r}; give it as: make address URL=https://github.com/OWNER/NAME"
        )
    change(sys.argv[1])
