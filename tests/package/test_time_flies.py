"""The packaged GPT-2 encoding, and the small trained model: what it says, and training it again."""

import socket
import tempfile
import unicodedata

import pytest
import tiktoken
import torch
import train
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from kvcache import baseline, data, generate, load_tokenizer, time_flies
from kvcache.tokenizer import decode, encode, token_label, token_texts

TOKENIZER = load_tokenizer()
FIRST = "Time flies fast, and a cache keeps what was already computed."


@pytest.mark.parametrize("use_cache", [False, True])
def test_time_flies_fast_and_all_is_known_by_heart(trained, use_cache):
    assert decode(generate(trained[use_cache], encode("Time"), 12, use_cache)) == FIRST
    assert not trained[use_cache].training
    texts = torch.tensor([TOKENIZER.encode(text)[:60] for text in train.training_texts()[:36]])
    assert torch.equal(generate(trained[use_cache], texts[:, :5], 55, use_cache), texts)


def test_training_learns_and_its_small_file_holds_the_whole_model(tmp_path):
    """`make train` takes 600 steps; here a few, which know nothing by heart yet."""
    model, known = train.train(n_steps=20)
    path, text = tmp_path / "again.safetensors", encode(FIRST)
    train.save(model, known, path)
    assert path.stat().st_size == data.checked_path(time_flies.CHECKPOINT).stat().st_size < 4e6
    logits = time_flies.from_checkpoint(path)(text)
    places = torch.searchsorted(known, text)
    torch.testing.assert_close(logits[..., known], model(places), atol=1e-5, rtol=0)
    assert logits.count_nonzero() <= text.numel() * len(known)
    fresh = baseline.GPTModel(model.cfg).eval()
    losses = [cross_entropy(each(places)[0, :-1], places[0, 1:]) for each in (model, fresh)]
    assert losses[0] < losses[1] - 0.5


def test_the_words_of_the_story_are_one_token_each():
    assert TOKENIZER.encode("Time flies fast") == [7575, 17607, 3049]
    assert isinstance(TOKENIZER, tiktoken.Encoding)
    assert TOKENIZER.n_vocab == 50257
    assert TOKENIZER.encode("<|endoftext|>", allowed_special="all") == [50256]


@given(st.text())
def test_any_text_comes_back_and_the_texts_of_its_tokens_join_to_it(text):
    token_ids = TOKENIZER.encode(text, disallowed_special=())
    assert TOKENIZER.decode(token_ids) == text
    assert "".join(token_texts(token_ids)) == text
    assert len(token_texts(token_ids)) == len(token_ids)


def test_no_network_and_no_files_in_the_readers_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", None, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(TypeError, match="not callable"):  # it would be noticed
        socket.create_connection(("127.0.0.1", 9))
    assert load_tokenizer.__wrapped__().encode("Time flies fast") == [7575, 17607, 3049]
    assert not list(tmp_path.iterdir())


def test_labels_show_what_cannot_be_seen_and_a_lone_accent_on_a_circle():
    labels = [token_label(token_id) for token_id in range(50257)]
    for text, label in ((" flies", "␣flies"), ("\n", "↵"), ("\x00", "\\x00")):
        assert labels[TOKENIZER.encode(text)[0]] == label
    assert all("\\x" in labels[token_id] for token_id in TOKENIZER.encode("🦋"))
    assert not any(unicodedata.category(label[0]).startswith("M") for label in labels)
    assert token_label(60_000) == "#60000"
    # A character comes with its last token.
    assert token_texts([*TOKENIZER.encode("a😀"), 60_000]) == ["a", "", "😀", "#60000"]
