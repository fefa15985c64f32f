"""The Pages workflow: complete, and the same as what `make publish-check` goes through."""

import shutil

import publish_check
import pytest
import pythons
import yaml
from conftest import HTML

WORKFLOW = yaml.safe_load(publish_check.WORKFLOW.read_text(encoding="utf-8"))


def uses(name):
    steps = publish_check.steps(publish_check.WORKFLOW)
    return next(step["with"] for step in steps if step.get("uses", "").startswith(name))


def test_it_builds_tests_uploads_and_deploys():
    names = [s.get("run") or s["uses"] for s in publish_check.steps(publish_check.WORKFLOW)]
    order = ["actions/checkout", "actions/setup-python", "actions/cache", "make test"]
    order += ["make validate", "actions/upload-pages-artifact", "actions/deploy-pages"]
    assert all(name.startswith(each) for name, each in zip(names, order, strict=True))
    assert WORKFLOW["jobs"]["publish"]["needs"] == "test"
    assert WORKFLOW["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


def test_it_has_every_python_of_the_book():
    assert sorted(uses("actions/setup-python")["python-version"].split()) == [*pythons.VERSIONS]


def test_executed_notebooks_are_kept_by_their_content():
    kept = uses("actions/cache")
    assert all((HTML.parent.parent / path).exists() for path in kept["path"].split())
    for what in ("chapters/*.ipynb", "kvcache/**", "requirements.txt"):
        assert f"'{what}'" in kept["key"]


def test_the_built_site_can_be_published(capsys):
    publish_check.upload(uses("actions/upload-pages-artifact"))
    assert "every link within the site leads somewhere" in capsys.readouterr().out


def test_a_broken_site_is_caught(tmp_path):
    shutil.copytree(HTML, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chapters" / "03-the-baseline.html").unlink()
    (tmp_path / "index.html").unlink()
    (tmp_path / "link").symlink_to("chapters")
    found = "\n".join(publish_check.problems(tmp_path))
    for problem in ("no index.html", "a symbolic link", "03-the-baseline.html: no such file"):
        assert problem in found


@pytest.mark.parametrize("step", ["{run: 'false'}", "{uses: someone/something@v1}"])
def test_a_step_that_fails_or_is_unknown_ends_the_check(tmp_path, step):
    workflow = tmp_path / "book.yml"
    workflow.write_text(f"jobs: {{test: {{steps: [{step}]}}}}")
    with pytest.raises((SystemExit, publish_check.subprocess.CalledProcessError)):
        publish_check.main(workflow)
