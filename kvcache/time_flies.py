"""The small trained model of the book: its greedy continuation of "Time" is " flies fast, ...".

It has learned the sentences of `data/time_flies.txt` by heart, in their order. Train it again, in
about a minute on two cores, with

    python -m kvcache.time_flies [FILE]
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from tqdm.auto import trange

from . import baseline, cached, data
from .config import TIME_FLIES
from .tokenizer import load_tokenizer

CHECKPOINT = "time_flies.safetensors"


def load(model_class=cached.GPTModel):
    """The trained model, in eval mode, as `baseline.GPTModel` or `cached.GPTModel`.

    The sentences use a few hundred of the 50,257 tokens. Only the embeddings of those are stored;
    all others are zero, as they were throughout the training.

    Raises FileNotFoundError or ValueError if the packaged checkpoint is missing or damaged.
    """
    return from_checkpoint(data.checked_path(CHECKPOINT), model_class)


def from_checkpoint(path, model_class=cached.GPTModel):
    """The model in a file that `train` and `save` made, in eval mode."""
    tensors = load_file(path)
    known = tensors["tok_emb.weight"]  # (n_known, emb_dim)
    embeddings = known.new_zeros(TIME_FLIES.vocab_size, TIME_FLIES.emb_dim)
    embeddings[tensors.pop("known_tokens")] = known
    tensors["tok_emb.weight"] = tensors["out_head.weight"] = embeddings
    model = model_class(TIME_FLIES)
    model.load_state_dict(tensors)
    return model.eval()


def training_texts():
    """The sentences as one text for each sentence, beginning there and going round once."""
    sentences = data.checked_path("time_flies.txt").read_text().splitlines()
    texts = [" ".join(sentences[i:] + sentences[:i]) for i in range(len(sentences))]
    # Three sentences begin with "Time". The first comes most often, so it is the most likely one.
    return texts + 2 * texts[:1]


def train(n_steps=600, seed=0):
    """Train from scratch. Returns (model, known_tokens).

    The model's vocabulary is only that of the sentences: its token i is GPT-2's known_tokens[i].
    """
    torch.manual_seed(seed)
    encode = load_tokenizer().encode
    length = TIME_FLIES.context_length
    texts = torch.tensor([encode(text)[: length + 1] for text in training_texts()])
    known_tokens, texts = torch.unique(texts, return_inverse=True)  # (n_texts, length + 1)

    model = baseline.GPTModel(replace(TIME_FLIES, vocab_size=len(known_tokens)))
    torch.nn.init.normal_(model.tok_emb.weight, std=0.02)
    model.out_head.weight = model.tok_emb.weight  # one table for reading and for writing
    # A token that never occurs has a zero embedding, hence the logit 0. Together the unknown
    # tokens add their number to the softmax's sum, as one more logit of log(number) does.
    unknown = torch.tensor(math.log(TIME_FLIES.vocab_size - len(known_tokens)))

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=n_steps)
    for _ in (progress := trange(n_steps, desc="training", unit="step")):
        rows = texts[torch.randint(len(texts), (16,))]
        logits = model(rows[:, :-1])  # (16, length, n_known)
        logits = torch.cat([logits, unknown.expand(16, length, 1)], dim=-1)
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval(), known_tokens


def save(model, known_tokens, path):
    """Write what `from_checkpoint` reads. The head and the masks follow from the rest."""
    tensors = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name != "out_head.weight" and not name.endswith("mask")
    }
    save_file({**tensors, "known_tokens": known_tokens}, path)


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else data.FOLDER / CHECKPOINT
    save(*train(), target)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, SHA-256 {data.sha256(target)}")
    if target.parent == data.FOLDER:
        data.write_hashes()
