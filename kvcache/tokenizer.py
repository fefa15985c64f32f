"""Text to token ids and back: the GPT-2 encoding of tiktoken, from packaged files, offline."""

import codecs
import os
import threading
import unicodedata
from functools import cache
from unittest import mock

import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

from . import data

LOCK = threading.Lock()


@cache
def load_tokenizer():
    """tiktoken's "gpt2" encoding (50,257 tokens), without network.

    Raises FileNotFoundError or ValueError if a packaged file is missing or damaged.
    """
    vocab_bpe, encoder_json = (data.checked_path("vocab.bpe"), data.checked_path("encoder.json"))
    # An empty TIKTOKEN_CACHE_DIR keeps tiktoken from copying the files to the reader's own cache.
    with LOCK, mock.patch.dict(os.environ, {"TIKTOKEN_CACHE_DIR": ""}):
        ranks = data_gym_to_mergeable_bpe_ranks(str(vocab_bpe), str(encoder_json))
    return tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )


def token_label(token_id):
    """One token as a short visible text: ␣ is a space, ↵ a line end; the invisible is in hex.

    A mark that belongs on the letter before it, as an accent may, stands on a dotted circle.
    """
    text = token_bytes(token_id).decode("utf-8", "backslashreplace")
    text = text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    if unicodedata.category(text[0]).startswith("M"):
        text = "◌" + text
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def token_texts(token_ids):
    """The text that each token adds: joined, they are the whole text.

    A character that is spread over several tokens comes with the last of them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(token_bytes(token_id)) for token_id in token_ids]


def token_bytes(token_id):
    """The bytes of one token; beyond the vocabulary of the tokenizer its number."""
    try:
        return load_tokenizer().decode_single_token_bytes(token_id)
    except KeyError:
        return f"#{token_id}".encode()
