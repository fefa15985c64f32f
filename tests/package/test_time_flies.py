"""The small trained model: what it says, how big it is, and that training makes it again."""

import pytest
import torch
import train
from safetensors.torch import load_file

from kvcache import baseline, cached, data, generate, time_flies

FIRST = "Time flies fast, and a cache keeps what was already computed."


@pytest.mark.parametrize("use_cache", [False, True])
def test_time_flies_fast(trained, tokenizer, encode, use_cache):
    out = generate(trained[use_cache], encode("Time"), 12, use_cache=use_cache)
    assert [tokenizer.decode([token]) for token in out[0, :3].tolist()] == [
        "Time",
        " flies",
        " fast",
    ]
    assert tokenizer.decode(out[0].tolist()) == FIRST


def test_it_knows_every_sentence_by_heart(trained, tokenizer):
    texts = torch.tensor([tokenizer.encode(text)[:60] for text in train.training_texts()[:36]])
    assert torch.equal(generate(trained[1], texts[:, :5], 55, use_cache=True), texts)


def test_the_checkpoint_is_small():
    path = data.checked_path(time_flies.CHECKPOINT)
    assert path.stat().st_size <= 4_000_000
    assert "tok_emb.weight" in load_file(path)


def test_both_classes_load_it_in_eval_mode():
    for model_class in (baseline.GPTModel, cached.GPTModel):
        model = time_flies.load(model_class)
        assert type(model) is model_class
        assert not model.training


def test_a_short_training_already_makes_it_say_the_first_words(tmp_path, encode, tokenizer):
    """`make train` takes 600 steps; a quarter of them is not by heart yet."""
    path = tmp_path / "again.safetensors"
    train.save(*train.train(n_steps=150), path)
    out = generate(time_flies.from_checkpoint(path), encode("Time"), 12, use_cache=True)
    assert FIRST.startswith(tokenizer.decode(out[0, :3].tolist()))
