"""What cells hand to their page: source code of the package, and numbers for the text.

The text holds the number itself, marked with its name: `<span data-from="name">4.9</span>`. `make
numbers` brings the marked numbers up to date with what the cells of the built book said.
"""

from inspect import getsource

from IPython.display import Markdown, display

MIME = "application/vnd.kvcache.told+json"


def tell(name, text):
    """Say what the text has between `<span data-from="name">` and `</span>`; shows nothing."""
    display({MIME: {name: str(text)}}, raw=True)


def source(thing):
    """The source of a class or function, to be shown."""
    return Markdown(f"```python\n{getsource(thing)}```")
