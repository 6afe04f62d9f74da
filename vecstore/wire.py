"""How values and errors travel: both directions of each conversion, side by side, for client and server.

What arrives is not trusted: a `read_…` function raises InvalidArgumentError on what is malformed, and leaves the
meaning to the verbs' own checks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import grpc
import msgpack
import numpy as np
import numpy.typing as npt
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from vecstore import errors
from vecstore.errors import InvalidArgumentError, RemoteError, VecstoreError
from vecstore.types import CollectionInfo, Filter, Finding, Hit, Id, Metric, Payload, Record, Stats, WriteResult
from vecstore.v1 import vecstore_pb2 as pb

DOMAIN: Final = "vecstore"
MAX_MESSAGE_BYTES: Final = 256 << 20

_METRICS: Final[dict[Metric, Any]] = {"cosine": pb.METRIC_COSINE, "dot": pb.METRIC_DOT, "l2": pb.METRIC_L2}
_METRIC_NAMES: Final = {number: name for name, number in _METRICS.items()} | {pb.METRIC_UNSPECIFIED: "cosine"}

E = TypeVar("E", bound=VecstoreError)


# -- ids ---------------------------------------------------------------------------------------------------------


def write_ids(ids: Sequence[Id]) -> list[pb.Id]:
    """Ids as messages."""
    return [pb.Id(number=one) if isinstance(one, int) else pb.Id(text=one) for one in ids]


def read_ids(messages: Sequence[pb.Id]) -> list[Id]:
    """The ids of messages."""
    return [_read_id(message) for message in messages]


def _read_id(message: pb.Id) -> Id:
    if message.HasField("text"):
        return message.text
    if message.HasField("number"):
        return message.number
    raise InvalidArgumentError("id: expected a number or a text, got neither")


# -- vectors -----------------------------------------------------------------------------------------------------


def write_vectors(vectors: npt.NDArray[np.float32]) -> pb.Vectors:
    """`(n, dim) float32` as bytes and shape."""
    rows, dim = vectors.shape
    return pb.Vectors(data=vectors.astype("<f4", copy=False).tobytes(), rows=rows, dim=dim)


def read_vectors(message: pb.Vectors) -> npt.NDArray[np.float32]:
    """`(n, dim) float32`, owned by the caller."""
    rows, dim = message.rows, message.dim
    if message.values:
        if message.data:
            raise InvalidArgumentError("vectors: expected either data or values, got both")
        if not dim or len(message.values) % dim:
            raise InvalidArgumentError(f"vectors: {len(message.values)} values are no rows of dim={dim}")
        return np.array(message.values, np.float32).reshape(-1, dim)
    if len(message.data) != rows * dim * 4:
        raise InvalidArgumentError(
            f"vectors: rows={rows} of dim={dim} are {rows * dim * 4} bytes of float32, got {len(message.data)}"
        )
    return np.frombuffer(bytearray(message.data), "<f4").astype(np.float32, copy=False).reshape(rows, dim)


# -- payloads and filters ----------------------------------------------------------------------------------------


def write_payload(payload: Payload | None) -> bytes:
    """A payload as msgpack, empty for None."""
    return b"" if payload is None else msgpack.packb(payload)


def read_payload(packed: bytes) -> Payload | None:
    """The payload of msgpack bytes."""
    return _read_map(packed, "payloads") if packed else None


def write_filter(filter: Filter | None) -> bytes | None:
    """A filter as msgpack, or None."""
    return None if filter is None else msgpack.packb(filter, default=_plain)


def read_filter(packed: bytes) -> Filter:
    """The filter of msgpack bytes."""
    return _read_map(packed, "filter")


def filter_of(message: Any) -> Filter | None:
    """The filter of a request that has an optional one."""
    return read_filter(message.filter) if message.HasField("filter") else None


def _read_map(packed: bytes, name: str) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(packed)
    except (ValueError, msgpack.UnpackException) as error:
        raise InvalidArgumentError(f"{name}: expected a msgpack map with str keys ({error})") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{name}: expected a msgpack map, got {type(value).__name__}")
    return value


def _plain(value: Any) -> Any:
    """What a filter may hold beside msgpack's own types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, set | frozenset):
        return list(value)
    raise InvalidArgumentError(f"filter: cannot compare with {value!r}, a {type(value).__name__}")


# -- rows --------------------------------------------------------------------------------------------------------


