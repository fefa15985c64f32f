"""The figures that move: one Python class and one ES module for each."""

from .kv_timeline import KVTimeline

__all__ = ["KVTimeline"]
