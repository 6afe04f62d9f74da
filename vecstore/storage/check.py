"""Reading everything that is stored and telling what does not fit together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgpack
import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import keys, log
from vecstore.storage.rows import open_row
from vecstore.storage.store import View
from vecstore.types import Finding, Id


def check_store(view: View) -> list[Finding]:
    """All findings of one commit: blocks, both id maps, live bits, payloads, counters and log."""
    return [*_blocks(view), *_rows(view), *_log(view)]


def _blocks(view: View) -> Iterator[Finding]:
    table, layout = view.table, view.layout
    live = np.zeros(len(table.rows) << layout.shift, bool)
    live[table.live_slots()] = True
    table.sound[:] = 0  # read again even what was found sound before
    for number, slots in enumerate(live.reshape(len(table.rows), layout.rows)):
        lost = np.flatnonzero(slots) + (number << layout.shift)
        if not table.rows[number]:
            if len(lost):
                yield Finding("vectors", f"block {number} is missing", _id_names(view, lost))
            continue
        try:
            view.verify((number,))
        except CorruptionError as error:
            yield Finding("vectors", str(error), _id_names(view, lost))


def _id_names(view: View, slots: log.Slots) -> tuple[Id, ...]:
    names = []
    for slot in slots.tolist():
        with contextlib.suppress(CorruptionError, ValueError):
            names.append(keys.key_id(view.row(slot)[0]))
    return tuple(names)


def _rows(view: View) -> Iterator[Finding]:
    """Rows and the map of ids lead to each other, and to the slots that live."""
    by_id = dict(view.ids())
    slots = []
    with view.txn.cursor(view.env.db("row")) as cursor:
        for slot_key, value in cursor:
            slot = keys.number(slot_key)
            slots.append(slot)
            try:
                id_key, packed = open_row(value, slot, view.env.path)
                payload_fits = packed is None or isinstance(msgpack.unpackb(packed), dict)
            except (CorruptionError, ValueError) as error:
                yield Finding("rows", str(error), _ids_of_slot(by_id, slot))
                continue
            if by_id.get(id_key) != slot:
                yield Finding("rows", f"slot {slot} has an id that does not lead to it", (keys.key_id(id_key),))
            if not payload_fits:
                yield Finding("rows", f"the payload of slot {slot} is no map", (keys.key_id(id_key),))
    there = set(slots)
    for key, slot in by_id.items():
        if slot not in there:
            yield Finding("ids", f"an id leads to slot {slot}, which has no row", (keys.key_id(key),))
    live = view.table.live_slots()
    if slots != live.tolist():
        differing = np.setxor1d(live, np.array(slots, np.int64))
        yield Finding("live bits", f"{len(differing)} slots have a row or a live bit, but not both")
    if view.state.count != len(live):
        yield Finding("counters", f"the count is {view.state.count}, and {len(live)} rows live")


def _ids_of_slot(by_id: dict[bytes, int], slot: int) -> tuple[Id, ...]:
    return tuple(keys.key_id(key) for key, at in by_id.items() if at == slot)


def _log(view: View) -> Iterator[Finding]:
    last = None
    with view.txn.cursor(view.env.db("log")) as cursor:
        for key, value in cursor:
            lsn = keys.number(key)
            if last is not None and lsn != last + 1:
                yield Finding("log", f"record {lsn} follows {last}")
            last = lsn
            try:
                log.Entry.unpack(value)
            except (CorruptionError, ValueError) as error:
                yield Finding("log", f"record {lsn}: {error}")
