"""Reading a file of LMDB whose pages do not hang together: whatever can still be reached, and none of it by LMDB."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from vecstore.storage import pages
from vecstore.storage.pages import BIG_DATA, BRANCH, DB, LEAF, NO_PAGE, NODE, PAGE, Pages

Item = tuple[memoryview, memoryview]


class Remains:
    """What is left of the trees of a file: pages that are not where they should be are passed over."""

    def __init__(self, path: Path) -> None:
        """CorruptionError where not even the list of trees is left."""
        self.path = path
        self._pages = Pages(path, lenient=True)
        self._data = memoryview(self._pages.data)
        self._roots: dict[str, int] = {}
        self.names: set[str] = set()
        """What the file names, trees or not."""
        # The last transaction, or the one before, where that leads to nothing.
        for _, _, _, main in sorted(self._pages.metas, reverse=True, key=lambda meta: meta[0]):
            for key, value in self._items(main[-1]):
                self.names.add(bytes(key).decode(errors="replace"))
                if len(value) == DB.size:
                    self._roots[bytes(key).decode(errors="replace")] = DB.unpack(value)[-1]
            if self.names:
                return
        raise pages.damaged(path, "nothing leads to its rows")

    def items(self, name: str) -> Iterator[Item]:
        """Keys and values of a tree that can be reached, in their order."""
        yield from self._items(self._roots.get(name, NO_PAGE))

    def _items(self, root: int) -> Iterator[Item]:
        size, count = self._pages.size, self._pages.count
        waiting, seen = [root], set()
        while waiting:
            number = waiting.pop()
            if not 2 <= number < count or number in seen:
                continue
            seen.add(number)
            start = number * size
            own, _, flags, lower, upper = PAGE.unpack_from(self._data, start)
            if own != number or flags not in (BRANCH, LEAF) or not PAGE.size <= lower <= upper <= size:
                continue
            children = []
            for at in struct.unpack_from(f"<{(lower - PAGE.size) // 2}H", self._data, start + PAGE.size):
                if not upper <= at <= size - NODE.size:
                    continue
                low, high, more, key_size = NODE.unpack_from(self._data, start + at)
                key_at = start + at + NODE.size
                if at + NODE.size + key_size > size:
                    continue
                if flags == BRANCH:
                    children.append(low | high << 16 | more << 32)
                    continue
                length, value_at, end = low | high << 16, key_at + key_size, start + size
                if more == BIG_DATA:
                    if value_at + 8 > end:
                        continue
                    first = int.from_bytes(self._data[value_at : value_at + 8], "little")
                    value_at, end = first * size + PAGE.size, len(self._data)
                if value_at + length <= end:
                    yield self._data[key_at : key_at + key_size], self._data[value_at : value_at + length]
            waiting += reversed(children)
