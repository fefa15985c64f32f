"""Each wrong use raises before any work, names the value and the limit, and says what to do."""

import math
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
import train
from conftest import SMALL, twins
from models_and_caches import ALL, SMALL_LLAMA, make_cache

from kvcache import data, generate, load_tokenizer, optimized, stream, time_flies, trace
from kvcache.caches import ConcatCache, PagedCache, PreallocatedCache
from kvcache.generate import pad_left
from kvcache.memory import ModelShape, kv_cache_bytes, longest_context
from kvcache.widgets import KVTimeline

GOOD, ZEROS = torch.tensor([[1, 2, 3]]), torch.zeros(2, 24, dtype=torch.long)
PLAIN, CACHING = twins()
FAST = optimized.GPTModel(SMALL).eval()
DOORS = [
    lambda token_ids: generate(CACHING, token_ids, 3, use_cache=True),
    lambda token_ids: generate(FAST, token_ids, 3, cache=ConcatCache(SMALL)),
    lambda token_ids: trace(PLAIN, token_ids, 3),
]
DIRECT_CALLS = [PLAIN, partial(CACHING, use_cache=True), FAST]
BAD_IDS = [
    (torch.empty(1, 0, dtype=torch.long), ValueError, r"\(1, 0\).*at least 1 token"),
    (torch.empty(0, 3, dtype=torch.long), ValueError, r"\(0, 3\)"),
    (torch.tensor([[1.0]]), TypeError, r"torch.float32.*\.long\(\)"),
    (torch.tensor([[True]]), TypeError, "torch.bool"),
    (torch.tensor([1, 2]), ValueError, r"\(2,\).*unsqueeze"),
    (torch.tensor([[[1, 2]]]), ValueError, r"\(1, 1, 2\)"),
    ([[1, 2]], TypeError, "list"),
    (torch.empty(1, 2, dtype=torch.long, device="meta"), ValueError, "meta.*cpu"),
    (torch.zeros(1, 25, dtype=torch.long), ValueError, "25.*context length is 24"),
]


@pytest.mark.parametrize(("token_ids", "error", "message"), BAD_IDS)
def test_bad_token_ids_are_refused_at_the_door_and_in_a_direct_call(token_ids, error, message):
    for use in (*DOORS, *DIRECT_CALLS):
        with pytest.raises(error, match=message):
            use(token_ids)
    assert (CACHING.current_pos, CACHING.trf_blocks[0].att.cache_k) == (0, None)


@pytest.mark.parametrize("token_id", [-1, 50])
def test_an_id_outside_the_vocabulary_is_named_at_the_door_and_raises_in_a_direct_call(token_id):
    for use in DOORS:
        with pytest.raises(ValueError, match=f"token id {token_id} .* 0 to 49"):
            use(torch.tensor([[token_id, 2]]))
    for use in DIRECT_CALLS:  # they ask nothing of the device
        with pytest.raises(IndexError, match="index out of range"):
            use(torch.tensor([[token_id, 2]]))


