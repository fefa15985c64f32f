"""Writing text one token at a time, with and without the cache."""

from contextlib import contextmanager
from functools import partial
from inspect import signature
from operator import is_not

import torch
from torch.nn.utils.rnn import pad_sequence

from .caches.base import NoCache, check_fit
from .config import GPTConfig, check_all, check_kinds, check_number, check_size, need, need_type


def generate(model, token_ids, max_new_tokens, use_cache=False, **options):
    """Continue each row of `token_ids` by `max_new_tokens` tokens.

    token_ids (batch, n_tokens) -> (batch, n_tokens + max_new_tokens)

    Greedy by default: always the most likely token. For `options` see `stream`, which does the
    work. Raises what `stream` raises.
    """
    new_tokens = list(stream(model, token_ids, max_new_tokens, use_cache, **options))
    return torch.cat([token_ids, *new_tokens], dim=1)


def stream(model, token_ids, max_new_tokens, use_cache=False, cache=None, **sampling):
    """Like `generate`, but yields each new token, (batch, 1), as soon as it is there.

    use_cache    for `cached.GPTModel`, whose cache is inside it
    cache        for a model that is handed one, such as `optimized.GPTModel`: an object of
                 `caches`. The tokens continue those that it holds; afterwards it holds every token
                 but the last. None: the model reads the whole text again for each token.
    sampling     how a token is chosen: temperature, top_k and generator, see `chooser`

    The model works in eval mode and without gradients, and gets its mode back after each pass.
    With use_cache=True the cache is reset first, and afterwards holds every token but the last.

    All that is handed in is checked here, once; a step then asks nothing of the device. Raises
    TypeError or ValueError, before any work, for token ids that the model cannot take, for a text
    longer than the context length, and for settings that make no sense; RuntimeError if somebody
    else uses the model's cache before the stream has ended.
    """
    inner = inside(model)
    cfg, name = inner.cfg, f"{type(inner).__module__}.{type(inner).__name__}"
    takes_one = "cache" in signature(inner.forward).parameters
    has_own = hasattr(inner, "reset_kv_cache")
    need(has_own or not use_cache, f"{name} has no cache inside", "use cached.GPTModel")
    n_past = 0
    if cache is not None:
        need(takes_one, f"{name} takes no cache object", "use optimized.GPTModel")
        need(not isinstance(cache, NoCache), "a NoCache keeps nothing", "hand in another, or none")
        check_fit(cache, model)
        n_past = cache.n_tokens
    max_new_tokens = check_size("max_new_tokens", max_new_tokens, least=0)
    cfg.check_token_ids(token_ids, model.tok_emb.weight.device, n_past, max_new_tokens)
    cfg.check_vocabulary(token_ids)
    if cache is not None and max_new_tokens:
        cache.check(len(token_ids), token_ids.shape[1] + max_new_tokens - 1)
    choose = chooser(cfg.vocab_size, **sampling)
    if not takes_one:
        return next_tokens(model, token_ids, max_new_tokens, use_cache, choose)
    n_changes = None if cache is None else cache.n_changes
    return next_tokens_with(model, token_ids, max_new_tokens, cache, choose, n_changes)


def inside(model):
    """The model itself, also inside what torch.compile made of it. Raises TypeError for none."""
    model = getattr(model, "_orig_mod", model)
    right = isinstance(getattr(model, "cfg", None), GPTConfig) and hasattr(model, "tok_emb")
    need_type(right, "the model", model, "pass one of kvcache, such as cached.GPTModel")
    return model


@torch.no_grad()
def next_tokens_with(model, token_ids, max_new_tokens, cache, choose, n_changes):
    """The loop for a model that is handed its cache: nothing to reset.

    Raises RuntimeError if somebody else uses that cache meanwhile.
    """
    step_input = token_ids  # the whole prompt
    for _ in range(max_new_tokens):
        if cache is not None and cache.n_changes != n_changes:
            raise RuntimeError("another call used this cache; finish one stream first.")
        logits = model(step_input, cache, last_only=True)  # (batch, 1, vocab_size)
        n_changes = None if cache is None else cache.n_changes
        next_token = choose(logits[:, -1])  # (batch, 1)
        yield next_token
        step_input = torch.cat([step_input, next_token], dim=1) if cache is None else next_token


