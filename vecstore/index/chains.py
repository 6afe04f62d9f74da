"""Lists as chains of blocks: whose each block is, which are free, and when those of the past may be used again.

The links themselves stand in `Lists`, which searches hold: `chain` leads from block to block, `heads` and `lasts` to
the first and last of each list, `sizes` are the places that are taken.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np

from vecstore.index.arrays import Ints
from vecstore.index.blocks import Lists, Longs, places_of
from vecstore.kernels.twins import BLOCK_ROWS


class Chains:
    """The blocks of an inverted file, for one thread at a time."""

    def __init__(self, owners: Ints | None = None) -> None:
        """Of blocks that belong to some lists, -1 for those that are free."""
        self.owners: Ints = np.zeros(0, np.int32) if owners is None else owners
        """The list of each block."""
        self._free: list[int] = np.flatnonzero(self.owners < 0).tolist()
        # Lists that were replaced and may still be searched, and the blocks that only they know, the oldest first.
        self._past: deque[tuple[weakref.ref[Lists], list[int]]] = deque()

    def size_for(self, more: int) -> int:
        """How many blocks there must be so that so many are free."""
        have = len(self.owners)
        return have if more <= len(self._free) else max(have + more - len(self._free), have * 5 // 4)

    def owners_of(self, size: int) -> Ints:
        """The owners of so many blocks, for `grow`."""
        return np.concatenate([self.owners, np.full(size - len(self.owners), -1, np.int32)])

    def grow(self, owners: Ints) -> None:
        """There are more blocks, which are free."""
        first, self.owners = len(self.owners), owners
        self._free = list(range(len(owners) - 1, first - 1, -1)) + self._free

    def append(self, chain: Ints, heads: Ints, lasts: Ints, sizes: Ints, wanted: Longs) -> Longs:
        """The places of `wanted` more rows of each list, list by list. The links and sizes given are changed, and there
        must be as many free blocks as `blocks_for` says."""
        into, start = np.empty(int(wanted.sum()), np.int64), 0
        more = blocks_for(sizes, wanted)
        for one in np.flatnonzero(wanted).tolist():
            count, size = int(wanted[one]), int(sizes[one])
            blocks, partly = [self._free.pop() for _ in range(int(more[one]))], size % BLOCK_ROWS
            self.owners[blocks] = one
            links = [int(lasts[one]), *blocks] if heads[one] >= 0 else blocks
            chain[links[:-1]] = links[1:]
            spots = [int(lasts[one]), *blocks] if partly else blocks
            into[start : start + count] = places_of(np.array(spots, np.int64), partly + count)[partly:]
            if blocks:
                heads[one] = blocks[0] if heads[one] < 0 else heads[one]
                lasts[one] = blocks[-1]
            sizes[one] += count
            start += count
        return into

    def rename(self, old: int, new: int) -> None:
        """A list has another number."""
        self.owners[self.owners == old] = new

    def replaced(self, lists: Lists, blocks: list[int]) -> None:
        """No search begins on some lists any more; the blocks are known to them alone, and to those before."""
        self._past.append((weakref.ref(lists), blocks))

    def reclaim(self, slots: Ints) -> None:
        """Blocks that nobody can search any more are free, and their `slots` empty."""
        while self._past and self._past[0][0]() is None:
            blocks = self._past.popleft()[1]
            if blocks:
                slots[blocks] = -1
                self._free += blocks


def blocks_for(sizes: Ints, wanted: Longs) -> Longs:
    """How many blocks more each list takes with `wanted` more rows."""
    before = sizes.astype(np.int64)
    return -(-(before + wanted) // BLOCK_ROWS) - -(-before // BLOCK_ROWS)
