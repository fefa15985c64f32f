"""How many bytes a cache takes: by the formula, in the tensors, and beside a model's weights."""

import json
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from . import cached, config, data
from .config import check_kinds, check_kv_heads, check_number, check_size, kv_heads, need, set_sizes

# Bits of one number. int8 and int4 need scales beside them: 4 bytes for each vector of a cache, as
# in QuantizedCache, and 2 bytes for every 32 weights, as llama.cpp stores them.
BITS = {"bfloat16": 16, "float16": 16, "float32": 32, "int8": 8, "int4": 4}
SCALED = ("int8", "int4")


@dataclass(frozen=True)
class ModelShape:
    """What decides the size of a model's cache and of its weights.

    name            what its makers call it
    n_layers        transformer blocks
    n_heads         attention (query) heads
    n_kv_heads      heads with a key and a value; each serves n_heads / n_kv_heads query heads
    head_dim        numbers in the key, or in the value, of one head
    n_parameters    weights, as stored: shared ones count once where the file holds them once
    context_length  longest sequence that it is made for, in tokens
    source          where the shape stands: an address
    n_window_layers, window  how many of the layers keep the last `window` tokens only
    latent_dim      numbers in the one vector that latent attention keeps for a token in each layer,
                    in place of the heads' keys and values; 0: it keeps those

    Raises ValueError for a shape that cannot be.
    """

    name: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_parameters: int
    context_length: int
    source: str = ""
    n_window_layers: int = 0
    window: int = 0
    latent_dim: int = 0

    def __post_init__(self):
        sizes = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "n_parameters", "context_length")
        set_sizes(self, sizes)
        check_kv_heads(self.n_heads, self.n_kv_heads)
        set_sizes(self, ("n_window_layers", "window", "latent_dim"), least=0)
        check_size("n_layers - n_window_layers", self.n_layers - self.n_window_layers, least=0)
        check_size("window", self.window, least=min(1, self.n_window_layers))


class GPU(NamedTuple):
    """A GPU with the memory on its data sheet, a "GB" taken as a GiB of 2**30 bytes.

    That is near what cards have. A driver reports up to a few per cent less, and some of it is
    never free.
    """

    name: str
    memory_bytes: int
    source: str


LISTS = json.loads(data.checked_path("model_shapes.json").read_text(encoding="utf-8"))
MODEL_SHAPES = tuple(ModelShape(**each) for each in LISTS["models"])
GPUS = tuple(GPU(**each) for each in LISTS["gpus"])


def kv_cache_bytes(cfg, n_tokens, batch_size=1, dtype=torch.float32):
    """Bytes of a full key/value cache.

    2 (key and value) x n_layers x batch_size x K/V heads x n_tokens x head_dim x bytes per number

    A layer with a window keeps at most that many tokens; latent attention keeps one vector of
    latent_dim numbers for a token. In int8 and int4 each vector has its scale.

    cfg    a GPTConfig, which has a key and a value in each of its n_heads, or a ModelShape
    dtype  a torch dtype, or a name in BITS

    Raises TypeError for another cfg, ValueError for a number of tokens or sequences that cannot be.
    """
    check_kinds(cfg=(cfg, config.GPTConfig | ModelShape))
    n_tokens = check_size("n_tokens", n_tokens, least=0)
    batch_size = check_size("batch_size", batch_size)
    n_vectors, n_numbers = 2 * kv_heads(cfg), cfg.head_dim
    n_kept = cfg.n_layers * n_tokens
    if isinstance(cfg, ModelShape):
        n_kept -= cfg.n_window_layers * max(0, n_tokens - cfg.window)
        if cfg.latent_dim:
            n_vectors, n_numbers = 1, cfg.latent_dim
    bits, has_scales = _format(dtype)
    return batch_size * n_kept * n_vectors * ((n_numbers * bits + 7) // 8 + 4 * has_scales)


def weight_bytes(shape, dtype="bfloat16"):
    """Bytes of a ModelShape's weights, with the scales of int8 and int4.

    Raises TypeError for what is no ModelShape, ValueError for a dtype that is unknown.
    """
    check_kinds(shape=(shape, ModelShape))
    bits, has_scales = _format(dtype)
    return (shape.n_parameters * bits + 7) // 8 + 2 * has_scales * -(-shape.n_parameters // 32)


def longest_context(shape, memory_bytes, batch_size=1, dtype="bfloat16", weight_dtype="bfloat16"):
    """The most tokens whose cache fits beside the weights; 0 if not one fits.

    The weights alone fit if `weight_bytes` is at most memory_bytes. math.inf where every layer has
    a window and all windows fit. An upper limit, which may be beyond shape.context_length:
    activations and the framework need memory as well.

    memory_bytes  of the GPU, as in GPUS
    batch_size    sequences of that length at once
    dtype         of the cache; weight_dtype of the weights

    Raises TypeError for what is no ModelShape, ValueError for a size that cannot be.
    """
    check_kinds(shape=(shape, ModelShape))
    memory_bytes = int(check_number("memory_bytes", memory_bytes, 1, math.inf))
    free = max(0, memory_bytes - weight_bytes(shape, weight_dtype))
    n_tokens = free // kv_cache_bytes(shape, 1, batch_size, dtype)
    if not shape.n_window_layers or n_tokens <= shape.window:
        return n_tokens
    full = kv_cache_bytes(shape, shape.window, batch_size, dtype)  # all windows are full
    each = kv_cache_bytes(shape, shape.window + 1, batch_size, dtype) - full
    return shape.window + (free - full) // each if each else math.inf


def measured_cache_bytes(model):
    """Bytes of the tensors that a `cached.GPTModel` holds in its cache now.

    Raises TypeError for a model that has no cache inside.
    """
    check_kinds(model=(model, cached.GPTModel))
    return sum(buffer.nbytes for name, buffer in model.named_buffers() if "att.cache_" in name)


def _format(dtype):
    """Bits of one number, and whether it has scales: of a name in BITS, or of a torch dtype."""
    name = str(dtype).removeprefix("torch.")
    bits = BITS.get(name) or (8 * dtype.itemsize if isinstance(dtype, torch.dtype) else None)
    need(bits, f"dtype is {dtype!r}", f"pass a torch dtype or one of {', '.join(BITS)}")
    return bits, name in SCALED
