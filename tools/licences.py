"""Names the data files whose origin and licence nobody has written down.

A folder with data has a NOTICE.md with a table: the file, what it is, its origin and its licence.

    python tools/licences.py
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kvcache/data", "tests/data", "images")
OURS = {"NOTICE.md", "SHA256SUMS", "__init__.py"}


def unlicensed(root=ROOT):
    """Yield each data file without a row that names a licence."""
    for folder in FOLDERS:
        notice = root / folder / "NOTICE.md"
        rows = notice.read_text(encoding="utf-8").splitlines() if notice.is_file() else []
        for path in sorted((root / folder).iterdir()):
            if path.is_file() and path.name not in OURS:
                row = next((row for row in rows if f"`{path.name}`" in row), "")
                if not re.search(r"licen[cs]e|\bMIT\b|public domain", row):
                    yield path.relative_to(root)


if __name__ == "__main__":
    missing = [str(path) for path in unlicensed()]
    sys.exit("no licence in NOTICE.md: " + ", ".join(missing) if missing else None)
