"""The memory calculator: what a cache takes beside the weights, in models that people use."""

from dataclasses import asdict

from ..config import check_all, need
from ..memory import BITS, GPU, GPUS, MODEL_SHAPES, SCALED, ModelShape, kv_cache_bytes, weight_bytes
from .figure import Figure
from .still import table


class MemoryCalculator(Figure):
    """Bytes per token, cache against weights, and the longest context that fits on a GPU.

    shapes  ModelShape objects to choose from; the first is shown first
    gpus    GPU objects to choose from

    Raises TypeError for anything else, ValueError if there are none.
    """

    def __init__(self, shapes=MODEL_SHAPES, gpus=GPUS, **kwargs):
        self.shapes = check_all("shapes", shapes, ModelShape, least=0)
        gpus = check_all("gpus", gpus, GPU, least=0)
        need(self.shapes and gpus, "there are 0 shapes, or 0 gpus", "pass at least 1 of each")
        own, formats = {"name": "your own"}, []
        for name, bits in BITS.items():
            said = f"{name}: {bits} bits" + (" and scales" if name in SCALED else "")
            formats.append({"name": said, "bits": bits, "has_scales": name in SCALED})
        # Whoever chooses another model begins with 1 text again.
        models = [{**asdict(shape), "batch_size": 1} for shape in self.shapes]
        choices = {"Model": [*models, own], "GPU": [*map(GPU._asdict, gpus), own]}
        choices |= {"Cache format": formats, "Weight format": formats}
        lists = [{"label": label, "items": items} for label, items in choices.items()]
        super().__init__(data={"lists": lists}, **kwargs)

    def still(self):
        """A table of the models, in bfloat16."""
        rows = [("model", "for each token", "cache at full context", "weights")]
        for shape in self.shapes:
            tokens = shape.context_length
            token, full = (kv_cache_bytes(shape, n, dtype="bfloat16") for n in (1, tokens))
            full = f"{full / 2**30:.4g} GiB ({tokens:,} tokens)"
            weights = f"{weight_bytes(shape) / 2**30:.4g} GiB"
            rows.append((shape.name, f"{token:,} bytes", full, weights))
        return table("Memory of caches and weights in bfloat16", rows)
