"""The models and their weights: `cached.py` beside `baseline.py`, checkpoints, the fast one."""

import copy
import difflib
import inspect

import pytest
import torch
from conftest import SMALL, twins
from models_and_caches import assert_near, in_chunks, make_cache, make_gpt

from kvcache import GPTConfig, baseline, cached, generate, optimized

GPTS = pytest.mark.parametrize(
    "model_class", [baseline.GPTModel, cached.GPTModel], ids=["baseline", "cached"]
)


@GPTS
def test_in_a_checkpoint_the_mask_is_that_of_the_public_gpt(model_class):
    """There True is where a token must not look; in the model it is where a token may."""
    model, later = model_class(SMALL), torch.ones(24, 24).triu(diagonal=1)
    state_dict = model.state_dict()
    for layer, block in enumerate(model.trf_blocks):
        assert torch.equal(state_dict[f"trf_blocks.{layer}.att.mask"].float(), later)
        state_dict[f"trf_blocks.{layer}.att.mask"] = later
        assert torch.equal(block.att.mask, later == 0)
    again = model_class(SMALL)
    again.load_state_dict(state_dict)
    assert torch.equal(again.trf_blocks[1].att.mask, later == 0)


@pytest.mark.parametrize("assign", [False, True])
def test_a_model_from_the_meta_device_gets_its_masks_though_the_checkpoint_leaves_them_out(assign):
    plain, _ = twins()
    with torch.device("meta"):
        model = cached.GPTModel(SMALL)
    if not assign:
        model = model.to_empty(device="cpu")
    without = {name: x for name, x in plain.state_dict().items() if not name.endswith("mask")}
    model.load_state_dict(without, assign=assign)
    token_ids = torch.randint(SMALL.vocab_size, (1, 9))
    assert_near(model.eval()(token_ids), plain(token_ids), 1e-5)


@pytest.mark.parametrize("qkv_bias", [False, True])
@GPTS
def test_the_sources_public_model_and_ours_share_checkpoints(model_class, qkv_bias):
    public = pytest.importorskip("llms_from_scratch.ch04", reason="the public GPT is not installed")
    cfg = {**vars(SMALL), "qkv_bias": qkv_bias}
    torch.manual_seed(1)
    theirs, ours = public.GPTModel(cfg).eval(), model_class(GPTConfig(**cfg)).eval()
    ours.load_state_dict(theirs.state_dict())
    token_ids = torch.randint(50, (2, 8))
    with torch.no_grad():
        expected = theirs(token_ids)
        assert_near(ours(token_ids), expected)
    text = public.generate_text_simple(theirs, token_ids, 16, context_size=24)
    use_cache = model_class is cached.GPTModel
    assert torch.equal(generate(ours, token_ids, 16, use_cache=use_cache), text)

    back = public.GPTModel(cfg).eval()
    back.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert_near(back(token_ids), expected, 1e-5)


def test_the_cache_moves_with_the_model_is_in_no_checkpoint_and_empty_after_a_reset():
    plain, caching = twins()
    caching(torch.tensor([[1, 2, 3]]), use_cache=True)
    assert set(plain.state_dict()) == set(caching.state_dict())
    plain.load_state_dict(caching.state_dict())
    assert caching.double().trf_blocks[0].att.cache_k.dtype == torch.float64
    caching.reset_kv_cache()
    assert caching.current_pos == 0
    held = [(block.att.cache_k, block.att.cache_v) for block in caching.trf_blocks]
    assert held == [(None, None)] * SMALL.n_layers


def without_marks(before, after):
    """The lines of a class that differ from another's and carry no mark.

    New methods carry it where they begin; docstrings and comments need none.
    """
    found = []
    for name, function in vars(after).items():
        if inspect.isfunction(function):
            new, old = inspect.getsource(function).splitlines(), []
            if name in vars(before):
                old = inspect.getsource(getattr(before, name)).splitlines()
            lines = difflib.ndiff(old, new) if old else [f"+ {new[0]}"]
            changed = [line[2:].strip() for line in lines if line.startswith("+ ")]
            found += [x for x in changed if x and x[0] != "#" and "# CACHE" not in x]
    return found


@pytest.mark.parametrize("name", ["MultiHeadAttention", "TransformerBlock", "GPTModel"])
def test_each_line_that_differs_in_cached_carries_a_mark(name):
    assert without_marks(getattr(baseline, name), getattr(cached, name)) == []


def test_a_line_without_a_mark_would_be_found():
    class Changed(baseline.GPTModel):
        def reset(self):
            self.current_pos = 0

    assert without_marks(baseline.GPTModel, Changed) == ["def reset(self):"]


def test_a_checkpoint_that_lacks_a_weight_names_it():
    state_dict = twins()[0].state_dict()
    del state_dict["trf_blocks.1.att.W_key.weight"]
    with pytest.raises(KeyError, match=r"trf_blocks\.1\.att\.W_key"):
        optimized.GPTModel(SMALL).load_state_dict(state_dict)


def test_a_model_that_was_moved_copied_or_loaded_anew_uses_its_new_weights():
    fast, other = make_gpt(), make_gpt(seed=1)
    token_ids = torch.randint(50, (1, 9))
    expected = fast(token_ids)
    twin = copy.deepcopy(fast)
    assert torch.equal(twin(token_ids), expected)
    for assign in (False, True):
        twin.load_state_dict(fast.state_dict())
        assert torch.equal(twin(token_ids), expected)
        twin.load_state_dict(other.state_dict(), assign=assign)
        assert torch.equal(twin(token_ids), other(token_ids))
    assert torch.equal(fast(token_ids), expected)
    assert_near(fast.double()(token_ids).float(), expected)
    twin.blocks[0]["b_up"] = torch.zeros_like(twin.blocks[0]["b_up"])
    assert not torch.equal(twin(token_ids), other(token_ids))


@pytest.mark.parametrize(
    ("name", "n_pad"),
    [
        ("preallocated", None),
        ("preallocated", [2, 0]),
        ("paged", None),
        ("window", None),
        ("int4", None),
    ],
)
def test_compiled_decode_steps_give_the_same_logits(name, n_pad):
    """Also where tokens only fill a row up."""
    torch.compiler.reset()
    fast, n_pad = make_gpt(), n_pad and torch.tensor(n_pad)
    compiled = copy.deepcopy(fast)
    compiled.compile(backend="eager")  # traced, and not made into C++
    token_ids, sizes = torch.randint(50, (2, 14)), [3, 1, 1, 1, 4, 1, 1, 1, 1]
    expected, found = (
        in_chunks(model, make_cache(name, batch=2, n_pad=n_pad), token_ids, sizes)
        for model in (fast, compiled)
    )
    assert_near(found[:, 3:], expected[:, 3:], 1e-5)
    assert not torch.equal(found, expected)  # it did go another way
