"""The race: two recorded generations, token by token, in the times that they really took."""

from ..config import check_kinds, check_one_text, need
from ..plots import time_per_token
from ..timing import Timing
from ..tokenizer import token_texts
from .figure import Figure


class SpeedRace(Figure):
    """Plays two Timing objects side by side, with the time of each token as a growing curve.

    without, cached  what `Record.timing` returns, without and with a cache, for one sequence

    Raises TypeError for what is no Timing, ValueError if they have not the same prompt
    and number of new tokens, or more than one sequence.
    """

    def __init__(self, without, cached, **kwargs):
        check_kinds(without=(without, Timing), cached=(cached, Timing))
        shapes = [tuple(timing.token_ids.shape) for timing in (without, cached)]
        same = shapes[0] == shapes[1] and without.n_prompt == cached.n_prompt
        need(same, f"the generations have shapes {shapes}", "time the same prompt twice")
        check_one_text(without.token_ids)
        self.timings = without, cached
        runs = []
        for timing in self.timings:
            milliseconds = [round(1000 * seconds, 4) for seconds in timing.per_token.tolist()]
            texts = token_texts(timing.token_ids[0].tolist())
            runs.append({"label": timing.label, "milliseconds": milliseconds, "texts": texts})
        same = without.token_ids.tolist() == cached.token_ids.tolist()
        super().__init__(data={"n_prompt": without.n_prompt, "runs": runs, "same": same}, **kwargs)

    def still(self):
        """The curves of both generations, whole. Raises what `time_per_token` raises."""
        plot = time_per_token(self.timings)
        plot.description = f"Speed race. {plot.description}"
        return plot._repr_html_()
