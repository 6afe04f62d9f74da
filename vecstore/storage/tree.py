"""Where large values stand in the map, found without reading them.

The binding of LMDB touches every page of a value that it hands out: by it, opening a collection would read all of its
rows from the disk. So the pages of the tree are followed here, which lead to the values; their layout is told in
pages.py. Nothing that they say is trusted: what lies outside the file is an error, not an access.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError
from vecstore.storage import blocks, pages
from vecstore.storage.environment import Environment

Bytes = npt.NDArray[np.uint8]


def large_values(txn: Any, env: Environment, database: str, size: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Numbers and addresses of the values of a database, in the order of their keys, in a read transaction.

    Keys are numbers of 4 bytes, values of `size` bytes that stand on pages of their own; others are left out.
    """
    record = txn.get(database.encode())  # in the database of databases
    try:
        tree = _Tree(record, env, size)
        env.fetching.begin(tree.start, tree.length, tree.end * tree.page)
        return tree.values()
    except ValueError as error:
        raise CorruptionError(f"{env.path}: {database} does not hang together: {error}", path=str(env.path)) from None


def page_around(address: int, size: int) -> tuple[int, int]:
    """Where the page of a leaf begins in the map, and its number, by the address of a value in it.

    Maps begin at a page of the system. That of the file, which another system may have made, may be larger.
    """
    step = min(size, mmap.PAGESIZE)
    for start in range(address & -step, address - size, -step):
        number, _, flags, lower, upper = pages.PAGE.unpack_from(blocks.at(start, pages.PAGE.size))
        if flags == pages.LEAF and pages.PAGE.size <= lower <= upper <= min(size, address - start):
            return start, number
    raise ValueError("a page is damaged")


class _Tree:
    def __init__(self, record: memoryview, env: Environment, size: int) -> None:
        _, _, self.depth, *_, self.root = pages.DB.unpack_from(record)
        self.page, self.length, last = env.geometry()
        # Pages stand in the map as in the file.
        at, number = page_around(blocks.address(record), self.page)
        self.start = at - number * self.page
        self.size, self.pages_each = size, -(-(size + pages.PAGE.size) // self.page)
        self.end = min(last + 1, env.length() // self.page)

    def values(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if not self.depth:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        if self.depth > pages.MAX_DEPTH:
            raise ValueError(f"a tree of depth {self.depth}")
        level = np.array([self.root], np.int64)
        for _ in range(self.depth - 1):
            level = np.concatenate([self._children(int(number)) for number in level])
        parts = [self._leaf(int(number)) for number in level]
        numbers, first = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if len(first) and not 2 <= first.min() <= first.max() <= self.end - self.pages_each:
            raise ValueError("a value lies outside the file")
        return numbers, self.start + first * self.page + pages.PAGE.size

    def _nodes(self, number: int, kind: int) -> tuple[Bytes, npt.NDArray[np.int64]]:
        """The bytes of a page, and where in it its nodes begin."""
        if not 2 <= number < self.end:
            raise ValueError(f"page {number} lies outside the file")
        held = blocks.at(self.start + number * self.page, self.page)
        own, _, flags, lower, upper = pages.PAGE.unpack_from(held)
        if (own, flags) != (number, kind) or not pages.PAGE.size <= lower <= upper <= self.page:
            raise ValueError(f"page {number} is damaged")
        page = np.frombuffer(held, np.uint8)
        nodes = page[pages.PAGE.size : lower].view("<u2").astype(np.int64)
        if not len(nodes) or nodes.max() > self.page - pages.NODE.size:
            raise ValueError(f"page {number} is damaged")
        return page, nodes

    def _children(self, number: int) -> npt.NDArray[np.int64]:
        page, nodes = self._nodes(number, pages.BRANCH)
        low, high, more = (self._field(page, nodes + at, "<u2") for at in (0, 2, 4))
        return low | high << 16 | more << 32

    def _leaf(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        page, nodes = self._nodes(number, pages.LEAF)
        size, flags, key = (self._field(page, nodes + at, of) for at, of in ((0, "<u4"), (4, "<u2"), (6, "<u2")))
        at = nodes[(size == self.size) & (flags == pages.BIG_DATA) & (key == 4)] + pages.NODE.size
        return self._field(page, at, ">u4"), self._field(page, at + 4, "<u8")

    def _field(self, page: Bytes, at: npt.NDArray[np.int64], dtype: str) -> npt.NDArray[np.int64]:
        """A number at each of some places of a page."""
        width = np.dtype(dtype).itemsize
        if at.max(initial=0) > self.page - width:
            raise ValueError("a node is cut off")
        return np.ascontiguousarray(page[at[:, None] + np.arange(width)]).view(dtype).reshape(-1).astype(np.int64)
