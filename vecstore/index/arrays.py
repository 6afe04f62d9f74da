"""What a search of a graph reads, as one value that is replaced whole, and the room that kernels work in."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import sys
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.kernels import graph as names
from vecstore.quantization import Quantizer
from vecstore.quantization.whole import Whole

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]
Coder = Quantizer | Whole

# A table of visited nodes holds 64 for each candidate, as many as a walk meets, within the first-level cache as long
# as it can be. With 2**13 places the 16 bits in each tell nodes below 2**29 apart.
MIN_VISITED: Final = 1 << 13
MAX_VISITED: Final = 1 << 18
_serials = itertools.count()
OWN_MAPPING: Final = 1 << 20
HUGE_PAGE: Final = 1 << 21
M_MMAP_THRESHOLD: Final = -3  # of glibc's mallopt


def _give_back() -> None:
    """Let memory of a megabyte and more go back to the system when it is freed.

    glibc maps large memory by itself, but takes what is as large from its heap from then on, once some was freed. The
    arrays that inserting and linking need for a moment then leave holes there that never go back: 38 MB beside an index
    of 15 MB. A threshold that is set stays; one that the user has set is left alone.
    """
    if sys.platform == "linux" and not {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_MAPPING)


_give_back()


def aligned(shape: tuple[int, ...], dtype: Any, fill: int = 0) -> npt.NDArray[Any]:
    """An array that begins at a cache line, of zeros unless `fill` says otherwise.

    A large one has a mapping of its own, which goes back to the system with it: from malloc's heap, where growing and
    renumbering leave holes, it might never. Its pages are huge where the system has such, but for a last part that
    would not fill one, and none are taken before they are written to.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < OWN_MAPPING:
        room = np.zeros(size + 64, np.uint8)
        start = -room.ctypes.data % 64
    else:
        room, start = _mapping(size)
    made: npt.NDArray[Any] = room[start : start + size].view(dtype).reshape(shape)
    if fill:
        made[...] = fill
    return made


