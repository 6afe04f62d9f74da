"""The log: what each write did to which slots, so that others can follow without reading everything.

A record is three runs-of-slots lists: slots that got a row, slots that lost theirs, and slots whose payload alone
changed. It names no contents: those are read from the state it leads to.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError
from vecstore.storage import keys

Slots = npt.NDArray[np.int64]
NO_SLOTS: Final[Slots] = np.empty(0, np.int64)

# Readers further behind than this load everything anew, which takes 12 ms for 300,000 rows.
KEEP: Final = 4096
TRIM_AT_ONCE: Final = 1024

_COUNTS = struct.Struct("<III")


@dataclass(frozen=True, slots=True)
class Entry:
    """One write: ascending slots that were `added`, `removed`, or only `changed` in their payload."""

    added: Slots
    removed: Slots
    changed: Slots

    def pack(self) -> bytes:
        """Three counts of runs, then the runs as pairs (first slot, length), all uint32."""
        runs = [_runs(slots) for slots in (self.added, self.removed, self.changed)]
        return _COUNTS.pack(*map(len, runs)) + b"".join(run.tobytes() for run in runs)

    @classmethod
    def unpack(cls, value: memoryview) -> Entry:
        """The entry that `pack` packed."""
        counts = _COUNTS.unpack_from(value)
        runs = np.frombuffer(value, "<u4", offset=_COUNTS.size).reshape(-1, 2)
        if len(runs) != sum(counts):
            raise CorruptionError("a record of the log is damaged")
        parts = np.split(runs.astype(np.int64), np.cumsum(counts)[:-1])
        return cls(*(_slots(part) for part in parts))


def _runs(slots: Slots) -> npt.NDArray[np.uint32]:
    if not len(slots):
        return np.empty((0, 2), np.uint32)
    starts = np.flatnonzero(np.diff(slots, prepend=slots[0] - 2) != 1)
    lengths = np.diff(starts, append=len(slots))
    return np.column_stack([slots[starts], lengths]).astype("<u4")


def _slots(runs: npt.NDArray[np.int64]) -> Slots:
    return np.concatenate([NO_SLOTS, *(np.arange(start, start + n) for start, n in runs.tolist())])


def append(txn: Any, db: Any, lsn: int, entry: Entry) -> None:
    """Write a record, and now and then forget those that no one follows any more."""
    txn.put(keys.lsn_key(lsn), entry.pack(), db=db, append=True)
    if lsn % TRIM_AT_ONCE == 0:
        with txn.cursor(db) as cursor:
            alive = cursor.first()
            while alive and keys.number(cursor.key()) <= lsn - KEEP:
                alive = cursor.delete()


def since(txn: Any, db: Any, after: int, last: int) -> list[Entry] | None:
    """The records from `after + 1` to `last`, or None where they are no longer all there."""
    entries = []
    with txn.cursor(db) as cursor:
        found = cursor.set_key(keys.lsn_key(after + 1))
        while found:
            entries.append(Entry.unpack(cursor.value()))
            found = cursor.next()
    return entries if len(entries) == last - after else None
