"""Reading a file of LMDB whose pages do not hang together: whatever can still be reached, and none of it by LMDB."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import blocks, keys
from vecstore.storage.pages import BIG_DATA, BRANCH, DB, LEAF, NO_PAGE, NODE, PAGE, Pages, damaged
from vecstore.storage.rows import open_row

Item = tuple[memoryview, memoryview]


class Remains:
    """What is left of the trees of a file: pages that are not where they should be are passed over."""

    def __init__(self, path: Path, pages: Pages, meta: tuple[Any, ...]) -> None:
        """Of one transaction."""
        self._path, self._pages = path, pages
        self._data = memoryview(pages.data)
        self.transaction, self._last, free, main = meta
        self.is_last = True
        """Whether there is none behind it that cannot be read."""
        self._free: int = free[-1]
        self._roots: dict[str, int] = {}
        self._passed_over = 0
        self._lost_leaves: list[int] | None = None
        self.names: set[str] = set()
        """What the file names, trees or not."""
        self.entries: dict[str, int] = {}
        """How many there were in each tree."""
        for key, value in self._walk(main[-1], set()):
            name = bytes(key).decode(errors="replace")
            self.names.add(name)
            if len(value) == DB.size:
                *_, self.entries[name], self._roots[name] = DB.unpack(value)

    def items(self, name: str) -> Iterator[Item]:
        """Keys and values of a tree: in their order those that can be reached, then those of leaves to which nothing
        leads any more."""
        yield from self._walk(self._roots.get(name, NO_PAGE), set())
        if self._lost_leaves is None:
            self._lost_leaves = self._orphans()
        for number in self._lost_leaves:
            yield from (item for item in self._nodes(number) if self._is_of(name, *item))

    @property
    def lsn(self) -> int:
        """The last write that its log tells of."""
        return max((keys.number(key) for key, _ in self._walk(self._roots.get("log", NO_PAGE), set())), default=0)

    def _is_of(self, name: str, key: memoryview, value: memoryview) -> bool:
        """Whether an item of a leaf is one of a tree; of those that no one is told of otherwise."""
        try:
            if name == "row" and len(key) == 4:
                return bool(open_row(value, keys.number(key), self._path))
            if name == "slot" and len(value) == 4:
                return keys.id_of(key, self._path) is not None
        except CorruptionError:
            return False
        return name == "vector:vector" and len(key) == 4 and bytes(value[:4]) == blocks.MAGIC

    def _orphans(self) -> list[int]:
        """Leaves that no tree leads to and that are not free: those behind a branch that was passed over."""
        seen: set[int] = set()
        for root in self._roots.values():
            for _ in self._walk(root, seen):
                pass
        passed_over = self._passed_over
        for _, value in self._walk(self._free, seen):
            numbers = np.frombuffer(value, "<u8", len(value) // 8)
            seen.update(numbers[1 : 1 + int(numbers[0])].tolist() if len(numbers) else ())
        if self._passed_over != passed_over:
            return []  # what is free may hold rows that were deleted
        pages = self._pages
        leaves = (pages.u64[:, 0] == np.arange(pages.count)) & (pages.u16[:, 5] == LEAF)
        # Behind the last page of a transaction there are those of a later one, or of one that was never finished.
        return [n for n in np.flatnonzero(leaves).tolist() if 1 < n <= self._last and n not in seen]

    def _walk(self, root: int, seen: set[int]) -> Iterator[Item]:
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if number == NO_PAGE or number in seen:
                continue
            seen.add(number)
            kind = self._kind(number)
            if kind == LEAF:
                yield from self._nodes(number)
            elif kind == BRANCH:
                waiting += reversed([low | high << 16 | more << 32 for _, low, high, more, _ in self._heads(number)])
            else:
                self._passed_over += 1

    def _kind(self, number: int) -> int:
        """Whether a page is a branch or a leaf; 0 if it is neither, or another than it should be."""
        if not 2 <= number < self._pages.count:
            return 0
        own, _, flags, lower, upper = PAGE.unpack_from(self._data, number * self._pages.size)
        sound = own == number and flags in (BRANCH, LEAF) and PAGE.size <= lower <= upper <= self._pages.size
        return flags if sound else 0

    def _heads(self, number: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Where the nodes of a page begin in the file, and their four numbers."""
        size = self._pages.size
        start = number * size
        _, _, _, lower, upper = PAGE.unpack_from(self._data, start)
        for at in struct.unpack_from(f"<{(lower - PAGE.size) // 2}H", self._data, start + PAGE.size):
            if upper <= at <= size - NODE.size:
                low, high, more, key_size = NODE.unpack_from(self._data, start + at)
                if at + NODE.size + key_size <= size:
                    yield start + at, low, high, more, key_size

    def _nodes(self, number: int) -> Iterator[Item]:
        """Keys and values of a leaf."""
        size = self._pages.size
        if self._kind(number) != LEAF:
            return
        for at, low, high, flags, key_size in self._heads(number):
            key_at = at + NODE.size
            length, value_at, end = low | high << 16, key_at + key_size, (number + 1) * size
            if flags == BIG_DATA:
                if value_at + 8 > end:
                    continue
                first = int.from_bytes(self._data[value_at : value_at + 8], "little")
                value_at, end = first * size + PAGE.size, len(self._data)
            if value_at + length <= end:
                yield self._data[key_at : key_at + key_size], self._data[value_at : value_at + length]


def remains(path: Path) -> list[Remains]:
    """What is left of the last two transactions of a file, the later write first, also where their meta pages are
    damaged: CorruptionError if there is nothing."""
    pages = Pages(path, lenient=True)
    both = [Remains(path, pages, pages.meta(at, lenient=True)) for at in (0, pages.size)]
    found = [left for left in both if left.names]
    if not found:
        raise damaged(path, "nothing leads to its rows")
    for left in found:
        left.is_last = not any(other.transaction > left.transaction for other in both if not other.names)
    return sorted(found, key=lambda left: left.lsn, reverse=True)
