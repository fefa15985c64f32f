"""Checks the HTML of the built book with the Nu HTML checker; fails if a page has an error."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
JAR = ROOT / "tools" / "node_modules" / "vnu-jar" / "build" / "dist" / "vnu.jar"


def errors(pages):
    """Yield page, line and message of each error."""
    command = ["java", "-jar", JAR, "--errors-only", "--exit-zero-always", "--format", "json"]
    done = subprocess.run([*command, *pages], capture_output=True, text=True, check=True)
    for found in json.loads(done.stderr)["messages"]:
        yield Path(found["url"]).name, found.get("lastLine", 0), found["message"]


def main():
    pages = sorted(path for path in HTML.rglob("*.html"))
    if not pages:
        sys.exit("There is no book yet: run 'make book' first.")
    found = list(errors(pages))
    for page, line, message in found:
        print(f"{page}, line {line}: {message}")
    print(f"{len(pages)} pages, {len(found)} errors")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
