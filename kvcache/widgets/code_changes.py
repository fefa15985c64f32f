"""The five changes: the real source before and after, and what each does to the timeline."""

from difflib import SequenceMatcher

from ..config import check_all, need
from .figure import Figure
from .still import timelines


class CodeChanges(Figure):
    """A walk through changes of code, each with an experiment without and with it.

    changes  (sources, tokens, before, after) of each: sources is {where: (lines before, lines
             after)}; tokens are the labels of the experiment's; before and after are rows, a letter
             for each token and a note

    Raises TypeError for what is no such tuple, ValueError unless there are five.
    """

    def __init__(self, changes, **kwargs):
        shown = []
        for sources, tokens, before, after in check_all("changes", changes, tuple, least=0):
            pieces = []
            for where, (old, new) in sources.items():
                blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
                pieces.append({"where": where, "before": old, "after": new, "blocks": blocks})
            shown.append({"pieces": pieces, "tokens": tokens, "before": before, "after": after})
        need(len(shown) == 5, f"there are {len(shown)} changes", "give the 5")
        super().__init__(data={"changes": shown}, **kwargs)

    def still(self):
        """The timeline before and after the last change."""
        last = self.data["changes"][-1]
        rows = {side: [marks for marks, _ in last[side]] for side in ("before", "after")}
        panels = [(f"{side} the last change", last["tokens"], rows[side]) for side in rows]
        return timelines("Changes of code", panels)
