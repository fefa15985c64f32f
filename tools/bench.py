"""Prints the speed table: the 124M shape, 200 new tokens, on this machine, all in one run.

Our baseline against the cached model, after a prompt of 64 tokens and, as in the sources, of 4. A
third row computes the logits of every position in every step, as the sources' baseline does; ours
computes those of the last position only. Chapter 5 explains why the length matters so much.
"""

import torch

from kvcache import GPT2_124M, baseline, cached
from kvcache.memory import kv_cache_bytes
from kvcache.timing import memory_bandwidth, time_generation

N_NEW = 200


class AllLogits(baseline.GPTModel):
    """The baseline that computes the logits of every position in every step."""

    def forward(self, token_ids, use_cache=False, last_only=False):
        return super().forward(token_ids, use_cache, last_only=False)


def all_models(cfg):
    """The model of each row; they share their weights."""
    torch.manual_seed(123)
    plain = baseline.GPTModel(cfg)
    models = [plain, cached.GPTModel(cfg), AllLogits(cfg)]
    for model in models:
        model.load_state_dict(plain.state_dict(), assign=True)
    return models


def limit_share(cfg, timing, bandwidth):
    """Share of what the bandwidth allows a decode step: weights and cache, each read once."""
    weights = 4 * (cfg.n_layers * 12 * cfg.emb_dim**2 + cfg.emb_dim * cfg.vocab_size)
    cache = kv_cache_bytes(cfg, timing.n_prompt + N_NEW // 2)
    return (weights + cache) / bandwidth / timing.time_per_output_token


def main():
    cfg, bandwidth = GPT2_124M, memory_bandwidth()
    print(f"the 124M shape, float32, batch 1, {N_NEW} new tokens")
    print(f"CPU with {torch.get_num_threads()} threads, {bandwidth / 1e9:.1f} GB/s from memory")
    models = all_models(cfg)
    labels = ["baseline", "cached", "baseline, all logits"]
    for n_prompt in (64, 4):
        prompt = torch.randint(cfg.vocab_size, (1, n_prompt))
        plain, fast, published = timings = [
            time_generation(model, prompt, N_NEW, label == "cached", label, repeats=1)
            for label, model in zip(labels, models, strict=True)
        ]
        print(f"\nprompt of {n_prompt:2}          tokens/s   ratio   first token   later tokens")
        for timing in timings:
            first, later = timing.time_to_first_token, timing.time_per_output_token
            print(
                f"{timing.label:21}{timing.tokens_per_second:8.1f}"
                f"{plain.total / timing.total:8.2f}{1000 * first:11.1f} ms{1000 * later:12.1f} ms"
            )
        same = all(torch.equal(timing.token_ids, fast.token_ids) for timing in timings)
        print(f"the same text: {'yes' if same else 'NO'}")
        print(f"cached is {plain.total / fast.total:.1f} times as fast as the baseline,")
        print(f"{published.total / fast.total:.1f} times as fast as the one with all logits;")
        print(
            f"a decode step reaches {limit_share(cfg, fast, bandwidth):.0%} of the bandwidth limit"
        )


if __name__ == "__main__":
    main()
