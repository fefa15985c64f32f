"""The small trained model: what it says, how big it is, and that training makes it again."""

import time

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


def test_it_knows_every_sentence_by_heart(trained, tokenizer, encode):
    for text in train.training_texts()[:36]:
        expected = tokenizer.encode(text)[:60]
        out = generate(trained[1], torch.tensor([expected[:5]]), 55, use_cache=True)
        right = sum(a == b for a, b in zip(out[0].tolist(), expected, strict=True))
        assert right == 60, tokenizer.decode(out[0].tolist())


def test_the_checkpoint_is_small_and_loads_fast():
    path = data.checked_path(time_flies.CHECKPOINT)
    assert path.stat().st_size <= 4_000_000
    assert "tok_emb.weight" in load_file(path)
    start = time.perf_counter()
    time_flies.load()
    print(f"loaded in {time.perf_counter() - start:.3f} s")


def test_both_classes_load_it_in_eval_mode():
    for model_class in (baseline.GPTModel, cached.GPTModel):
        model = time_flies.load(model_class)
        assert type(model) is model_class
        assert not model.training


def test_training_makes_it_again(tmp_path, encode, tokenizer):
    path = tmp_path / "again.safetensors"
    train.save(*train.train(), path)
    model = time_flies.from_checkpoint(path)
    assert (
        tokenizer.decode(generate(model, encode("Time"), 12, use_cache=True)[0].tolist()) == FIRST
    )
