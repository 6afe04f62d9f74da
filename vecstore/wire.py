"""How values and errors travel: both directions of each conversion, side by side, for client and server.

What arrives is not trusted: a `read_…` function raises InvalidArgumentError on what is malformed, and leaves the
meaning to the verbs' own checks. A `write_…` function fills in its message where it stands, if it may be large or is
needed often: protobuf copies a message that is given to another's constructor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import grpc
import msgpack
import numpy as np
import numpy.typing as npt
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from vecstore import errors
from vecstore.arguments import Rows
from vecstore.errors import InvalidArgumentError, RemoteError, VecstoreError
from vecstore.types import (
    Binary,
    CollectionInfo,
    Filter,
    Finding,
    Hit,
    Id,
    Int4,
    Int8,
    Metric,
    Payload,
    Quantization,
    Record,
    Stats,
    WriteResult,
)
from vecstore.v1 import vecstore_pb2 as pb

DOMAIN: Final = "vecstore"
MAX_MESSAGE_BYTES: Final = 256 << 20
MAX_TRAILER_BYTES: Final = 128 << 10  # gRPC's own 8 KiB cannot hold an error that names ten long ids

_QUANTIZATIONS: Final[dict[type[Quantization], Any]] = {
    Int8: pb.QUANTIZATION_INT8,
    Int4: pb.QUANTIZATION_INT4,
    Binary: pb.QUANTIZATION_BINARY,
}
_QUANTIZATION_KINDS: Final = {number: kind for kind, number in _QUANTIZATIONS.items()}
_METRICS: Final[dict[Metric, Any]] = {"cosine": pb.METRIC_COSINE, "dot": pb.METRIC_DOT, "l2": pb.METRIC_L2}
_METRIC_NAMES: Final = {number: name for name, number in _METRICS.items()} | {pb.METRIC_UNSPECIFIED: "cosine"}


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
        into = message.results.add()
        into.scores.extend([hit.score for hit in hits])
        write_records(hits, into.rows, **flags)
    return message


def read_hits(message: pb.SearchResponse) -> list[list[Hit]]:
    """The hits of each query; their vectors are the caller's own."""
    found = []
    for hits in message.results:
        ids, payloads, vectors = _read_columns(hits.rows)
        if len(hits.scores) != len(ids):
            raise InvalidArgumentError(f"hits: {len(ids)} ids and {len(hits.scores)} scores")
        found.append(list(map(Hit, ids, hits.scores, payloads, vectors)))
    return found


# -- small messages ----------------------------------------------------------------------------------------------


def write_info(info: CollectionInfo) -> pb.CollectionInfo:
    """What a collection was created with."""
    codes = pb.QUANTIZATION_UNSPECIFIED if info.quantization is None else _QUANTIZATIONS[type(info.quantization)]
    return pb.CollectionInfo(name=info.name, dim=info.dim, metric=_METRICS[info.metric], quantization=codes)


def read_info(message: pb.CollectionInfo) -> CollectionInfo:
    """What a collection was created with."""
    quantization = _quantization(message.quantization)
    return CollectionInfo(message.name, message.dim, _metric(message.metric), quantization=quantization)


def _metric(number: int) -> Metric:
    if number not in _METRIC_NAMES:
        raise InvalidArgumentError(f"metric: expected a value of vecstore.v1.Metric, got {number}")
    return _METRIC_NAMES[number]


def _quantization(number: int) -> Quantization | None:
    if number == pb.QUANTIZATION_UNSPECIFIED:
        return None
    if number not in _QUANTIZATION_KINDS:
        raise InvalidArgumentError(f"quantization: expected a value of vecstore.v1.Quantization, got {number}")
    return _QUANTIZATION_KINDS[number]()


def write_result(result: WriteResult) -> pb.WriteResult:
    """What a write did."""
    return pb.WriteResult(lsn=result.lsn, inserted=result.inserted, updated=result.updated, deleted=result.deleted)


def read_result(message: pb.WriteResult) -> WriteResult:
    """What a write did."""
    return WriteResult(message.lsn, message.inserted, message.updated, message.deleted)


_STATS: Final = (
    "index", "count", "dead", "lsn", "vector_bytes", "row_bytes", "id_bytes", "log_bytes", "free_bytes", "file_bytes",
    "code_bytes",
)  # fmt: skip


def write_stats(stats: Stats) -> pb.StatsResponse:
    """Counts and sizes."""
    info = write_info(CollectionInfo(stats.name, stats.dim, stats.metric))
    return pb.StatsResponse(info=info, **{name: getattr(stats, name) for name in _STATS})


def read_stats(message: pb.StatsResponse) -> Stats:
    """Counts and sizes."""
    info = read_info(message.info)
    return Stats(info.name, info.dim, info.metric, **{name: getattr(message, name) for name in _STATS})


def write_finding(finding: Finding, into: pb.Finding) -> None:
    """Something that is wrong."""
    into.part, into.message = finding.part, finding.message
    write_ids(finding.ids, into.ids)


def read_finding(message: pb.Finding) -> Finding:
    """Something that is wrong."""
    return Finding(message.part, message.message, tuple(read_ids(message.ids)))


# -- errors ------------------------------------------------------------------------------------------------------

# The first that an error is an instance of, so subclasses stand before their bases.
_CODES: Final[list[tuple[type[VecstoreError], grpc.StatusCode]]] = [
    (errors.InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (errors.StateError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.DatabaseFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.CorruptionError, grpc.StatusCode.DATA_LOSS),
    (errors.StorageError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.ResourceExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.VecstoreError, grpc.StatusCode.INTERNAL),
]
_BY_CODE: Final[dict[grpc.StatusCode, type[RemoteError]]] = {
    code: kind for kind, code in _CODES if issubclass(kind, RemoteError)
}


# What travels of a message: a caller's own text may stand in it, and trailers are limited.
_MESSAGE_CHARACTERS: Final = 8192
_SUMMARY_CHARACTERS: Final = 512
_DETAILS: Final = "grpc-status-details-bin"


@dataclass(frozen=True)
class Status(grpc.Status):
    """What `context.abort_with_status` takes: a google.rpc.Status stands in the trailers."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def write_error(error: VecstoreError) -> Status:
    """An error as a status. `details` is a summary for tools that do not read the trailers."""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    fields = {name: json.dumps(getattr(error, name), ensure_ascii=False) for name in error.fields}
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=fields))
    message = _shortened(error.message, _MESSAGE_CHARACTERS)
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=[detail])
    return Status(code, _shortened(message, _SUMMARY_CHARACTERS), ((_DETAILS, status.SerializeToString()),))


def read_error(call: grpc.RpcError, address: str) -> VecstoreError:
    """The error that the server raised, or the RemoteError that tells why there is no answer."""
    assert isinstance(call, grpc.Call)
    for key, packed in call.trailing_metadata() or ():
        if key == _DETAILS:
            error = _rebuilt(packed)
            if error is not None:
                return error
    code = call.code()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return RemoteError(f"{address}: the server does not know this call; is it vecstore's, and not an older one?")
    return _BY_CODE.get(code, RemoteError)(f"{address}: {call.details() or code.name}")


def _rebuilt(packed: bytes) -> VecstoreError | None:
    """The error in a google.rpc.Status, if vecstore wrote it."""
    try:
        status = status_pb2.Status.FromString(packed)
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                kind = errors.BY_REASON.get(info.reason, RemoteError)
                fields = {name: json.loads(value) for name, value in info.metadata.items() if name in kind.fields}
                return kind(status.message, **fields)
    except (DecodeError, ValueError):
        pass
    return None


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."
