"""Caches as objects. A model is handed one, and keeps nothing of it: see `base.py`."""

from .base import Cache, NoCache
from .paged import PagedBatch, PagedCache
from .quantized import QuantizedCache, dequantize, quantize
from .whole import ConcatCache, PreallocatedCache
from .window import SlidingWindowCache
