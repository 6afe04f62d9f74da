"""What a verb does to the rows within its transaction: all of it, or an error and nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vecstore.arguments import Rows
from vecstore.errors import AlreadyExistsError, NotFoundError
from vecstore.payloads import pack_payload, unpack_payload
from vecstore.results import matching
from vecstore.storage import keys
from vecstore.storage.transaction import Transaction
from vecstore.types import Filter, Id, WriteResult
from vecstore.verbs.collection import Operation


def put(write: Transaction, operation: Operation, rows: Rows, merge: bool) -> WriteResult:
    """Insert, upsert or update rows; AlreadyExistsError or NotFoundError where an id is, or is not, there."""
    id_keys = keys.id_keys(rows.ids)
    slots = write.slots(id_keys)
    old = (slots >= 0).nonzero()[0]
    if operation == "insert" and len(old):
        raise _already_there([rows.ids[i] for i in old])
    if operation == "update":
        if len(old) < len(slots):
            raise _missing([rows.ids[i] for i in np.flatnonzero(slots < 0)])
        return _update(write, id_keys, slots, rows, merge)
    write.remove(slots[old], [id_keys[i] for i in old], replaced=True)
    _add(write, id_keys, rows, rows.payloads or [None] * len(id_keys))
    return WriteResult(write.lsn, inserted=len(slots) - len(old), updated=len(old))


def delete(write: Transaction, ids: list[Id] | None, filter: Filter | None) -> WriteResult:
    """Delete the rows of some ids, or those that match; ids that are not there are passed over."""
    if ids is not None:
        id_keys = keys.id_keys(list(dict.fromkeys(ids)))
        slots = write.slots(id_keys)
        id_keys = [key for key, slot in zip(id_keys, slots, strict=True) if slot >= 0]
        slots = slots[slots >= 0]
    else:
        slots = matching(write, filter or {})
        id_keys = [write.row(slot)[0] for slot in slots.tolist()]
    write.remove(slots, id_keys)
    return WriteResult(write.lsn, deleted=len(slots))


def size_of(rows: Rows) -> int:
    """About how many bytes a write of these rows changes."""
    size = 0 if rows.vectors is None else rows.vectors.nbytes
    return size + sum(map(len, filter(None, rows.payloads or ())))


def _add(write: Transaction, id_keys: list[bytes], rows: Rows, payloads: Sequence[bytes | None]) -> None:
    assert rows.vectors is not None and rows.norms is not None
    write.add(id_keys, rows.vectors, rows.norms, payloads)


def _update(
    write: Transaction, id_keys: list[bytes], slots: npt.NDArray[np.int64], rows: Rows, merge: bool
) -> WriteResult:
    old = [write.row(slot)[1] for slot in slots.tolist()]
    if rows.payloads is None:
        payloads = old
    elif merge:
        payloads = [_merged(before, given) for before, given in zip(old, rows.payloads, strict=True)]
    else:
        payloads = rows.payloads
    if rows.vectors is None:
        write.set_payloads(slots, id_keys, payloads)
    else:
        write.remove(slots, id_keys, replaced=True)
        _add(write, id_keys, rows, payloads)
    return WriteResult(write.lsn, updated=len(slots))


def _merged(before: bytes | None, given: bytes | None) -> bytes | None:
    if before is None or given is None:
        return before or given
    return pack_payload({**(unpack_payload(before) or {}), **(unpack_payload(given) or {})})


def _already_there(ids: list[Id]) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"insert: {_some(ids)} there already; use upsert to replace rows. Nothing was inserted", ids=ids[:10]
    )


def _missing(ids: list[Id]) -> NotFoundError:
    return NotFoundError(f"update: {_some(ids)} not there; nothing was updated", ids=ids[:10])


def _some(ids: list[Id]) -> str:
    """A readable subject for a sentence on ids."""
    if len(ids) == 1:
        return f"id {ids[0]!r} is"
    shown = ", ".join(map(repr, ids[:10]))
    return f"{len(ids)} ids ({shown}{', ...' if len(ids) > 10 else ''}) are"
