"""What a GPT is made of, and what it may be fed: `GPTConfig` and the sizes used in the book."""

from dataclasses import dataclass
from numbers import Integral

import torch


def need(condition, problem, remedy, error=ValueError):
    """Raise an error that says what is wrong and what to do, unless a condition holds."""
    if not condition:
        raise error(f"{problem}; {remedy}.")


def check_size(name, size, least=1):
    """Raise ValueError unless a size is a whole number of at least `least`. True is none."""
    whole = isinstance(size, Integral) and not isinstance(size, bool)
    need(whole and size >= least, f"{name} is {size!r}", f"pass a whole number of at least {least}")


def check_kv_heads(n_heads, n_kv_heads):
    """Raise ValueError unless each key and value can serve equally many query heads."""
    problem = f"n_kv_heads {n_kv_heads} does not divide n_heads {n_heads}"
    need(n_heads % n_kv_heads == 0, problem, f"choose a divisor of {n_heads}")


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
        for name in ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"):
            check_size(name, getattr(self, name))
        rate, emb_dim, n_heads = self.drop_rate, self.emb_dim, self.n_heads
        need(0 <= rate < 1, f"drop_rate is {rate!r}", "choose 0 <= drop_rate < 1")
        problem = f"emb_dim {emb_dim} does not divide by n_heads {n_heads}"
        need(emb_dim % n_heads == 0, problem, f"choose a multiple of {n_heads}")

    @property
    def head_dim(self):
        """Numbers in the query, key or value vector of one head."""
        return self.emb_dim // self.n_heads

    def check_token_ids(self, token_ids, device, n_past=0):
        """Refuse what would go wrong in a pass, before any work. Nothing is asked of the device.

        token_ids  (batch, n_tokens), torch.int64 or torch.int32
        device     where the model's parameters are
        n_past     how many positions come before these tokens

        Raises TypeError for a wrong type, ValueError for a wrong shape or place, or a long text.
        """
        dtype = getattr(token_ids, "dtype", None)
        problem = f"token_ids is a {type(token_ids).__name__} of dtype {dtype}"
        remedy = "pass torch.tensor([[id, id, ...]]), or token_ids.long()"
        need(dtype in (torch.int64, torch.int32), problem, remedy, TypeError)
        shape, where = tuple(token_ids.shape), token_ids.device
        remedy = "pass (batch, n_tokens), at least 1 token; for one text token_ids.unsqueeze(0)"
        need(len(shape) == 2 and 0 not in shape, f"token_ids has shape {shape}", remedy)
        problem = f"token_ids is on {where}, the model on {device}"
        need(where == device, problem, f'move it: token_ids.to("{device}")')
        total, most = n_past + shape[1], self.context_length
        problem = f"{n_past} earlier + {shape[1]} new tokens are {total}"
        remedy = "shorten the text, or begin with an empty cache"
        need(total <= most, f"{problem}, and the context length is {most}", remedy)

    def check_vocabulary(self, token_ids):
        """Raise ValueError for ids outside 0 .. vocab_size - 1. Waits for the device."""
        low, high = (end.item() for end in token_ids.aminmax())
        wrong = low if low < 0 else high
        problem = f"token id {wrong} is outside the vocabulary, 0 to {self.vocab_size - 1}"
        remedy = "use the tokenizer that belongs to this model"
        need(0 <= wrong < self.vocab_size, problem, remedy)


# The smallest GPT-2: 124 million parameters when the output head shares the embedding's weights.
GPT2_124M = GPTConfig(
    vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12, drop_rate=0.1
)

# The small model of the book, trained on data/time_flies.txt: see time_flies.py.
TIME_FLIES = GPTConfig(vocab_size=50257, context_length=128, emb_dim=64, n_heads=4, n_layers=4)
