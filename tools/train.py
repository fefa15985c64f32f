"""Trains the small model of the book again, in about a minute on two cores: make train.

    python tools/train.py [FILE]

Without a FILE it writes the checkpoint of the package, and its hash.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm.auto import trange

from kvcache import baseline, data, load_tokenizer
from kvcache.config import TIME_FLIES
from kvcache.time_flies import CHECKPOINT


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
    # A token that never occurs has the logit 0, for its embedding is zero. All of them together add
    # their number to the softmax's sum, as one more logit of log(number) does.
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
    """Write what `time_flies.from_checkpoint` reads. Head and masks follow from the rest."""
    tensors = {name: each.contiguous() for name, each in model.named_parameters()}
    save_file({**tensors, "known_tokens": known_tokens}, path)


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else data.FOLDER / CHECKPOINT
    save(*train(), target)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, SHA-256 {data.sha256(target)}")
    if target.parent == data.FOLDER:
        sums = (f"{data.sha256(data.FOLDER / name)}  {name}\n" for name in data.hashes())
        (data.FOLDER / "SHA256SUMS").write_text("".join(sums))
