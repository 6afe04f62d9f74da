"""Vectors in RAM under int ids: where each row lies, which ids there are, and which slots are free.

Rows lie in blocks of 64, and blocks in slabs that never move: a search may go on while rows are added. One thread at a
time changes them.
"""

from __future__ import annotations

from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from vecstore import arguments
from vecstore.errors import InvalidArgumentError
from vecstore.index.arrays import aligned
from vecstore.index.flat import Floats, Rows, gathered
from vecstore.types import Metric

Ids = npt.NDArray[np.int64]

SHIFT: Final = 6
NONE: Final = -1


class Slabs:
    """The rows of a raw index; see the module."""

    def __init__(self, dim: int, metric: Metric) -> None:
        self.dim, self.metric = dim, metric
        self.count = 0
        self.size = 0
        """Slots, free ones among them."""
        self.ids: Ids = np.zeros(0, np.int64)
        """By slot; -1 for slot -1."""
        self.live = np.zeros(0, np.uint8)
        """A bit for each slot with a row."""
        self.reuses = 0
        """How often slots were used again: a search that was going on may have met two rows in one."""
        self._stamps = np.zeros(0, np.int64)  # by slot, when that was
        self._slabs: list[Floats] = []
        self._blocks = np.zeros(0, np.int64)
        self._kept = Rows(self._blocks, SHIFT, dim, 0, metric)
        self._free: list[int] = []
        # Slots by id, from the first id on that is not its row's number.
        self._slot_of: dict[int, int] | None = None

    @classmethod
    def restored(cls, metric: Metric, matrix: Floats, ids: Ids, live: Ids) -> Self:
        """Rows `(slots, dim)` with their ids, of which those at the slots `live` are there."""
        made = cls(matrix.shape[1], metric)
        made.size = len(matrix)
        made._make_room()
        made._store(np.arange(len(matrix)), matrix, np.sqrt(np.einsum("ij,ij->i", matrix, matrix)))
        made.ids[: len(matrix)] = ids
        made._mark(np.zeros(0, np.int64), live)
        made._free = np.setdiff1d(np.arange(len(matrix)), live).tolist()
        if not (len(live) == len(matrix) and np.array_equal(ids, np.arange(len(matrix)))):
            made._slot_of = dict(zip(ids[live].tolist(), live.tolist(), strict=True))
        return made

    # -- rows that come and go -------------------------------------------------------------------------------

    def next_ids(self, n: int) -> Ids:
        """Ids numbered on from the highest."""
        first = 0 if not self.count else int(self.ids[self.live_slots()].max()) + 1
        if first + n - 1 > arguments.MAX_INT_ID:
            raise InvalidArgumentError("ids: the highest is too near to 2^63 - 1 to number on; give ids")
        return np.arange(first, first + n, dtype=np.int64)

    def put(self, ids: Ids, matrix: Floats, norms: Floats) -> tuple[Ids, Ids]:
        """Rows `(n, dim)` under some ids; their slots, and those that rows of these ids had before. These are to be
        `freed` once no search begins on them."""
        replaced = self.found(ids)
        slots = self._take(len(matrix))
        self._store(slots, matrix, norms)
        self.ids[slots] = ids
        self._remember(ids, slots)
        removed = replaced[replaced >= 0]
        self._mark(removed, slots)
        return slots, removed

    def remove(self, ids: Ids) -> Ids:
        """Rows of some ids are gone; their slots, to be `freed`. Ids that are not there are passed over."""
        slots = self.found(ids)
        slots = slots[slots >= 0]
        if len(slots):
            if self._slot_of is None:
                self._slot_of = dict(zip(self.ids[: self.size].tolist(), range(self.size), strict=True))
            for one in self.ids[slots].tolist():
                del self._slot_of[one]
            self._mark(slots, np.zeros(0, np.int64))
        return slots

    def freed(self, slots: Ids) -> None:
        """Slots may be used again."""
        self._free.extend(slots.tolist())

    def _remember(self, ids: Ids, slots: Ids) -> None:
        if self._slot_of is None and np.array_equal(ids, slots):
            return
        if self._slot_of is None:
            before = self.size - int(np.count_nonzero(slots >= self.size - len(slots)))
            self._slot_of = dict(zip(self.ids[:before].tolist(), range(before), strict=True))
        self._slot_of.update(zip(ids.tolist(), slots.tolist(), strict=True))

    def _take(self, n: int) -> Ids:
        """Free slots first, then new ones."""
        reused = [self._free.pop() for _ in range(min(n, len(self._free)))]
        first = self.size
        more = n - len(reused)
        self.size = first + more
        self._make_room()
        if reused:
            self._stamps[reused] = self.reuses + 1
            self.reuses += 1
        return np.concatenate([np.array(reused, np.int64), np.arange(first, first + more, dtype=np.int64)])

    def _make_room(self) -> None:
        block = 1 << SHIFT
        have, needed = len(self._blocks), -(-self.size // block)
        if needed <= have:
            return
        size = max(needed - have, have // 4)
        slab = aligned((size, block * (self.dim + 1)), np.float32)
        self._slabs.append(slab)
        self._blocks = np.concatenate([self._blocks, slab.ctypes.data + np.arange(size) * slab.strides[0]])
        total = len(self._blocks) * block
        ids = _grown(self.ids, total + 1)
        ids[-1] = NONE  # of slot -1, where a search finds fewer than it asked for
        self._stamps = _grown(self._stamps, total)
        self.ids, self.live = ids, _grown(self.live, total // 8)

    def _store(self, slots: Ids, matrix: Floats, norms: Floats) -> None:
        block, first = 1 << SHIFT, 0
        for slab in self._slabs:
            last = first + len(slab) * block
            here = np.flatnonzero((slots >= first) & (slots < last))
            if len(here):
                at, within = np.divmod(slots[here] - first, block)
                slab[:, : block * self.dim].reshape(len(slab), block, self.dim)[at, within] = matrix[here]
                slab[:, block * self.dim :][at, within] = norms[here]
            first = last

    def _mark(self, removed: Ids, added: Ids) -> None:
        bits = np.unpackbits(self.live, bitorder="little")
        bits[removed] = 0
        bits[added] = 1
        self.live = np.packbits(bits, bitorder="little")
        self.count += len(added) - len(removed)

    # -- reading ---------------------------------------------------------------------------------------------

    def rows(self) -> Rows:
        """Where rows are; most searches see what the last one did."""
        kept = self._kept
        if kept.blocks is not self._blocks or kept.slots != self.size:
            kept = self._kept = Rows(self._blocks, SHIFT, self.dim, self.size, self.metric)
        return kept

    def found(self, ids: Ids) -> Ids:
        """The slots of ids, -1 for those that are not there."""
        if self._slot_of is None:
            return np.where(ids < self.size, ids, NONE)
        return np.array([self._slot_of.get(one, NONE) for one in ids.tolist()], np.int64)

    def live_slots(self) -> Ids:
        """The slots that have rows, ascending."""
        return np.flatnonzero(np.unpackbits(self.live, bitorder="little"))

    def reused_since(self, reuses: int, slots: npt.NDArray[Any]) -> bool:
        """Whether one of some slots has got another row since `reuses` was what it was."""
        return self.reuses != reuses and bool((self._stamps[slots[slots >= 0]] > reuses).any())

    def vectors(self, ids: Ids) -> Floats:
        """Copies of the rows of some ids `(n, dim)`; InvalidArgumentError if one is not there."""
        slots, live = self.found(ids), self.live
        there = (slots >= 0) & (slots < len(live) * 8)
        there[there] = (live[slots[there] >> 3] >> (slots[there] & 7).astype(np.uint8)) & 1 != 0
        if not there.all():
            raise InvalidArgumentError(f"ids: {int(ids[~there][0])} is not there")
        return gathered(self.rows(), slots)[0]

    def matrix(self) -> Floats:
        """A copy of the rows of all slots `(size, dim)`."""
        block = 1 << SHIFT
        parts = [slab[:, : block * self.dim].reshape(-1, self.dim) for slab in self._slabs]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts])[: self.size]

    @property
    def nbytes(self) -> int:
        """Bytes of RAM that the rows take."""
        return sum(slab.nbytes for slab in self._slabs)


def _grown(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    made = np.zeros(size, array.dtype)
    made[: len(array)] = array
    return made
