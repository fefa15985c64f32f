"""Goes through the steps of the Pages workflow on this machine: all that it would do but deploy.

The steps are read from .github/workflows/book.yml. Its commands run as they stand there; for each
action that it uses, what this machine has stands in. An action that is not known here is an error.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import links
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "book.yml"
MOST_BYTES = 10**9  # of a published site


def steps(workflow):
    """Every step of every job, in order."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def checkout(options):
    """Only what is committed is published."""
    listed = ["git", "status", "--short"]
    changed = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True).stdout
    print(f"  here: the files as they lie; not committed:\n{changed}" if changed else "  clean")


def setup_python(options):
    print(
        f"  here: Python {sys.version.split()[0]}; asked for: {options['python-version'].split()}"
    )


def cache(options):
    """What is to be kept must be what the build leaves."""
    kept = [path for path in options["path"].split() if (ROOT / path).exists()]
    print(f"  here: {', '.join(kept) or 'nothing is kept yet, all notebooks will run'}")


def upload(options):
    """Pack the site as the action does, unpack it elsewhere, and follow its links."""
    site = ROOT / options["path"]
    with tempfile.TemporaryDirectory() as folder:
        packed, unpacked = Path(folder, "artifact.tar"), Path(folder, "site")
        with tarfile.open(packed, "w") as tar:
            tar.add(site, ".")
        with tarfile.open(packed) as tar:
            tar.extractall(unpacked, filter="data")
        found = list(problems(unpacked))
        size = packed.stat().st_size
    if size > MOST_BYTES:
        found.append(f"{size:,} bytes are more than {MOST_BYTES:,}")
    if found:
        raise SystemExit("\n".join(["  the site cannot be published:", *found]))
    print(f"  {size:,} bytes; every link within the site leads somewhere")


def problems(site):
    """Yield what would be broken on a published site."""
    if not (site / "index.html").is_file():
        yield "no index.html"
    for path in sorted(site.rglob("*")):
        if path.is_symlink():
            yield f"{path.relative_to(site)}: a symbolic link"
    for page, link, wrong in links.problems(site):
        yield f"{page}: {link}: {wrong}"


def deploy(options):
    print("  not here: GitHub puts the uploaded site online")


STAND_IN = {
    "actions/cache": cache,
    "actions/checkout": checkout,
    "actions/deploy-pages": deploy,
    "actions/setup-python": setup_python,
    "actions/upload-pages-artifact": upload,
}


def main(workflow=WORKFLOW):
    here = Path(sys.executable).parent
    settings = {**os.environ, "PATH": os.pathsep.join([str(here), os.environ["PATH"]])}
    for step in steps(workflow):
        name = step.get("uses", "").split("@")[0]
        print(f"- {step.get('run', name)}", flush=True)
        if "run" in step:
            subprocess.run(step["run"], shell=True, cwd=ROOT, env=settings, check=True)
        elif name in STAND_IN:
            STAND_IN[name](step.get("with", {}))
        else:
            raise SystemExit(f"nothing stands in for {name}: add it to {Path(__file__).name}")


if __name__ == "__main__":
    main()
