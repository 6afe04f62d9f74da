"""What can be saved of a damaged data.mdb: the rows whose vector, id and payload are whole, and nothing else.

The truth of a row is its block and its value in `row`; the map of ids, live bits, counters and log follow from those.
What is left out is told, and written to `quarantine-LSN.jsonl` beside data.mdb with what could be read of it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import blocks, compaction, keys, log
from vecstore.storage.blocks import Layout
from vecstore.storage.checkpoint import CheckpointFile
from vecstore.storage.compaction import DATA_FILE, Source
from vecstore.storage.config import CONFIG_KEY, unpacked, upgraded
from vecstore.storage.disk import disk_errors, sync, sync_folder
from vecstore.storage.log import State
from vecstore.storage.pace import paced
from vecstore.storage.rows import open_row
from vecstore.storage.salvage import Item, remains
from vecstore.types import Finding

Items = Callable[[str], Iterator[Item]]
"""Keys and values of a database of data.mdb, by its name."""

MOST_BLOCKS = 1 << 28  # there are no more than slots, in blocks of 8 at least


@dataclass(frozen=True, slots=True)
class Lost:
    """A row that is left out, why, and what could be read of it."""

    finding: Finding
    slot: int
    id_key: bytes | None
    payload: bytes | None
    vector: bytes | None


def salvaged(path: Path, items: Items, layout: Layout, count: int = 0) -> tuple[Source, list[Lost], int]:
    """The rows of a data.mdb to keep, those that are not, and the last write that the log knows. Of `count` rows that
    were there it is told how many nothing is left of."""
    rows, sound = _blocks(items, layout)
    leads_to: dict[bytes, int] = {}
    for key, value in paced(items("slot")):
        with contextlib.suppress(CorruptionError):  # of which the row tells, if there is one
            keys.id_of(key, path)
            leads_to[bytes(key)] = keys.number(value) if len(value) == 4 else -1
    named = {slot: key for key, slot in leads_to.items()}
    kept: dict[bytes, int] = {}
    contents: dict[int, tuple[bytes, bytes | None]] = {}
    lost = []
    for key, value in paced(items("row")):
        slot = keys.number(key)
        if slot in contents:
            continue
        block = slot >> layout.shift
        id_key: bytes | None = named.get(slot)
        payload = None
        try:
            id_key, payload = open_row(value, slot, path)
            keys.id_of(id_key, path)
            if payload is not None and not isinstance(msgpack.unpackb(payload), dict):
                raise ValueError(f"the payload of slot {slot} is no map")
            if block >= len(rows) or not sound[block]:
                raise ValueError(f"the vector of slot {slot} is damaged or missing")
            if kept.get(id_key, slot) != slot and leads_to.get(id_key) != slot:
                raise ValueError(f"slot {slot} has an id that leads to another row")
        except (CorruptionError, ValueError) as error:
            lost.append(_lost(str(error), slot, id_key, payload, _vector(rows, layout, slot)))
            continue
        if kept.get(id_key, slot) != slot:  # the one that came before is not where the id leads
            other = kept[id_key]
            text = f"slot {other} has an id that leads to another row"
            lost.append(_lost(text, other, *contents.pop(other), None))
        kept[id_key] = slot
        contents[slot] = id_key, payload
    there = {one.id_key for one in lost}
    lost += [
        _lost(f"an id leads to slot {slot}, which has no row", slot, key, None, _vector(rows, layout, slot))
        for key, slot in leads_to.items()
        if key not in kept and key not in there
    ]
    state = _last_state(items)
    if (gone := max(count, state.count) - len(kept) - len(lost)) > 0:
        lost.append(_lost(f"of {gone} rows nothing is left that could be read", -1, None, None, None))
    slots = np.array(sorted(contents), np.int64)
    meta = [(bytes(key), bytes(value)) for key, value in items("meta")]
    source = Source(path, meta, layout, slots, rows, contents.__getitem__, lambda: sorted(kept.items()))
    return source, lost, state.lsn


def _vector(rows: Any, layout: Layout, slot: int) -> bytes | None:
    """What stands where the vector of a slot should be."""
    block = slot >> layout.shift
    if not 0 <= block < len(rows) or not rows[block]:
        return None
    return bytes(blocks.at(int(rows[block]) + (slot & (layout.rows - 1)) * layout.dim * 4, layout.dim * 4))


def _last_state(items: Items) -> State:
    """The counters of the last write that the log tells of."""
    state = State()
    for key, value in items("log"):
        with contextlib.suppress(CorruptionError):
            state = log.state_of(key, value)
    return state


def _blocks(items: Items, layout: Layout) -> tuple[Any, Any]:
    """The address of the first row of each block, and which blocks are as they were written."""
    found: dict[int, tuple[int, bool]] = {}
    for key, value in paced(items("vector:vector")):
        number = keys.number(key)
        try:
            blocks.verify(value, layout, number)
            sound = True
        except CorruptionError:
            sound = False
        if number < MOST_BLOCKS and (sound or len(value) == layout.size):
            found[number] = blocks.address(value) + blocks.HEADER_SIZE, sound
    rows, whole = np.zeros(max(found, default=-1) + 1, np.int64), np.zeros(max(found, default=-1) + 1, bool)
    for number, (at, sound) in found.items():
        rows[number], whole[number] = at, sound
    return rows, whole


def repair_remains(folder: Path) -> list[Finding]:
    """`Store.repair` of a file whose pages do not hang together, which no one has open: LMDB does not look at it.
    CorruptionError where not even what the collection was created with is left."""
    path = folder / DATA_FILE
    for left in remains(path):
        packed = {bytes(key): bytes(value) for key, value in left.items("meta")}.get(CONFIG_KEY)
        if packed is None:
            continue
        config, count = unpacked(packed, path), left.entries.get("row", 0)
        source, lost, lsn = salvaged(path, left.items, Layout(config["dim"], config["shift"]), count)
        if len(source.slots) or not count:
            break  # else the transaction before may lead to rows
    else:
        raise CorruptionError(f"{path} is damaged: nothing of it is left that could be read", path=str(path))
    if not left.is_last:
        text = "the last write cannot be read: this is the state before it"
        lost.append(_lost(text, -1, None, None, None))
    source = dataclasses.replace(source, meta=[(CONFIG_KEY, msgpack.packb(upgraded(config)))])
    lsn += compaction.LSN_STEP
    new, quarantine = compaction.write(source, lsn), quarantine_path(folder, lsn)
    try:
        write_quarantine(quarantine, lost)
        compaction.put_in_place(new)
    except BaseException:
        new.unlink(missing_ok=True)
        quarantine.unlink(missing_ok=True)
        raise
    with disk_errors(path):
        sync_folder(folder)
    CheckpointFile(folder).delete()
    return [one.finding for one in lost]


def _lost(text: str, slot: int, id_key: bytes | None, payload: bytes | None, vector: bytes | None) -> Lost:
    try:
        ids = () if id_key is None else (keys.id_of(id_key, Path()),)
    except CorruptionError:
        ids = ()
    return Lost(Finding("quarantine", text, ids), slot, id_key, payload, vector)


def quarantine_path(folder: Path, lsn: int) -> Path:
    """Where the rows stand that the repair which became the write `lsn` has left out."""
    return folder / f"quarantine-{lsn}.jsonl"


def write_quarantine(path: Path, lost: list[Lost]) -> None:
    """A JSON object a line: `id`, `why`, `slot`, `payload`, and `vector`, which may hold wrong numbers."""
    if not lost:
        return
    with disk_errors(path):
        with path.open("w") as file:
            for one in lost:
                numbers = None if one.vector is None else np.frombuffer(one.vector, np.float32).tolist()
                line = {
                    "id": one.finding.ids[0] if one.finding.ids else None, "why": one.finding.message,
                    "slot": one.slot, "payload": _readable(one.payload), "vector": numbers,
                }  # fmt: skip
                file.write(json.dumps(line, ensure_ascii=False, default=_base64) + "\n")
        sync(path)
        sync_folder(path.parent)


def _readable(payload: bytes | None) -> Any:
    try:
        return None if payload is None else msgpack.unpackb(payload)
    except ValueError:
        return _base64(payload or b"")


def _base64(value: bytes) -> str:
    return "base64:" + base64.b64encode(value).decode()
