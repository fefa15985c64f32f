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

from kvcache import caches, data, generate, load_tokenizer, optimized, time_flies, trace
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
DIRECT = [PLAIN, partial(CACHING, use_cache=True), FAST]  # they ask nothing of the device
BAD_IDS = [
    (ValueError, r"\(1, 0\).*at least 1 token", torch.empty(1, 0, dtype=torch.long)),
    (ValueError, r"\(0, 3\)", torch.empty(0, 3, dtype=torch.long)),
    (ValueError, r"\(2,\); pass \(batch, n_tokens\)", torch.tensor([1, 2])),
    (ValueError, r"is empty: its shape is \(1, 0\)", torch.tensor([[]])),
    (ValueError, r"\(1, 1, 2\)", torch.tensor([[[1, 2]]])),
    (ValueError, "meta.*cpu", torch.empty(1, 2, dtype=torch.long, device="meta")),
    (ValueError, "25 given.*context length 24", torch.zeros(1, 25, dtype=torch.long)),
    (TypeError, r"torch.float32.*\.long\(\)", torch.tensor([[1.0]])),
    (TypeError, "torch.bool", torch.tensor([[True]])),
    (TypeError, "list", [[1, 2]]),
]
OUTSIDE = [torch.tensor([[-1, 2]]), torch.tensor([[50, 2]])]

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
ELSEWHERE = make_cache("preallocated", device="meta")
BLIND = optimized.GPTModel(SMALL).eval()
del BLIND.attend
write = partial(generate, PLAIN, GOOD, 3)
SHAPE = ModelShape("x", 2, 4, 2, 8, 1001, 64)
INCOMPLETE = PLAIN.state_dict()
del INCOMPLETE["trf_blocks.1.att.W_key.weight"]
# A call, its smallest size, and the names of its sizes
SIZES = [
    (partial(replace, SMALL), 1, "vocab_size context_length emb_dim n_heads n_layers"),
    (partial(replace, SMALL_LLAMA), 1, "n_kv_heads hidden_dim"),
    (partial(replace, SHAPE), 1, "n_layers n_heads n_kv_heads head_dim n_parameters"),
    (partial(replace, SHAPE, window=3), 0, "n_window_layers latent_dim"),
    (partial(replace, SHAPE), 0, "window"),
    (partial(generate, PLAIN, GOOD), 0, "max_new_tokens"),
    (partial(ConcatCache, SMALL), 1, "batch_size"),
    (partial(PreallocatedCache, SMALL), 1, "max_tokens"),
    (partial(caches.QuantizedCache, SMALL), 1, "max_tokens"),
    (partial(caches.SlidingWindowCache, SMALL), 1, "window"),
    (partial(PagedCache, SMALL, n_blocks=2), 1, "n_blocks block_size"),
    (STORED.crop, 0, "n_tokens"),
    (partial(kv_cache_bytes, SHAPE, n_tokens=2), 0, "n_tokens"),
    (partial(longest_context, SHAPE, 10**9), 1, "batch_size"),
]
VALUES = [
    # Sizes of models
    ("emb_dim 18 .* n_heads 4.*multiple of 4", partial(replace, SMALL, emb_dim=18)),
    ("drop_rate is 1.0", partial(replace, SMALL, drop_rate=1.0)),
    ("n_kv_heads 4 does not divide n_heads 6", partial(replace, SMALL_LLAMA, n_kv_heads=4)),
    ("rope_base is -1", partial(replace, SMALL_LLAMA, rope_base=-1)),
    ("n_layers - n_window_layers is -1", partial(replace, SHAPE, n_window_layers=3, window=4)),
    (r"n_kv_heads 3 does .*divisor of 4", partial(replace, SHAPE, n_kv_heads=3)),
    # Settings of a generation
    *[("token id (-1|50) .* 0 to 49", partial(use, ids)) for ids in OUTSIDE for use in DOORS],
    (r"3 given \+ 22 new tokens exceed .* length 24; shorten", partial(generate, PLAIN, GOOD, 22)),
    *[(f"temperature is {n}", partial(write, temperature=n)) for n in (-1, math.nan, math.inf)],
    *[(f"top_k is {n}; .*whole", partial(write, top_k=n, temperature=1.0)) for n in (0, 2.5)],
    ("top_k is 5 with temperature 0", partial(write, top_k=5)),
    ("top_k is 51 .* 1 to 50", partial(write, top_k=51, temperature=1.0)),
    (r"no cache; use cached\.GPTModel", partial(PLAIN, GOOD, use_cache=True)),
    (r"baseline\.GPTModel has no cache inside", partial(write, use_cache=True)),
    ("optimized.GPTModel has no cache inside", partial(generate, FAST, GOOD, 3, use_cache=True)),
    ("takes no cache object", partial(write, cache=ConcatCache(SMALL))),
    (r"training mode.*eval", lambda: twins()[1].train()(GOOD, use_cache=True)),
    # Caches
    ("bits is 3", partial(make_cache, "int3")),
    ("need an even one", partial(make_cache, "int4", replace(SMALL, emb_dim=12))),
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
    (r"6 cached \+ 6 new exceed max_tokens 8; make a larger", partial(FAST, ZEROS[:1, :6], STORED)),
    ("exceed max_tokens 8", partial(generate, FAST, GOOD, 1, cache=STORED)),
    ("batch size 2, the cache 1", partial(FAST, ZEROS[:, :1], PAGED)),
    ("need 3 blocks, and 2 are free", partial(FAST, ZEROS[:1, :9], PAGED)),
    (r"20 cached \+ 5 given .*24", partial(USED, ZEROS[:1, :5], use_cache=True)),
    ("batch size 2.*holds 1.*reset_kv_cache", partial(USED, ZEROS[:, :1], use_cache=True)),
    (r"on cpu, the cache holds 1 on meta; call model\.reset", partial(AWAY, GOOD, use_cache=True)),
    # Memory
    ("memory_bytes is 0; choose 1 <= ", partial(longest_context, SHAPE, 0)),
    ("dtype is 'int5'; .*bfloat16", partial(kv_cache_bytes, SHAPE, 1, dtype="int5")),
    (r"dtype is \['int8'\]; .*bfloat16", partial(kv_cache_bytes, SHAPE, 1, dtype=["int8"])),
    ("dtype is 'int6'", partial(longest_context, SHAPE, 10**9, weight_dtype="int6")),
    # What looks at a generation
    ("not empty; hand in an empty one", partial(trace, FAST, GOOD[:, :1], 1, cache=STORED)),
    (r"batch size is 2; pass one: token_ids\[:1\]", partial(trace, PLAIN, GOOD.expand(2, 3), 3)),
    ("needs at least 1", KVTimeline),
    ("0 steps", lambda: KVTimeline(trace(PLAIN, GOOD, 0))),
]
REFUSED = [
    *[(error, words, partial(use, ids)) for error, words, ids in BAD_IDS for use in DOORS + DIRECT],
    *[(IndexError, "out of range", partial(use, ids)) for ids in OUTSIDE for use in DIRECT],
    *[
        (ValueError, f"{name} is {size!r}; .*whole.* {least}", partial(call, **{name: size}))
        for call, least, names in SIZES
        for name in names.split()
        for size in (least - 1, 1.5, 2.0, "3", True, None)
    ],
    *[(ValueError, words, call) for words, call in VALUES],
    (TypeError, r"Linear.*GPTModel", partial(generate, torch.nn.Linear(2, 2), GOOD, 3)),
    (TypeError, "Linear", partial(trace, torch.nn.Linear(2, 2), GOOD, 3)),
    (TypeError, "cache is a PagedCache", partial(generate, FAST, GOOD, 1, cache=PAGES)),
    (TypeError, "watched is a GPTModel; pass one not compiled", partial(trace, BLIND, GOOD, 3)),
    (RuntimeError, "Missing.*blocks.1.att.W_key", partial(FAST.load_state_dict, INCOMPLETE)),
]


@pytest.mark.parametrize(("error", "words", "call"), REFUSED)
def test_what_cannot_be_is_named_with_its_limit_and_leaves_caches_alone(error, words, call):
    with pytest.raises(error, match=words):
        call()
    assert (STORED.n_tokens, USED.current_pos, len(PAGES.free_blocks)) == (6, 20, 2)
    assert all(block.att.cache_k.shape[2] == 20 for block in USED.trf_blocks)
    assert (CACHING.current_pos, CACHING.trf_blocks[0].att.cache_k) == (0, None)


def test_a_data_file_that_is_damaged_or_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "FOLDER", shutil.copytree(data.FOLDER, tmp_path / "data"))
    for name, use in (
        ("r50k_base.tiktoken", load_tokenizer.__wrapped__),
        ("time_flies.safetensors", time_flies.load),
        ("time_flies.txt", train.training_texts),
    ):
        path = data.FOLDER / name
        path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(ValueError, match=f"{name}.*damaged.*install"):
            use()
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"{name}.*missing.*install"):
            use()
    (data.FOLDER / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match=r"SHA256SUMS.*missing.*install"):
        time_flies.load()
