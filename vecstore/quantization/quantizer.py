"""What the quantizers share: fitting, encoding row ranges, estimates, and their form as bytes.

A quantizer is fitted on a sample of rows and from then on immutable. Rows and queries are coded relative to
the mean c of the sample, rotated (rotation.py): r = P(x - c). Under cosine x and q stand for x / |x| and
q / |q|. With y the decoded direction of a row and F its length factor (kernels.encode), raw estimates are

    cosine, dot  F * <y, P(q - c)> + <r, Pc>       offset of the query: <q, c>
    l2           2 * F * <y, P(q - c)> - |r|**2    offset of the query: -|q - c|**2

The scans of kernels.scans rank by raw estimates; raw + offset estimates the score or, under l2, minus the
squared distance. Taking c off the query too makes the error proportional to |q - c| and keeps it there when
all the data lie far from the origin. (Gao and Long, RaBitQ, SIGMOD 2024.) Under dot and l2 raw estimates and
offsets are of rows and queries times `unit`, which is 1 unless the rows are so long or short that float32
could not hold their squares.

Int8 and Int4 under cosine can do without terms: raw = <q, c> + <y, P q>, y the decoded r, and offset 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore.errors import CorruptionError, FormatVersionError, InvalidArgumentError
from vecstore.kernels import rows as _rows
from vecstore.kernels.encode import encode_queries, encode_rows
from vecstore.quantization.rotation import Floats, Rotation

VERSION = 1
METRICS = {"cosine": _rows.COSINE, "dot": _rows.DOT, "l2": _rows.L2}
# Rows that parameters other than the mean are taken from, evenly spaced in the sample, and bytes of them.
_SPREAD_ROWS, _SPREAD_BYTES = 8192, 16 << 20
# Rows that are taken as float64 at once, and bytes of them.
_WIDE_ROWS, _WIDE_BYTES = 1024, 4 << 20

# Rows so many times as long as the median row have no say in the centre: a single one 10,000 times as long
# among 2,000 took the correlation of estimates and dot products from .996 to .84 (Int4), .95 to .23 (Binary).
_OUTLIER = 16.0
# Lengths from 1 / _EXTREME to _EXTREME are coded as they are.
_EXTREME = 2.0**32


def padded(dim: int, multiple: int) -> int:
    """`dim` rounded up to a multiple."""
    return -(-dim // multiple) * multiple


@dataclass(frozen=True, slots=True)
class QueryCodes:
    """Queries as the scans of kernels.scans take them, n of them.

    queries: Int8 (n, code_bytes) int8; Int4 (n, 2 * code_bytes) int8; Binary (n, 4, code_bytes // 8) uint64.
    factors: (n, 2), Binary (n, 3), float32. offsets: (n,) float64, what a raw estimate lacks.
    lengths: (n,) float64, |q - c|. steps: (n,) float64, the step that the coordinates of P(q - c) are rounded
    in.
    """

    queries: NDArray[Any]
    factors: Floats
    offsets: NDArray[np.float64]
    lengths: NDArray[np.float64]
    steps: NDArray[np.float64]


class Quantizer(ABC):
    """Codes of one kind for rows of `dim` float32 under one metric; made by `fit` or `from_bytes`.

    code_bytes: bytes of a row's code, a multiple of 64. terms_count: float32 terms beside each code; 0 if the
    scans need none (terms of shape (n, 0)).
    """

    kind: ClassVar[str]
    _kernel_kind: ClassVar[int]
    _factors_count: ClassVar[int] = 2
    _query_bytes: int
    _dims_multiple: ClassVar[int] = 64
    _kinds: ClassVar[dict[str, type[Quantizer]]] = {}
    code_bytes: int

    def __init_subclass__(cls) -> None:
        if "kind" in cls.__dict__:
            Quantizer._kinds[cls.kind] = cls

    def __init__(self, metric: str, seed: int, centre: Floats, step: float, terms_count: int, *, unit: float) -> None:
        self.metric, self.seed, self.dim = metric, seed % 2**64, len(centre)
        self.centre = centre
        """What is taken off each row, (dim,) float32."""
        self.unit = float(unit)
        """What rows and queries are multiplied by under dot and l2, a power of two."""
        self.step = np.float32(step)
        """The step of the levels of Int8 and Int4, in units of |r| if there are terms."""
        self.terms_count = terms_count
        self.dims = padded(self.dim, self._dims_multiple)
        """Dims after the rotation: as many as the bytes of a code hold, since more dims are finer codes."""
        self.rotation = Rotation(self.dim, self.dims, seed)
        self._centres = np.zeros((2, self.dims), np.float32)
        self._centres[0, : self.dim] = centre.astype(np.float64) * self.unit
        self._centres[1] = self.rotation.apply(self._centres[:1, : self.dim])[0]
        for array in (self.centre, self._centres):
            array.flags.writeable = False

    # Fitting.

    @classmethod
    def fit(cls, sample: Floats, metric: str, seed: int, *, terms: bool | None = None) -> Self:
        """A quantizer for data like `sample` (n, dim) float32, n at least 1.

        `terms=False` asks for codes without terms where the metric is cosine and the kind allows it,
        `terms=True` for terms in any case. By default codes have no terms if they are as good without: under
        cosine, where the mean direction is short.
        """
        sample = np.asarray(sample, np.float32)
        if sample.ndim != 2 or 0 in sample.shape:
            raise InvalidArgumentError(f"a sample of shape (n, dim) is needed, not {sample.shape}")
        if metric not in METRICS:
            raise InvalidArgumentError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
        spread = max(_WIDE_ROWS, min(_SPREAD_ROWS, _SPREAD_BYTES // (4 * sample.shape[1])))
        some = sample[:: -(-len(sample) // spread)]
        longest = np.inf if metric == "cosine" else _OUTLIER * float(np.median(lengths_of(some)))
        total, count = np.zeros(sample.shape[1]), 0
        for part in parts_of(sample):
            kept = part if metric == "cosine" else part[lengths_of(part) <= longest]
            total += normal_form(kept, metric).sum(axis=0)
            count += len(kept)
        centre: Floats = (total / count).astype(np.float32)
        unit = 1.0 if metric == "cosine" else unit_of(some, centre)
        return cls._fit(some, metric, seed, centre, terms, unit=unit)

    @classmethod
    @abstractmethod
    def _fit(cls, some: Floats, metric: str, seed: int, centre: Floats, terms: bool | None, *, unit: float) -> Self:
        """The quantizer, given the centre; `some` rows of the sample tell the spread."""

    @classmethod
    @abstractmethod
    def _terms_allowed(cls, metric: str) -> tuple[int, ...]:
        """The terms counts there are under a metric."""

    # What kernels take.

    @property
    def kernel_kind(self) -> int:
        """The kind of codes, as kernels name it."""
        return self._kernel_kind

    @property
    def centres(self) -> Floats:
        """(2, D): the centre times `unit`, filled up with zeros, and it rotated."""
        return self._centres

    @property
    def signs(self) -> Floats:
        """The table of the rotation."""
        return self.rotation.table

    @property
    def query_bytes(self) -> int:
        """Bytes of a coded query."""
        return self._query_bytes

    @property
    def factors_count(self) -> int:
        """Factors of a coded query."""
        return self._factors_count

    # Rows.

    def new_codes(self, count: int) -> tuple[NDArray[np.uint8], Floats]:
        """Room for `count` rows: codes (count, code_bytes) uint8, aligned to 64 bytes, and their terms."""
        room = np.zeros(count * self.code_bytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        codes = room[start : start + count * self.code_bytes].reshape(count, self.code_bytes)
        return codes, np.zeros((count, self.terms_count), np.float32)

    def encode(self, rows: Floats, norms: Floats, codes_out: NDArray[np.uint8], terms_out: Floats) -> None:
        """Code rows (n, dim) float32, whose L2 norms are `norms` (n,), into codes and terms of n rows each.

        Arrays are C-contiguous; ranges of rows may be coded by several threads at once, as slices.
        """
        count = len(rows)
        wanted = ((count, self.dim), (count,), (count, self.code_bytes), (count, self.terms_count))
        shapes = (rows.shape, norms.shape, codes_out.shape, terms_out.shape)
        if shapes != wanted:  # the kernel would write wherever it is told to
            raise InvalidArgumentError(f"arrays of shapes {shapes}, and {wanted} are needed")
        scratch = np.empty((2, self.dims), np.float32)
        levels = np.empty(self.dims, np.uint8)
        encode_rows(
            self._kernel_kind, METRICS[self.metric], rows, norms, self._centres, self.rotation.table,
            self.unit, self.step, codes_out, terms_out, scratch, levels,
        )  # fmt: skip

    # Queries.

    def encode_query(self, query: Floats) -> QueryCodes:
        """One query (dim,) float32, as codes of one query."""
        return self.encode_queries(query[None])

    def encode_queries(self, queries: Floats) -> QueryCodes:
        """Queries (n, dim) float32 for the scans; a query of zeros scores 0 under cosine."""
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InvalidArgumentError(f"queries of shape (n, {self.dim}) are needed, not {queries.shape}")
        count = len(queries)
        codes = np.zeros((count, self._query_bytes), np.uint8)
        factors = np.empty((count, self._factors_count), np.float32)
        tails = np.empty((count, 3))
        scratch = np.empty((2, self.dims), np.float32)
        levels = np.empty(self.dims, np.uint8)
        encode_queries(
            self._kernel_kind, METRICS[self.metric], self.terms_count != 0,
            np.ascontiguousarray(queries, np.float32), self._centres, self.rotation.table, self.unit,
            self.step, codes, factors, tails, scratch, levels,
        )  # fmt: skip
        return QueryCodes(self._query_codes(codes), factors, tails[:, 0], tails[:, 1], tails[:, 2])

    @abstractmethod
    def _query_codes(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        """The bytes of query codes (n, _query_bytes) in the type and shape that the scans take."""

    # Estimates.

    @abstractmethod
    def _sums(self, query: QueryCodes, codes: NDArray[np.uint8]) -> Floats:
        """What the scans make of codes and factors: (queries, rows) float32."""

    def estimate(self, query: QueryCodes, codes: NDArray[np.uint8], terms: Floats) -> Floats:
        """Raw estimates (queries, rows) float32, equal to those of the scans; plain NumPy."""
        sums = self._sums(query, codes)
        return sums * terms[:, 0] + terms[:, 1] if self.terms_count else sums

    def scores(self, query: QueryCodes, raw: Floats) -> Floats:
        """Estimated scores (queries, rows) float32 from raw ones: cosine, dot product, minus the distance."""
        whole = raw + query.offsets[:, None]
        if self.metric == "l2":
            whole = -np.sqrt(np.maximum(-whole, 0)) / self.unit
        elif self.metric == "dot":
            whole = whole / self.unit / self.unit
        most = np.finfo(np.float32).max
        return np.clip(whole, -most, most).astype(np.float32)

    # Bytes.

    @staticmethod
    def of_kind(kind: str) -> type[Quantizer]:
        """The class of quantizers whose `kind` is this one."""
        return Quantizer._kinds[kind]

    def to_bytes(self) -> bytes:
        """The parameters, a few bytes per dim."""
        fields = {
            "version": VERSION,
            "kind": self.kind,
            "metric": self.metric,
            "seed": self.seed,
            "centre": self.centre.astype("<f4").tobytes(),
            "unit": self.unit,
            "step": float(self.step),
            "terms": self.terms_count,
        }
        packed: bytes = msgpack.packb(fields)
        return packed

    @staticmethod
    def from_bytes(data: bytes) -> Quantizer:
        """The quantizer that `to_bytes` wrote, of whichever kind."""
        try:
            fields = msgpack.unpackb(data)
            version = int(fields["version"])
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise CorruptionError("the parameters of a quantizer cannot be read") from error
        if version > VERSION:
            raise FormatVersionError(
                f"a quantizer of format {version}, and this vecstore knows up to {VERSION}",
                found=version,
                supported=VERSION,
            )
        try:
            centre = np.frombuffer(fields["centre"], "<f4").astype(np.float32)
            metric, seed, unit, step, terms = (fields[name] for name in ("metric", "seed", "unit", "step", "terms"))
            cls = Quantizer._kinds[fields["kind"]]
            if (
                metric not in METRICS
                or terms not in cls._terms_allowed(metric)
                or not (0 < step < np.inf and 0 < unit < np.inf)
            ):
                raise ValueError(fields)
            return cls(metric, int(seed), centre, step, terms, unit=unit)
        except (ValueError, TypeError, KeyError, InvalidArgumentError) as error:
            raise CorruptionError("the parameters of a quantizer are not complete") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantizer) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.dim} dims, {self.metric}, {self.code_bytes} bytes a row>"


def parts_of(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Rows (n, dim) in parts of which there is room for copies in double precision."""
    size = max(1, min(_WIDE_ROWS, _WIDE_BYTES // (8 * max(1, rows.shape[1]))))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def lengths_of(rows: NDArray[Any], centre: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """L2 norms (n,) of rows (n, dim), less a centre (dim,), in double precision."""
    lengths = []
    for part in parts_of(rows):
        wide = np.asarray(part, np.float64) if centre is None else part - centre
        lengths.append(np.sqrt(np.einsum("ij,ij->i", wide, wide)))
    return np.concatenate([np.zeros(0), *lengths])


def unit_of(some: Floats, centre: Floats) -> float:
    """1, or the power of two that brings the lengths about the centre to about 1 where they are extreme."""
    wide = centre.astype(np.float64)
    length = float(np.median(lengths_of(some, wide))) or float(lengths_of(wide[None])[0])
    if length == 0 or 1 / _EXTREME < length < _EXTREME:
        return 1.0
    return float(2.0 ** -round(math.log2(length)))


def normal_form(rows: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """Rows (n, dim) as float64, divided by their norms under cosine; rows of zeros stay."""
    wide = np.asarray(rows, np.float64)
    if metric != "cosine":
        return wide
    norms = lengths_of(wide)
    unit: NDArray[np.float64] = wide * np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)[:, None]
    return unit
