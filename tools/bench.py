"""Prints the speed table: the 124M shape, 200 new tokens, on this machine, all in one run.

Three ways to generate, after a prompt of 4 tokens (the setting of the sources) and of 64. The
first computes the logits of all positions, as the sources' baseline does; ours only the last ones.
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


def models():
    """(name, model, use_cache) of each row; all models share their weights."""
    torch.manual_seed(123)
    plain = baseline.GPTModel(GPT2_124M)
    rows = [("baseline, all logits", AllLogits(GPT2_124M), False)]
    rows += [("baseline", plain, False), ("cached", cached.GPTModel(GPT2_124M), True)]
    for _, model, _ in rows:
        model.load_state_dict(plain.state_dict(), assign=True)
    return rows


def main():
    bandwidth = memory_bandwidth()
    cfg, threads = GPT2_124M, torch.get_num_threads()
    weights = 4 * (cfg.n_layers * 12 * cfg.emb_dim**2 + cfg.emb_dim * cfg.vocab_size)
    print(f"GPT-2 124M shape, float32, batch 1, {N_NEW} new tokens, CPU with {threads} threads")
    print(f"memory bandwidth {bandwidth / 1e9:.1f} GB/s\n")
    print(
        f"{'prompt':>6}  {'model':21}{'tokens/s':>9}{'ratio':>7}{'first':>9}{'later':>9}{'limit':>7}"
    )
    rows = models()
    for n_prompt in (4, 64):
        prompt = torch.randint(cfg.vocab_size, (1, n_prompt))
        texts, reference = [], None
        for name, model, use_cache in rows:
            timing = time_generation(model, prompt, N_NEW, use_cache, label=name, repeats=1)
            texts.append(timing.token_ids)
            if name == "baseline":
                reference = timing
            cache = kv_cache_bytes(cfg, n_prompt + N_NEW // 2)
            share = (weights + cache) / bandwidth / timing.time_per_output_token
            ratio = f"{reference.total / timing.total:.1f}" if reference else ""
            print(
                f"{n_prompt:6}  {name:21}{timing.tokens_per_second:9.1f}{ratio:>7}"
                f"{1000 * timing.time_to_first_token:6.0f} ms"
                f"{1000 * timing.time_per_output_token:6.0f} ms"
                + (f"{share:7.0%}" if use_cache else ""),
                flush=True,
            )
            if name == "baseline, all logits":
                published = timing
        same = all(torch.equal(text, texts[0]) for text in texts)
        print(
            f"        the same text: {'yes' if same else 'NO'}; cached is "
            f"{published.total / timing.total:.1f} times as fast as the sources' kind of baseline, "
            f"{reference.total / timing.total:.1f} times as fast as ours\n"
        )


if __name__ == "__main__":
    main()
