"""Changes the repository's address in every place that holds it.

    python tools/address.py https://github.com/me/book

The setting is [project.urls] Repository in pyproject.toml; the other places are found by it.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GITHUB = "https://github.com/"
ADDRESS = re.compile(rf"{GITHUB}[\w.-]+/[\w.-]+")
PLACES = "pyproject.toml _config.yml README.md CITATION.cff chapters/*.ipynb chapters/*.md"


def current_address():
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def site(repository):
    """Where GitHub publishes the book of a repository."""
    owner, name = repository.removeprefix(GITHUB).split("/")
    host = f"https://{owner.lower()}.github.io/"
    return host if name.lower() == f"{owner.lower()}.github.io" else f"{host}{name}/"


def places():
    """Every file that may hold the address."""
    return [path for pattern in PLACES.split() for path in sorted(ROOT.glob(pattern))]


def change(new):
    # Colab and Binder name the repository as owner/name.
    old_name, new_name = (each.removeprefix(GITHUB) for each in (current_address(), new))
    for path in places():
        before = path.read_text(encoding="utf-8")
        after = re.sub(rf"{re.escape(old_name)}(?![\w-])", lambda _: new_name, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"changed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    given = " ".join(sys.argv[1:]).strip("/").removesuffix(".git")
    if not ADDRESS.fullmatch(given):
        sys.exit(f"no address: {given!r}. Give it as: make address URL={GITHUB}OWNER/NAME")
    change(given)
