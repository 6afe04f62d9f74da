"""Reading everything that is stored and telling what does not fit together.

It goes part by part, each in a view of its own: a long view would keep the pages of every write meanwhile. What a part
holds fits together in any view.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import msgpack
import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import keys, log
from vecstore.storage.pace import Pace, paced
from vecstore.storage.rows import open_row
from vecstore.storage.view import View
from vecstore.types import Finding, Id

Views = Callable[[], contextlib.AbstractContextManager[View]]

BLOCKS_AT_ONCE: Final = 64  # 8 MiB
ROWS_AT_ONCE: Final = 4096  # a multiple of 8
TRIES: Final = 3


class _RenumberedError(Exception):
    """A compaction came between two parts."""


def check_store(views: Views, progress: Callable[[int, int], None]) -> list[Finding]:
    """All findings: blocks, both id maps, live bits, payloads, counters and log. `progress(done, total)` is called now
    and then."""
    for tries_left in reversed(range(TRIES)):
        try:
            return list(_Check(views, progress, alone=not tries_left).findings())
        except _RenumberedError:
            continue
    raise AssertionError("the last try is made in one view")


class _Check:
    def __init__(self, views: Views, progress: Callable[[int, int], None], *, alone: bool) -> None:
        self._views = views
        self._progress = progress
        self._alone = alone  # in one view, which no compaction can come into
        self._one: View | None = None
        self._done = 0
        with views() as view:
            self._env = view.env
            self._blocks, self._slots = len(view.table.rows), view.state.slots
            self._total = self._blocks + self._slots + view.state.count

    @contextlib.contextmanager
    def _part(self, size: int) -> Iterator[View]:
        if self._one is not None:
            yield self._one
        else:
            with self._views() as view:
                if view.env is not self._env:
                    raise _RenumberedError
                yield view
        self._done = min(self._done + size, self._total)
        if self._one is None:  # not in a view: what is called may close the collection, or write
            self._progress(self._done, self._total)

    def findings(self) -> Iterator[Finding]:
        with contextlib.ExitStack() as whole:
            if self._alone:
                self._one = whole.enter_context(self._views())
                self._blocks, self._slots = len(self._one.table.rows), self._one.state.slots
            for first in range(0, self._blocks, BLOCKS_AT_ONCE):
                with self._part(BLOCKS_AT_ONCE) as view:
                    found = list(_blocks(view, first, first + BLOCKS_AT_ONCE))
                yield from found
            differing = 0
            for first in range(0, self._slots, ROWS_AT_ONCE):
                with self._part(ROWS_AT_ONCE) as view:
                    found, count = _rows(view, first, first + ROWS_AT_ONCE)
                differing += count
                yield from found
            after: bytes | None = b""
            while after is not None:
                with self._part(ROWS_AT_ONCE) as view:
                    found, after = _ids(view, after)
                yield from found
            if differing:
                yield Finding("live bits", f"{differing} slots have a row or a live bit, but not both")
            with self._part(0) as view:
                found = [*_counters(view), *_log(view)]
            yield from found
        self._progress(self._total, self._total)


def _blocks(view: View, first: int, last: int) -> Iterator[Finding]:
    table, shift = view.table, view.layout.shift
    table.sound[first:last] = 0  # read again even what was found sound before
    last = min(last, len(table.rows))
    view.expect(np.arange(first, last))
    for number in paced(range(first, last)):
        lost = table.live_slots(number << shift, (number + 1) << shift)
        if not table.rows[number]:
            if len(lost):
                yield Finding("vectors", f"block {number} is missing", _id_names(view, lost))
            continue
        try:
            view.verify(np.array([number]))
        except CorruptionError as error:
            yield Finding("vectors", str(error), _id_names(view, lost))


def _id_names(view: View, slots: log.Slots) -> tuple[Id, ...]:
    names = []
    for slot in slots.tolist():
        with contextlib.suppress(CorruptionError):
            names.append(keys.id_of(view.row(slot)[0], view.env.path))
    return tuple(names)


def _rows(view: View, first: int, last: int) -> tuple[list[Finding], int]:
    """Rows lead to ids that lead back to them, and to slots that live; and how many slots do not."""
    findings: list[Finding] = []
    damaged: dict[int, str] = {}
    slots = []
    with view.txn.cursor(view.env.db("row")) as cursor:
        going_on, pace = cursor.set_range(keys.slot_key(first)), Pace()
        while going_on and (slot := keys.number(cursor.key())) < last:
            slots.append(slot)
            try:
                id_key, packed = open_row(cursor.value(), slot, view.env.path)
                one = keys.id_of(id_key, view.env.path)
                payload_fits = packed is None or isinstance(msgpack.unpackb(packed), dict)
            except (CorruptionError, ValueError) as error:
                damaged[slot] = str(error)
            else:
                leads_to = view.txn.get(id_key, db=view.env.db("slot"))
                if leads_to is None or keys.number(leads_to) != slot:
                    findings.append(Finding("rows", f"slot {slot} has an id that does not lead to it", (one,)))
                if not payload_fits:
                    findings.append(Finding("rows", f"the payload of slot {slot} is no map", (one,)))
            going_on = cursor.next()
            pace()
    if damaged:
        ids: dict[int, list[Id]] = {slot: [] for slot in damaged}
        for key, slot in paced(view.ids()):
            if slot in ids:
                with contextlib.suppress(CorruptionError):
                    ids[slot].append(keys.id_of(key, view.env.path))
        findings += [Finding("rows", text, tuple(ids[slot])) for slot, text in damaged.items()]
    live = view.table.live_slots(first, last)
    return findings, len(np.setxor1d(live, np.array(slots, np.int64)))


def _ids(view: View, after: bytes) -> tuple[list[Finding], bytes | None]:
    """Ids lead to rows; and the last one that was looked at, if there are more."""
    findings = []
    rows = view.env.db("row")
    for n, (key, slot) in enumerate(paced(view.ids(after)), 1):
        try:
            one = keys.id_of(key, view.env.path)
        except CorruptionError as error:
            findings.append(Finding("ids", str(error)))
        else:
            if slot >= view.state.slots or view.txn.get(keys.slot_key(slot), db=rows) is None:
                findings.append(Finding("ids", f"an id leads to slot {slot}, which has no row", (one,)))
        if n == ROWS_AT_ONCE:
            return findings, key
    return findings, None


def _counters(view: View) -> Iterator[Finding]:
    count = view.state.count
    for what, found in (
        ("rows live", len(view.table.live_slots())),
        ("rows are stored", view.txn.stat(view.env.db("row"))["entries"]),
        ("ids are known", view.txn.stat(view.env.db("slot"))["entries"]),
    ):
        if found != count:
            yield Finding("counters", f"the count is {count}, and {found} {what}")


def _log(view: View) -> Iterator[Finding]:
    last = None
    with view.txn.cursor(view.env.db("log")) as cursor:
        for key, value in paced(cursor):
            lsn = keys.number(key)
            if last is not None and lsn != last + 1:
                yield Finding("log", f"record {lsn} follows {last}")
            last = lsn
            try:
                log.Entry.unpack(value)
            except (CorruptionError, ValueError) as error:
                yield Finding("log", f"record {lsn}: {error}")
