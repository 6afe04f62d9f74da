"""Reading everything that is stored and telling what does not fit together."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import keys, log
from vecstore.storage.store import View
from vecstore.types import Finding, Id


def check_store(view: View) -> list[Finding]:
    """All findings of one commit: blocks, both id maps, live bits, payloads, counters and log."""
    return [*_blocks(view), *_ids(view), *_payloads(view), *_log(view)]


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
        try:
            names.append(keys.key_id(view.key(slot)))
        except (CorruptionError, ValueError):
            continue
    return tuple(names)


def _ids(view: View) -> Iterator[Finding]:
    live = view.table.live_slots()
    by_slot: dict[int, bytes] = {}
    with view.txn.cursor(view.env.db("id")) as cursor:
        for slot_key, id_key in cursor:
            by_slot[keys.number(slot_key)] = bytes(id_key)
    by_id = dict(view.ids())
    for key, slot in by_id.items():
        if by_slot.get(slot) != key:
            yield Finding("ids", f"an id leads to slot {slot}, which does not lead back", (keys.key_id(key),))
    for slot, key in by_slot.items():
        if by_id.get(key) != slot:
            yield Finding("ids", f"slot {slot} leads to an id that does not lead back", (keys.key_id(key),))
    if sorted(by_slot) != live.tolist():
        differing = np.setxor1d(live, np.fromiter(by_slot, np.int64))
        yield Finding("live bits", f"{len(differing)} slots have an id or a live bit, but not both")
    if view.state.count != len(live):
        yield Finding("counters", f"the count is {view.state.count}, and {len(live)} rows live")


def _payloads(view: View) -> Iterator[Finding]:
    with view.txn.cursor(view.env.db("payload")) as cursor:
        for slot_key in cursor.iternext(values=False):
            slot = keys.number(slot_key)
            if slot >= view.state.slots or not view.table.alive(slot):
                yield Finding("payloads", f"slot {slot} has a payload, but no row")
                continue
            try:
                if not isinstance(msgpack.unpackb(view.payload(slot)), dict):
                    raise ValueError("not a map")
            except (CorruptionError, ValueError) as error:
                yield Finding("payloads", str(error), _id_names(view, np.array([slot])))


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
    if (last or 0) != view.state.lsn:
        yield Finding("log", f"the last record is {last}, and the last write was {view.state.lsn}")
