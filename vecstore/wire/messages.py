"""What a collection was created with, what a write did, counts and sizes, and what is wrong."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal

from vecstore.errors import InvalidArgumentError
from vecstore.types import (
    INDEX_KINDS,
    Binary,
    CollectionInfo,
    Finding,
    IndexConfig,
    Int4,
    Int8,
    Metric,
    Quantization,
    Stats,
    WriteResult,
)
from vecstore.v1 import vecstore_pb2 as pb
from vecstore.wire.rows import read_ids, write_ids

_QUANTIZATIONS: Final[dict[Quantization | None, Any]] = {
    None: pb.QUANTIZATION_NONE,
    Int8(): pb.QUANTIZATION_INT8,
    Int4(): pb.QUANTIZATION_INT4,
    Binary(): pb.QUANTIZATION_BINARY,
}
_QUANTIZATION_KINDS: Final = {number: kind for kind, number in _QUANTIZATIONS.items()}
_METRICS: Final[dict[Metric, Any]] = {"cosine": pb.METRIC_COSINE, "dot": pb.METRIC_DOT, "l2": pb.METRIC_L2}
_METRIC_NAMES: Final = {number: name for name, number in _METRICS.items()} | {pb.METRIC_UNSPECIFIED: "cosine"}


def write_info(info: CollectionInfo) -> pb.CollectionInfo:
    """What a collection was or is to be created with, all of it said."""
    message = pb.CollectionInfo(
        name=info.name, dim=info.dim, metric=_METRICS[info.metric], quantization=_QUANTIZATIONS[info.quantization]
    )
    _write_index(info.index, message)
    return message


def read_info(message: pb.CollectionInfo) -> CollectionInfo:
    """What a collection was created with; an answer leaves nothing out."""
    index, quantization = _read_index(message), _read_quantization(message.quantization)
    if index is None or quantization == "auto":
        raise InvalidArgumentError("info: expected an index and a quantization, got none")
    return CollectionInfo(message.name, message.dim, _read_metric(message.metric), index, quantization)


def read_creation(message: pb.CollectionInfo) -> dict[str, Any]:
    """The arguments of a create_collection; what the request leaves out has its default."""
    return {
        "name": message.name,
        "dim": message.dim,
        "metric": _read_metric(message.metric),
        "index": _read_index(message),
        "quantization": _read_quantization(message.quantization),
    }


def _write_index(index: IndexConfig, into: pb.CollectionInfo) -> None:
    kind = next(name for name, cls in INDEX_KINDS.items() if isinstance(index, cls))
    message = getattr(into, kind)
    message.SetInParent()
    for name, value in dataclasses.asdict(index).items():
        if value is not None:
            setattr(message, name, value)


def _read_index(message: pb.CollectionInfo) -> IndexConfig | None:
    kind = message.WhichOneof("index")
    if kind is None:
        return None
    made, given = INDEX_KINDS[kind], getattr(message, kind)
    names = [one.name for one in dataclasses.fields(made)]
    return made(**{name: getattr(given, name) for name in names if given.HasField(name)})


def _read_metric(number: int) -> Metric:
    if number not in _METRIC_NAMES:
        raise InvalidArgumentError(f"metric: expected a value of vecstore.v1.Metric, got {number}")
    return _METRIC_NAMES[number]


def _read_quantization(number: int) -> Quantization | Literal["auto"] | None:
    if number == pb.QUANTIZATION_UNSPECIFIED:
        return "auto"
    if number not in _QUANTIZATION_KINDS:
        raise InvalidArgumentError(f"quantization: expected a value of vecstore.v1.Quantization, got {number}")
    return _QUANTIZATION_KINDS[number]


def write_result(result: WriteResult) -> pb.WriteResult:
    """What a write did."""
    return pb.WriteResult(lsn=result.lsn, inserted=result.inserted, updated=result.updated, deleted=result.deleted)


def read_result(message: pb.WriteResult) -> WriteResult:
    """What a write did."""
    return WriteResult(message.lsn, message.inserted, message.updated, message.deleted)


_STATS: Final = tuple(one.name for one in dataclasses.fields(Stats) if one.name not in ("name", "dim", "metric"))
_MAYBE_NONE: Final = ("quantization", "durability", "synced_lsn", "index_error")


def write_stats(stats: Stats, info: CollectionInfo) -> pb.StatsResponse:
    """Counts and sizes, of a collection that was created so."""
    return pb.StatsResponse(info=write_info(info), **{name: getattr(stats, name) for name in _STATS})


def read_stats(message: pb.StatsResponse) -> Stats:
    """Counts and sizes."""
    info = message.info
    counts = {name: getattr(message, name) for name in _STATS}
    counts |= {name: None for name in _MAYBE_NONE if not message.HasField(name)}
    return Stats(info.name, info.dim, _read_metric(info.metric), **counts)


def write_finding(finding: Finding, into: pb.Finding) -> None:
    """Something that is wrong."""
    into.part, into.message = finding.part, finding.message
    write_ids(finding.ids, into.ids)


def read_finding(message: pb.Finding) -> Finding:
    """Something that is wrong."""
    return Finding(message.part, message.message, tuple(read_ids(message.ids)))
