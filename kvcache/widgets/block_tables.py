"""Blocks and block tables: which blocks of a paged cache are taken, shared and free."""

from ..caches import PagedCache
from ..config import check_all, check_kinds, need
from ..tokenizer import token_label
from .figure import Figure
from .still import table


def block_shot(pages, label, sequences):
    """What a `PagedCache` holds at this moment, for BlockTables.

    label      what has happened, in a few words
    sequences  {name: (number of the sequence, token ids of all that it stores)}

    Raises TypeError for what is no PagedCache, text or dict, ValueError if a sequence is not there,
    or if it stores more tokens than were given.
    """
    check_kinds(pages=(pages, PagedCache), label=(label, str), sequences=(sequences, dict))
    blocks = [{"users": [], "tokens": []} for _ in pages.n_users]
    tables, lengths, size = {}, {}, pages.block_size
    for name, (sequence, token_ids) in sequences.items():
        pages.check(sequence)
        length, token_ids = pages.lengths[sequence], list(token_ids)
        need(len(token_ids) >= length, f"{name}: {len(token_ids)} ids, {length} tokens", "give all")
        tables[name], lengths[name] = pages.tables[sequence][:], length
        for i, block in enumerate(tables[name]):
            labels = [token_label(each) for each in token_ids[:length][i * size : (i + 1) * size]]
            blocks[block]["users"].append(name)
            blocks[block]["tokens"] = max(blocks[block]["tokens"], labels, key=len)
    return {"label": label, "size": size, "blocks": blocks, "tables": tables, "lengths": lengths}


class BlockTables(Figure):
    """Steps through states of one PagedCache.

    shots  what `block_shot` returned, at least 1

    Raises TypeError for what is no shot, ValueError for none, or for caches of different sizes.
    """

    def __init__(self, shots, **kwargs):
        shots = check_all("shots", shots, dict)
        sizes = {(shot["size"], len(shot["blocks"])) for shot in shots}
        need(len(sizes) == 1, f"the shots are of caches of sizes {sorted(sizes)}", "show one cache")
        super().__init__(data={"size": shots[0]["size"], "shots": shots}, **kwargs)

    def still(self):
        """The last state."""
        rows = [("block: users", "tokens")]
        for i, block in enumerate(self.data["shots"][-1]["blocks"]):
            users = ", ".join(block["users"]) or "free"
            rows.append((f"block {i}: {users}", " ".join(block["tokens"])))
        return table("Blocks, their users and their tokens", rows)
