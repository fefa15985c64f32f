"""What the Pages workflow does, and that the built site can be published."""

import yaml
from conftest import HTML, ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text("utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def uses(name):
    return next(step["with"] for step in STEPS if step.get("uses", "").startswith(name))


def test_it_builds_tests_uploads_and_deploys():
    names = [step.get("run") or step["uses"] for step in STEPS]
    order = ["actions/checkout", "actions/setup-python", "make test", "make validate"]
    order += ["actions/upload-pages-artifact", "actions/deploy-pages"]
    places = [next(n for n, name in enumerate(names) if name.startswith(each)) for each in order]
    assert places == sorted(places)
    assert WORKFLOW["jobs"]["publish"]["needs"] == "test"
    assert WORKFLOW["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


def test_executed_notebooks_are_kept_by_their_content():
    kept = uses("actions/cache")
    assert all((ROOT / path).exists() for path in kept["path"].split())
    for what in ("chapters/*.ipynb", "kvcache/**", "requirements.txt"):
        assert f"'{what}'" in kept["key"]


def test_the_built_site_can_be_published():
    assert uses("actions/upload-pages-artifact")["path"] == HTML.relative_to(ROOT).as_posix()
    assert (HTML / "index.html").is_file()
    files = [path for path in HTML.rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in files)
    assert sum(path.stat().st_size for path in files) < 10**9
