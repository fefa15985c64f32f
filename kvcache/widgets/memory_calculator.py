"""The memory calculator: what a cache takes beside the weights, in models that people use."""

from dataclasses import asdict

from ..memory import BITS, GPU, GPUS, MODEL_SHAPES, kv_cache_bytes, weight_bytes
from .figure import Figure, module_text
from .still import table_picture

NAMES = ("key", "label", "most", "unit", "list")
FIELDS = (  # ... the largest value, what a typed 1 stands for, the list that it is part of
    ("n_layers", "Layers", 10**4, 1, 0),
    ("n_heads", "Attention heads", 10**4, 1, 0),
    ("n_kv_heads", "K/V heads", 10**4, 1, 0),
    ("head_dim", "Head size", 10**5, 1, 0),
    ("n_parameters", "Parameters in billions", 10**6, 10**9, 0),
    ("batch_size", "Batch", 10**6, 1, None),
    ("context_length", "Context in tokens", 10**9, 1, None),
    ("memory_bytes", "GPU memory in GB", 10**6, 10**9, 1),
)


class MemoryCalculator(Figure):
    """Bytes per token, cache against weights, and the longest context that fits on a GPU.

    shapes  ModelShape objects to choose from; the first is shown first
    gpus    GPU objects to choose from

    Raises ValueError if there are none.
    """

    _esm = module_text("memory_calculator.js")

    def __init__(self, shapes=MODEL_SHAPES, gpus=GPUS, **kwargs):
        if not shapes or not gpus:
            raise ValueError(f"{len(shapes)} shapes and {len(gpus)} GPUs; pass at least 1 of each.")
        self.shapes = tuple(shapes)
        own = {"name": "your own"}
        formats = [{"name": f"{name}: {n / 8:g} bytes", "bits": n} for name, n in BITS.items()]
        labels = ("Model", "GPU", "Cache format", "Weight format")
        choices = [*map(asdict, shapes), own], [*map(GPU._asdict, gpus), own], formats, formats
        lists = [{"label": label, "items": it} for label, it in zip(labels, choices, strict=True)]
        fields = [dict(zip(NAMES, row, strict=True)) for row in FIELDS]
        super().__init__(data={"fields": fields, "lists": lists}, **kwargs)

    def still(self):
        """A table of the models, in bfloat16, as SVG."""
        rows = [("model", "for each token", "cache at full context", "weights")]
        for shape in self.shapes:
            tokens = shape.context_length
            token, full = (kv_cache_bytes(shape, n, dtype="bfloat16") for n in (1, tokens))
            full = f"{size_text(full)} ({tokens:,} tokens)"
            rows.append((shape.name, size_text(token), full, size_text(weight_bytes(shape))))
        label = "Memory of caches and weights in bfloat16"
        return table_picture(label, 540, rows, (0, 130, 250, 460))


def size_text(n_bytes):
    """Bytes as people say them, in decimal units: 1 kB is 1,000 bytes."""
    unit = 0
    while n_bytes >= 999.5:
        n_bytes, unit = n_bytes / 1000, unit + 1
    return f"{n_bytes:.3g} {('', *'kMGTPEZYR')[unit]}B"