def owned(array: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """The array itself if an index can keep it, or else a copy."""
    if array.dtype == dtype and array.flags.carray and array.ctypes.data % 64 == 0:
        return array
    made = aligned(array.shape, dtype)
    made[...] = array
    return made


def _mapping(size: int) -> tuple[Codes, int]:
    """Memory of its own, and where in it `size` bytes begin. A shared mapping, which Python makes unless told
    otherwise, would get no huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.frombuffer(mmap.mmap(-1, size), np.uint8), 0
    mapping = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room = np.frombuffer(mapping, np.uint8)
    start = -room.ctypes.data % HUGE_PAGE
    with contextlib.suppress(OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE, start, size // HUGE_PAGE * HUGE_PAGE)
    return room, start


@dataclass(frozen=True, slots=True)
class Pilots:
    """Nodes that walks start from, and their codes next to each other."""

    nodes: Ints
    codes: Codes
    terms: Floats
    pairs: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """A graph at one moment: nodes up to `count`, of which those from `linked` on are the tail.

    codes (cap, code_bytes), terms (cap, t), pairs (cap, p), slots (cap,): a node's slot, -1 once it is dead. links
    (cap', width) int32, with cap' at least `linked`. Writers change the arrays in place where no reader minds: behind
    `count`, the links of any node (which are valid at each moment), and slots.
    """

    coder: Coder
    codes: Codes
    terms: Floats
    pairs: Floats
    slots: Ints
    links: Ints
    pilots: Pilots
    cosines: Floats
    top: Floats
    count: int
    linked: int
    fields: npt.NDArray[np.int64]
    """The graph as kernels take it."""
    scan: npt.NDArray[np.int64]
    """The same as one tail without links."""
    query_options: tuple[Any, ...]
    """Centres, signs, unit and step of the coder."""
    serial: int
    """Differs for each, for those who remember which they saw, but must not keep it."""

    @classmethod
    def of(cls, **parts: Any) -> Arrays:
        """With the fields that follow from the rest."""
        codes, terms, pairs, links, pilots = (parts[name] for name in ("codes", "terms", "pairs", "links", "pilots"))
        fields = np.zeros(names.FIELDS, np.int64)
        values = {
            names.CODES: codes.ctypes.data,
            names.CODE_BYTES: codes.shape[1],
            names.TERMS: terms.ctypes.data,
            names.TERM_BYTES: 4 * terms.shape[1],
            names.PAIRS: pairs.ctypes.data,
            names.PAIR_BYTES: 4 * pairs.shape[1],
            names.LINKS: links.ctypes.data,
            names.WIDTH: links.shape[1],
            names.LIMIT: parts["linked"],
            names.PILOTS: pilots.nodes.ctypes.data,
            names.PILOT_COUNT: len(pilots.nodes),
            names.PILOT_CODES: pilots.codes.ctypes.data,
            names.PILOT_TERMS: pilots.terms.ctypes.data,
            names.PILOT_PAIRS: pilots.pairs.ctypes.data,
            names.SLOTS: parts["slots"].ctypes.data,
            names.TAIL_FIRST: parts["linked"],
            names.TAIL_LAST: parts["count"],
            names.COSINES: parts["cosines"].ctypes.data,
            names.TOP: parts["top"].ctypes.data,
        }
        for place, value in values.items():
            fields[place] = value
        scan = fields.copy()
        scan[names.PILOT_COUNT] = scan[names.TAIL_FIRST] = 0
        coder = parts["coder"]
        options = (coder.centres, coder.signs, coder.unit, coder.step)
        return cls(**parts, fields=fields, scan=scan, query_options=options, serial=next(_serials))

    @property
    def width(self) -> int:
        """Links that a node has room for."""
        return int(self.links.shape[1])


class SearchRoom:
    """What a thread needs for searches: room for one query at a time."""

    def __init__(self, coder: Coder, width: int, ef: int, k: int) -> None:
        self.coder = coder
        self.best = np.empty(k, np.int64)
        self.ef = ef
        # As the searches of kernels/walks.py take them: for the code of a query, its beam, and what it has visited.
        self.arrays = (
            np.zeros((1, coder.query_bytes), np.uint8),
            np.zeros((1, coder.factors_count), np.float32),
            np.zeros((1, 3)),
            np.zeros((2, coder.dims), np.float32),
            np.zeros(coder.dims, np.uint8),
            np.empty(2 * ef + width + 1, np.int64),
            visited_table(ef),
            np.empty(2 * width, np.int32),
        )


class LinkRoom:
    """What a thread needs to link nodes: room for one node at a time."""

    def __init__(self, arrays: Arrays, ef: int) -> None:
        width, size = arrays.width, arrays.codes.shape[1]
        ef = max(ef, 4 * width)  # a list that is pruned anew has its own links and those of many dead ones to choose of
        self.query = aligned((2 * size,), np.uint8)
        self.beam = np.empty(2 * ef + width + 1, np.int64)
        self.visited = visited_table(ef)
        self.candidates = np.empty(2 * width, np.int32)
        self.added = np.empty(4 * width, np.int32)
        self.kept = aligned((width * 2 * size,), np.uint8)
        self.facts = np.zeros(4 * (width + 1), np.float32)


def visited_table(ef: int) -> npt.NDArray[np.uint16]:
    """Room for the nodes that a walk has met."""
    return np.empty(min(max(MIN_VISITED, 1 << (64 * ef - 1).bit_length()), MAX_VISITED), np.uint16)


def cosine_table(dims: int) -> Floats:
    """The cosine of two rows by the number of bits in which their codes differ, `(dims + 1,)`.

    The share of random hyperplanes that part two vectors is their angle over pi (Charikar, STOC 2002).
    """
    return np.cos(np.pi * np.arange(dims + 1) / dims).astype(np.float32)
