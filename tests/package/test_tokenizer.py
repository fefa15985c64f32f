"""The packaged GPT-2 encoding: tiktoken's own, offline, and nothing left behind."""

import os
import subprocess
import sys
import unicodedata

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
def test_any_text_comes_back(text):
    tokenizer = load_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text, disallowed_special=())) == text


def test_no_network_and_no_files_in_the_readers_cache(tmp_path):
    """With every connection refused, and the cache folders of tiktoken under watch."""
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('a network connection was tried')\n"
        "socket.socket.connect = refuse\n"
        "from kvcache import load_tokenizer\n"
        "print(load_tokenizer().encode('Time flies fast'))\n"
        "import os; print(os.environ['TIKTOKEN_CACHE_DIR'])\n"
    )
    theirs, temporary = tmp_path / "theirs", tmp_path / "temporary"
    theirs.mkdir(), temporary.mkdir()
    env = {**os.environ, "TIKTOKEN_CACHE_DIR": str(theirs), "TMPDIR": str(temporary)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[7575, 17607, 3049]", str(theirs)]
    assert not list(theirs.iterdir())
    assert not list(temporary.rglob("*data-gym*"))


def test_labels_show_spaces_line_ends_and_broken_characters(tokenizer):
    assert token_label(tokenizer.encode(" flies")[0]) == "␣flies"
    assert token_label(tokenizer.encode("\n")[0]) == "↵"
    broken = [token_label(token_id) for token_id in tokenizer.encode("🦋")]
    assert all("\\x" in label for label in broken)
    assert token_label(tokenizer.encode("\x00")[0]) == "\\x00"
    assert token_label(60_000) == "#60000"


def test_a_lone_accent_stands_on_a_circle(tokenizer):
    labels = [token_label(token_id) for token_id in range(50257)]
    assert not any(unicodedata.category(label[0]).startswith("M") for label in labels)


@given(st.text())
def test_the_texts_of_tokens_join_to_the_whole_text(text):
    token_ids = load_tokenizer().encode(text, disallowed_special=())
    assert "".join(token_texts(token_ids)) == text
    assert len(token_texts(token_ids)) == len(token_ids)


def test_a_character_comes_with_its_last_token(tokenizer):
    assert token_texts(tokenizer.encode("a😀")) == ["a", "", "😀"]
    assert token_texts([60_000]) == ["#60000"]
