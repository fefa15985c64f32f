"""Writing text one token at a time, with and without the cache."""

import math
from contextlib import contextmanager
from numbers import Integral

import torch

from .config import GPTConfig


def generate(model, token_ids, max_new_tokens, use_cache=False, **sampling):
    """Continue each row of `token_ids` by `max_new_tokens` tokens.

    token_ids (batch, n_tokens) -> (batch, n_tokens + max_new_tokens)

    Greedy by default: always the most likely token. For `sampling` and the errors raised see
    `stream`, which does the work.
    """
    new_tokens = list(stream(model, token_ids, max_new_tokens, use_cache, **sampling))
    return torch.cat([token_ids, *new_tokens], dim=1)


def stream(
    model, token_ids, max_new_tokens, use_cache=False, temperature=0.0, top_k=None, generator=None
):
    """Like `generate`, but yields each new token, (batch, 1), as soon as it is there.

    temperature  0 takes the most likely token; above 0 draws from softmax(logits / temperature)
    top_k        draw among the k most likely tokens only
    generator    a seeded torch.Generator on the model's device, for draws that can be repeated

    The model works in eval mode and without gradients, and gets its mode back after each pass.
    With use_cache=True the cache is reset first, and afterwards holds every token but the last.

    Raises TypeError or ValueError, before any work, for token ids that the model cannot take,
    for a text longer than the context length, and for settings that make no sense; RuntimeError
    if somebody else uses the model's cache before the stream has ended.
    """
    if not isinstance(getattr(model, "cfg", None), GPTConfig):
        raise TypeError(
            f"cannot generate with a {type(model).__name__}; pass a GPTModel of kvcache."
        )
    model.cfg.check_token_ids(token_ids, model.tok_emb.weight.device)
    n_tokens, limit = token_ids.shape[1], model.cfg.context_length
    if not is_whole(max_new_tokens) or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}; choose a whole number, 0 or more.")
    if n_tokens + max_new_tokens > limit:
        raise ValueError(
            f"{n_tokens} prompt tokens + {max_new_tokens} new tokens exceed the context length of "
            f"{limit}; ask for at most {limit - n_tokens} new ones, or shorten the prompt."
        )
    if use_cache and not hasattr(model, "reset_kv_cache"):
        raise ValueError(
            f"use_cache=True: {type(model).__module__}.{type(model).__name__} has no cache; "
            "use cached.GPTModel, or use_cache=False."
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature is {temperature}; choose 0 (greedy) or more.")
    vocab_size = model.cfg.vocab_size
    if top_k is not None and not (temperature > 0 and is_whole(top_k) and 1 <= top_k <= vocab_size):
        raise ValueError(
            f"top_k is {top_k} with temperature {temperature}; choose a whole number from 1 to "
            f"{vocab_size} and a temperature above 0, or leave top_k out."
        )
    return next_tokens(model, token_ids, max_new_tokens, use_cache, temperature, top_k, generator)


@torch.no_grad()
def next_tokens(model, token_ids, max_new_tokens, use_cache, temperature, top_k, generator):
    if use_cache:  # CACHE 5
        model.reset_kv_cache()  # CACHE 5
    own_cache = None  # CACHE 5: to notice others who use it
    step_input = token_ids  # the whole prompt
    for _ in range(max_new_tokens):
        if use_cache and model.trf_blocks[0].att.cache_k is not own_cache:  # CACHE 5
            raise RuntimeError("another call used this cache; finish one stream first.")  # CACHE 5
        with eval_mode(model):
            logits = model(step_input, use_cache, last_only=True)  # (batch, 1, vocab_size)
        if use_cache:  # CACHE 5
            own_cache = model.trf_blocks[0].att.cache_k  # CACHE 5
        next_token = pick(logits[:, -1], temperature, top_k, generator)  # (batch, 1)
        yield next_token
        token_ids = torch.cat([token_ids, next_token], dim=1)
        step_input = token_ids  # without a cache: the whole text again
        if use_cache:  # CACHE 5
            step_input = next_token  # CACHE 5: the new token alone


def pick(logits, temperature=0.0, top_k=None, generator=None):
    """Choose the next token of each row: logits (batch, vocab_size) -> (batch, 1)."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    if top_k is not None:
        values, ids = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, ids, values)
    logits = logits - logits.amax(dim=-1, keepdim=True)  # so that no temperature is too small
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(probabilities, num_samples=1, generator=generator)


@contextmanager
def eval_mode(model):
    """Eval mode for one pass; every module gets back the mode that it had."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def is_whole(number):
    """Whether this is a whole number, and not a truth value."""
    return isinstance(number, Integral) and not isinstance(number, bool)
