"""How the slots of a view become what a verb hands out: records, hits, pages. All of it is copied."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError, InvalidArgumentError
from vecstore.filters import compile_filter
from vecstore.payloads import unpack_payload
from vecstore.storage import keys
from vecstore.storage.reader import Reader
from vecstore.storage.view import View
from vecstore.types import Filter, Hit, Id, Page, Record, hits_of

Slots = npt.NDArray[np.int64]


def matching(reader: Reader, filter: Filter) -> Slots:
    """The slots whose payload matches, ascending; a row without payload is judged as `{}`."""
    matches = compile_filter(filter)
    found = [slot for slot, _, packed in reader.rows() if matches(unpack_payload(packed) or {})]
    return np.array(found, np.int64)


def found_records(view: View, ids: list[Id], with_payload: bool, with_vectors: bool) -> list[Record | None]:
    """The record of each id, None for those that are not there."""
    slots = view.slots(keys.id_keys(ids))
    there = np.flatnonzero(slots >= 0)
    found: list[Record | None] = [None] * len(ids)
    records = _records(view, [ids[i] for i in there], slots[there], with_payload, with_vectors)
    for i, record in zip(there.tolist(), records, strict=True):
        found[i] = record
    return found


def page(
    view: View, filter: Filter | None, limit: int, cursor: str | None, with_payload: bool, with_vectors: bool
) -> Page:
    """The next `limit` records that match, in the order of their ids."""
    after = b"" if cursor is None else _decode_cursor(cursor)
    matches = None if filter is None else compile_filter(filter)
    ids: list[Id] = []
    slots: list[int] = []
    key, more = b"", None
    for next_key, slot in view.ids(after):
        if matches is not None and not matches(unpack_payload(view.row(slot)[1]) or {}):
            continue
        if len(ids) == limit:
            more = _encode_cursor(key)
            break
        key = next_key
        ids.append(keys.id_of(key, view.env.path))
        slots.append(slot)
    return Page(_records(view, ids, np.array(slots, np.int64), with_payload, with_vectors), more)


def hits(
    view: View,
    slots: npt.NDArray[np.int32],
    scores: npt.NDArray[np.float32],
    with_payload: bool,
    with_vectors: bool,
) -> list[Hit]:
    """A hit for each slot, in their order."""
    ids, packed = view.rows_of(slots.tolist())
    if not with_payload and not with_vectors:
        return hits_of(ids, scores.tolist())
    payloads = map(unpack_payload, packed) if with_payload else [None] * len(ids)
    vectors: Any = view.vectors(slots) if with_vectors else [None] * len(ids)
    return list(map(Hit, ids, scores.tolist(), payloads, vectors))


def _records(view: View, ids: list[Id], slots: Slots, with_payload: bool, with_vectors: bool) -> list[Record]:
    payloads: list[Any] = [None] * len(ids)
    if with_payload or with_vectors:
        for i, (slot, id_key) in enumerate(zip(slots.tolist(), keys.id_keys(ids), strict=True)):
            own_key, packed = view.row(slot)
            if own_key != id_key:
                path = str(view.env.path)
                raise CorruptionError(f"{path}: the id {ids[i]!r} leads to the row of another", path=path)
            payloads[i] = unpack_payload(packed) if with_payload else None
    vectors: Any = view.vectors(slots) if with_vectors else [None] * len(ids)
    return [Record(*parts) for parts in zip(ids, payloads, vectors, strict=True)]


def _encode_cursor(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


def _decode_cursor(cursor: str) -> bytes:
    try:
        key = base64.urlsafe_b64decode(cursor.encode())
        keys.key_id(key)
    except (ValueError, IndexError, struct.error, binascii.Error):
        raise InvalidArgumentError(f"cursor: expected one that scroll() returned, got {cursor!r}") from None
    return key
