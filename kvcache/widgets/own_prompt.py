"""Controls for readers with a kernel: a prompt of their own, through the real model."""

import ipywidgets
from IPython.display import clear_output, display

from ..config import check_kinds, check_size, need, need_type
from ..tokenizer import encode
from .figure import show

WITHOUT_A_KERNEL = (
    "<p><b>Type a prompt of your own:</b> that needs a kernel. Open this page in Colab with the "
    "rocket at the top, or run it on your machine with <code>make lab</code>.</p>"
)


class OwnPrompt(ipywidgets.VBox):
    """A text box, a number and a button; shows the figure of the reader's own prompt below.

    figure          called with token_ids (1, n_tokens) and max_new_tokens; returns what to show
    prompt          what stands in the box at first
    max_new_tokens  likewise
    device          where the model is

    What `figure` raises is shown in place, and an earlier figure stays. Raises TypeError for a
    figure that cannot be called or a prompt that is no text, ValueError for no number of tokens.
    """

    def __init__(self, figure, prompt="Time flies", max_new_tokens=6, device="cpu"):
        need_type(callable(figure), "figure", figure, "pass a function")
        check_kinds(prompt=(prompt, str))
        check_size("max_new_tokens", max_new_tokens)
        self.figure, self.device = figure, device
        self.prompt = ipywidgets.Text(prompt, description="Prompt")
        options = {"description": "New tokens", "min": 1, "max": 200}
        self.max_new_tokens = ipywidgets.BoundedIntText(max_new_tokens, **options)
        self.button = ipywidgets.Button(description="Run the model")
        self.message, self.output = ipywidgets.Label(), ipywidgets.Output()
        self.button.on_click(self.run)
        super().__init__([self.prompt, self.max_new_tokens, self.button, self.message, self.output])

    def run(self, _=None):
        """Run the model on what is in the box."""
        self.message.value, self.button.disabled, said = "running ...", True, "interrupted"
        try:
            need(self.prompt.value, "the prompt is empty", "type at least 1 character")
            prompt = encode(self.prompt.value, self.device)
            shown = self.figure(prompt, self.max_new_tokens.value)
            with self.output:
                clear_output(wait=True)
                display(shown)
            said = ""
        except Exception as problem:
            said = str(problem) or type(problem).__name__
        finally:
            self.message.value, self.button.disabled = said, False

    def _ipython_display_(self, **_):
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        bundle = {"text/plain": repr(self), "application/vnd.jupyter.widget-view+json": view}
        show(bundle, {}, self.model_id, WITHOUT_A_KERNEL)
