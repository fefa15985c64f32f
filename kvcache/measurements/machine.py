"""What the experiment `machine` of chapter 5 says: the rates from which every limit comes."""

N_TOKENS, EMB_DIM, HIDDEN_DIM, N_MATRICES = 1024, 768, 3072, 8
READ, MULTIPLY = "read memory", "multiply matrices"
NARROW, LONG = "product with a vector, rows of 768", "product with a vector, rows of 10,000"


def bandwidth(record):
    """Bytes per second that the machine of a record of `machine` reads."""
    return product_rate(record, READ)


def product_rate(record, name):
    """Bytes per second at which one of the products with a vector reads its matrix."""
    return record.facts["bytes"] / record[name].typical


def arithmetic(record):
    """Floating-point operations per second; an addition or a multiplication is one."""
    return 2 * N_MATRICES * N_TOKENS * EMB_DIM * HIDDEN_DIM / record[MULTIPLY].typical
