"""The packaged GPT-2 encoding: tiktoken's own, offline, and nothing left behind."""

import socket
import tempfile
import unicodedata

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from kvcache import load_tokenizer
from kvcache.tokenizer import token_label, token_texts


def test_the_words_of_the_story_are_one_token_each(tokenizer):
    assert tokenizer.encode("Time flies fast") == [7575, 17607, 3049]
    assert isinstance(tokenizer, tiktoken.Encoding)
    assert tokenizer.n_vocab == 50257
    assert tokenizer.encode("<|endoftext|>", allowed_special="all") == [50256]


@given(st.text())
def test_any_text_comes_back_and_the_texts_of_its_tokens_join_to_it(text):
    token_ids = load_tokenizer().encode(text, disallowed_special=())
    assert load_tokenizer().decode(token_ids) == text
    assert "".join(token_texts(token_ids)) == text
    assert len(token_texts(token_ids)) == len(token_ids)


def test_a_character_comes_with_its_last_token(tokenizer):
    assert token_texts([*tokenizer.encode("a😀"), 60_000]) == ["a", "", "😀", "#60000"]


def test_no_network_and_no_files_in_the_readers_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", None, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(TypeError, match="not callable"):  # it would be noticed
        socket.create_connection(("127.0.0.1", 9))
    assert load_tokenizer.__wrapped__().encode("Time flies fast") == [7575, 17607, 3049]
    assert not list(tmp_path.iterdir())


def test_labels_show_what_cannot_be_seen_and_a_lone_accent_on_a_circle(tokenizer):
    labels = [token_label(token_id) for token_id in range(50257)]
    for text, label in ((" flies", "␣flies"), ("\n", "↵"), ("\x00", "\\x00")):
        assert labels[tokenizer.encode(text)[0]] == label
    assert all("\\x" in labels[token_id] for token_id in tokenizer.encode("🦋"))
    assert not any(unicodedata.category(label[0]).startswith("M") for label in labels)
    assert token_label(60_000) == "#60000"
