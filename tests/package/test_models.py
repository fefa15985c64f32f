"""The models and their weights: `cached.py` beside `baseline.py`, checkpoints, the fast one."""

import copy
import difflib
import inspect

import pytest
import torch
from conftest import SMALL, twins
from llms_from_scratch import ch04 as public
from models_and_caches import assert_near, make_gpt

from kvcache import GPTConfig, baseline, cached, generate, optimized


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("model_class", [baseline.GPTModel, cached.GPTModel])
def test_the_sources_public_model_and_ours_share_checkpoints(model_class, qkv_bias):
    """With its mask, which is True where a token must not look, or without; also on meta."""
    cfg = {**vars(SMALL), "qkv_bias": qkv_bias}
    torch.manual_seed(1)
    theirs, ours = public.GPTModel(cfg).eval(), model_class(GPTConfig(**cfg)).eval()
    with torch.device("meta"):
        bare, empty = model_class(ours.cfg).eval(), model_class(ours.cfg).eval()
    sent = theirs.state_dict()
    maskless = {name: x for name, x in sent.items() if not name.endswith("mask")}
    ours.load_state_dict(sent)
    bare.load_state_dict(maskless, assign=True)
    empty.to_empty(device="cpu").load_state_dict(maskless)
    token_ids, use_cache = torch.randint(50, (2, 8)), model_class is cached.GPTModel
    text = public.generate_text_simple(theirs, token_ids, 16, context_size=24)
    for model in (ours, bare, empty):
        assert_near(model(token_ids), theirs(token_ids))
        assert torch.equal(generate(model, token_ids, 16, use_cache=use_cache), text)
        assert torch.equal(model.trf_blocks[1].att.mask, sent["trf_blocks.1.att.mask"] == 0)
        back = model.state_dict()
        assert back.keys() == sent.keys()
        assert all(torch.equal(back[name].float(), sent[name].float()) for name in sent)


def test_the_cache_moves_with_the_model_is_in_no_checkpoint_and_empty_after_a_reset():
    plain, caching = twins()
    caching(torch.tensor([[1, 2, 3]]), use_cache=True)
    plain.load_state_dict(caching.state_dict())
    assert caching.double().trf_blocks[0].att.cache_k.dtype == torch.float64
    caching.reset_kv_cache()
    held = [(block.att.cache_k, block.att.cache_v) for block in caching.trf_blocks]
    assert (caching.current_pos, held) == (0, [(None, None)] * SMALL.n_layers)


def without_marks(before, after):
    """The lines of a class that differ and carry no mark; of a new method, the first one."""
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


def test_each_line_that_differs_in_cached_carries_a_mark():
    for name in ("MultiHeadAttention", "TransformerBlock", "GPTModel"):
        assert without_marks(getattr(baseline, name), getattr(cached, name)) == []
    forgotten = without_marks(optimized.GPTModel, cached.GPTModel)
    assert "blocks = [TransformerBlock(cfg) for _ in range(cfg.n_layers)]" in forgotten


def test_a_model_that_was_moved_copied_or_loaded_anew_uses_its_new_weights():
    fast, other = make_gpt(), make_gpt(twins(seed=1)[0])
    token_ids = torch.randint(50, (1, 9))
    expected = fast(token_ids)
    for assign in (False, True):
        twin = copy.deepcopy(fast)
        assert torch.equal(twin(token_ids), expected)
        twin.load_state_dict(other.state_dict(), assign=assign)
        assert torch.equal(twin(token_ids), other(token_ids))
    assert torch.equal(fast(token_ids), expected)
    assert_near(fast.double()(token_ids).float(), expected)
    twin.blocks[0]["b_up"] = torch.zeros_like(twin.blocks[0]["b_up"])
    assert not torch.equal(twin(token_ids), other(token_ids))
