"""The fast way of one new token: what is compiled is what is not, and nothing else changes."""

import copy
import threading

import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from models_and_caches import (
    ALL,
    EXACT,
    assert_near,
    in_chunks,
    make_cache,
    make_gpt,
    make_llama,
    with_weights,
)
from torch._dynamo.utils import counters

from kvcache import baseline, generate, trace
from kvcache.caches import ConcatCache, PreallocatedCache
from kvcache.config import GPTConfig
from kvcache.fast import product
from kvcache.llama import LlamaConfig, LlamaModel

SIZES = [3, 1, 1, 1, 4, 1, 1, 1, 1]


def compiled(model, backend="aot_eager"):
    """The model with the same weights, its steps traced; made into C++ by inductor only."""
    torch.compiler.reset()
    counters.clear()
    model = copy.deepcopy(model)
    model.compile(backend=backend)
    return model


def n_compiled():
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("n_rows", range(1, 7))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_is_that_of_the_library(n_rows, dtype):
    x, W = torch.randn(n_rows, 1, 40, dtype=dtype), torch.randn(30, 40, dtype=dtype)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 0.3}[dtype]
    for way in (product, torch.compile(product, backend="aot_eager")):
        found = way(x, W)
        assert found.is_contiguous()
        assert_near(found, torch.nn.functional.linear(x, W), tolerance)


@pytest.mark.parametrize(
    ("name", "make"), [("preallocated", make_gpt), *((name, make_llama) for name in ALL)]
)
def test_compiled_steps_give_the_same_logits_and_compile_once(name, make):
    model = make().double()
    fast, token_ids = compiled(model), torch.randint(50, (2, 14))

    def write(model):
        cache = make_cache(name, model.cfg, 2, dtype=torch.float64)
        return in_chunks(model, cache, token_ids, SIZES)

    expected, found = write(model), write(fast)
    assert_near(found, expected, 1e-10 if name in EXACT else 1e-5)
    assert not torch.equal(found, expected)  # it did go another way
    assert n_compiled() == 2  # a block, which is all blocks, and the head
    write(fast)
    assert n_compiled() == 2


def test_with_the_real_compiler_one_text_is_right():
    model = make_llama()
    fast, token_ids = compiled(model, "inductor"), torch.randint(50, (1, 9))
    expected, found = (
        in_chunks(each, make_cache("int8", model.cfg), token_ids, [4, 1, 1, 2, 1])
        for each in (model, fast)
    )
    assert_near(found[:, 3:], expected[:, 3:])
    assert n_compiled() == 2


@pytest.mark.parametrize("batch", [2, 8, 9])
@pytest.mark.parametrize("make", [make_gpt, make_llama])
def test_each_text_of_a_batch_is_written_as_alone(make, batch):
    model = make().double()
    fast, token_ids = compiled(model), torch.randint(50, (batch, 6))
    cache = PreallocatedCache(model.cfg, 8, batch, dtype=torch.float64)
    found = in_chunks(fast, cache, token_ids, [3, 1, 1, 1])
    assert n_compiled() == 2
    for row, logits in zip(token_ids[:, None], found, strict=True):
        assert_near(logits[None], model(row), 1e-10)


@pytest.mark.parametrize("name", ["preallocated", "concat", "int8"])
@pytest.mark.parametrize("make", [make_gpt, make_llama])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compiled_too(dtype, make, name):
    exact, token_ids = make(), torch.randint(50, (1, 9))
    model = copy.deepcopy(exact).to(dtype)

    def off(model):
        cache = make_cache(name, model.cfg, dtype=dtype)
        logits = in_chunks(model, cache, token_ids, [4, 1, 1, 2, 1])
        assert logits.dtype == dtype
        return (logits.float() - exact(token_ids)).abs().max()

    assert off(compiled(model)) < 2 * off(model) + 1e-3


def test_blocks_that_differ_in_more_than_their_weights_stay_what_they_are():
    model, token_ids = make_llama(), torch.randint(50, (1, 6))
    model.trf_blocks[1].register_forward_hook(lambda block, given, output: 2 * output)
    cache = PreallocatedCache(model.cfg, 8)
    found = in_chunks(compiled(model), cache, token_ids, [3, 1, 1, 1])
    assert_near(found, model(token_ids))


