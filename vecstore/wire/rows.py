"""Ids, vectors, payloads, filters, and the columns of rows, records and hits made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt

from vecstore.arguments import Rows
from vecstore.errors import InvalidArgumentError
from vecstore.types import Filter, Hit, Id, Payload, Record
from vecstore.v1 import vecstore_pb2 as pb

# -- ids ---------------------------------------------------------------------------------------------------------


def write_ids(ids: Sequence[Id], into: pb.Ids) -> None:
    """Ids in columns by their type."""
    kinds = set(map(type, ids))
    if kinds == {str}:
        into.texts.extend(ids)  # type: ignore[arg-type]
    elif kinds == {int}:
        into.numbers.extend(ids)  # type: ignore[arg-type]
    else:
        into.numbers.extend(one for one in ids if isinstance(one, int))
        into.texts.extend(one for one in ids if isinstance(one, str))
        into.text_places.extend(place for place, one in enumerate(ids) if isinstance(one, str))


def read_ids(message: pb.Ids) -> list[Id]:
    """The ids of columns, in one order again."""
    numbers, texts = list(message.numbers), list(message.texts)
    if not (numbers and texts):
        if message.text_places:
            raise InvalidArgumentError("ids: text_places has no effect without both numbers and texts")
        return [*numbers, *texts]
    places = list(message.text_places)
    n = len(numbers) + len(texts)
    if len(places) != len(texts) or places[-1] >= n or any(a >= b for a, b in pairwise(places)):
        raise InvalidArgumentError(f"ids: expected {len(texts)} ascending text_places below {n}, one for each text")
    texts_at = dict(zip(places, texts, strict=True))
    remaining = iter(numbers)
    return [texts_at[place] if place in texts_at else next(remaining) for place in range(n)]


# -- vectors -----------------------------------------------------------------------------------------------------


def write_vectors(vectors: npt.NDArray[np.float32], into: pb.Vectors) -> None:
    """`(n, dim) float32` as bytes and shape."""
    into.data = vectors.astype("<f4", copy=False).tobytes()
    into.rows, into.dim = vectors.shape


def read_vectors(message: pb.Vectors) -> npt.NDArray[np.float32]:
    """`(n, dim) float32`; read-only, since it stands in the bytes that came."""
    rows, dim = message.rows, message.dim
    data = message.data  # one copy: the message makes a new object of it each time
    if message.values:
        if data:
            raise InvalidArgumentError("vectors: expected either data or values, got both")
        n = len(message.values)
        if not dim or n % dim or rows not in (0, n // dim):
            shape = f"rows={rows} of dim={dim}" if rows else f"rows of dim={dim}"
            raise InvalidArgumentError(f"vectors: {n} values are not {shape}")
        return np.array(message.values, np.float32).reshape(-1, dim)
    if len(data) != rows * dim * 4:
        raise InvalidArgumentError(
            f"vectors: rows={rows} of dim={dim} are {rows * dim * 4} bytes of float32, got {len(data)}"
        )
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(rows, dim)


# -- payloads and filters ----------------------------------------------------------------------------------------


def write_payloads(payloads: Sequence[Payload | None]) -> list[bytes]:
    """Payloads as msgpack, empty for None."""
    pack = msgpack.Packer().pack
    return [b"" if payload is None else pack(payload) for payload in payloads]


def read_payloads(packed: Sequence[bytes]) -> list[Payload | None]:
    """The payloads of msgpack bytes."""
    unpack = msgpack.unpackb
    try:
        payloads = [unpack(one) if one else None for one in packed]
    except (ValueError, msgpack.UnpackException) as error:
        raise InvalidArgumentError(f"payloads: expected msgpack maps with str keys ({error})") from None
    if not set(map(type, payloads)) <= _PAYLOAD_TYPES:
        raise InvalidArgumentError("payloads: expected msgpack maps, or no bytes for a row without")
    return payloads


_PAYLOAD_TYPES: Final = {dict, type(None)}


def write_filter(filter: Filter | None) -> bytes | None:
    """A filter as msgpack, or None."""
    if filter is None:
        return None
    try:
        return msgpack.packb(filter, default=_plain)  # type: ignore[no-any-return]
    except InvalidArgumentError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"filter: {error}") from None


def read_filter(packed: bytes) -> Filter:
    """The filter of msgpack bytes; its form is checked where it is compiled."""
    try:
        return msgpack.unpackb(packed)  # type: ignore[no-any-return]
    except (ValueError, msgpack.UnpackException) as error:
        raise InvalidArgumentError(f"filter: expected a msgpack map with str keys ({error})") from None


def filter_of(message: Any) -> Filter | None:
    """The filter of a request that has an optional one."""
    return read_filter(message.filter) if message.HasField("filter") else None


def _plain(value: Any) -> Any:
    """What a filter may hold beside msgpack's own types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, set | frozenset):
        return list(value)
    raise InvalidArgumentError(f"filter: no payload holds {value!r} ({type(value).__name__}), so nothing equals it")


