"""What every widget shares: its modules, its style, and the still picture beside it."""

import json
import re
from pathlib import Path

import anywidget
import traitlets
from IPython.display import HTML, display

FOLDER = Path(__file__).parent
IMPORT = re.compile(r'^import \{[^}]*\} from "[./\w]*?(\w+\.js)";$', re.MULTILINE)


def module_text(name):
    """An ES module of this folder, with the modules that it imports put in their place, each once.

    A widget travels as one text, without files beside it, so that it also works in a saved page.
    No two modules have the same name, whatever their folder.
    """
    text, there = (FOLDER / name).read_text(encoding="utf-8"), set()
    while found := IMPORT.search(text):
        module = next(FOLDER.rglob(found[1])).read_text(encoding="utf-8")
        inside = "" if found[1] in there else re.sub("(?m)^export ", "", module)
        text = text.replace(found[0], inside, 1)
        there.add(found[1])
    return text


class Figure(anywidget.AnyWidget):
    """A widget that shows `data` and needs no kernel: all interaction runs in the browser.

    A subclass in x.py has its ES module in x.js, fills `data`, and draws itself once in `still`.

    Raises ValueError for a number in `data` that is infinite or NaN.
    """

    _css = (FOLDER / "figure.css").read_text(encoding="utf-8")
    data = traitlets.Dict().tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        if "_esm" not in vars(cls):
            cls._esm = module_text(cls.__module__.rpartition(".")[2] + ".js")
        super().__init_subclass__(**kwargs)

    def __init__(self, **kwargs):
        try:
            json.dumps(kwargs.get("data"), allow_nan=False)
        except ValueError:
            name = type(self).__name__
            raise ValueError(f"{name}: a number is infinite or NaN; give finite ones.") from None
        super().__init__(**kwargs)

    def still(self):
        """SVG of a telling state, for readers without JavaScript and for print.

        A subclass draws it; without that it raises NotImplementedError.
        """
        raise NotImplementedError

    def _ipython_display_(self, **_):
        bundle, metadata = self._repr_mimebundle_()  # the metadata is what Colab asks for
        show(bundle, metadata, self.model_id, self.still())


def show(bundle, metadata, model_id, instead):
    """Display a widget, and HTML that stands in its place where no script or no kernel runs."""
    display(bundle, metadata=metadata, raw=True)
    display(HTML(f'<noscript data-still-of="{model_id}">{instead}</noscript>'))
