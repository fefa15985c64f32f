"""Each wrong use raises before any work, names the value and the limit, and says what to do."""

import shutil

import pytest
import torch
import train
from conftest import SMALL, twins

from kvcache import (
    GPTConfig,
    cached,
    data,
    generate,
    load_tokenizer,
    optimized,
    stream,
    time_flies,
    trace,
)
from kvcache.caches import ConcatCache
from kvcache.widgets import KVTimeline

GOOD = torch.tensor([[1, 2, 3]])


@pytest.fixture
def models():
    return twins()


BAD_IDS = {
    "empty": (torch.empty(1, 0, dtype=torch.long), ValueError, r"\(1, 0\).*at least 1 token"),
    "no rows": (torch.empty(0, 3, dtype=torch.long), ValueError, r"\(0, 3\)"),
    "float": (torch.tensor([[1.0]]), TypeError, r"torch.float32.*\.long\(\)"),
    "bool": (torch.tensor([[True]]), TypeError, "torch.bool"),
    "rank 1": (torch.tensor([1, 2]), ValueError, r"\(2,\).*unsqueeze"),
    "rank 3": (torch.tensor([[[1, 2]]]), ValueError, r"\(1, 1, 2\)"),
    "a list": ([[1, 2]], TypeError, "list"),
    "elsewhere": (torch.empty(1, 2, dtype=torch.long, device="meta"), ValueError, "meta.*cpu"),
    "too long": (torch.zeros(1, 25, dtype=torch.long), ValueError, "25.*context length is 24"),
    "too large": (torch.tensor([[1, 50]]), ValueError, "token id 50 .* 0 to 49"),
    "negative": (torch.tensor([[-1, 2]]), ValueError, "token id -1 .* 0 to 49"),
}


@pytest.mark.parametrize("name", BAD_IDS)
def test_bad_token_ids_are_refused_at_the_door_and_in_a_direct_call(models, name):
    plain, caching = models
    token_ids, error, message = BAD_IDS[name]
    calls = [
        lambda: generate(caching, token_ids, 3, use_cache=True),
        lambda: trace(plain, token_ids, 3),
        lambda: plain(token_ids),
        lambda: caching(token_ids, use_cache=True),
        lambda: optimized.GPTModel(SMALL)(token_ids),
    ]
    for number, call in enumerate(calls):
        if number >= 2 and "token id" in message:  # a pass asks nothing of the device
            error, message = IndexError, "index out of range"
        with pytest.raises(error, match=message):
            call()
    assert caching.current_pos == 0
    assert caching.trf_blocks[0].att.cache_k is None


@pytest.mark.parametrize("count", [-1, 1.5, "3", True, None])
def test_bad_counts(models, count):
    with pytest.raises(ValueError, match=f"{count!r}.*whole number"):
        generate(models[0], GOOD, count)


def test_prompt_and_new_tokens_beyond_the_context(models):
    with pytest.raises(
        ValueError, match=r"3 prompt tokens \+ 22 new tokens.*24; ask for at most 21"
    ):
        generate(models[1], GOOD, 22, use_cache=True)


def test_chunks_beyond_the_context(models):
    caching = models[1]
    caching(torch.zeros(1, 20, dtype=torch.long), use_cache=True)
    with pytest.raises(ValueError, match=r"20 earlier \+ 5 new tokens.*24"):
        caching(torch.zeros(1, 5, dtype=torch.long), use_cache=True)
    assert caching.current_pos == 20


def test_another_batch_size_than_the_cache_holds(models):
    caching = models[1]
    caching(GOOD, use_cache=True)
    with pytest.raises(ValueError, match=r"batch size 2.*holds 1.*reset_kv_cache"):
        caching(GOOD.expand(2, 3), use_cache=True)
    assert caching.current_pos == 3
    assert caching.trf_blocks[0].att.cache_k.shape[2] == 3


def test_another_device_than_the_cache_is_on(models):
    caching = models[1]
    caching(GOOD, use_cache=True)
    for block in caching.trf_blocks:
        block.att.cache_k = block.att.cache_k.to("meta")
    with pytest.raises(ValueError, match=r"1 on cpu, the cache holds 1 on meta; call model\.reset"):
        caching(GOOD, use_cache=True)


