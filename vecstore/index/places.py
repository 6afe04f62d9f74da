"""The rows of an inverted file: their places in lists and in the tail, and how they come and go.

Searches take the current `Lists` and no lock; old blocks are used again when nobody holds `Lists` that know them.
`_changing` is held for changes of rows, `_filing` for changes of lists; whoever takes both takes `_filing` first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from vecstore.index.arrays import Coder, Ints, aligned
from vecstore.index.blocks import Allocate, Blocks, Lists, Longs
from vecstore.index.chains import Chains
from vecstore.index.coding import centroids_of, encoded
from vecstore.index.flat import Rows, gathered, part_rows
from vecstore.index.parallel import over_ranges
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.types import IVF, Metric

# Bytes of codes, and rows, that are made before they are put into blocks.
AT_ONCE_BYTES, AT_ONCE = 16 << 20, 1 << 17
# Blocks whose slots are numbered anew at once.
BLOCKS_AT_ONCE: Final = 1 << 12
NOWHERE: Final = -1
IN_TAIL: Final = -2
"""The place of row i of the tail is IN_TAIL - i; of a row in a list, 32 * block + row."""


class Places:
    """Rows for the slots of a collection; see the module."""

    def __init__(self, config: IVF, coder: Coder, metric: Metric, fitted_on: int, allocate: Allocate = aligned) -> None:
        self.config, self.metric, self.fitted_on = config, metric, fitted_on
        self._changing = threading.RLock()
        self._filing = threading.Lock()
        self._places = np.full(0, NOWHERE, np.int32)
        """By slot."""
        self.dead: Ints = np.zeros(0, np.int32)
        """Places of each list whose rows are gone."""
        self.limits: Ints = np.zeros(0, np.int32)
        """How long each list may be at least: more than others, where a split did not part its rows."""
        self.numbering = 0
        """Differs whenever slots were numbered anew."""
        self._chains = Chains()
        nothing = np.zeros(0, np.int32)
        self.arrays = Lists.of(
            coder=coder, pool=Blocks.empty(coder, 0, allocate), chain=nothing, heads=nothing, lasts=nothing,
            sizes=nothing, tail=Blocks.empty(coder, 0, allocate), tail_size=0,
            **centroids_of(coder, np.zeros((0, coder.dim), np.float32)),
        )  # fmt: skip

    def add(self, rows: Rows, slots: Longs, threads: int) -> None:
        """Rows that have no place, at the end of the tail: searches that begin from now on find them."""
        if not len(slots):
            return
        with self._changing:
            arrays, n = self.arrays, len(slots)
            coder, first = arrays.coder, arrays.tail_size
            needed = -(-(first + n) // BLOCK_ROWS)
            tail = arrays.tail
            if needed > len(tail):
                tail = tail.grown(max(needed, len(tail) * 5 // 4))
            chunk = part_rows(rows.dim)
            room = min(n, AT_ONCE, max(chunk, AT_ONCE_BYTES // (coder.code_bytes + 4 * coder.terms_count)))
            codes, terms = np.empty((room, coder.code_bytes), np.uint8), np.empty((room, coder.terms_count), np.float32)
            places = first + np.arange(n, dtype=np.int64)
            for base in range(0, n, room):
                part = slots[base : base + room]

                def work(start: int, stop: int, part: Longs = part) -> None:
                    for begin in range(start, stop, chunk):
                        some = slice(begin, min(begin + chunk, stop))
                        vectors, norms = gathered(rows, part[some])
                        codes[some], terms[some] = encoded(coder, vectors, norms, None, arrays.offsets)

                over_ranges(len(part), chunk, threads if len(part) > chunk else 1, work)
                tail.put(coder, places[base : base + room], codes[: len(part)], terms[: len(part)])
            tail.slots.reshape(-1)[places] = slots
            self._know(int(slots.max()) + 1)
            self._places[slots] = IN_TAIL - places
            self._become(arrays.changed(tail=tail, tail_size=first + n))

    def remove(self, slots: Longs) -> None:
        """The rows of some slots are gone from now on; slots without a row are passed over."""
        with self._changing:
            slots = slots[slots < len(self._places)]
            places = self._places[slots].astype(np.int64)
            self._places[slots] = NOWHERE
            arrays = self.arrays
            arrays.tail.slots.reshape(-1)[IN_TAIL - places[places <= IN_TAIL]] = -1
            filed = places[places >= 0]
            arrays.pool.slots.reshape(-1)[filed] = -1
            np.add.at(self.dead, self._chains.owners[filed // BLOCK_ROWS], 1)

    def _know(self, slots: int) -> None:
        if slots > len(self._places):
            grown = np.full(max(slots, len(self._places) * 5 // 4), NOWHERE, np.int32)
            grown[: len(self._places)] = self._places
            self._places = grown

    def changing(self) -> contextlib.AbstractContextManager[Any]:
        """Rows come and go only by this thread."""
        return self._changing

    def renumber_slots(self, numbers: Longs) -> None:
        """The row of slot s has the slot `numbers[s]` from now on; -1 for slots without a row."""
        with self._changing:
            arrays = self.arrays
            made = []
            for old in (arrays.pool, arrays.tail):
                slots = old.allocate(old.slots.shape, np.int32, -1)
                for first in range(0, len(old), BLOCKS_AT_ONCE):
                    some = old.slots[first : first + BLOCKS_AT_ONCE]
                    # Blocks that are in no list any more may name slots that are gone.
                    known = (some >= 0) & (some < len(numbers))
                    slots[first : first + BLOCKS_AT_ONCE][known] = numbers[some[known]]
                made.append(Blocks(old.codes, old.terms, slots, old.allocate))
            self._become(arrays.changed(pool=made[0], tail=made[1]))
            self._find_places()
            self.numbering += 1

    def _find_places(self) -> None:
        arrays = self.arrays
        slots, waiting = arrays.pool.slots.reshape(-1), arrays.tail.slots.reshape(-1)[: arrays.tail_size]
        self._places = np.full(1 + max(slots.max(initial=-1), waiting.max(initial=-1)), NOWHERE, np.int32)
        for places in self._filed():
            own = slots[places]
            self._places[own[own >= 0]] = places[own >= 0]
        there = np.flatnonzero(waiting >= 0)
        self._places[waiting[there]] = IN_TAIL - there

    def _filed(self) -> Iterator[Longs]:
        """The places of each list."""
        return (self.arrays.places(one) for one in range(len(self.arrays.heads)))

    def slots_in_order(self) -> Longs:
        """The slots of all rows, those of one list next to each other."""
        with self._changing:
            arrays = self.arrays
            slots, waiting = arrays.pool.slots.reshape(-1), arrays.tail.slots.reshape(-1)[: arrays.tail_size]
            parts = [*(slots[places] for places in self._filed()), waiting]
            return np.concatenate([part[part >= 0] for part in parts]).astype(np.int64)

    def owners(self, places: Longs) -> Ints:
        """The lists of some places of theirs."""
        return self._chains.owners[places // BLOCK_ROWS]

    def places_of(self, slots: Longs) -> Longs:
        """The places of some slots, NOWHERE for those without a row."""
        known = slots < len(self._places)
        return np.where(known, self._places[np.where(known, slots, 0)], NOWHERE).astype(np.int64)

    @property
    def gone(self) -> int:
        """Places of lists whose rows have gone."""
        return int(self.dead.sum())

    @property
    def known(self) -> int:
        """Slots that have a place."""
        return int(np.count_nonzero(self._places != NOWHERE))

    def filing(self) -> contextlib.AbstractContextManager[Any]:
        """Lists change only by this thread."""
        return self._filing

    def members(self, one: int) -> tuple[Longs, Longs]:
        """Slots of the rows of a list, and their places."""
        with self._changing:
            places = self.arrays.places(one)
            slots = self.arrays.pool.slots.reshape(-1)[places].astype(np.int64)
            return slots[slots >= 0], places[slots >= 0]

    def waiting(self, most: int) -> tuple[Longs, Longs, int]:
        """Slots and places of the first rows of the tail, and how much of it they are."""
        with self._changing:
            arrays = self.arrays
            n = arrays.tail_size if arrays.tail_size <= most else most // BLOCK_ROWS * BLOCK_ROWS
            slots = arrays.tail.slots.reshape(-1)[:n].astype(np.int64)
            there = np.flatnonzero(slots >= 0)
            return slots[there], IN_TAIL - there, n

    def _become(self, arrays: Lists, retired: list[int] | None = None) -> None:
        self._chains.replaced(self.arrays, retired or [])
        self.arrays = arrays
        self._chains.reclaim(arrays.pool.slots)
