"""What the system is told of how a map will be read.

By itself it fetches pages around each one that is missing. That fills the page cache quickly where the file fits into
it; where it does not, it throws out thirty pages for each one that a search wants. A large file is therefore fetched
page by page, and whoever reads many rows of it says so before.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

ReadSoon: TypeAlias = Callable[[npt.NDArray[np.int64], int], None]

# A map is looked at again when its file has grown by so much.
GROWN: Final = 1.5
# A file is large if it takes more of the memory than this.
SHARE: Final = 1 / 2
# Where a container is told how much memory it has: cgroups of version 2 and 1.
LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Fetching:
    """How the pages of one map are fetched: as suits the size of its file."""

    def __init__(self) -> None:
        self.soon: ReadSoon | None = None
        """What is told of the rows that are read next, as `read_soon`; None where there is no need."""
        self._map, self._size = (0, 0), 0

    def begin(self, start: int, length: int, size: int) -> None:
        """The map stands from `start` on, `length` bytes of it, of which the file takes `size`."""
        self._map, self._size = (start, length), size
        if is_large(size):
            read_singly(*self._map)
            self.soon = read_soon

    def grown(self, size: int) -> None:
        """The file takes so many bytes by now."""
        if self.soon is None and size > GROWN * self._size:
            self.begin(*self._map, size)


def memory() -> int:
    """Bytes of memory that this process may use, page cache included."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            sizes.append(int(Path(limit).read_text()))
    return min(sizes)


def is_large(size: int) -> bool:
    """Whether so many bytes of a file are more than the page cache keeps."""
    return size > SHARE * memory()


def read_singly(start: int, size: int) -> None:
    """Fetch no page of a map but those that are read, or that `read_soon` names."""
    _advise(start, size, mmap.MADV_RANDOM)


def read_soon(starts: npt.NDArray[np.int64], size: int) -> None:
    """Begin to fetch `size` bytes from each of some addresses in a map; 0 is none."""
    pages = np.sort(starts[starts != 0])
    first, last = pages // mmap.PAGESIZE, (pages + (size - 1)) // mmap.PAGESIZE + 1
    if not len(first):
        return
    apart = np.flatnonzero(first[1:] > last[:-1]) + 1
    begins, ends = first[[0, *apart]].tolist(), last[[*(apart - 1), -1]].tolist()
    for begin, end in zip(begins, ends, strict=True):
        _advise(begin * mmap.PAGESIZE, (end - begin) * mmap.PAGESIZE, mmap.MADV_WILLNEED)


def _advise(start: int, size: int, advice: int) -> None:
    _madvise()(start, size, advice)  # that it is not heeded changes nothing but the time


@functools.cache
def _madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
