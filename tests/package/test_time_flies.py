"""The small trained model: what it says, how big it is, and that training makes it again."""

import pytest
import torch
import train
from torch.nn.functional import cross_entropy

from kvcache import baseline, data, generate, time_flies

FIRST = "Time flies fast, and a cache keeps what was already computed."


@pytest.mark.parametrize("use_cache", [False, True])
def test_time_flies_fast(trained, tokenizer, encode, use_cache):
    out = generate(trained[use_cache], encode("Time"), 12, use_cache=use_cache)[0].tolist()
    assert [tokenizer.decode([token]) for token in out[:3]] == ["Time", " flies", " fast"]
    assert tokenizer.decode(out) == FIRST
    assert not trained[use_cache].training


def test_it_knows_every_sentence_by_heart(trained, tokenizer):
    texts = torch.tensor([tokenizer.encode(text)[:60] for text in train.training_texts()[:36]])
    assert torch.equal(generate(trained[1], texts[:, :5], 55, use_cache=True), texts)


def test_training_learns_and_its_small_file_holds_the_whole_model(tmp_path, encode):
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
