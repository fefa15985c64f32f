"""Builds the book again whenever a chapter or the style is saved, and serves it meanwhile.

A page whose text has changed is there within seconds. Where code has changed, its notebook runs.
"""

import time
from pathlib import Path

import browser
import build

ROOT = Path(__file__).resolve().parent.parent
WATCHED = ("chapters/*.*", "book/theme/*/*", "*.yml", "references.bib", "CHANGELOG.md")


def saved():
    """When each of the files was saved last: path -> time."""
    paths = (path for pattern in WATCHED for path in ROOT.glob(pattern))
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def main():
    before = saved()
    build.main()
    with browser.serving(build.BUILD / "html") as address:
        print(f"Look at {address}/ and save a chapter. Ctrl+C ends it.", flush=True)
        while True:
            time.sleep(0.5)
            now = saved()
            changed = [path.name for path in now if now[path] != before.get(path)]
            if changed or len(now) < len(before):
                print(f"\nsaved: {', '.join(changed) or 'a file less'}", flush=True)
                before, start = now, time.monotonic()
                build.main()
                print(f"built in {time.monotonic() - start:.0f} seconds", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
