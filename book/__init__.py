"""What turns notebooks into pages: a Sphinx extension, and the theme in `theme/`.

`pages` fills in what the templates show, `writer` writes the elements of a page, `links` and
`outputs` work on its content before, and `records` makes the page of all measurements.
"""

from pathlib import Path

PARTS = ("links", "live", "outputs", "pages", "records", "writer")


def setup(app):
    app.add_html_theme("book", Path(__file__).parent / "theme")
    for part in PARTS:
        app.setup_extension(f"book.{part}")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
