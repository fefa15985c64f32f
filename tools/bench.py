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

from kvcache import baseline, cached, caches, generate, optimized, stream
from kvcache.hub import gpt_from
from kvcache.memory import kv_cache_bytes

N_NEW, N_TOTAL = 200, 204
TURN = 10  # tokens
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
    """(label, model, use_cache, maker of its cache) for each row."""
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
    rows = [(f"optimized, {name}", fast, False, make) for name, make in makers.items()]
    if compiled := compiled_copy(fast, makers["preallocated"]()):
        rows.insert(1, ("preallocated, compiled", compiled, False, makers["preallocated"]))
    wrapped = Theirs(theirs, cfg)
    return [
        ("baseline, all logits", others[0], False, no_cache),
        ("baseline", plain, False, no_cache),
        ("cached", others[1], True, no_cache),
        *rows,
        ("transformers, dynamic", wrapped, False, lambda: TheirCache(theirs, cfg)),
        ("transformers, static", wrapped, False, lambda: TheirCache(theirs, cfg, N_TOTAL)),
    ]


def no_cache():
    return None


def compiled_copy(model, cache):
    """A model with the same weights and compiled decode steps; None where there is no compiler."""
    copy = optimized.GPTModel(model.cfg)
    copy.load_state_dict(model.state_dict(), assign=True)
    copy.compile(options={"cpp_wrapper": True})  # C++ between the kernels, too
    try:
        generate(copy, torch.zeros(1, 1, dtype=torch.int64), 2, cache=cache)
    except Exception as error:  # of any kind: what is missing depends on the machine
        print("torch.compile does not work here:", str(error).splitlines()[0])
        return None
    return copy


def measure(rows, matrices, prompt):
    """Seconds of each new token, and the text, by label; seconds of streaming each matrix.

    The rows and the matrices take turns, some tokens each, so that all see the same machine: it is
    not equally fast at all times.
    """
    runs = {}
    for label, model, use_cache, make_cache in rows:
        # The first passes set up memory and threads.
        generate(model, prompt, 3, use_cache, cache=make_cache())
        runs[label] = stream(model, prompt, N_NEW, use_cache, make_cache())
    seconds, texts = {label: [] for label in runs}, {label: [prompt] for label in runs}
    streams = []
    for _ in range(N_NEW // TURN):
        for label, tokens in runs.items():
            streams.append([seconds_of(matrix) for matrix in matrices])
            for _ in range(TURN):
                start = time.perf_counter()
                texts[label].append(next(tokens))
                seconds[label].append(time.perf_counter() - start)
    seconds = {label: torch.tensor(each) for label, each in seconds.items()}
    texts = {label: torch.cat(text, dim=1) for label, text in texts.items()}
    return seconds, texts, torch.tensor(streams).median(dim=0).values


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
    seconds, texts, took = measure(rows, matrices, prompt)
    limits, slow = n_bytes / (MATRIX_BYTES / took), seconds["baseline"]

    print(f"GPT-2's 124M shape, random weights, float32, batch 1, 4 + {N_NEW} tokens")
    print(f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}\n")
    print(" " * 26 + "tokens/s  x baseline  first token  later tokens  share of the limit")
    for label, times in seconds.items():
        later = times[1:].median()
        shares = "".join(f"{share:8.0%}" for share in (limits / later).tolist())
        print(
            f"{label:26}{N_NEW / times.sum():8.1f}{slow.sum() / times.sum():12.2f}"
            f"{1000 * times[0]:10.1f} ms{1000 * later:11.1f} ms   {shares}"
            f"{'' if torch.equal(texts[label], texts['baseline']) else '   another text'}"
        )
    print(f"\nThe limit: {n_bytes / 1e6:.0f} MB of weights and cache for each token, and")
    for matrix, limit in zip(matrices, limits.tolist(), strict=True):
        print(
            f"{n_bytes / limit / 1e9:.1f} GB/s, {1 / limit:.1f} tokens/s, as a 400 MB matrix with "
            f"rows of {matrix.shape[1]:,} numbers streams"
        )


if __name__ == "__main__":
    main()
