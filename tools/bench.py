"""Prints the speed table: the 124M shape, 200 new tokens, on this machine, all in one run.

Every row writes the same text with the same weights: our baseline, the cached model, the model
that is handed a cache with each cache, and Hugging Face transformers with its dynamic and its
static cache. The limit is what the memory allows: the bytes of weights and cache that a token
must stream, over the bandwidth at which a matrix-vector product streams 400 MB. The bandwidth is
measured before and after each row, for a machine is not equally fast at all times.
"""

import os
import statistics

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers

from kvcache import baseline, cached, caches, optimized
from kvcache.hub import gpt_from
from kvcache.memory import kv_cache_bytes
from kvcache.timing import memory_bandwidth, time_generation

N_NEW, N_TOTAL = 200, 264


class AllLogits(baseline.GPTModel):
    """The baseline that computes the logits of every position in every step, as the sources do."""

    def forward(self, token_ids, use_cache=False, last_only=False):
        return super().forward(token_ids, use_cache, last_only=False)


class Theirs(torch.nn.Module):
    """transformers' model behind the interface that `time_generation` asks for."""

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


class TheirCache:
    """One of transformers' caches, with the two things that `stream` asks of a cache."""

    def __init__(self, model, static):
        self.n_tokens, self.static = 0, static
        self.theirs = transformers.DynamicCache(config=model.config)
        if static:
            self.theirs = transformers.StaticCache(config=model.config, max_cache_len=static)
            self.mask = torch.ones(1, static, dtype=torch.long)

    def check(self, n_rows, n_new):
        pass


def all_rows(theirs):
    """(label, model, options of time_generation) for each row."""
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
    wrapped = Theirs(theirs, cfg)
    return [
        ("baseline, all logits", others[0], {}),
        ("baseline", plain, {}),
        ("cached", others[1], {"use_cache": True}),
        *((f"optimized, {name}", fast, {"make_cache": make}) for name, make in makers.items()),
        ("transformers, dynamic", wrapped, {"make_cache": lambda: TheirCache(theirs, None)}),
        ("transformers, static", wrapped, {"make_cache": lambda: TheirCache(theirs, N_TOTAL)}),
    ]


def bytes_per_token(cfg, n_prompt):
    """Weights, and the cache at the middle of the generation, each read once; in float32."""
    weights = 4 * (cfg.n_layers * 12 * cfg.emb_dim**2 + cfg.emb_dim * cfg.vocab_size)
    return weights + kv_cache_bytes(cfg, n_prompt + N_NEW // 2)


def main():
    torch.manual_seed(123)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    rows = all_rows(theirs)
    cfg = rows[1][1].cfg
    print(f"GPT-2's 124M shape, random weights, float32, batch 1, {N_NEW} new tokens")
    print(f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}")
    for n_prompt in (4, 64):
        prompt = torch.randint(cfg.vocab_size, (1, n_prompt))
        timings, shares, bandwidths = {}, {}, [memory_bandwidth()]
        for label, model, options in rows:
            repeats = 1 if "baseline" in label else 2
            timing = time_generation(model, prompt, N_NEW, label=label, repeats=repeats, **options)
            bandwidths.append(memory_bandwidth())
            limit = bytes_per_token(cfg, n_prompt) / statistics.mean(bandwidths[-2:])
            timings[label], shares[label] = timing, limit / timing.time_per_output_token
        reference = timings["baseline"]
        print(f"\nprompt of {n_prompt:2}             tokens/s  x baseline  first token", end="")
        print("  later tokens  of the limit")
        for label, timing in timings.items():
            same = torch.equal(timing.token_ids, reference.token_ids)
            print(
                f"{label:24}{timing.tokens_per_second:9.1f}{reference.total / timing.total:12.2f}"
                f"{1000 * timing.time_to_first_token:10.1f} ms"
                f"{1000 * timing.time_per_output_token:11.1f} ms{shares[label]:13.0%}"
                f"{'' if same else '   another text'}"
            )
        bandwidth = statistics.median(bandwidths)
        limit = bandwidth / bytes_per_token(cfg, n_prompt)
        print(f"the limit: {bandwidth / 1e9:.1f} GB/s from memory, {limit:.1f} tokens/s")
    long_rows = memory_bandwidth(row_length=10_000)
    print(f"a matrix with rows of 10,000 numbers, not 768, streams at {long_rows / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