def test_a_cache_in_training_mode(models):
    with pytest.raises(ValueError, match=r"training|eval"):
        models[1].train()(GOOD, use_cache=True)


def test_a_cache_on_the_baseline(models):
    with pytest.raises(ValueError, match=r"no cache.*cached\.GPTModel"):
        models[0](GOOD, use_cache=True)
    with pytest.raises(ValueError, match=r"baseline\.GPTModel has no cache"):
        generate(models[0], GOOD, 3, use_cache=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "-1"),
        ({"temperature": float("nan")}, "nan"),
        ({"temperature": float("inf")}, "inf"),
        ({"top_k": 2.5, "temperature": 1.0}, "whole number"),
        ({"top_k": 5}, "temperature"),
        ({"top_k": 0, "temperature": 1.0}, "top_k is 0"),
        ({"top_k": 51, "temperature": 1.0}, "1 to 50"),
    ],
)
def test_bad_sampling(models, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(models[0], GOOD, 3, **settings)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"emb_dim": 18}, "emb_dim 18 .* n_heads 4.*multiple of 4"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"vocab_size": 2.0}, "vocab_size is 2.0"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0"),
    ],
)
def test_bad_configurations(sizes, message):
    good = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{**good, **sizes})


@pytest.fixture
def copied_data(tmp_path, monkeypatch):
    """A copy of the data files that a test may harm."""
    shutil.copytree(data.FOLDER, tmp_path / "data")
    monkeypatch.setattr(data, "FOLDER", tmp_path / "data")
    load_tokenizer.cache_clear()
    yield tmp_path / "data"
    load_tokenizer.cache_clear()


USES = {
    "r50k_base.tiktoken": load_tokenizer,
    "time_flies.safetensors": time_flies.load,
    "SHA256SUMS": load_tokenizer,
    "time_flies.txt": train.training_texts,
}


@pytest.mark.parametrize("name", USES)
def test_a_missing_data_file(copied_data, name):
    (copied_data / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}.*missing.*install"):
        USES[name]()


@pytest.mark.parametrize("name", sorted(set(USES) - {"SHA256SUMS"}))
def test_a_damaged_data_file(copied_data, name):
    content = bytearray((copied_data / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied_data / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*damaged.*install"):
        USES[name]()


def test_trace_says_what_it_can_look_into(models):
    class Stranger(cached.GPTModel):
        forward = torch.nn.Identity.forward

    stranger = Stranger(SMALL)
    for block in stranger.trf_blocks:
        del block.att.attend
    with pytest.raises(TypeError, match=r"Stranger.*cached\.GPTModel"):
        trace(stranger, GOOD, 3)
    full = ConcatCache(SMALL)
    full.end(GOOD)
    with pytest.raises(ValueError, match="holds 3 tokens; hand in an empty one"):
        trace(optimized.GPTModel(SMALL), GOOD, 3, cache=full)


def test_trace_and_generate_refuse_what_is_no_model_of_ours():
    with pytest.raises(TypeError, match="Linear"):
        trace(torch.nn.Linear(2, 2), GOOD, 3)
    with pytest.raises(TypeError, match=r"Linear.*GPTModel"):
        generate(torch.nn.Linear(2, 2), GOOD, 3)


def test_trace_takes_one_sequence(models):
    with pytest.raises(ValueError, match="batch size is 2"):
        trace(models[0], GOOD.expand(2, 3), 3)


def test_another_use_of_the_cache_during_a_stream(models):
    tokens = stream(models[1], GOOD, 5, use_cache=True)
    next(tokens)
    generate(models[1], GOOD, 2, use_cache=True)
    with pytest.raises(RuntimeError, match="another call used this cache"):
        next(tokens)


def test_a_timeline_needs_a_trace_with_steps(models):
    with pytest.raises(ValueError, match="at least 1"):
        KVTimeline()
    with pytest.raises(ValueError, match="0 steps"):
        KVTimeline(trace(models[0], GOOD, 0))
