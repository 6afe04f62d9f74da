"""Lists as the arrays of a checkpoint or a saved index, and back: nothing in those is trusted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.index.arrays import Coder, Ints, owned
from vecstore.index.blocks import Blocks, Lists
from vecstore.index.coding import centroids_of
from vecstore.kernels.twins import BLOCK_ROWS


def parts_of(arrays: Lists, dead: Ints) -> dict[str, Any]:
    """All that has to be kept; slots and `dead` are copied, since rows come and go."""
    blocks = -(-arrays.tail_size // BLOCK_ROWS)
    tail = arrays.tail.behind(arrays.coder, 0, blocks)
    return {
        "codes": arrays.pool.codes, "terms": arrays.pool.terms, "slots": arrays.pool.slots.copy(),
        "chain": arrays.chain, "heads": arrays.heads, "sizes": arrays.sizes, "dead": dead.copy(),
        "centroids": arrays.centroids, "tail_codes": tail.codes[:blocks], "tail_terms": tail.terms[:blocks],
        "tail_slots": tail.slots[:blocks], "tail_size": np.array([arrays.tail_size]),
    }  # fmt: skip


def restored(parts: dict[str, Any], slots: int, coder: Coder, none: Blocks) -> tuple[Lists, Ints, Ints]:
    """The lists that `parts_of` gave, of so many slots; the list of each block, -1 for free ones; and the places of
    each list whose rows are gone, which is not held against the slots. `none` are blocks like theirs.

    ValueError if the parts do not fit together.
    """
    pool, tail = (
        Blocks(
            owned(parts[f"{prefix}codes"], none.codes.dtype), owned(parts[f"{prefix}terms"], none.terms.dtype),
            owned(parts[f"{prefix}slots"], none.slots.dtype), none.allocate,
        )
        for prefix in ("", "tail_")
    )  # fmt: skip
    chain, heads, sizes, dead = (owned(parts[name], np.int32) for name in ("chain", "heads", "sizes", "dead"))
    tail_size, centroids = int(parts["tail_size"][0]), owned(parts["centroids"], np.float32)
    for one in (pool, tail):
        if [of.shape[1:] for _, of in _named(one)] != [of.shape[1:] for _, of in _named(none)] or (
            len({len(of) for _, of in _named(one)}) != 1
        ):
            raise ValueError("codes are not those of the rows")
        if one.slots.size and not -1 <= one.slots.min() <= one.slots.max() < slots:
            raise ValueError("rows have slots that there are not")
    if not 0 <= tail_size <= len(tail) * BLOCK_ROWS or len(chain) != len(pool):
        raise ValueError("blocks are missing")
    if not len(heads) == len(sizes) == len(dead) == len(centroids) or centroids.shape[1:] != (coder.dim,):
        raise ValueError("lists are missing")
    if ((heads < 0) != (sizes == 0)).any() or (sizes < 0).any() or not np.isfinite(centroids).all():
        raise ValueError("lists are not whole")
    owners, lasts = np.full(len(pool), -1, np.int32), np.full(len(heads), -1, np.int32)
    for number, (head, size) in enumerate(zip(heads.tolist(), sizes.tolist(), strict=True)):
        block = head
        for _ in range(-(-size // BLOCK_ROWS)):
            if not 0 <= block < len(pool) or owners[block] >= 0:
                raise ValueError("a list leads to blocks that are not its own")
            owners[block], lasts[number], block = number, block, int(chain[block])
    lists = Lists.of(
        coder=coder, pool=pool, chain=chain, heads=heads, lasts=lasts, sizes=sizes, tail=tail, tail_size=tail_size,
        **centroids_of(coder, centroids),
    )  # fmt: skip
    return lists, owners, dead


def _named(blocks: Blocks) -> list[tuple[str, npt.NDArray[Any]]]:
    return [("codes", blocks.codes), ("terms", blocks.terms), ("slots", blocks.slots)]
