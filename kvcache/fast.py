"""The parts of a fast step: products with few vectors, attention that reads each key once.

One more token costs one reading of the weights and of the cache. `optimized.GPTModel` and
`llama.LlamaModel` write their passes with these parts; whether a part is compiled or not, its text
is the same, but for the two places where a sum pays only if it becomes one loop.
"""

import mmap
import warnings
from contextlib import suppress
from copy import deepcopy
from itertools import accumulate
from math import inf, log
from types import SimpleNamespace

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional as F

from .caches.base import Cache

NOT_COMPILED = (
    "The model could not be compiled, and goes on uncompiled. It takes a C++ compiler (on Debian "
    "and Ubuntu: apt install g++ python3-dev; on macOS: xcode-select --install; on Windows: the "
    "Build Tools for Visual Studio) and a folder for temporary files. torch.compile said:"
)

# What compiled code asserts of its tensors at each call takes a tenth of a step.
OPTIONS = {"size_asserts": False, "alignment_asserts": False}
# What is used more than once, as a norm before several products, is computed once, and not again in
# each row of each of them; a multiplication and an addition are one instruction.
OPTIONS |= {"realize_reads_threshold": 1, "cpp.enable_floating_point_contract_flag": "fast"}
# The first token comes earlier: what the processor says that it can do is not tried out, and no
# headers are compiled for later.
OPTIONS |= {"cpp.vec_isa_ok": True, "cpp_cache_precompile_headers": False}


def product(x, W):
    """x (..., in), W (out, in) -> (..., out): F.linear(x, W), the fastest way known.

    On a CPU `F.linear` leaves all threads but one idle for a single vector on
    some processors (pytorch/pytorch, issue 96643), and is slow for a few. What is
    written here reads W faster.
    """
    rows = x.flatten(0, -2)  # (n_rows, in)
    if x.device.type != "cpu":
        result = F.linear(rows, W)
    elif len(rows) <= 8 and torch.compiler.is_compiling():
        # One loop: the products themselves are never stored.
        result = torch.stack([(W * row).sum(-1) for row in rows])
    else:
        # Two take less time than one.
        several = rows.repeat(2, 1) if len(rows) == 1 else rows
        result = (W @ several.T).T[: len(rows)].contiguous()
    return result.unflatten(0, x.shape[:-1])


class FusedAttention(nn.Module):
    """What Attention computes, the fastest way, and with few keys for many queries.

    queries       (batch, n_heads, n_queries, head_dim)
    keys, values  (batch, n_kv_heads, n_keys, head_dim)
    mask          (1 or batch, 1, n_queries, n_keys), True where a query may look; None says it for
                  the causal order, and leaves PyTorch free to choose its fastest kernel
    scales        what each key and each value is to be multiplied by, two tensors
                  (batch, n_kv_heads, n_keys, 1); None where they are whole
    returns       (batch, n_queries, emb_dim), the heads side by side again
    """

    def forward(self, queries, keys, values, mask, scales=None):
        if queries.shape[2] == 1 and torch.compiler.is_compiling():
            context = read_once(queries, keys, values, mask, scales)
        else:
            keys, values = (x.to(queries.dtype) for x in scaled(keys, values, scales))
            options = {"is_causal": mask is None and queries.shape[2] > 1, "enable_gqa": True}
            context = F.scaled_dot_product_attention(queries, keys, values, mask, **options)
        return context.transpose(1, 2).flatten(2)


def scaled(keys, values, scales=None):
    """Keys and values as they are seen, also where they are stored with scales."""
    return (keys, values) if scales is None else (keys * scales[0], values * scales[1])


def read_once(queries, keys, values, mask, scales):
    """Attention of one new token, for the compiler: (batch, n_heads, 1, head_dim).

    The query heads that share a key are sums of their own over the same key,
    which the compiler makes one loop of. Scales stay outside: (q . k_int8) * scale,
    so that each stored byte becomes a number only where it is used. The softmax
    divides at the end, once and not for each key, and the values of both halves
    of the text are read side by side.
    """
    n_keys = keys.shape[2]
    half = (n_keys + 1) // 2
    # Those that share a key: n_heads / n_kv_heads times (batch, n_kv_heads, 1, head_dim).
    shared = (queries * queries.shape[-1] ** -0.5).unflatten(1, (keys.shape[1], -1)).unbind(2)
    # (batch, n_kv_heads, n_heads / n_kv_heads, n_keys)
    scores = torch.stack([(keys * query).sum(-1) for query in shared], 2)
    scores = scores if scales is None else scores * scales[0].mT
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    # Of an odd number the key in the middle is in both halves, each time with half its weight.
    middle = 2 * torch.arange(n_keys, device=keys.device) == n_keys - 1
    scores = torch.where(middle, scores - log(2), scores)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    total = (weights[..., :half] + weights[..., -half:]).sum(-1, keepdim=True)
    weights = weights if scales is None else weights * scales[1].mT
    values = values.expand_as(keys)
    context = [
        # (batch, n_kv_heads, head_dim)
        (w[:, :, :half] * values[:, :, :half] + w[:, :, -half:] * values[:, :, -half:]).sum(2)
        for w in weights[..., None].unbind(2)
    ]
    context = torch.stack(context, 2) / total
    return context.flatten(1, 2)[:, :, None].to(queries.dtype)