@torch.no_grad()
def next_tokens(model, token_ids, max_new_tokens, use_cache, choose):
    """The loop. Raises RuntimeError if somebody else uses the model's cache meanwhile."""
    if use_cache:  # CACHE 5
        model.reset_kv_cache()  # CACHE 5
        own_cache = model.stored()  # CACHE 5: to notice others who use it
    step_input = token_ids  # the whole prompt
    for _ in range(max_new_tokens):
        if use_cache and any(map(is_not, own_cache, model.stored())):  # CACHE 5
            raise RuntimeError("another call used this cache; finish one stream first.")  # CACHE 5
        with eval_mode(model):
            logits = model(step_input, use_cache, last_only=True)  # (batch, 1, vocab_size)
        if use_cache:  # CACHE 5
            own_cache = model.stored()  # CACHE 5
        next_token = choose(logits[:, -1])  # (batch, 1)
        yield next_token
        token_ids = torch.cat([token_ids, next_token], dim=1)
        step_input = token_ids  # without a cache: the whole text again
        if use_cache:  # CACHE 5
            step_input = next_token  # CACHE 5: the new token alone


def chooser(vocab_size, temperature=0.0, top_k=None, generator=None):
    """The way to choose the next token of each row: logits (batch, vocab_size) -> (batch, 1).

    temperature  0 takes the most likely token; above 0 draws from softmax(logits / temperature)
    top_k        draw among the k most likely tokens only
    generator    a seeded torch.Generator on the model's device, for draws that can be repeated

    Raises TypeError for what is no generator, ValueError for settings that make no sense.
    """
    check_kinds(generator=(generator, torch.Generator | None))
    if temperature != 0:
        limits = torch.finfo(torch.float32)
        temperature = check_number("temperature", temperature, limits.tiny, limits.max)
    if top_k is not None:
        top_k = check_size("top_k", top_k)
        problem = f"top_k is {top_k} with temperature {temperature}"
        remedy = f"choose 1 to {vocab_size} and a temperature above 0, or leave top_k out"
        need(temperature > 0 and top_k <= vocab_size, problem, remedy)
    return partial(pick, temperature=temperature, top_k=top_k, generator=generator)


def pick(logits, temperature=0.0, top_k=None, generator=None):
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    if top_k is not None:
        values, ids = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, ids, values)
    logits = logits.float() - logits.amax(dim=-1, keepdim=True)  # no temperature is too small
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(probabilities, num_samples=1, generator=generator)


@contextmanager
def eval_mode(model):
    """Eval mode for one pass; every module gets back the mode that it had."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def pad_left(prompts):
    """Prompts of unequal length as one batch, each filled up at its left.

    prompts    the token ids of each: a tensor (n_tokens,) or a list
    token_ids  (batch, longest)
    n_pad      (batch,): how many tokens of each row only fill it up. A cache takes this.

    Raises TypeError for what is no list, ValueError if there is no prompt, or one that is empty or
    not a row of whole numbers.
    """
    need_type(not isinstance(prompts, str), "prompts", prompts, "pass token ids")
    prompts = check_all("prompts", prompts, object)
    prompts = [torch.as_tensor(each, device=getattr(each, "device", "cpu")) for each in prompts]
    kinds = [(tuple(prompt.shape), prompt.dtype) for prompt in prompts]
    whole = all(dtype in (torch.int64, torch.int32) for _, dtype in kinds)
    right = whole and all(len(shape) == 1 and shape[0] for shape, _ in kinds)
    remedy = "pass whole numbers, (n_tokens,) each, not empty"
    need(right, f"the prompts have shapes and dtypes {kinds}", remedy)
    token_ids = pad_sequence(prompts, batch_first=True, padding_side="left").long()
    return token_ids, token_ids.new_tensor([token_ids.shape[1] - len(each) for each in prompts])
