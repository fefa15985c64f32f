"""What a GPT is made of, and what it may be fed: `GPTConfig` and the sizes used in the book."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real

import torch

TINY = torch.finfo(torch.float32).tiny  # below it a float32 is less exact, and then 0


def need(condition, problem, remedy, error=ValueError):
    """Raise an error that says what is wrong and what to do, unless a condition holds."""
    if not condition:
        raise error(f"{problem}; {remedy}.")


def need_type(right, name, thing, remedy):
    """Raise TypeError with the name of a thing's type, unless it is of a right one."""
    need(right, f"{name} is a {type(thing).__name__}", remedy, TypeError)


def check_kinds(**arguments):
    """Raise TypeError for an argument, name=(value, kind), that is not of its kind."""
    for name, (value, kind) in arguments.items():
        need_type(isinstance(value, kind), name, value, f"pass a {getattr(kind, '__name__', kind)}")


def check_all(name, things, kind, least=1):
    """Things that can be gone through, as a list.

    Raises TypeError unless all are of a kind, ValueError if there are fewer than `least`.
    """
    need_type(isinstance(things, Iterable), name, things, "pass a list")
    things = list(things)
    for each in things:
        check_kinds(**{f"a {name.removesuffix('s')}": (each, kind)})
    need(len(things) >= least, f"there are {len(things)} {name}", f"this needs at least {least}")
    return things


def check_size(name, size, least=1):
    """A size as an int. Raises ValueError for no whole number, or below `least`. True is none."""
    right = isinstance(size, Integral) and not isinstance(size, bool) and least <= size < 2**63
    need(right, f"{name} is {size!r}", f"pass a whole number of at least {least}")
    return int(size)  # an integer of NumPy may have 32 bits, and wrap


def check_number(name, number, low, high):
    """A number as a float. Raises ValueError unless low <= number < high."""
    right = isinstance(number, Real) and not isinstance(number, bool)
    right = right and low <= number < min(high, 1e308)
    need(right, f"{name} is {number!r}", f"choose {low:.3g} <= {name} < {high:.3g}")
    return float(number)


def set_sizes(config, names, least=1):
    """Make some sizes of a frozen dataclass Python's integers. Raises what `check_size` raises."""
    for name in names:
        object.__setattr__(config, name, check_size(name, getattr(config, name), least))


def check_kv_heads(n_heads, n_kv_heads):
    """Raise ValueError unless each key and value can serve equally many query heads."""
    problem = f"n_kv_heads {n_kv_heads} does not divide n_heads {n_heads}"
    need(n_heads % n_kv_heads == 0, problem, f"choose a divisor of {n_heads}")


def check_one_text(token_ids):
    """Raise ValueError for a batch: what shows or records a text takes one."""
    need(len(token_ids) == 1, f"the batch size is {len(token_ids)}", "pass one: token_ids[:1]")


def kv_heads(cfg):
    """Heads with a key and a value: a GPT has as many as it has queries."""
    return getattr(cfg, "n_kv_heads", cfg.n_heads)


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of one GPT. The field names are those of the public GPT behind the sources.

    vocab_size      number of different tokens
    context_length  longest sequence, in tokens
    emb_dim         numbers in the vector of one token
    n_heads         attention heads; each works on head_dim = emb_dim / n_heads numbers
    n_layers        transformer blocks
    drop_rate       share of activations zeroed in training, 0 <= drop_rate < 1
    qkv_bias        whether the query, key and value projections add a bias

    Raises ValueError for sizes that cannot be built.
    """

    vocab_size: int
    context_length: int
    emb_dim: int
    n_heads: int
    n_layers: int
    drop_rate: float = 0.0
    qkv_bias: bool = False

    def __post_init__(self):
        set_sizes(self, ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"))
        check_number("drop_rate", self.drop_rate, 0, 1)
        emb_dim, n_heads = self.emb_dim, self.n_heads
        problem = f"emb_dim {emb_dim} does not divide by n_heads {n_heads}"
        need(emb_dim % n_heads == 0, problem, f"choose a multiple of {n_heads}")

    @property
    def head_dim(self):
        """Numbers in the query, key or value vector of one head."""
        return self.emb_dim // self.n_heads

    def check_token_ids(self, token_ids, device, n_past=0, n_later=0):
        """Refuse what would go wrong in a pass, before any work. Nothing is asked of the device.

        token_ids  (batch, n_tokens), torch.int64 or torch.int32
        device     where the model's parameters are
        n_past     how many positions come before these tokens, and n_later after them

        Raises TypeError for a wrong type, ValueError for a wrong shape or place, or a long text.
        """
        remedy = "pass a tensor, as encode(text) of kvcache.tokenizer gives"
        need_type(isinstance(token_ids, torch.Tensor), "token_ids", token_ids, remedy)
        shape, dtype, where = tuple(token_ids.shape), token_ids.dtype, token_ids.device
        need(0 not in shape, f"token_ids is empty: its shape is {shape}", "pass at least 1 token")
        whole = dtype in (torch.int64, torch.int32)
        need(whole, f"token_ids has dtype {dtype}", "pass token_ids.long()", TypeError)
        need(len(shape) == 2, f"token_ids has shape {shape}", "pass (batch, n_tokens)")
        need(where == device, f"token_ids is on {where}, the model on {device}", "move one of them")
        total, tokens = n_past + shape[1] + n_later, f"{n_past} cached + {shape[1]} given"
        problem = f"{tokens} + {n_later} new tokens exceed the context length {self.context_length}"
        need(total <= self.context_length, problem, "shorten the text, or empty the cache")

    def check_vocabulary(self, token_ids):
        """Raise ValueError for ids outside 0 .. vocab_size - 1. Waits for the device."""
        low, high = (end.item() for end in token_ids.aminmax())
        wrong = low if low < 0 else high
        problem = f"token id {wrong} is outside the vocabulary, 0 to {self.vocab_size - 1}"
        need(0 <= wrong < self.vocab_size, problem, "use this model's tokenizer")


# The smallest GPT-2: 124 million parameters when the output head shares the embedding's weights.
GPT2_124M = GPTConfig(50257, 1024, emb_dim=768, n_heads=12, n_layers=12, drop_rate=0.1)

# The small model of the book, trained on data/time_flies.txt: see time_flies.py.
TIME_FLIES = GPTConfig(50257, 128, emb_dim=64, n_heads=4, n_layers=4)
