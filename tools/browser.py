"""Finds a Chromium for the browser tests, or installs one: by apt as root, else by Playwright.

And what every script with a browser needs: a running one, and a local server of the built book.
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
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def install():
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        packages = ["chromium", "fonts-dejavu"]
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        if (
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
            and find()
        ):
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


def launch(playwright):
    """A headless browser."""
    return playwright.chromium.launch(executable_path=find(), args=ARGUMENTS)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(folder, handler=QuietHandler):
    """Serve a folder on a free local port; gives the address."""
    handler = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


if __name__ == "__main__":
    print(f"browser: {find()}" if find() else "no browser found, installing one")
    if not find():
        install()