# Caches that hold something, and a model that trace cannot look into
STORED = make_cache("preallocated", n_tokens=8)
FAST(ZEROS[:1, :6], STORED)
PAGES = PagedCache(SMALL, 2, block_size=4)
PAGED = PAGES.batch([PAGES.add()])
USED = twins()[1]
USED(ZEROS[:1, :20], use_cache=True)
AWAY = twins()[1]
AWAY(GOOD, use_cache=True)
AWAY.trf_blocks[0].att.cache_k = AWAY.trf_blocks[0].att.cache_k.to("meta")
HALF = make_cache("paged", dtype=torch.float16)
ELSEWHERE = PreallocatedCache(SMALL, 8, device="meta")
BLIND = optimized.GPTModel(SMALL).eval()
del BLIND.attend
write = partial(generate, PLAIN, GOOD, 3)
SHAPE = ModelShape("x", 2, 4, 2, 8, 1001, 64)
REFUSED = [
    # Sizes of models
    ("emb_dim 18 .* n_heads 4.*multiple of 4", partial(replace, SMALL, emb_dim=18)),
    ("n_layers is 0; .*at least 1", partial(replace, SMALL, n_layers=0)),
    ("vocab_size is 2.0", partial(replace, SMALL, vocab_size=2.0)),
    ("drop_rate is 1.0", partial(replace, SMALL, drop_rate=1.0)),
    ("n_kv_heads 4 does not divide n_heads 6", partial(replace, SMALL_LLAMA, n_kv_heads=4)),
    ("hidden_dim is 0", partial(replace, SMALL_LLAMA, hidden_dim=0)),
    ("rope_base is -1", partial(replace, SMALL_LLAMA, rope_base=-1)),
    (r"head_dim is 8\.0; .*whole", partial(replace, SHAPE, head_dim=8.0)),
    ("n_layers - n_window_layers is -1", partial(replace, SHAPE, n_window_layers=3, window=4)),
    (r"n_kv_heads 3 does .*divisor of 4", partial(replace, SHAPE, n_kv_heads=3)),
    # Settings of a generation
    *[
        (f"max_new_tokens is {n!r}; .*whole", partial(generate, PLAIN, GOOD, n))
        for n in (-1, 1.5, "3", True, None)
    ],
    (r"3 prompt tokens \+ 22 .*24; ask for at most 21", partial(generate, PLAIN, GOOD, 22)),
    ("temperature is -1", partial(write, temperature=-1)),
    ("temperature is nan", partial(write, temperature=math.nan)),
    ("temperature is inf", partial(write, temperature=math.inf)),
    ("top_k is 2.5; .*whole", partial(write, top_k=2.5, temperature=1.0)),
    ("top_k is 5 with temperature 0", partial(write, top_k=5)),
    ("top_k is 0", partial(write, top_k=0, temperature=1.0)),
    ("top_k is 51 .* 1 to 50", partial(write, top_k=51, temperature=1.0)),
    (r"no cache; use cached\.GPTModel", partial(PLAIN, GOOD, use_cache=True)),
    (r"baseline\.GPTModel has no cache inside", partial(write, use_cache=True)),
    ("optimized.GPTModel has no cache inside", partial(generate, FAST, GOOD, 3, use_cache=True)),
    ("takes no cache object", partial(write, cache=ConcatCache(SMALL))),
    (r"training mode.*eval", lambda: twins()[1].train()(GOOD, use_cache=True)),
    # Caches
    ("max_tokens is 0", partial(make_cache, "preallocated", n_tokens=0)),
    ("window is -1", partial(make_cache, "whole window", n_tokens=-1)),
    ("bits is 3", partial(make_cache, "int3")),
    ("need an even one", partial(make_cache, "int4", replace(SMALL, emb_dim=12))),
    ("n_blocks is 2.0", partial(PagedCache, SMALL, 2.0)),
    ("block_size is 0", partial(PagedCache, SMALL, 2, 0)),
    ("batch_size is 0", partial(ConcatCache, SMALL, 0)),
    ("n_pad is tensor", partial(ConcatCache, SMALL, 2, torch.tensor([1]))),
    (r"n_pad is \[1, 0\]", partial(ConcatCache, SMALL, 2, [1, 0])),
    ("the prompts have shapes", partial(pad_left, [torch.tensor([])])),
    ("no sequence 7", partial(PagedCache(SMALL, 2).free, 7)),
    ("pass each one once", partial(PagedCache(SMALL, 2).batch, [])),
    ("float16, the model has torch.float32", partial(FAST, GOOD, HALF)),
    ("for device meta, the model has cpu", partial(FAST, GOOD, ELSEWHERE)),
    *[
        (f"for {message}", partial(FAST, GOOD, make_cache(name, replace(SMALL, **change))))
        for name in ALL
        for message, change in (
            ("n_layers 3, the model has 2", {"n_layers": 3}),
            ("n_kv_heads 2, the model has 4", {"n_heads": 2}),
            ("head_dim 8, the model has 4", {"emb_dim": 32}),
        )
    ],
    ("for dtype", partial(generate, FAST, GOOD, 1, cache=HALF)),
    ("n_tokens is -1", partial(STORED.crop, -1)),
    ("n_tokens is 1.0", partial(STORED.crop, 1.0)),
    ("6 tokens; 6 more exceed its max_tokens of 8", partial(FAST, ZEROS[:1, :6], STORED)),
    ("exceed its max_tokens", partial(generate, FAST, GOOD, 1, cache=STORED)),
    ("batch size 2, the cache 1", partial(FAST, ZEROS[:, :1], PAGED)),
    ("need 3 blocks, and 2 are free", partial(FAST, ZEROS[:1, :9], PAGED)),
    (r"20 earlier \+ 5 new tokens.*24", partial(USED, ZEROS[:1, :5], use_cache=True)),
    ("batch size 2.*holds 1.*reset_kv_cache", partial(USED, ZEROS[:, :1], use_cache=True)),
    (r"on cpu, the cache holds 1 on meta; call model\.reset", partial(AWAY, GOOD, use_cache=True)),
    # Memory
    *[
        (f"memory_bytes is {n!r}; .*above 0", partial(longest_context, SHAPE, n))
        for n in (0, -1, math.nan, math.inf, "24", None, 1j)
    ],
    ("batch_size is 1.5; .*at least 1", partial(longest_context, SHAPE, 10**9, 1.5)),
    ("dtype is 'int5'; .*bfloat16", partial(kv_cache_bytes, SHAPE, 1, dtype="int5")),
    (r"dtype is \['int8'\]; .*bfloat16", partial(kv_cache_bytes, SHAPE, 1, dtype=["int8"])),
    ("dtype is 'int6'", partial(longest_context, SHAPE, 10**9, weight_dtype="int6")),
    # What looks at a generation
    ("holds 6 tokens; hand in an empty one", partial(trace, FAST, GOOD[:, :1], 1, cache=STORED)),
    (r"batch size is 2; pass one: token_ids\[:1\]", partial(trace, PLAIN, GOOD.expand(2, 3), 3)),
    ("needs at least 1", KVTimeline),
    ("0 steps", lambda: KVTimeline(trace(PLAIN, GOOD, 0))),
]
OF_WRONG_TYPE = [
    (r"Linear.*GPTModel", partial(generate, torch.nn.Linear(2, 2), GOOD, 3)),
    ("Linear", partial(trace, torch.nn.Linear(2, 2), GOOD, 3)),
    ("cache is a PagedCache", partial(generate, FAST, GOOD, 1, cache=PagedCache(SMALL, 2))),
    (r"watch cannot look into a GPTModel; .*cached\.GPTModel", partial(trace, BLIND, GOOD, 3)),
]


