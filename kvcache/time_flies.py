"""The small trained model of the book: its greedy continuation of "Time" is " flies fast, ...".

It has learned the sentences of `data/time_flies.txt` by heart, in their order: 600 steps of AdamW,
about a minute on two cores. `tools/train.py` of the repository does it again.
"""

import torch
from safetensors.torch import load_file

from . import cached, data
from .config import TIME_FLIES

CHECKPOINT = "time_flies.safetensors"


def load(model_class=cached.GPTModel):
    """The trained model, in eval mode, as the `GPTModel` of `baseline`, `cached` or `optimized`.

    The sentences use a few hundred of the 50,257 tokens. Only the embeddings of those are stored;
    all others are zero, as they were throughout the training.

    Raises FileNotFoundError or ValueError if the packaged checkpoint is missing or damaged.
    """
    return from_checkpoint(data.checked_path(CHECKPOINT), model_class)


def from_checkpoint(path, model_class=cached.GPTModel):
    """The model in a file that `tools/train.py` made, in eval mode."""
    tensors = load_file(path)
    known = tensors["tok_emb.weight"]  # (n_known, emb_dim)
    embeddings = known.new_zeros(TIME_FLIES.vocab_size, TIME_FLIES.emb_dim)
    embeddings[tensors.pop("known_tokens")] = known
    tensors["tok_emb.weight"] = tensors["out_head.weight"] = embeddings
    with torch.device("cpu"):
        model = model_class(TIME_FLIES)
    model.load_state_dict(tensors)
    return model.eval()
