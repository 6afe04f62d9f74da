"""What a collection was created with, what a write did, counts and sizes, and what is wrong."""

from __future__ import annotations

from typing import Any, Final

from vecstore.errors import InvalidArgumentError
from vecstore.types import (
    Binary,
    CollectionInfo,
    Finding,
    Int4,
    Int8,
    Metric,
    Quantization,
    Stats,
    WriteResult,
)
from vecstore.v1 import vecstore_pb2 as pb
from vecstore.wire.rows import read_ids, write_ids

_QUANTIZATIONS: Final[dict[type[Quantization], Any]] = {
    Int8: pb.QUANTIZATION_INT8,
    Int4: pb.QUANTIZATION_INT4,
    Binary: pb.QUANTIZATION_BINARY,
}
_QUANTIZATION_KINDS: Final = {number: kind for kind, number in _QUANTIZATIONS.items()}
_METRICS: Final[dict[Metric, Any]] = {"cosine": pb.METRIC_COSINE, "dot": pb.METRIC_DOT, "l2": pb.METRIC_L2}
_METRIC_NAMES: Final = {number: name for name, number in _METRICS.items()} | {pb.METRIC_UNSPECIFIED: "cosine"}


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
