"""The small trained model: what it says, how big it is, and that training makes it again."""

import pytest
import torch
import train
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

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


def test_training_learns_and_its_file_holds_the_whole_model(tmp_path, tokenizer):
    """`make train` takes 600 steps; here a few, which know nothing by heart yet."""
    model, known = train.train(n_steps=20)
    train.save(model, known, tmp_path / "again.safetensors")
    again = time_flies.from_checkpoint(tmp_path / "again.safetensors")
    text = torch.tensor([tokenizer.encode(FIRST)])
    logits = again(text)
    places = torch.searchsorted(known, text)
    torch.testing.assert_close(logits[..., known], model(places), atol=1e-5, rtol=0)
    assert logits.count_nonzero() <= text.numel() * len(known)
    fresh = baseline.GPTModel(model.cfg).eval()
    losses = [cross_entropy(each(places)[0, :-1], places[0, 1:]) for each in (model, fresh)]
    assert losses[0] < losses[1] - 0.5
