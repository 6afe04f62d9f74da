"""What a search of lists reads, as one value that is replaced whole, and the room that kernels work in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.index.arrays import Coder, Codes, Floats, Ints, aligned
from vecstore.kernels import gathering as names
from vecstore.kernels import listing
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.quantization import ListBinary

_serials = itertools.count()
Allocate = Callable[..., npt.NDArray[Any]]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Codes in blocks of 32 rows: codes (b, 32 * code_bytes) uint8, terms (b, t, 32) or (b, 32, t), slots (b, 32)."""

    codes: Codes
    terms: Floats
    slots: Ints
    allocate: Allocate = aligned
    """Makes arrays: in RAM, or in files, where it has a method `extended(array, length, fill)` too."""

    def __len__(self) -> int:
        return len(self.slots)

    @classmethod
    def empty(cls, coder: Coder, size: int, allocate: Allocate = aligned) -> Blocks:
        """Room for so many blocks, without rows."""
        listed = isinstance(coder, ListBinary)
        terms = (size, listing.TERMS, BLOCK_ROWS) if listed else (size, BLOCK_ROWS, coder.terms_count)
        return cls(
            allocate((size, BLOCK_ROWS * coder.code_bytes), np.uint8),
            allocate(terms, np.float32),
            allocate((size, BLOCK_ROWS), np.int32, -1),
            allocate,
        )

    def grown(self, size: int) -> Blocks:
        """Room for so many, the first of which are these: a copy, or the same memory where that can be extended."""
        codes, terms = (self._longer(array, size, 0) for array in (self.codes, self.terms))
        return Blocks(codes, terms, self._longer(self.slots, size, -1), self.allocate)

    def _longer(self, array: npt.NDArray[Any], size: int, fill: int) -> npt.NDArray[Any]:
        extended, n = getattr(self.allocate, "extended", None), min(len(array), size)
        made = None if extended is None or size < len(array) else extended(array, size, fill)
        if made is None:
            made = self.allocate((size, *array.shape[1:]), array.dtype, fill)
            made[:n] = array[:n]
        return made

    def behind(self, coder: Coder, first: int, last: int) -> Blocks:
        """A copy of some of the blocks, with room for a few more."""
        made, n = Blocks.empty(coder, (last - first) * 5 // 4 + 8, self.allocate), last - first
        for into, of in ((made.codes, self.codes), (made.terms, self.terms), (made.slots, self.slots)):
            into[:n] = of[first:last]
        return made

    def put(self, coder: Coder, places: Longs, codes: Codes, terms: Floats) -> None:
        """Codes and terms of rows into their places, 32 * block + row."""
        if isinstance(coder, ListBinary):
            listing.place_rows(codes, terms, places, self.codes, self.terms)
        else:
            self.codes.reshape(len(self) * BLOCK_ROWS, coder.code_bytes)[places] = codes
            self.terms.reshape(len(self) * BLOCK_ROWS, coder.terms_count)[places] = terms

    def taken(self, coder: Coder, places: Longs) -> tuple[Codes, Floats]:
        """What `put` was given."""
        if not isinstance(coder, ListBinary):
            return (
                self.codes.reshape(len(self) * BLOCK_ROWS, coder.code_bytes)[places],
                self.terms.reshape(len(self) * BLOCK_ROWS, coder.terms_count)[places],
            )
        codes = np.empty((len(places), coder.code_bytes), np.uint8)
        terms = np.empty((len(places), listing.TERMS), np.float32)
        listing.take_rows(places, self.codes, self.terms, codes, terms)
        return codes, terms


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Lists:
    """Lists at one moment. Writers change in place what no reader of it minds: places behind `sizes` and `tail_size`,
    blocks that are in no chain, and slots, which become -1.

    centroids (lists, dim) float32 as rows are stored; offsets (lists, D): of LISTED codes, relative to the centre and
    rotated. heads, lasts, sizes (lists,) int32; chain (blocks,) int32.
    """

    coder: Coder
    pool: Blocks
    chain: Ints
    heads: Ints
    lasts: Ints
    sizes: Ints
    tail: Blocks
    tail_size: int
    centroids: Floats
    coarse: Blocks
    offsets: Floats
    offset_terms: Floats
    fields: Longs
    """The lists as kernels take them."""
    query_options: tuple[Any, ...]
    serial: int
    """Differs for each, for those who remember which they saw, but must not keep it."""

    @classmethod
    def of(cls, **parts: Any) -> Lists:
        """With the fields that follow from the rest."""
        coder, pool, tail, coarse = (parts[name] for name in ("coder", "pool", "tail", "coarse"))
        fields = np.zeros(names.FIELDS, np.int64)
        values = {
            names.LISTS: len(parts["heads"]),
            names.HEADS: parts["heads"].ctypes.data,
            names.SIZES: parts["sizes"].ctypes.data,
            names.NEXT: parts["chain"].ctypes.data,
            names.CODES: pool.codes.ctypes.data,
            names.CODE_BYTES: coder.code_bytes,
            names.TERMS: pool.terms.ctypes.data,
            names.TERM_BYTES: 4 * coder.terms_count,
            names.SLOTS: pool.slots.ctypes.data,
            names.TAIL_CODES: tail.codes.ctypes.data,
            names.TAIL_TERMS: tail.terms.ctypes.data,
            names.TAIL_SLOTS: tail.slots.ctypes.data,
            names.TAIL_SIZE: parts["tail_size"],
            names.COARSE_CODES: coarse.codes.ctypes.data,
            names.COARSE_TERMS: coarse.terms.ctypes.data,
            names.OFFSETS: parts["offsets"].ctypes.data,
            names.OFFSET_TERMS: parts["offset_terms"].ctypes.data,
        }
        for place, value in values.items():
            fields[place] = value
        options = (coder.centres, coder.signs, coder.unit, coder.step)
        return cls(**parts, fields=fields, query_options=options, serial=next(_serials))

    def changed(self, **changes: Any) -> Lists:
        """The same but for some."""
        names_of = (
            "coder", "pool", "chain", "heads", "lasts", "sizes", "tail", "tail_size", "centroids", "coarse", "offsets",
            "offset_terms",
        )  # fmt: skip
        return Lists.of(**{name: getattr(self, name) for name in names_of} | changes)

    @property
    def linked(self) -> int:
        """Places that lists have taken, of rows that live and of those that do not."""
        return int(self.sizes.sum())

    @property
    def count(self) -> int:
        """Places of lists and of the tail."""
        return self.linked + self.tail_size

    def places(self, one: int) -> Longs:
        """The places of a list in their order, `(size,)`."""
        size, block, blocks = int(self.sizes[one]), int(self.heads[one]), []
        for _ in range(-(-size // BLOCK_ROWS)):
            blocks.append(block)
            block = int(self.chain[block])
        return places_of(np.array(blocks, np.int64), size)


def places_of(blocks: Longs, size: int) -> Longs:
    """The first `size` places of a chain of blocks."""
    return (blocks[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()[:size]


DEPTH_ROOM: Final = 4
"""Candidates are gathered until there are so many times as many as are kept of them."""
LEAST_ROOM: Final = 256
"""At least so many; several blocks."""


class ListRoom:
    """What a thread needs for searches: room for one query at a time."""

    def __init__(self, coder: Coder, lists: int, depth: int, k: int) -> None:
        self.coder, self.lists, self.depth = coder, lists, depth
        self.best = np.empty(2 * k, np.int64)
        # As the searches of kernels/lists.py take them.
        self.arrays = (
            aligned((1, coder.query_bytes), np.uint8),
            np.zeros((1, max(2, coder.factors_count)), np.float32),
            np.zeros((1, 3)),
            aligned((2, coder.dims), np.float32),
            np.zeros(coder.dims, np.uint8),
            aligned((BLOCK_ROWS,), np.uint16),
            aligned((BLOCK_ROWS,), np.float32),
            np.empty(-(-lists // BLOCK_ROWS) * BLOCK_ROWS, np.int64),
            np.empty(max(DEPTH_ROOM * depth, LEAST_ROOM), np.int64),
        )