class FastModel(nn.Module):
    """A model whose decode steps can be compiled: what `optimized` and `llama` share."""

    compiled = plain = looked = None
    n_together = 2  # blocks that are compiled as one: more would be fewer calls, and compile longer

    @torch.inference_mode(False)
    def compile(self, **options):
        """Have torch.compile make one loop of what fits into one, when single tokens follow others.

        It compiles two blocks, and calls them for all layers: the first step takes some seconds,
        and on a CPU it needs a C++ compiler. Nothing but the speed changes; on Linux the
        weights move to memory of their own, so that a model which shared them keeps the old ones.
        Each size of a batch up to 8 is compiled for itself. Who puts other modules or weights into
        a block reads a prompt before the next token: the blocks are looked at after each one.
        Where it cannot compile, a warning says why, and steps go on as they were. The options are
        those of torch.compile.
        """
        # Each kind of model, cache and batch is a variant of the same code; 8 are the default.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        torch.fx.experimental._config.use_duck_shape = False  # 4 keys and 4 heads: by chance equal
        torch._dynamo.config.specialize_float = True  # an epsilon is no number that varies
        options = options or {"options": OPTIONS}
        self.compiled = self.attempt(torch.compile, call, dynamic=True, **options)
        with suppress(AttributeError, OSError):  # Linux alone has such pages
            self.lay_together()

    def lay_together(self):
        """All weights side by side in pages of 2 MB: fewer addresses to look up than with 4 kB."""
        weights = [W for W in self.parameters() if W.is_cpu]
        begins = [0, *accumulate(-(-W.nbytes // 64) * 64 for W in weights)]
        memory = mmap.mmap(-1, begins.pop() or 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        for W, begin in zip(weights, begins, strict=True):
            new = torch.frombuffer(memory, dtype=W.dtype, count=W.numel(), offset=begin)
            W.data = new.view(W.shape).copy_(W.detach())

    def way(self, token_ids, cache, blocks):
        """How a pass calls its parts, what it hands them as the cache, and some blocks at a time.

        Each block comes with its layer. One more token goes the compiled way, unless somebody
        watches the model, or the cache has an `update` of its own, which may ask for the number of
        a layer. The first and the last token of a memory do not: to the compiler, 1 token and all
        of it are shapes of their own.
        """
        run, layers, n_together = call, range(self.cfg.n_layers), self.cfg.n_layers
        one_more = token_ids.shape[1] == 1 and 0 < cache.n_tokens < (cache.max_tokens or inf) - 1
        whole = type(cache).update is Cache.update and not self._forward_hooks
        if not (self.compiled and one_more and whole):
            self.looked = False  # at the blocks: anybody may change them before the next prompt
        else:
            run, layers, n_together = self.run_compiled, cache.memory, self.n_together
            self.plain = self.plain if self.looked else plain(blocks)
            self.looked, blocks = True, self.plain[1]
            # A compiled part is handed the memory of a layer, and no number: that would become part
            # of the code, one variant for each layer.
            cache = SimpleNamespace(update=cache.store)
        each = list(zip(layers, blocks, strict=True))
        return run, cache, [each[i : i + n_together] for i in range(0, len(each), n_together)]

    def run_compiled(self, part, *args):
        result = self.attempt(self.compiled or call, part, *args)
        return part(*args) if result is None else result

    def attempt(self, work, *args, **options):
        """What it gives; None, and a warning, where it cannot compile: nothing of it was run."""
        try:
            return work(*args, **options)
        except (TorchDynamoException, OSError) as problem:
            self.compiled = None
            warnings.warn(f"{NOT_COMPILED} {type(problem).__name__}: {problem}", stacklevel=3)


def call(part, *args):
    return part(*args)


def plain(blocks):
    """A block without weights, and the weights of each block; the second may be blocks, see below.

    At each step Python has to see whether a module is as it was, part by part. At plain weights a
    glance is enough. So if the blocks differ in nothing but their weights, these are taken out of
    them, for one block that is used with all. Else they stay as they are, and so do plain weights.
    """
    modules = [block for block in blocks if isinstance(block, nn.Module)]
    kinds = [[settings(part) for part in block.modules()] for block in modules]
    if not kinds or any(other != kinds[0] for other in kinds):
        return None, blocks
    empty = {id(W): nn.Parameter(W.to("meta"), False) for W in blocks[0].parameters()}
    return deepcopy(blocks[0], empty), [dict(block.named_parameters()) for block in blocks]


def settings(module):
    """What a module is, without what it holds: its kind, its attributes, its hooks."""
    held = ("_parameters", "_modules")
    return type(module), {name: repr(x) for name, x in vars(module).items() if name not in held}
