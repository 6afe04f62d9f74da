"""Blocks of vectors: how rows stand in a value of data.mdb, so that they can be read in place by address.

    0         48                 48 + R*dim*4          48 + R*dim*4 + R*4
    | header  | R rows of dim f32 | R norms of f32      |

LMDB keeps a value of this size on overflow pages, 16 bytes into the first; the header of 48 bytes therefore
puts row 0, and every row of a multiple of 64 bytes, on a 64-byte boundary.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import xxhash

from vecstore.errors import CorruptionError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC: Final = b"vblk"
VERSION: Final = 1
FLOAT32: Final = 0
HEADER_SIZE: Final = 48

# Measured for one-row commits at d = 384, relative to a bare 1.5 KB put: rewriting 96 KiB costs 0.9 of its
# rate; and 128 KiB keep the loss by rounding up to pages under 4.2 %.
MAX_BLOCK_BYTES: Final = 128 * 1024
MIN_ROWS: Final = 8
# 2048 rows of one dimension are 16 KiB: more than half a page of any host, so never inside a B-tree page, where
# a neighbour's write would move them.
MAX_ROWS: Final = 2048

_HEADER = struct.Struct("<4sBBHIIQQ16x")
_CHECKED_FROM = 32  # where the bytes begin that no header field precedes
assert _HEADER.size == HEADER_SIZE


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in the blocks of one collection; `rows = 1 << shift`."""

    dim: int
    shift: int

    @classmethod
    def of(cls, dim: int) -> Layout:
        """The layout of a new collection: the most rows that fit MAX_BLOCK_BYTES, a power of two."""
        rows = max(MIN_ROWS, min(MAX_ROWS, MAX_BLOCK_BYTES // (dim * 4)))
        return cls(dim, rows.bit_length() - 1)

    @property
    def rows(self) -> int:
        """Rows in a block."""
        return 1 << self.shift

    @property
    def norms_at(self) -> int:
        """Offset of the norms from the start of the value."""
        return HEADER_SIZE + self.rows * self.dim * 4

    @property
    def size(self) -> int:
        """Bytes of a value."""
        return self.norms_at + self.rows * 4

    def bytes_of(self, count: int) -> int:
        """Bytes of the pages that the vectors of so many rows take, behind LMDB's header of 16 bytes."""
        pages = -(-(self.size + 16) // 4096)
        return -(-count // self.rows) * pages * 4096


class Block:
    """One block being written: arrays over a buffer of its own."""

    def __init__(self, layout: Layout, number: int, old: Buffer | None = None) -> None:
        self.number = number
        self.buffer = bytearray(layout.size if old is None else old)
        self.vectors = np.frombuffer(self.buffer, np.float32, layout.rows * layout.dim, HEADER_SIZE)
        self.vectors = self.vectors.reshape(layout.rows, layout.dim)
        self.norms = np.frombuffer(self.buffer, np.float32, layout.rows, layout.norms_at)

    def seal(self, lsn: int) -> bytearray:
        """Write the header with its checksum; the bytes to store."""
        rows, dim = self.vectors.shape
        _HEADER.pack_into(self.buffer, 0, MAGIC, VERSION, FLOAT32, rows, dim, self.number, lsn, 0)
        struct.pack_into("<Q", self.buffer, 24, _checksum(self.buffer))
        return self.buffer


def _checksum(value: Buffer) -> int:
    """XXH3 of everything but the checksum itself."""
    view = memoryview(value)
    return xxhash.xxh3_64_intdigest(view[_CHECKED_FROM:], xxhash.xxh3_64_intdigest(view[:24]))


def verify(value: Buffer, layout: Layout, number: int) -> None:
    """Raise CorruptionError unless `value` is block `number`, as it was written."""
    view = memoryview(value)
    if len(view) != layout.size:
        raise CorruptionError(f"block {number} of vectors has {len(view)} bytes instead of {layout.size}")
    magic, version, dtype, rows, dim, own_number, _, checksum = _HEADER.unpack_from(view)
    expected = (MAGIC, VERSION, FLOAT32, layout.rows, layout.dim, number)
    if (magic, version, dtype, rows, dim, own_number) != expected or checksum != _checksum(view):
        raise CorruptionError(f"block {number} of vectors is damaged: its checksum does not fit its bytes")


def address(value: memoryview) -> int:
    """Where the bytes of a value stand in memory."""
    return int(np.frombuffer(value, np.uint8).__array_interface__["data"][0])


def at(start: int, size: int) -> memoryview:
    """`size` bytes of memory, read-only: valid only while the transaction they were found in lives."""
    return memoryview((ctypes.c_char * size).from_address(start)).toreadonly()
