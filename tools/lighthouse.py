"""Runs Lighthouse over the front door and every chapter, as a laptop and as a phone.

Prints a table, and fails where a score is below its limit. The book is served as a host of static
pages serves it: compressed. Other programs of the machine only ever make a page slower, so a page
that is too slow gets two more tries, and its best one counts.

    python tools/lighthouse.py              all pages
    python tools/lighthouse.py 06-when      those whose name holds this
"""

import contextlib
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import browser

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PROGRAM = ROOT / "tools" / "node_modules" / ".bin" / "lighthouse"
LIMITS = {"performance": 95, "accessibility": 100, "best-practices": 100, "seo": 100}
TEXT = (".css", ".html", ".js", ".json", ".svg", ".txt", ".xml")


class CompressingHandler(browser.QuietHandler):
    """Sends text compressed, over connections that stay open."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802  (the name that http.server asks for)
        path = Path(self.translate_path(self.path))
        if path.suffix not in TEXT or not path.is_file():
            return super().do_GET()
        body = gzip.compress(path.read_bytes())
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # the browser may leave early
            self.wfile.write(body)


def report(address, form):
    """What Lighthouse says of one page."""
    flags = " ".join(["--headless=new", *browser.ARGUMENTS])
    command = [PROGRAM, address, "--quiet", "--output=json", f"--chrome-flags={flags}"]
    if form == "desktop":
        command.append("--preset=desktop")
    settings = {**os.environ, "CHROME_PATH": browser.find()}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def scores(found):
    return {name: round(100 * found["categories"][name]["score"]) for name in LIMITS}


def faults(found):
    """The audits that cost points."""
    for name in LIMITS:
        for item in found["categories"][name]["auditRefs"]:
            audit = found["audits"][item["id"]]
            if item["weight"] and audit["score"] is not None and audit["score"] < 0.9:
                yield f"{name}: {audit['title']} {audit.get('displayValue', '')}"
                for place in audit.get("details", {}).get("items", []):
                    if "node" in place:
                        yield f"    {place['node']['snippet']}"


def measure(address, form):
    """The report of one page; the fastest of three, if the first is too slow."""
    best = report(address, form)
    for _ in range(2):
        if scores(best)["performance"] >= LIMITS["performance"]:
            break
        best = max(best, report(address, form), key=lambda one: scores(one)["performance"])
    return best


def main(wanted=""):
    if not HTML.is_dir():
        sys.exit("There is no book yet: run 'make book' first.")
    pages = [
        "index.html",
        *sorted(f"chapters/{path.name}" for path in HTML.glob("chapters/*.html")),
    ]
    kept = True
    print(f"{'page':42} {'form':8}", *(f"{name:>14}" for name in LIMITS))
    with browser.serving(HTML, CompressingHandler) as address:
        for page in (page for page in pages if wanted in page):
            for form in ("mobile", "desktop"):
                found = measure(f"{address}/{page}", form)
                got = scores(found)
                print(f"{page:42} {form:8}", *(f"{got[name]:14}" for name in LIMITS), flush=True)
                if any(got[name] < limit for name, limit in LIMITS.items()):
                    kept = False
                    print(*(f"    {fault}" for fault in faults(found)), sep="\n", flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
