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
# Every form that names a repository: its owner, which is no page of GitHub's own, and its name.
FORMS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?github\.com/|ssh://git@github\.com/|git@github\.com:(?!\d+/.+/))"
    r"(?!(?:apps|features|marketplace|orgs|search|settings|sponsors|topics|users)/)"
    r"([a-z\d][a-z\d-]*)/(?!\.*(?:\.git)*(?:[/?#]|$))([\w.-]+?)(?:\.git)*(?:[/?#]\S*)?",
    re.ASCII | re.IGNORECASE,
)
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


def plain(given):
    """An address of any form in the form of the setting; ends here for what may be none."""
    if not (found := FORMS.fullmatch(given.strip("<> \t\n"))):
        sys.exit(f"no address: {given!r}. Give it as: make address URL={GITHUB}OWNER/NAME")
    return GITHUB + "/".join(found.groups())


def change(new):
    # Colab and Binder name the repository as owner/name.
    names = [each.removeprefix(GITHUB) for each in (current_address(), new)]
    old, wanted = (re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", re.I) for name in names)
    texts = {path: path.read_text(encoding="utf-8") for path in places()}
    cited = [path.name for path, text in texts.items() if wanted.search(text)]
    if cited and old.pattern.lower() != wanted.pattern.lower():
        sys.exit(f"{new} is cited in {', '.join(cited)}: there is no way back. Give another one.")
    for path, before in texts.items():
        after = old.sub(lambda _: names[1], before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"changed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    change(plain(" ".join(sys.argv[1:])))
