"""Builds the book again whenever a file of it is saved, and serves it meanwhile.

A page whose text has changed is there within seconds. Where code has changed, its notebook runs.
"""

import time

import browser
import build

WATCHED = ("chapters/*.*", "chapters/_static/*", "book/**/*", "*.yml", "*.bib", "CHANGELOG.md")


def saved():
    """When each of the files was saved last: path -> time."""
    paths = [path for pattern in WATCHED for path in build.ROOT.glob(pattern)]
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def main():
    before = saved()
    build.main()
    with browser.serving(build.BUILD / "html") as address:
        print(f"Look at {address}/ and save a chapter. Ctrl+C ends it.", flush=True)
        while True:
            time.sleep(0.5)
            now = saved()
            if changed := {path.name for path, _ in now.items() ^ before.items()}:
                print(f"\nsaved: {', '.join(sorted(changed))}", flush=True)
                before, start = now, time.monotonic()
                build.main()
                print(f"built in {time.monotonic() - start:.0f} seconds", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
