"""Measurements: made once and well, put on record, and told everywhere the same.

`experiments.py` says what an experiment is and measures it, `records.py` keeps what was measured,
`showing.py` shows it in a notebook. An experiment stands in the chapter that tells it;
others show its record. `machine.py` reads the one that every limit comes from.
"""

from .experiments import experiment
from .showing import measured, on_record