# -- rows --------------------------------------------------------------------------------------------------------


def write_rows(rows: Rows, into: pb.Rows) -> None:
    """The rows of a write."""
    write_ids(rows.ids, into.ids)
    if rows.vectors is not None:
        write_vectors(rows.vectors, into.vectors)
    if rows.payloads is not None:
        into.payloads.extend([packed or b"" for packed in rows.payloads])


def read_rows(rows: pb.Rows) -> dict[str, Any]:
    """The arguments of a write; a column that was left out is None, but of no rows it is there."""
    ids = read_ids(rows.ids)
    return {
        "ids": ids,
        "vectors": read_vectors(rows.vectors) if rows.HasField("vectors") else None,
        "payloads": read_payloads(rows.payloads) if rows.payloads or not ids else None,
    }


def write_records(
    records: Sequence[Record] | Sequence[Hit], into: pb.Rows, *, with_payload: bool, with_vectors: bool
) -> None:
    """Records or hits in columns."""
    write_ids([record.id for record in records], into.ids)
    if with_payload:
        into.payloads.extend(write_payloads([record.payload for record in records]))
    if with_vectors and records:
        write_vectors(np.stack([_vector(record) for record in records]), into.vectors)


def _vector(record: Record | Hit) -> npt.NDArray[np.float32]:
    assert record.vector is not None
    return record.vector


def read_records(rows: pb.Rows) -> list[Record]:
    """The records of columns; their vectors are the caller's own."""
    ids, payloads, vectors = _read_columns(rows)
    return list(map(Record, ids, payloads, vectors))


def _read_columns(rows: pb.Rows) -> tuple[list[Id], list[Payload | None], Any]:
    ids = read_ids(rows.ids)
    payloads = read_payloads(rows.payloads) or [None] * len(ids)
    vectors = read_vectors(rows.vectors).copy() if rows.HasField("vectors") else [None] * len(ids)
    if not len(ids) == len(payloads) == len(vectors):
        raise InvalidArgumentError(f"rows: {len(ids)} ids, {len(payloads)} payloads and {len(vectors)} vectors")
    return ids, payloads, vectors


def write_found(records: Sequence[Record | None], **flags: bool) -> pb.GetResponse:
    """The answer to a get: the records that are there, and the places of the others."""
    message = pb.GetResponse()
    write_records([record for record in records if record is not None], message.rows, **flags)
    message.missing_places.extend(place for place, record in enumerate(records) if record is None)
    return message


def read_found(message: pb.GetResponse) -> list[Record | None]:
    """The answer to a get, None for what is missing."""
    found: list[Record | None] = list(read_records(message.rows))
    for place in message.missing_places:  # ascending, so that each is inserted where it belongs
        found.insert(place, None)
    return found


def write_hits(found: Sequence[Sequence[Hit]], **flags: bool) -> pb.SearchResponse:
    """The hits of each query."""
    message = pb.SearchResponse()
    for hits in found:
        write_hit_list(hits, message.results.add(), **flags)
    return message


def write_hit_list(hits: Sequence[Hit], into: pb.Hits, **flags: bool) -> None:
    """Hits in columns."""
    into.scores.extend([hit.score for hit in hits])
    write_records(hits, into.rows, **flags)


def read_hits(message: pb.SearchResponse) -> list[list[Hit]]:
    """The hits of each query; their vectors are the caller's own."""
    return [read_hit_list(hits) for hits in message.results]


def read_hit_list(hits: pb.Hits) -> list[Hit]:
    """The hits of columns; their vectors are the caller's own."""
    ids, payloads, vectors = _read_columns(hits.rows)
    if len(hits.scores) != len(ids):
        raise InvalidArgumentError(f"hits: {len(ids)} ids and {len(hits.scores)} scores")
    return list(map(Hit, ids, hits.scores, payloads, vectors))