def write_records(records: Sequence[Record | Hit | None], with_payload: bool, with_vectors: bool) -> pb.Rows:
    """Records or hits as columns; None becomes an id without a kind."""
    there = [record for record in records if record is not None]
    if len(there) == len(records):
        ids = write_ids([record.id for record in there])
    else:
        ids = [pb.Id() if record is None else write_ids([record.id])[0] for record in records]
    rows = pb.Rows(ids=ids)
    if with_payload:
        rows.payloads.extend([b"" if record is None else write_payload(record.payload) for record in records])
    if with_vectors and there:
        rows.vectors.CopyFrom(write_vectors(np.stack([_vector(record) for record in there])))
    return rows


def _vector(record: Record | Hit) -> npt.NDArray[np.float32]:
    assert record.vector is not None
    return record.vector


def read_records(rows: pb.Rows) -> list[Record | None]:
    """The records of columns."""
    vectors = iter(read_vectors(rows.vectors) if rows.HasField("vectors") else ())
    records: list[Record | None] = []
    for i, message in enumerate(rows.ids):
        if not message.HasField("text") and not message.HasField("number"):
            records.append(None)
            continue
        payload = read_payload(rows.payloads[i]) if rows.payloads else None
        records.append(Record(_read_id(message), payload, next(vectors, None)))
    return records


def write_hits(hits: Sequence[Hit], with_payload: bool, with_vectors: bool) -> pb.Hits:
    """The hits of one query."""
    return pb.Hits(rows=write_records(hits, with_payload, with_vectors), scores=[hit.score for hit in hits])


def read_hits(message: pb.Hits) -> list[Hit]:
    """The hits of one query."""
    records = read_records(message.rows)
    return [
        Hit(record.id, score, record.payload, record.vector)
        for record, score in zip(records, message.scores, strict=True)
        if record is not None
    ]


# -- small messages ----------------------------------------------------------------------------------------------


def write_info(info: CollectionInfo) -> pb.CollectionInfo:
    """What a collection was created with."""
    return pb.CollectionInfo(name=info.name, dim=info.dim, metric=_METRICS[info.metric])


def read_info(message: pb.CollectionInfo) -> CollectionInfo:
    """What a collection was created with."""
    return CollectionInfo(message.name, message.dim, _metric(message.metric))


def _metric(number: int) -> Metric:
    if number not in _METRIC_NAMES:
        raise InvalidArgumentError(f"metric: expected a value of vecstore.v1.Metric, got {number}")
    return _METRIC_NAMES[number]


def write_result(result: WriteResult) -> pb.WriteResult:
    """What a write did."""
    return pb.WriteResult(lsn=result.lsn, inserted=result.inserted, updated=result.updated, deleted=result.deleted)


def read_result(message: pb.WriteResult) -> WriteResult:
    """What a write did."""
    return WriteResult(message.lsn, message.inserted, message.updated, message.deleted)


_STATS: Final = (
    "index", "count", "dead", "lsn", "vector_bytes", "row_bytes", "id_bytes", "log_bytes", "free_bytes", "file_bytes",
)  # fmt: skip


def write_stats(stats: Stats) -> pb.StatsResponse:
    """Counts and sizes."""
    info = write_info(CollectionInfo(stats.name, stats.dim, stats.metric))
    return pb.StatsResponse(info=info, **{name: getattr(stats, name) for name in _STATS})


def read_stats(message: pb.StatsResponse) -> Stats:
    """Counts and sizes."""
    info = read_info(message.info)
    return Stats(info.name, info.dim, info.metric, **{name: getattr(message, name) for name in _STATS})


def write_finding(finding: Finding) -> pb.Finding:
    """Something that is wrong."""
    return pb.Finding(part=finding.part, message=finding.message, ids=write_ids(finding.ids))


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


def write_error(error: VecstoreError) -> Any:
    """An error as a status that `context.abort_with_status` takes."""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    fields = {name: json.dumps(getattr(error, name)) for name in error.fields}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=fields)
    detail = any_pb2.Any()
    detail.Pack(info)
    number = code_pb2.Code.Value(code.name)
    return rpc_status.to_status(status_pb2.Status(code=number, message=error.message, details=[detail]))


def read_error(call: grpc.RpcError, address: str) -> VecstoreError:
    """The error that the server raised, or the RemoteError that tells why there is no answer."""
    assert isinstance(call, grpc.Call)
    status = rpc_status.from_call(call)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            kind = errors.BY_REASON.get(info.reason, RemoteError)
            fields = {name: json.loads(value) for name, value in info.metadata.items() if name in kind.fields}
            return kind(status.message if status is not None else "", **fields)
    code = call.code()
    return _BY_CODE.get(code, RemoteError)(f"{address}: {call.details() or code.name}")
