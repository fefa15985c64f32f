"""What a GPT is made of, and what it may be fed: `GPTConfig` and the sizes used in the book."""

from dataclasses import dataclass
from numbers import Integral

import torch


def check_size(name, size, least=1):
    """Raise ValueError unless a size is a whole number of at least `least`. True is none."""
    if not isinstance(size, Integral) or isinstance(size, bool) or size < least:
        raise ValueError(f"{name} is {size!r}; it must be a whole number of at least {least}.")


def check_kv_heads(n_heads, n_kv_heads):
    """Raise ValueError unless each key and value can serve equally many query heads."""
    if n_heads % n_kv_heads:
        remedy = f"choose a divisor of {n_heads}"
        raise ValueError(f"n_kv_heads {n_kv_heads} does not divide n_heads {n_heads}; {remedy}.")


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
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate is {self.drop_rate!r}; choose 0 <= drop_rate < 1.")
        if self.emb_dim % self.n_heads:
            sizes = f"emb_dim {self.emb_dim} does not divide by n_heads {self.n_heads}"
            raise ValueError(f"{sizes}; choose emb_dim as a multiple of {self.n_heads}.")

    @property
    def head_dim(self):
        """Numbers in the query, key or value vector of one head."""
        return self.emb_dim // self.n_heads

    def check_token_ids(self, token_ids, device, n_past=0):
        """Refuse token ids that the model cannot take, before any work.

        token_ids  (batch, n_tokens), torch.int64 or torch.int32, each in 0 .. vocab_size - 1
        device     where the model's parameters are
        n_past     how many positions come before these tokens

        Raises TypeError for a wrong type, ValueError for a wrong shape, place or value.
        """
        if not isinstance(token_ids, torch.Tensor):
            kind = type(token_ids).__name__
            raise TypeError(f"token_ids is a {kind}; pass a tensor: torch.tensor([[id, id, ...]]).")
        dtype, shape, where = token_ids.dtype, tuple(token_ids.shape), token_ids.device
        if dtype not in (torch.int64, torch.int32):
            raise TypeError(f"token_ids has dtype {dtype}, not torch.int64; use token_ids.long().")
        if token_ids.ndim != 2:
            remedy = "for one sequence: token_ids.unsqueeze(0)"
            raise ValueError(f"token_ids has shape {shape}, not (batch, n_tokens); {remedy}.")
        if token_ids.numel() == 0:
            raise ValueError(f"token_ids has shape {shape}: it is empty; pass at least 1 token.")
        if where != device:
            remedy = f'move it: token_ids.to("{device}")'
            raise ValueError(f"token_ids is on {where}, the model on {device}; {remedy}.")
        total = n_past + shape[1]
        if total > self.context_length:
            asked = f"{n_past} earlier + {shape[1]} new tokens are {total}"
            remedy = "Shorten the text, or reset the cache."
            raise ValueError(f"{asked}; the context length is {self.context_length}. {remedy}")
        for token_id in (token_ids.min().item(), token_ids.max().item()):
            if not 0 <= token_id < self.vocab_size:
                found = f"token id {token_id} is outside the vocabulary, 0 to {self.vocab_size - 1}"
                raise ValueError(f"{found}; use the tokenizer that belongs to this model.")


# The smallest GPT-2: 124 million parameters when the output head shares the embedding's weights.
GPT2_124M = GPTConfig(
    vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12, drop_rate=0.1
)

# The small model of the book, trained on data/time_flies.txt: see time_flies.py.
TIME_FLIES = GPTConfig(vocab_size=50257, context_length=128, emb_dim=64, n_heads=4, n_layers=4)
