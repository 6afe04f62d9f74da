"""Whether the pages of an LMDB file hang together: LMDB trusts them, and may end the process where they do not.

Looked at are the two meta pages, every page of every tree, and the list of free pages. What stands in the values is
left to the checksums of their owners. The layout is that of LMDB 0.9 on a 64-bit machine (mdb.c, "Page header").
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

from vecstore.errors import CorruptionError

BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
BIG_DATA, SUB_DATA = 1, 2  # flags of a node: its data stands on overflow pages, or is the record of a database
INTEGER_KEY: Final = 0x8
NO_SUBDIR: Final = 0x4000  # how the environment was opened, kept with the tree of free pages
MAGIC: Final = 0xBEEFC0DE
NO_PAGE: Final = 2**64 - 1
MAX_DEPTH: Final = 32

PAGE = struct.Struct("<QHHHH")  # number, unused, flags, lower, upper; overflow pages have a count in the last two
_COUNT = struct.Struct("<12xI")
NODE = struct.Struct("<HHHH")  # low and high half of the size or page, flags or more of the page, size of the key
DB = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, three counts of pages, entries, root
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
_LAST = struct.Struct("<QQ")  # last page, transaction
U64 = struct.Struct("<Q")


def verify(path: Path) -> None:
    """CorruptionError unless LMDB can follow every page of the last transaction of a file without `dupsort`."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Pages(data).verify()
    except (ValueError, struct.error) as error:
        raise CorruptionError(f"{path}: its pages do not hang together ({error})", path=str(path)) from None


class _Pages:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size: int = DB.unpack_from(data, PAGE.size + _META.size)[0]
        if self.size not in {1 << shift for shift in range(9, 17)} or len(data) < 2 * self.size:
            raise ValueError("the first page is none of LMDB's")
        self.last = 1
        self.taken = bytearray(len(data) // self.size)
        self.taken[:2] = b"\1\1"
        # Pages behind the end of the file, which a transaction took and gave back: free, and never written.
        self.unwritten: set[int] = set()

    def verify(self) -> None:
        metas = [self._meta(0), self._meta(self.size)]
        _, self.last, free, main = max(metas, key=lambda meta: meta[0])
        self._tree(main, 0, is_main=True)
        for first, size in self._tree(free, INTEGER_KEY | NO_SUBDIR):
            self._free(first, size)
        if self.last + 1 - len(self.taken) > len(self.unwritten):
            raise ValueError(f"page {self.last} lies behind the end of the file")

    def _meta(self, at: int) -> tuple[int, int, tuple[Any, ...], tuple[Any, ...]]:
        magic, version, *_ = _META.unpack_from(self.data, at + PAGE.size)
        if PAGE.unpack_from(self.data, at)[2] != META or (magic, version) != (MAGIC, 1):
            raise ValueError("a meta page is damaged")
        at += PAGE.size + _META.size
        free, main = DB.unpack_from(self.data, at), DB.unpack_from(self.data, at + DB.size)
        last, transaction = _LAST.unpack_from(self.data, at + 2 * DB.size)
        return transaction, last, free, main

    def _take(self, number: int, count: int = 1) -> int:
        """Where a page begins; no other may be the same."""
        if not 2 <= number <= number + count - 1 <= self.last or any(self.taken[number : number + count]):
            raise ValueError(f"page {number} is out of place")
        if number + count > len(self.taken):
            raise ValueError(f"page {number} lies behind the end of the file")
        self.taken[number : number + count] = b"\1" * count
        return number * self.size

    def _tree(self, db: tuple[Any, ...], flags: int, *, is_main: bool = False) -> list[tuple[int, int]]:
        """Where the values of a tree begin, and how long they are; trees in it are followed."""
        own_flags, depth, root = db[1], db[2], db[-1]
        if own_flags != flags or depth > MAX_DEPTH or (root == NO_PAGE) != (depth == 0):
            raise ValueError("the record of a tree is damaged")
        values: list[tuple[int, int]] = []
        waiting = [(root, depth)] if depth else []
        while waiting:
            number, depth = waiting.pop()
            start = self._take(number)
            own_number, _, own_flags, lower, upper = PAGE.unpack_from(self.data, start)
            count = (lower - PAGE.size) // 2
            if own_number != number or own_flags != (BRANCH if depth > 1 else LEAF) or not lower <= upper <= self.size:
                raise ValueError(f"page {number} is damaged")
            if count < (2 if depth > 1 else 1):
                raise ValueError(f"page {number} is too empty")
            for at in struct.unpack_from(f"<{count}H", self.data, start + PAGE.size):
                if not upper <= at <= self.size - NODE.size:
                    raise ValueError(f"a node of page {number} is out of place")
                low, high, more, key_size = NODE.unpack_from(self.data, start + at)
                end, data = self.size - at - NODE.size - key_size, start + at + NODE.size + key_size
                if end < 0 or key_size > 511:
                    raise ValueError(f"a key of page {number} is damaged")
                if depth > 1:
                    waiting.append((low | high << 16 | more << 32, depth - 1))
                    continue
                values.append(self._value(data, low | high << 16, more, end, is_main))
        return values

    def _value(self, data: int, size: int, flags: int, room: int, is_main: bool) -> tuple[int, int]:
        if flags == BIG_DATA and room >= U64.size:
            (first,) = U64.unpack_from(self.data, data)
            count = -(-(size + PAGE.size) // self.size)
            start = self._take(first, count)
            number, _, kind, *_ = PAGE.unpack_from(self.data, start)
            if (number, kind) != (first, OVERFLOW) or _COUNT.unpack_from(self.data, start)[0] != count:
                raise ValueError(f"page {first} is damaged")
            return start + PAGE.size, size
        if flags not in (0, SUB_DATA) or size > room:
            raise ValueError("a node is damaged")
        if is_main != (flags == SUB_DATA) or (is_main and size != DB.size):
            raise ValueError("the record of a database is damaged")
        if is_main:
            self._tree(DB.unpack_from(self.data, data), 0)
        return data, size

    def _free(self, first: int, size: int) -> None:
        numbers = np.frombuffer(self.data, "<u8", size // 8, first)
        count = int(numbers[0])
        listed = numbers[1 : count + 1].astype(np.int64)
        del numbers  # or the map could not be closed
        if len(listed) != count or (count and not 2 <= listed.min() <= listed.max() <= self.last):
            raise ValueError("the list of free pages is damaged")
        for number in listed.tolist():
            if number < len(self.taken):
                self._take(number)
            elif number in self.unwritten:
                raise ValueError(f"page {number} is out of place")
            else:
                self.unwritten.add(number)
