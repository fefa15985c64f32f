"""Time Flies Fast: the small helper package of a book about the KV cache."""

from . import baseline, cached, caches, llama, optimized
from .config import GPT2_124M, TIME_FLIES, GPTConfig
from .generate import generate, stream
from .tokenizer import load_tokenizer
from .trace import trace
