"""A headless Chromium and a local server of the built book, for all that looks at its pages.

python tools/browser.py    says where the browser is; installs one where there is none
"""

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find():
    """The path of an installed Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def install():
    """Install a Chromium: by apt as root, for it brings what Chromium needs; else Playwright's."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
        subprocess.run([*apt, "update"])
        subprocess.run([*apt, "install", "-y", "--no-install-recommends", NAMES[0], "fonts-dejavu"])
    if not find():
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


def launch(playwright):
    """A headless browser."""
    return playwright.chromium.launch(executable_path=find(), args=ARGUMENTS)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(folder):
    """Serve a folder on a free local port; gives the address."""
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


if __name__ == "__main__":
    if not find():
        install()
    print(find() or "Playwright's own")