def test_new_weights_are_seen_after_the_next_prompt():
    model, other = make_llama(), make_llama(seed=1)
    fast, token_ids = compiled(model), torch.randint(50, (1, 6))
    for weights in (model, other, model):
        fast.load_state_dict(weights.state_dict(), assign=True)
        cache = PreallocatedCache(model.cfg, 8)
        assert_near(in_chunks(fast, cache, token_ids, [3, 1, 1, 1]), weights(token_ids))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_gives_the_baselines_logits_in_any_chunks(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    n_heads, head_dim, batch = draw(1, 5), draw(1, 9), draw(1, 3)
    cfg = GPTConfig(draw(2, 60), 24, n_heads * head_dim, n_heads, draw(1, 3))
    plain = with_weights(baseline.GPTModel(cfg).double())
    token_ids = torch.randint(cfg.vocab_size, (batch, draw(2, 12)))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=12))
    sizes = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= token_ids.shape[1]]
    sizes += [token_ids.shape[1] - sum(sizes)] * (sum(sizes) < token_ids.shape[1])
    for name in EXACT:
        cache = make_cache(name, cfg, batch, dtype=torch.float64)
        assert_near(in_chunks(make_gpt(plain), cache, token_ids, sizes), plain(token_ids), 1e-10)
    group = draw(1, 4)
    sizes_of_llama = {"n_heads": n_heads * group, "n_kv_heads": n_heads, "hidden_dim": draw(1, 30)}
    wide = {"vocab_size": 60, "context_length": 24, "n_layers": cfg.n_layers}
    cfg = LlamaConfig(emb_dim=n_heads * group * 2 * head_dim, **wide, **sizes_of_llama)
    llama = with_weights(LlamaModel(cfg).double())
    for name in EXACT:
        cache = make_cache(name, cfg, batch, dtype=torch.float64)
        assert_near(in_chunks(llama, cache, token_ids, sizes), llama(token_ids), 1e-9)


@pytest.mark.parametrize("make", [make_gpt, make_llama])
def test_where_nothing_can_be_compiled_the_text_is_written_all_the_same(make):
    def no_compiler(graph, inputs):
        raise RuntimeError("there is no g++")

    model, token_ids = make(), torch.randint(50, (1, 4))
    fast = compiled(model, no_compiler)
    with pytest.warns(UserWarning, match=r"goes on uncompiled(.|\n)*apt install(.|\n)*no g\+\+"):
        found = generate(fast, token_ids, 5, cache=ConcatCache(model.cfg))
    assert torch.equal(found, generate(model, token_ids, 5, cache=ConcatCache(model.cfg)))


def test_where_the_compiler_has_no_folder_the_text_is_written_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "folder"))
    model, token_ids = make_llama(), torch.randint(50, (1, 4))
    with pytest.warns(UserWarning, match=r"goes on uncompiled.*(.|\n)*NotADirectoryError"):
        fast = compiled(model, "inductor")
    found = generate(fast, token_ids, 5, cache=ConcatCache(model.cfg))
    assert torch.equal(found, generate(model, token_ids, 5, cache=ConcatCache(model.cfg)))


def test_an_interrupted_compilation_leaves_the_cache_as_it_was():
    def interrupted(graph, inputs):
        raise KeyboardInterrupt

    model, token_ids = make_llama(), torch.randint(50, (1, 4))
    fast, cache = compiled(model, interrupted), PreallocatedCache(model.cfg, 20)
    fast(token_ids, cache)
    with pytest.raises(KeyboardInterrupt):
        fast(token_ids[:, :1], cache)
    assert cache.n_tokens == 4
    fast.compile(backend="aot_eager")
    assert_near(
        fast(token_ids[:, :1], cache), model(torch.cat([token_ids, token_ids[:, :1]], 1))[:, -1:]
    )


def test_two_threads_may_compile_at_once():
    model, token_ids, found = make_gpt(), torch.randint(50, (1, 4)), []
    fast = compiled(model)

    def write():
        found.append(generate(fast, token_ids, 6, cache=ConcatCache(SMALL)))

    threads = [threading.Thread(target=write) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    expected = generate(model, token_ids, 6, cache=ConcatCache(SMALL))
    assert [torch.equal(each, expected) for each in found] == [True, True]


def test_who_watches_a_compiled_model_sees_its_steps():
    model, token_ids = make_llama(), torch.randint(50, (1, 4))
    seen = [
        trace(each, token_ids, 5, cache=ConcatCache(model.cfg)).steps
        for each in (model, compiled(model))
    ]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("make", [make_gpt, make_llama])
def test_weights_lie_in_memory_once(make):
    plain = make()
    fast = compiled(plain)
    generate(fast, torch.randint(50, (1, 4)), 5, cache=ConcatCache(plain.cfg))
    parts = [*fast.parameters(), *fast.buffers()]
    assert sum(part.nbytes for part in parts) == sum(part.nbytes for part in plain.parameters())
    held = {id(part) for part in parts}
    inside = [each for module in fast.modules() for each in vars(module).values()]
    assert not [each for each in inside if torch.is_tensor(each) and id(each) not in held]
