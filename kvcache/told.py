"""Hands a number that a cell computed to the text of its chapter.

The text holds the number itself, marked with its name: `<span data-from="name">4.9</span>`. `make
numbers` brings the marked numbers up to date with what the cells of the built book said.
"""

from IPython.display import display

MIME = "application/vnd.kvcache.told+json"


def tell(name, text):
    """Say what the text has between `<span data-from="name">` and `</span>`; shows nothing."""
    display({MIME: {name: str(text)}}, raw=True)
