"""The reader's own prompt: by the small model in the page, or through Python where a kernel is."""

import html

import ipywidgets
import traitlets
from IPython.display import clear_output, display

from ..config import check_all, check_kinds, check_size, need, need_type
from ..tokenizer import encode
from .figure import Figure

OWN = "Type a prompt of your own:"
NOTES = {
    True: f"{OWN} the small model answers in the page itself, which needs JavaScript.",
    False: f"{OWN} that needs a kernel. Open this page in Colab with the rocket at the top, or run "
    "it on your machine with make lab.",
}
LIVE, CACHE = ("Generation", "KVTimeline", "SpeedRace", "BreakIt"), ("off", "on", "off and on")


class OwnPrompt(Figure):
    """A text box, a number and a button; shows the figure of the reader's own prompt below.

    figure          where a kernel is: called with token_ids (1, n_tokens) and max_new_tokens;
                    returns what to show, several things as a tuple
    prompt          what stands in the box at first
    max_new_tokens  likewise
    device          where the model is
    live            where no kernel is, the small model runs in the page, and shows these figures:
                    of "Generation", "KVTimeline", "SpeedRace", "BreakIt". None: it says what to do
    cache           for `live`: "off", "on" or "off and on", what is chosen at first

    What `figure` raises is shown in place, and an earlier figure stays. Raises TypeError for a
    figure that cannot be called or a prompt that is no text, ValueError for no number of tokens and
    for a figure or a way that is not there.
    """

    said = traitlets.Unicode().tag(sync=True)

    def __init__(
        self, figure, prompt="Time flies", max_new_tokens=6, device="cpu", live=(), cache="off"
    ):
        need_type(callable(figure), "figure", figure, "pass a function")
        check_kinds(prompt=(prompt, str), cache=(cache, str))
        check_size("max_new_tokens", max_new_tokens)
        live = check_all("live", live, str, least=0)
        for name, given, known in (("live", live, LIVE), ("cache", [cache], CACHE)):
            need(set(given) <= set(known), f"{name} is {given}", f"choose of {known}")
        self.figure, self.device = figure, device
        self.message, self.output = ipywidgets.Label(), ipywidgets.Output()
        data = {"prompt": prompt, "max_new_tokens": max_new_tokens, "cache": cache}
        super().__init__(data=data | {"live": live, "note": NOTES[bool(live)]})
        traitlets.link((self.message, "value"), (self, "said"))
        self.on_msg(lambda _, content, buffers: self.run(content))

    def run(self, content=None):
        """Run the model on the prompt in the control, or on what the control has sent."""
        self.data = self.data | (content or {})
        self.message.value, said = "running ...", "interrupted"
        try:
            need(self.data["prompt"], "the prompt is empty", "type at least 1 character")
            prompt = encode(self.data["prompt"], self.device)
            shown = self.figure(prompt, self.data["max_new_tokens"])
            with self.output:
                clear_output(wait=True)
                display(*(shown if isinstance(shown, tuple) else [shown]))
            said = ""
        except Exception as problem:
            said = str(problem) or type(problem).__name__
        finally:
            self.message.value = said

    def still(self):
        """What the control is for, in words."""
        return f"<p>{html.escape(self.data['note'])}</p>"

    def _ipython_display_(self, **options):
        super()._ipython_display_(**options)
        display(self.output)
