"""The machine in two numbers, from which every limit and every prediction of the book comes."""

import torch

from .experiments import experiment, repeat

N_TOKENS, EMB_DIM, HIDDEN_DIM, N_MATRICES = 1024, 768, 3072, 8
READ, MULTIPLY = "read memory", "multiply matrices"
NARROW, LONG = "product with a vector, rows of 768", "product with a vector, rows of 10,000"


CLAIMS = {
    "memory is read faster than PyTorch's product of a matrix and a vector reads it": (
        lambda r: bandwidth(r) > 1.2 * product_rate(r, NARROW)
    ),
    "longer rows are read faster": lambda r: product_rate(r, LONG) > 1.1 * product_rate(r, NARROW),
}


@experiment(turn=1, least=15, most=60, small={"n_steps": 2}, claims=CLAIMS)
def machine(device, n_steps=3):
    """How fast a device reads memory, and how fast it computes, both in float32.

    Reading is a plain sum over numbers that are far more than fit into its caches. Computing is a
    product of the kind that prefill consists of: 1,024 vectors of 768 numbers with matrices
    (768, 3072). Beside them, for what a library makes of it: the product of a large matrix and a
    vector, which a decode step consists of.
    """
    n_numbers = 10**8 if device == "cpu" else 10**9
    numbers = torch.rand(n_numbers, device=device)
    x = torch.rand(N_TOKENS, EMB_DIM, device=device)
    weights = [torch.rand(EMB_DIM, HIDDEN_DIM, device=device) for _ in range(N_MATRICES)]
    narrow = numbers[: n_numbers // EMB_DIM * EMB_DIM].view(-1, EMB_DIM)
    long = numbers.view(-1, 10_000)
    vectors = torch.rand(EMB_DIM, device=device), torch.rand(10_000, device=device)
    return {
        READ: lambda: repeat(numbers.sum, n_steps),
        NARROW: lambda: repeat(lambda: narrow @ vectors[0], n_steps),
        LONG: lambda: repeat(lambda: long @ vectors[1], n_steps),
        MULTIPLY: lambda: repeat(lambda: [x @ weight for weight in weights], n_steps),
        "bytes": numbers.nbytes,
    }


def bandwidth(record):
    """Bytes per second that the machine of a record of `machine` reads."""
    return product_rate(record, READ)


def product_rate(record, name):
    """Bytes per second at which one of the products with a vector reads its matrix."""
    return record.facts["bytes"] / record[name].typical


def arithmetic(record):
    """Floating-point operations per second; an addition or a multiplication is one."""
    return 2 * N_MATRICES * N_TOKENS * EMB_DIM * HIDDEN_DIM / record[MULTIPLY].typical
