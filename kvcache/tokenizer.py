"""Text to token ids and back: the GPT-2 encoding of tiktoken, from a packaged file, offline."""

import codecs
import unicodedata
from base64 import b64decode
from functools import cache

import tiktoken
import torch
from tiktoken_ext.openai_public import r50k_pat_str

from . import data
from .config import check_all, check_kinds, check_size


@cache
def load_tokenizer():
    """tiktoken's "gpt2" encoding (50,257 tokens), without network.

    Raises FileNotFoundError or ValueError if the packaged file is missing or damaged.
    """
    # Each line is one token: its bytes in base64, and its rank, which is its id.
    lines = data.checked_path("r50k_base.tiktoken").read_bytes().splitlines()
    ranks = {b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    options = {"pat_str": r50k_pat_str, "special_tokens": {"<|endoftext|>": len(ranks)}}
    return tiktoken.Encoding("gpt2", mergeable_ranks=ranks, **options)


def encode(text, device="cpu"):
    """The token ids of a text as a model takes them, (1, n_tokens). No mark in it is special.

    Raises TypeError for what is no text.
    """
    check_kinds(text=(text, str))
    return torch.tensor([load_tokenizer().encode_ordinary(text)], dtype=torch.int64, device=device)


def decode(token_ids):
    """The text of some token ids: a tensor of any shape.

    Raises TypeError for anything else, ValueError for what is no whole number from 0 on.
    """
    check_kinds(token_ids=(token_ids, torch.Tensor))
    return b"".join(map(token_bytes, token_ids.flatten())).decode("utf-8", "replace")


def token_label(token_id):
    """One token as a short visible text: ␣ is a space, ↵ a line end; the invisible is in hex.

    A mark that belongs on the letter before it, as an accent may, stands on a dotted circle. Raises
    ValueError for what is no whole number from 0 on.
    """
    text = token_bytes(token_id).decode("utf-8", "backslashreplace")
    text = text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    if unicodedata.category(text[0]).startswith("M"):
        text = "◌" + text
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def token_texts(token_ids):
    """The text that each token adds: joined, they are the whole text.

    A character that is spread over several tokens comes with the last of them.

    Raises TypeError or ValueError for anything but whole numbers from 0 on.
    """
    token_ids = check_all("token_ids", token_ids, object, least=0)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(token_bytes(token_id)) for token_id in token_ids]


def token_bytes(token_id):
    """The bytes of one token; beyond the vocabulary of the tokenizer its number.

    Raises ValueError for what is no whole number from 0 on.
    """
    tokenizer = load_tokenizer()
    number = token_id.tolist() if isinstance(token_id, torch.Tensor) else token_id
    token_id = check_size("token_id", number, least=0)
    known = token_id < tokenizer.n_vocab
    return tokenizer.decode_single_token_bytes(token_id) if known else f"#{token_id}".encode()