@pytest.mark.parametrize(("message", "call"), [*REFUSED, *OF_WRONG_TYPE])
def test_what_cannot_be_is_named_with_its_limit_and_leaves_all_caches_as_they_were(message, call):
    error = TypeError if (message, call) in OF_WRONG_TYPE else ValueError
    with pytest.raises(error, match=message):
        call()
    assert (STORED.n_tokens, USED.current_pos, len(PAGES.free_blocks)) == (6, 20, 2)
    assert all(block.att.cache_k.shape[2] == 20 for block in USED.trf_blocks)


def test_another_use_of_a_cache_during_a_stream_is_noticed():
    cache = ConcatCache(SMALL)
    for model, options in ((twins()[1], {"use_cache": True}), (FAST, {"cache": cache})):
        tokens = stream(model, GOOD, 5, **options)
        next(tokens)
        generate(model, GOOD, 2, **options)
        with pytest.raises(RuntimeError, match="another call used this cache"):
            next(tokens)


USES = {
    "r50k_base.tiktoken": load_tokenizer.__wrapped__,
    "time_flies.safetensors": time_flies.load,
    "time_flies.txt": train.training_texts,
    "SHA256SUMS": load_tokenizer.__wrapped__,
}


@pytest.mark.parametrize(("name", "use"), USES.items())
def test_a_data_file_that_is_damaged_or_missing_is_named(tmp_path, monkeypatch, name, use):
    monkeypatch.setattr(data, "FOLDER", shutil.copytree(data.FOLDER, tmp_path / "data"))
    path = data.FOLDER / name
    if name != "SHA256SUMS":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*damaged.*install"):
            use()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}.*missing.*install"):
        use()
