"""Writing text one token at a time, with and without the cache."""

import math
from contextlib import contextmanager
from inspect import signature

import torch
from torch.nn.utils.rnn import pad_sequence

from .caches import check_fit
from .config import GPTConfig, check_size


def generate(model, token_ids, max_new_tokens, use_cache=False, **options):
    """Continue each row of `token_ids` by `max_new_tokens` tokens.

    token_ids (batch, n_tokens) -> (batch, n_tokens + max_new_tokens)

    Greedy by default: always the most likely token. For `options` and the errors raised see
    `stream`, which does the work.
    """
    new_tokens = list(stream(model, token_ids, max_new_tokens, use_cache, **options))
    return torch.cat([token_ids, *new_tokens], dim=1)


def stream(
    model,
    token_ids,
    max_new_tokens,
    use_cache=False,
    cache=None,
    temperature=0.0,
    top_k=None,
    generator=None,
):
    """Like `generate`, but yields each new token, (batch, 1), as soon as it is there.

    use_cache    for `cached.GPTModel`, whose cache is inside it
    cache        for a model that is handed one, such as `optimized.GPTModel`: an object of
                 `caches`. The tokens continue those that it holds; afterwards it holds every token
                 but the last. None: the model reads the whole text again for each token.
    temperature  0 takes the most likely token; above 0 draws from softmax(logits / temperature)
    top_k        draw among the k most likely tokens only
    generator    a seeded torch.Generator on the model's device, for draws that can be repeated

    The model works in eval mode and without gradients, and gets its mode back after each pass.
    With use_cache=True the cache is reset first, and afterwards holds every token but the last.

    Raises TypeError or ValueError, before any work, for token ids that the model cannot take,
    for a text longer than the context length, and for settings that make no sense; RuntimeError
    if somebody else uses the model's cache before the stream has ended.
    """
    name = f"{type(model).__module__}.{type(model).__name__}"
    if not isinstance(getattr(model, "cfg", None), GPTConfig):
        raise TypeError(f"cannot generate with a {name}; pass a GPTModel of kvcache.")
    if cache is not None and not hasattr(cache, "begin"):
        remedy = "pass an object of kvcache.caches, and of a PagedCache its batch([...])"
        raise TypeError(f"cache is a {type(cache).__name__}; {remedy}.")
    n_past, limit = 0 if cache is None else cache.n_tokens, model.cfg.context_length
    model.cfg.check_token_ids(token_ids, model.tok_emb.weight.device, n_past)
    n_prompt = token_ids.shape[1]
    check_size("max_new_tokens", max_new_tokens, least=0)
    if n_past + n_prompt + max_new_tokens > limit:
        earlier, fit = f"{n_past} cached + " if n_past else "", limit - n_past - n_prompt
        asked = f"{earlier}{n_prompt} prompt tokens + {max_new_tokens} new tokens"
        remedy = f"ask for at most {fit} new ones, or shorten the prompt"
        raise ValueError(f"{asked} exceed the context length of {limit}; {remedy}.")
    if use_cache and not hasattr(model, "reset_kv_cache"):
        remedy = "use cached.GPTModel, or use_cache=False"
        raise ValueError(f"use_cache=True: {name} has no cache inside; {remedy}.")
    takes_cache = "cache" in signature(model.forward).parameters
    if cache is not None:
        if not takes_cache:
            raise ValueError(f"{name} takes no cache object; use optimized.GPTModel.")
        check_fit(cache, model)
        if max_new_tokens:
            cache.check(token_ids.shape[0], n_prompt + max_new_tokens - 1)
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature is {temperature}; choose 0 (greedy) or more.")
    if top_k is not None:
        check_size("top_k", top_k)
        if temperature == 0 or top_k > model.cfg.vocab_size:
            remedy = f"1 to {model.cfg.vocab_size} and a temperature above 0, or leave top_k out"
            raise ValueError(f"top_k is {top_k} with temperature {temperature}; choose {remedy}.")
    loop, way = (next_tokens_with, cache) if takes_cache else (next_tokens, use_cache)
    return loop(model, token_ids, max_new_tokens, way, temperature, top_k, generator)


@torch.no_grad()
def next_tokens_with(model, token_ids, max_new_tokens, cache, temperature, top_k, generator):
    """The loop for a model that is handed its cache: nothing to reset."""
    step_input = token_ids  # the whole prompt
    n_stored = 0 if cache is None else cache.n_tokens
    for _ in range(max_new_tokens):
        if cache is not None and cache.n_tokens != n_stored:
            raise RuntimeError("another call used this cache; finish one stream first.")
        n_stored += step_input.shape[1]
        logits = model(step_input, cache, last_only=True)  # (batch, 1, vocab_size)
        next_token = pick(logits[:, -1], temperature, top_k, generator)  # (batch, 1)
        yield next_token
        step_input = torch.cat([step_input, next_token], dim=1) if cache is None else next_token


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


def pad_left(prompts):
    """Prompts of unequal length as one batch, each filled up at its left.

    prompts    the token ids of each: a tensor (n_tokens,) or a list
    token_ids  (batch, longest)
    n_pad      (batch,): how many tokens of each row only fill it up. A cache takes this.
    """
    prompts = [torch.as_tensor(prompt) for prompt in prompts]
    if not prompts or any(prompt.ndim != 1 or len(prompt) == 0 for prompt in prompts):
        shapes = [tuple(prompt.shape) for prompt in prompts]
        raise ValueError(f"the prompts have shapes {shapes}; pass tensors (n_tokens,), not empty.")
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    token_ids = pad_sequence(prompts, batch_first=True, padding_side="left")
    return token_ids, lengths.max() - lengths
