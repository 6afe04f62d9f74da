"""Whether the pages of an LMDB file hang together: LMDB trusts them, and may end the process where they do not.

Looked at are the two meta pages, every page of every tree, and the list of free pages. What stands in the values is
left to the checksums of their owners. The layout is that of LMDB 0.9 on a 64-bit machine (mdb.c, "Page header").
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError
from vecstore.storage import advice

BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
BIG_DATA, SUB_DATA = 1, 2  # flags of a node: its data stands on overflow pages, or is the record of a database
INTEGER_KEY: Final = 0x8
NO_SUBDIR: Final = 0x4000  # how the environment was opened, kept with the tree of free pages
MAGIC: Final = 0xBEEFC0DE
NO_PAGE: Final = 2**64 - 1
MAX_DEPTH: Final = 32
MAX_KEY: Final = 511
SIZES: Final = tuple(1 << shift for shift in range(9, 17))
# An open looks at the leaves of so many pages at most, 8 MB: it is to read no rows of a large file.
MOST_AT_OPEN: Final = 2048
# How often a file that another process writes is looked at anew.
TRIES: Final = 20

PAGE = struct.Struct("<QHHHH")  # number, unused, flags, lower, upper; overflow pages have a count in the last two
NODE = struct.Struct("<HHHH")  # low and high half of the size or page, flags or more of the page, size of the key
DB = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, three counts of pages, entries, root
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
U64 = struct.Struct("<Q")
_LAST = struct.Struct("<QQ")  # last page, transaction

Numbers = npt.NDArray[np.int64]


def verify(path: Path, *, most: int | None = None, main_only: bool = False) -> None:
    """CorruptionError unless LMDB can follow every page of the last transaction of a file without `dupsort`.

    With `most`, for an open: values behind the tree are not looked at, and the leaves not where the trees have more
    pages; with `main_only`, only what leads to the trees is. If others may write to the file, the caller has a read
    transaction in it, but for that.
    """
    for tries_left in reversed(range(TRIES)):
        pages = Pages(path)
        try:
            pages.verify(most, main_only=main_only)
        except (ValueError, struct.error) as error:
            if tries_left and Pages(path).metas != pages.metas:
                continue  # someone has written meanwhile
            raise damaged(path, error) from None
        return


def verify_open(path: Path, *, main_only: bool = False) -> None:
    """Before LMDB opens a file: CorruptionError where that, or reading it, might end the process. What is not LMDB's
    at all it tells by itself."""
    try:
        pages = Pages(path, lenient=True)
    except (CorruptionError, OSError):
        return
    if len(pages.metas) == 1:
        raise damaged(path, "a meta page is damaged")
    if pages.metas:
        verify(path, most=MOST_AT_OPEN, main_only=main_only)


def damaged(path: Path, error: object) -> CorruptionError:
    """The error of a file whose pages do not hang together."""
    return CorruptionError(f"{path}: its pages do not hang together ({error})", path=str(path))


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of a file. Of a large one only the pages that are looked at are fetched: most hold rows."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if advice.is_large(len(data)):
        data.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(data, np.uint8)


class Pages:
    """The pages of a file; `u16` and `u64` hold the same bytes, `(pages, size / 2)` and `(pages, size / 8)`."""

    def __init__(self, path: Path, *, lenient: bool = False) -> None:
        """CorruptionError unless there are two meta pages, or, if it is `lenient`, one."""
        self.data: Any = np.zeros(0, np.uint8)
        try:
            if path.stat().st_size:
                self.data = _mapped(path)
            self.size: int = DB.unpack_from(self.data, PAGE.size + _META.size)[0]
            if lenient and self.size not in SIZES:
                self.size = SIZES[3]
            if self.size not in SIZES or len(self.data) < 2 * self.size:
                raise ValueError("the first page is none of LMDB's")
            self.count = len(self.data) // self.size
            whole = self.data[: self.count * self.size]
            self.u16, self.u64 = whole.view("<u2").reshape(self.count, -1), whole.view("<u8").reshape(self.count, -1)
            self.metas = []
            for at in (0, self.size):
                with contextlib.suppress(*(ValueError,) if lenient else ()):
                    self.metas.append(self.meta(at))
        except (ValueError, struct.error) as error:
            raise damaged(path, error) from None
        self.last = 1
        self.taken = np.zeros(self.count + 1, bool)
        self.taken[:2] = True

    def meta(self, at: int, *, lenient: bool = False) -> tuple[int, int, tuple[Any, ...], tuple[Any, ...]]:
        """Transaction, last page, and the records of the trees of free pages and of databases; ValueError where they
        cannot be that, unless it is `lenient`."""
        magic, version, *_ = _META.unpack_from(self.data, at + PAGE.size)
        if not lenient and (PAGE.unpack_from(self.data, at)[2] != META or (magic, version) != (MAGIC, 1)):
            raise ValueError("a meta page is damaged")
        at += PAGE.size + _META.size
        free, main = DB.unpack_from(self.data, at), DB.unpack_from(self.data, at + DB.size)
        last, transaction = _LAST.unpack_from(self.data, at + 2 * DB.size)
        return transaction, last, free, main

    def verify(self, most: int | None, *, main_only: bool = False) -> None:
        """ValueError unless all that is looked at fits together."""
        (even, *_), (odd, *_) = self.metas
        # Commits take turns. The two are the same in a new file, and where the last sync was put back.
        if self.metas[0] != self.metas[1] and (abs(even - odd) != 1 or even & 1):
            raise ValueError("a meta page is damaged")
        _, self.last, free, main = max(self.metas, key=lambda meta: meta[0])
        databases = self._tree(main, 0, is_main=True)
        records = [DB.unpack_from(self.data, at) for at in databases[0].tolist()]
        if main_only:
            return
        leaves = most is None or sum(record[3] + record[4] for record in records) <= most
        for record in records:
            self._tree(record, 0, deep=most is None, leaves=leaves)
        unwritten = np.zeros(0, np.int64)
        at, sizes = self._tree(free, INTEGER_KEY | NO_SUBDIR)
        listed = [self._free(first, size) for first, size in zip(at.tolist(), sizes.tolist(), strict=True)]
        if listed:
            # Pages behind the end of the file, which a transaction took and gave back: free, and never written.
            numbers = np.concatenate(listed)
            unwritten = np.unique(numbers[numbers >= self.count])
            if len(unwritten) != np.count_nonzero(numbers >= self.count):
                raise ValueError("a page is listed as free twice")
            self._take(numbers[numbers < self.count])
        if self.last + 1 - self.count > len(unwritten):
            raise ValueError(f"the file has been cut short: page {self.last} lies behind its end")

    def _take(self, numbers: Numbers) -> None:
        """Some pages are in use; none of them may be already."""
        if not len(numbers):
            return
        if (first := int(numbers.min())) < 2 or (last := int(numbers.max())) > self.last:
            raise ValueError(f"page {first if first < 2 else last} is out of place")
        if last >= self.count:
            raise ValueError(f"page {last} lies behind the end of the file")
        if self.taken[numbers].any() or len(np.unique(numbers)) != len(numbers):
            raise ValueError("a page is in two places")
        self.taken[numbers] = True

    def _take_runs(self, firsts: Numbers, counts: Numbers) -> None:
        """The same for runs of overflow pages."""
        order = np.argsort(firsts, kind="stable")
        firsts, ends = firsts[order], (firsts + counts)[order]
        if firsts[0] < 2 or ends[-1] - 1 > self.last or ends.max() > self.count:
            raise ValueError("an overflow page is out of place, or behind the end of the file")
        before = np.concatenate(([0], np.cumsum(self.taken[:-1], dtype=np.int64)))
        if (firsts[1:] < ends[:-1]).any() or (before[ends] != before[firsts]).any():
            raise ValueError("an overflow page is in two places")
        edges = np.zeros(self.count + 1, np.int64)
        edges[firsts] += 1
        np.subtract.at(edges, ends, 1)
        self.taken[:-1] |= np.cumsum(edges[:-1]) > 0

    def _tree(
        self, db: tuple[Any, ...], flags: int, *, is_main: bool = False, deep: bool = True, leaves: bool = True
    ) -> tuple[Numbers, Numbers]:
        """Where the values of a tree begin, and how long they are."""
        own_flags, depth, root = db[1], db[2], db[-1]
        if own_flags != flags or depth > MAX_DEPTH or (root == NO_PAGE) != (depth == 0):
            raise ValueError("the record of a tree is damaged")
        none = np.zeros(0, np.int64)
        if not depth:
            return none, none
        numbers = np.array([root], np.uint64).astype(np.int64)
        for level in range(depth, 0, -1):
            self._take(numbers)
            if level == 1 and not leaves:
                break
            kind = BRANCH if level > 1 else LEAF
            at, low, high, more, key_size = self._nodes(numbers, kind)
            if kind == LEAF:
                return self._values(at, low | high << 16, more, key_size, is_main, deep)
            numbers = low | high << 16 | more << 32
        return none, none

    def _nodes(self, numbers: Numbers, kind: int) -> tuple[Numbers, Numbers, Numbers, Numbers, Numbers]:
        """Of the nodes of some pages: where they begin in the file, and their four numbers."""
        lower, upper = (self.u16[numbers, at].astype(np.int64) for at in (6, 7))
        wrong = (self.u64[numbers, 0].astype(np.int64) != numbers) | (self.u16[numbers, 5] != kind)
        wrong |= (lower < PAGE.size) | (lower > upper) | (upper > self.size)
        counts = (lower - PAGE.size) // 2
        wrong |= counts < (2 if kind == BRANCH else 1)
        if wrong.any():
            raise ValueError(f"page {numbers[wrong.argmax()]} is damaged")
        page = np.repeat(numbers, counts)
        nth = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
        offsets = self.u16[page, PAGE.size // 2 + nth].astype(np.int64)
        wrong = (offsets < np.repeat(upper, counts)) | (offsets > self.size - NODE.size) | (offsets & 1 != 0)
        if wrong.any():
            raise ValueError(f"a node of page {page[wrong.argmax()]} is out of place")
        low, high, more, key_size = (self.u16[page, (offsets >> 1) + i].astype(np.int64) for i in range(4))
        wrong = (offsets + NODE.size + key_size > self.size) | (key_size > MAX_KEY)
        if wrong.any():
            raise ValueError(f"a key of page {page[wrong.argmax()]} is damaged")
        return page * self.size + offsets, low, high, more, key_size

    def _values(
        self, at: Numbers, sizes: Numbers, flags: Numbers, key_size: Numbers, is_main: bool, deep: bool
    ) -> tuple[Numbers, Numbers]:
        """Where values begin that stand in their leaves or on overflow pages, and how long they are."""
        data = at + NODE.size + key_size
        room = self.size - data % self.size
        room[data % self.size == 0] = 0  # the key ends where the page does
        big = flags == BIG_DATA
        wrong = np.where(big, room < 8, (flags != (SUB_DATA if is_main else 0)) | (sizes > room))
        if is_main:
            wrong |= sizes != DB.size
        if wrong.any():
            raise ValueError(f"a node of page {at[wrong.argmax()] // self.size} is damaged")
        if not big.any():
            return data, sizes
        firsts = self.data[data[big][:, None] + np.arange(8)].view("<u8")[:, 0]
        if firsts.max() > self.last:
            raise ValueError("an overflow page is out of place")
        firsts = firsts.astype(np.int64)
        counts = -(-(sizes[big] + PAGE.size) // self.size)
        self._take_runs(firsts, counts)
        if deep:
            heads = self.u64[firsts, 0].astype(np.int64) != firsts
            heads |= self.u16[firsts, 5] != OVERFLOW
            heads |= (self.u64[firsts, 1] >> np.uint64(32)).astype(np.int64) != counts
            if heads.any():
                raise ValueError(f"page {firsts[heads.argmax()]} is damaged")
        data[big] = firsts * self.size + PAGE.size
        return data, sizes

    def _free(self, first: int, size: int) -> Numbers:
        """The pages in a value of the list of free pages."""
        numbers = np.frombuffer(self.data[first : first + size // 8 * 8].tobytes(), "<u8")
        count = int(numbers[0]) if len(numbers) else -1
        listed = numbers[1 : count + 1].astype(np.int64)
        if len(listed) != count or (count and not 2 <= listed.min() <= listed.max() <= self.last):
            raise ValueError("the list of free pages is damaged")
        return listed
