"""Measurements: made once and well, put on record, and told everywhere the same.

`experiments.py` says what an experiment is and measures it, `records.py` keeps what was measured,
`showing.py` shows it in a notebook. The experiments that several chapters tell stand in
`machine.py` and `speed.py`; one that a single chapter tells stands in that chapter.
"""

from .experiments import experiment
from .showing import measured
