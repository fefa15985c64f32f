"""Finds a Chromium for the browser tests, or installs one: by apt as root, else by Playwright."""

import os
import shutil
import subprocess
import sys

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


if __name__ == "__main__":
    print(f"browser: {find()}" if find() else "no browser found, installing one")
    if not find():
        install()
