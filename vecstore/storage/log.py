"""The log: what each write did to which slots, so that others can follow without reading everything.

A record holds the counters as of that write, and three lists of slots: those that got a row, those that lost theirs,
and those whose payload alone changed. It names no contents: those are read from the state it leads to. The last
record is never trimmed, and so tells the state of the collection. A random write id tells apart what the same lsn
means in two histories that began alike, as where an older copy of a file was written to.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError
from vecstore.storage import keys
from vecstore.storage.failpoints import reach

Slots = npt.NDArray[np.int64]
NO_SLOTS: Final[Slots] = np.empty(0, np.int64)

# Readers further behind than this load everything anew, which takes 12 ms for 300,000 rows.
KEEP: Final = 4096
TRIM_AT_ONCE: Final = 1024
# Records kept for a checkpoint that lies further back than KEEP: some 50 MB. Then it is given up.
MOST: Final = 1 << 20

_NO_RUNS: Final = np.empty((0, 2), np.uint32)
_HEADER = struct.Struct("<QQIII")
WRITE_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class State:
    """The counters of a commit: `slots` is the high-water mark, `count` the rows that live, `write_id` its own 8 bytes
    (none in a collection without writes, and in records of format 1)."""

    lsn: int = 0
    slots: int = 0
    count: int = 0
    write_id: bytes = b""

    def next(self) -> State:
        """The same after one more write."""
        return State(self.lsn + 1, self.slots, self.count, secrets.token_bytes(WRITE_ID_BYTES))


@dataclass(frozen=True, slots=True)
class Entry:
    """One write: ascending slots that were `added`, `removed`, or only `changed` in their payload."""

    added: Slots
    removed: Slots
    changed: Slots

    def pack(self, state: State) -> bytes:
        """The record: the counters, three counts of runs, the runs as pairs (first slot, length), the write id."""
        runs = [_runs(slots) if len(slots) else _NO_RUNS for slots in (self.added, self.removed, self.changed)]
        head = _HEADER.pack(state.slots, state.count, *map(len, runs))
        return head + b"".join(run.tobytes() for run in runs) + state.write_id

    @classmethod
    def unpack(cls, value: memoryview) -> Entry:
        """The entry of a record."""
        end = _end_of_runs(value)
        _, _, added, removed, _ = _HEADER.unpack_from(value)
        # Most records have one run or two: with NumPy they would take a reader longer than anything else about a write.
        runs = np.frombuffer(value[:end], "<u4", offset=_HEADER.size).tolist()
        gone, changed = 2 * added, 2 * (added + removed)
        return cls(_slots(runs[:gone]), _slots(runs[gone:changed]), _slots(runs[changed:]))


def _runs(slots: Slots) -> npt.NDArray[np.uint32]:
    if slots[-1] - slots[0] == len(slots) - 1:
        return np.array([[slots[0], len(slots)]], "<u4")
    starts = np.flatnonzero(np.diff(slots, prepend=slots[0] - 2) != 1)
    lengths = np.diff(starts, append=len(slots))
    return np.column_stack([slots[starts], lengths]).astype("<u4")


def _slots(runs: list[int]) -> Slots:
    if len(runs) == 2:
        return np.arange(runs[0], runs[0] + runs[1])
    return np.concatenate([NO_SLOTS, *(np.arange(runs[i], runs[i] + runs[i + 1]) for i in range(0, len(runs), 2))])


def last(txn: Any, db: Any) -> State:
    """The counters as a transaction sees them."""
    with txn.cursor(db) as cursor:
        if not cursor.last():
            return State()
        return state_of(cursor.key(), cursor.value())


def at(txn: Any, db: Any, lsn: int) -> State | None:
    """The counters after the write `lsn`, or None where the log does not tell."""
    key = keys.lsn_key(lsn)
    value = txn.get(key, db=db)
    return None if value is None else state_of(key, value)


def state_of(key: bytes | memoryview, value: memoryview) -> State:
    """The counters in a record."""
    end = _end_of_runs(value)
    slots, count, *_ = _HEADER.unpack_from(value)
    return State(keys.number(key), slots, count, bytes(value[end:]))


def _end_of_runs(value: memoryview) -> int:
    """Where the write id begins, if there is one: records of format 1 have none."""
    if len(value) >= _HEADER.size:
        end: int = _HEADER.size + 8 * sum(_HEADER.unpack_from(value)[2:])
        if len(value) - end in (0, WRITE_ID_BYTES):
            return end
    raise CorruptionError("a record of the log is damaged")


def append(txn: Any, db: Any, state: State, entry: Entry, kept_from: int | None = None) -> None:
    """Write the record of the write that leads to `state`, and now and then forget those that no one follows: a reader,
    or a checkpoint of the write `kept_from`."""
    lsn = state.lsn
    txn.put(keys.lsn_key(lsn), entry.pack(state), db=db, append=True)
    if lsn % TRIM_AT_ONCE == 0:
        reach("log.trim")
        last = lsn - KEEP if kept_from is None else min(lsn - KEEP, max(kept_from - 1, lsn - MOST))
        with txn.cursor(db) as cursor:
            alive = cursor.first()
            while alive and keys.number(cursor.key()) <= last:
                alive = cursor.delete()
        reach("log.trimmed")


def give_write_id(txn: Any, db: Any) -> None:
    """Complete the last record, if it is of format 1."""
    with txn.cursor(db) as cursor:
        if cursor.last() and not state_of(cursor.key(), cursor.value()).write_id:
            txn.put(bytes(cursor.key()), bytes(cursor.value()) + secrets.token_bytes(WRITE_ID_BYTES), db=db)


def since(txn: Any, db: Any, after: int, until: int) -> list[Entry] | None:
    """The records from `after + 1` to `until`, or None where they are no longer all there."""
    entries = []
    with txn.cursor(db) as cursor:
        found = cursor.set_key(keys.lsn_key(after + 1))
        while found:
            entries.append(Entry.unpack(cursor.value()))
            found = cursor.next()
    return entries if len(entries) == until - after else None
