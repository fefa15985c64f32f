"""Prints the speed table: the 124M shape, 200 new tokens, on this machine, all in one run.

Every row writes the same text with the same weights: our baseline, the cached model, the model
that is handed a cache with each cache, and Hugging Face transformers with its dynamic and its
static cache. The limit is what the memory allows: the bytes of weights and cache that a token
must stream, over the bandwidth at which a matrix-vector product streams 400 MB. That bandwidth
depends on the rows of the matrix, so there are two: rows as wide as the model, and long ones.
"""

import os
import time

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers

from kvcache import baseline, cached, caches, optimized, stream
from kvcache.hub import gpt_from
from kvcache.memory import kv_cache_bytes

N_NEW, N_TOTAL = 200, 204
MATRIX_BYTES = 4 * 10**8


class AllLogits(baseline.GPTModel):
    """The baseline that computes the logits of every position in every step, as the sources do."""

    def forward(self, token_ids, use_cache=False, last_only=False):
        return super().forward(token_ids, use_cache, last_only=False)


class Theirs(torch.nn.Module):
    """transformers' model behind the interface that `stream` asks for."""

    def __init__(self, model, cfg):
        super().__init__()
        self.model, self.cfg, self.tok_emb = model, cfg, model.transformer.wte

    def forward(self, token_ids, cache=None, last_only=False):
        length = cache.n_tokens + token_ids.shape[1]
        mask = None if cache.static is None else cache.mask[:, :length]
        with torch.inference_mode():
            out = self.model(
                token_ids,
                past_key_values=cache.theirs,
                attention_mask=mask,
                use_cache=True,
                logits_to_keep=1,
            )
        cache.n_tokens = length
        return out.logits


class TheirCache(caches.Cache):
    """One of transformers' caches, with what `stream` asks of a cache."""

    def __init__(self, model, cfg, static=None):
        super().__init__(cfg)
        self.static, self.max_tokens = static, static
        self.theirs = transformers.DynamicCache(config=model.config)
        if static:
            self.theirs = transformers.StaticCache(config=model.config, max_cache_len=static)
            self.mask = torch.ones(1, static, dtype=torch.long)


def all_rows(theirs):
    """(label, model, options of `measured`) for each row."""
    plain = gpt_from(theirs, baseline.GPTModel)
    cfg, fast = plain.cfg, gpt_from(theirs, optimized.GPTModel)
    others = [AllLogits(cfg), cached.GPTModel(cfg)]
    for model in others:
        model.load_state_dict(plain.state_dict(), assign=True)

    def pages():
        pages = caches.PagedCache(cfg, n_blocks=-(-N_TOTAL // 16))
        return pages.batch([pages.add()])

    makers = {
        "preallocated": lambda: caches.PreallocatedCache(cfg, N_TOTAL),
        "concatenating": lambda: caches.ConcatCache(cfg),
        "sliding window": lambda: caches.SlidingWindowCache(cfg, N_TOTAL),
        "int8": lambda: caches.QuantizedCache(cfg, N_TOTAL, bits=8),
        "int4": lambda: caches.QuantizedCache(cfg, N_TOTAL, bits=4),
        "paged": pages,
    }
    rows = [(f"optimized, {name}", fast, {"make_cache": make}) for name, make in makers.items()]
    if compiled := compiled_copy(fast, makers["preallocated"]()):
        rows.insert(1, ("preallocated, compiled", compiled, {"make_cache": makers["preallocated"]}))
    wrapped = Theirs(theirs, cfg)
    return [
        ("baseline, all logits", others[0], {}),
        ("baseline", plain, {}),
        ("cached", others[1], {"use_cache": True}),
        *rows,
        ("transformers, dynamic", wrapped, {"make_cache": lambda: TheirCache(theirs, cfg)}),
        ("transformers, static", wrapped, {"make_cache": lambda: TheirCache(theirs, cfg, N_TOTAL)}),
    ]


def compiled_copy(model, cache):
    """A model with the same weights and compiled decode steps; None where there is no compiler."""
    copy = optimized.GPTModel(model.cfg)
    copy.load_state_dict(model.state_dict(), assign=True)
    copy.compile(options={"cpp_wrapper": True})  # C++ between the kernels, too
    try:
        for _ in stream(copy, torch.zeros(1, 1, dtype=torch.int64), 2, cache=cache):
            pass
    except Exception as error:  # of any kind: what is missing depends on the machine
        print("torch.compile does not work here:", str(error).splitlines()[0])
        return None
    return copy


def measured(matrices, model, prompt, use_cache=False, make_cache=lambda: None):
    """(seconds of each new token, seconds of streaming each matrix, the text)

    A token and the matrices take turns, so that all see the same machine: it is not equally fast
    at all times.
    """
    for _ in stream(model, prompt, 3, use_cache, make_cache()):
        pass  # the first passes set up memory and threads
    tokens, streams, text = [], [], [prompt]
    start = time.perf_counter()
    for token in stream(model, prompt, N_NEW, use_cache, make_cache()):
        tokens.append(time.perf_counter() - start)
        text.append(token)
        if len(tokens) % 5 == 0:
            streams.append([seconds_of(matrix) for matrix in matrices])
        start = time.perf_counter()
    return torch.tensor(tokens), torch.tensor(streams), torch.cat(text, dim=1)


def seconds_of(matrix):
    """Stream a matrix once: times a vector."""
    vector = torch.rand(matrix.shape[1])
    start = time.perf_counter()
    torch.mv(matrix, vector)
    return time.perf_counter() - start


def main():
    torch.manual_seed(123)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    rows = all_rows(theirs)
    cfg = rows[1][1].cfg
    prompt = torch.randint(cfg.vocab_size, (1, 4))
    weights = 4 * (cfg.n_layers * 12 * cfg.emb_dim**2 + cfg.emb_dim * cfg.vocab_size)
    n_bytes = weights + kv_cache_bytes(cfg, prompt.shape[1] + N_NEW // 2)  # halfway
    matrices = [torch.rand(MATRIX_BYTES // 4 // width, width) for width in (768, 10_000)]
    runs = {label: measured(matrices, model, prompt, **options) for label, model, options in rows}
    slow, _, reference = runs["baseline"]

    print(f"GPT-2's 124M shape, random weights, float32, batch 1, 4 + {N_NEW} tokens")
    print(f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}\n")
    print(" " * 26 + "tokens/s  x baseline  first token  later tokens  share of the limit")
    for label, (tokens, streams, text) in runs.items():
        limits = n_bytes / (MATRIX_BYTES / streams.median(dim=0).values)
        later = tokens[1:].median()
        shares = "".join(f"{share:8.0%}" for share in (limits / later).tolist())
        print(
            f"{label:26}{N_NEW / tokens.sum():8.1f}{slow.sum() / tokens.sum():12.2f}"
            f"{1000 * tokens[0]:10.1f} ms{1000 * later:11.1f} ms   {shares}"
            f"{'' if torch.equal(text, reference) else '   another text'}"
        )
    seconds = torch.cat([streams for _, streams, _ in runs.values()]).median(dim=0).values
    print(f"\nThe limit: {n_bytes / 1e6:.0f} MB of weights and cache for each token, and")
    for matrix, took in zip(matrices, seconds.tolist(), strict=True):
        rate = MATRIX_BYTES / took
        print(
            f"{rate / 1e9:.1f} GB/s, {rate / n_bytes:.1f} tokens/s, as a 400 MB matrix with "
            f"rows of {matrix.shape[1]:,} numbers streams"
        )


if __name__ == "__main__":
    main()
