"""The door: every argument of every verb is checked here, once, before anything is touched.

What passes has one form: ids are a list of int and str, vectors are `(n, dim) float32` in C order with their
norms, payloads are msgpack bytes. Embedded and remote collections share it, and so refuse alike.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt

from vecstore.errors import DimensionMismatchError, InvalidArgumentError, shown
from vecstore.payloads import pack_payloads
from vecstore.types import (
    HNSW,
    IVF,
    Binary,
    Filter,
    Flat,
    Id,
    IndexConfig,
    Int4,
    Int8,
    Metric,
    Quantization,
)

MAX_INT_ID: Final = 2**63 - 1
MAX_STR_ID: Final = 480  # bytes; an LMDB key holds 511
MIN_DIM, MAX_DIM = 1, 8192
MAX_K: Final = 10_000
MAX_EF: Final = 10_000
MAX_CLUSTERS: Final = 65_536
MAX_LISTS: Final = 65_536
MAX_LIMIT: Final = 10_000
MAX_ROWS: Final = 2**31 - 1
MAX_FACTOR: Final = 1000
# Below it Int8 is small enough, and the better estimate: on text embeddings cut to 128 dims a graph of Int8 is as fast
# at recall@10 0.95, and reaches 0.99, which Int4 does not; cut to 256 dims Int4 is faster by a fifth and more.
MIN_INT4_DIM: Final = 192
MIN_BINARY_DIM: Final = 256  # below it lists of bits find less than they save
MAX_SEED: Final = 2**31 - 1
MAX_SECONDS: Final = 1_000_000
MAX_NORM: Final = 1e18  # the inner product of two rows stays finite in float32
MIN_NORM: Final = 1e-18  # below it float32 holds no direction
LEAST_SQUARE, MOST_SQUARE = 1e-30, 1e30  # of a norm that needs no second look


@dataclass(frozen=True, slots=True)
class Rows:
    """Checked rows of one write, in the order given.

    `vectors` `(n, dim) float32` and their L2 `norms` `(n,) float32`, or None where a write leaves them as they
    are; `payloads` are msgpack maps, or None for a row without one.
    """

    ids: list[Id]
    vectors: npt.NDArray[np.float32] | None
    norms: npt.NDArray[np.float32] | None
    payloads: list[bytes | None] | None


def rows(ids: Any, vectors: Any, payloads: Any, dim: int, metric: Metric) -> Rows:
    """Check the rows of an insert, upsert or update; a single id goes with one vector and one payload."""
    matrix = norms = packed = None
    if isinstance(ids, int | str | np.integer):
        checked = [one_id(ids)]
        payloads = None if payloads is None else [payloads]
        if vectors is not None:
            vectors = as_floats(vectors, "vectors")[None]
            if vectors.shape == (1, dim):
                square = float(np.einsum("ij,ij->i", vectors, vectors)[0])
                if LEAST_SQUARE < square < MOST_SQUARE:  # the ordinary case: what is odd is told below
                    matrix, norms = vectors, np.array([math.sqrt(square)], np.float32)
    else:
        checked = id_list(ids)
        _refuse_repeats(checked)
    n = len(checked)
    if vectors is not None and matrix is None:
        matrix, norms = vector_rows(vectors, n, dim, metric)
    if payloads is not None:
        packed = pack_payloads(payloads, n)
    return Rows(checked, matrix, norms, packed)


def id_list(ids: Any) -> list[Id]:
    """Check many ids: any iterable of int and str, or a NumPy array of integers or strings."""
    if isinstance(ids, np.ndarray):
        ids = ids.tolist()
    if isinstance(ids, int | str | bytes) or not isinstance(ids, Iterable):
        raise InvalidArgumentError(f"ids: expected a list of int or str, got {shown(ids)}")
    listed = list(ids)
    return listed if _plainly_fine(listed) else [one_id(value) for value in listed]


def _plainly_fine(ids: list[Any]) -> bool:
    """Whether all are ints in range, or all short strs: the ordinary case, told without a look at each."""
    types = set(map(type, ids))
    if types == {int}:
        return bool(min(ids) >= 0 and max(ids) <= MAX_INT_ID)
    if types == {str} and all(ids) and max(map(len, ids)) * 4 <= MAX_STR_ID:
        with contextlib.suppress(UnicodeEncodeError):
            "".join(ids).encode()
            return True
    return False


def one_id(value: Any) -> Id:
    """Check one id: an int from 0 to 2^63 - 1 (no bool), or a str of 1 to 480 bytes of UTF-8."""
    if isinstance(value, np.integer | np.str_):
        value = value.item()
    if type(value) is int:
        if not 0 <= value <= MAX_INT_ID:
            raise InvalidArgumentError(f"id: an int id lies between 0 and 2^63 - 1, got {value}")
        return value
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"id: {value!r} is not valid Unicode (a lone surrogate)") from None
        if not 1 <= size <= MAX_STR_ID:
            raise InvalidArgumentError(f"id: a str id has 1 to {MAX_STR_ID} bytes of UTF-8, got {size}")
        return str(value)
    raise InvalidArgumentError(f"id: expected int or str, got {shown(value)}")


def _refuse_repeats(ids: list[Id]) -> None:
    if len(set(ids)) == len(ids):
        return
    first: dict[Id, int] = {}
    for row, one in enumerate(ids):
        if one in first:
            raise InvalidArgumentError(f"ids: {one!r} appears twice in one call, in rows {first[one]} and {row}")
        first[one] = row


def as_floats(values: Any, name: str) -> npt.NDArray[np.float32]:
    """Anything array-like (lists, NumPy, `__array__`, DLPack) as float32 in C order, copied only if needed."""
    try:
        if not isinstance(values, np.ndarray):
            on_dlpack_only = hasattr(values, "__dlpack__") and not hasattr(values, "__array__")
            values = np.from_dlpack(values) if on_dlpack_only else np.asarray(values)
        elif values.dtype == np.float32 and values.flags.c_contiguous:
            return values
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidArgumentError(f"{name}: expected rows of numbers of one length ({error})") from None
    if values.dtype.kind not in "fiu":
        raise InvalidArgumentError(f"{name}: expected numbers, got an array of {values.dtype}")
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32, order="C")


def vector_rows(
    vectors: Any, n: int | None, dim: int, metric: Metric, name: str = "vectors"
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Check `(n, dim)` vectors, all finite and, under cosine, none zero; return them with their L2 norms."""
    matrix = as_floats(vectors, name)
    if n == 0 and matrix.size == 0:
        return np.empty((0, dim), np.float32), np.empty(0, np.float32)
    if matrix.ndim != 2:
        raise InvalidArgumentError(f"{name}: expected shape ({n or 'n'}, {dim}), got {matrix.shape}")
    if matrix.shape[1] != dim:
        raise DimensionMismatchError(
            f"{name}: this collection holds {dim} dimensions, got {matrix.shape[1]}",
            expected=dim,
            received=int(matrix.shape[1]),
        )
    if n is not None and len(matrix) != n:
        raise InvalidArgumentError(f"{name}: expected one row for each of {n} ids, got {len(matrix)}")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        odd = np.flatnonzero(~((norms < MAX_NORM) & (norms > MIN_NORM)))
    for row in odd:
        norms[row] = _odd_norm(matrix[row], int(row), metric, name)
    return matrix, norms


def _odd_norm(vector: npt.NDArray[np.float32], row: int, metric: Metric, name: str) -> float:
    """The norm of a row whose squares leave float32, or the error that refuses it."""
    if not np.isfinite(vector).all():
        column = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise InvalidArgumentError(f"{name}: row {row} holds {vector[column]} at dimension {column}")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm >= MAX_NORM:
        raise InvalidArgumentError(f"{name}: row {row} has norm {norm:.3g}; float32 scores need less than {MAX_NORM}")
    if metric == "cosine" and norm <= MIN_NORM:
        what = "is a zero vector" if norm == 0 else f"has norm {norm:.3g}"
        raise InvalidArgumentError(f"{name}: row {row} {what}, which has no direction under cosine")
    return norm


def plain_query(query: Any, dim: int) -> npt.NDArray[np.float32] | None:
    """One query as `(1, dim)` if it needs no conversion, or else None; its numbers may be anything."""
    if type(query) is np.ndarray and query.dtype == np.float32 and query.shape == (dim,) and query.flags.c_contiguous:
        return query[None]
    return None


def query_rows(query: Any, dim: int, metric: Metric) -> tuple[npt.NDArray[np.float32], bool]:
    """Check one query `(dim,)` or many `(n, dim)`; return them as a matrix, and whether it was one."""
    one = plain_query(query, dim)
    if one is not None and LEAST_SQUARE < float(query.dot(query)) < MOST_SQUARE:
        return one, True  # the ordinary case: what is odd is told below
    matrix = as_floats(query, "query")
    single = matrix.ndim == 1
    if matrix.ndim not in (1, 2):
        raise InvalidArgumentError(f"query: expected shape ({dim},) or (n, {dim}), got {matrix.shape}")
    checked, _ = vector_rows(matrix[None] if single else matrix, None, dim, metric, "query")
    return checked, single


def dimension(dim: Any) -> int:
    """Check the `dim` of a new collection."""
    return whole_number(dim, "dim", MIN_DIM, MAX_DIM)


def metric_name(metric: Any) -> Metric:
    """Check a metric; the words of other engines are answered with ours."""
    if metric not in get_args(Metric):
        others = {"ip": "dot", "inner_product": "dot", "dotproduct": "dot", "euclid": "l2", "euclidean": "l2"}
        meant = others.get(str(metric).lower())
        hint = f' (for {metric!r} use "{meant}")' if meant else ""
        raise InvalidArgumentError(f'metric: expected "cosine", "dot" or "l2", got {metric!r}{hint}')
    return metric  # type: ignore[no-any-return]


def index_config(value: Any) -> IndexConfig:
    """Check the `index` of a new collection; the numbers come back as Python's own."""
    if isinstance(value, Flat):
        return value
    if isinstance(value, IVF):
        return IVF(
            None if value.nlist is None else whole_number(value.nlist, "index.nlist", 1, MAX_LISTS),
            whole_number(value.nprobe, "index.nprobe", 1, MAX_LISTS),
            whole_number(value.seed, "index.seed", 0, MAX_SEED),
            flag(value.resident, "index.resident"),
        )
    if not isinstance(value, HNSW):
        raise InvalidArgumentError(f"index: expected vecstore.HNSW(), IVF(), Flat() or None, got {value!r}")
    m = whole_number(value.m, "index.m", 8, 128)
    if m % 8:
        raise InvalidArgumentError(f"index.m: expected a multiple of 8, got {m}")
    return HNSW(
        m,
        whole_number(value.ef_construction, "index.ef_construction", 16, 2000),
        whole_number(value.ef, "index.ef", 10, MAX_EF),
        number(value.alpha, "index.alpha", 1, 2),
        whole_number(value.seed, "index.seed", 0, MAX_SEED),
    )


def quantization_kind(value: Any, index: IndexConfig, dim: int) -> Quantization | None:
    """Check the `quantization` of a new collection; "auto" becomes what suits its index and dimension.

    A flat collection is exact unless it is asked for codes.
    """
    if isinstance(value, str) and value == "auto":
        if isinstance(index, Flat):
            return None
        if isinstance(index, IVF) and dim >= MIN_BINARY_DIM:
            return Binary()
        return Int4() if dim >= MIN_INT4_DIM else Int8()
    if value is not None and not isinstance(value, Int8 | Int4 | Binary):
        raise InvalidArgumentError(
            f'quantization: expected vecstore.Int8(), Int4() or Binary(), None or "auto", got {value!r}'
        )
    return value


def whole_number(value: Any, name: str, low: int, high: int) -> int:
    """Check an int argument against its range."""
    if type(value) is int and low <= value <= high:
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidArgumentError(f"{name}: expected a whole number from {low} to {high}, got {shown(value)}")
    if not low <= value <= high:
        raise InvalidArgumentError(f"{name}: lies between {low} and {high}, got {value}")
    return int(value)


def threshold(value: Any, name: str = "score_threshold") -> float | None:
    """Check a threshold of scores."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or math.isnan(value):
        raise InvalidArgumentError(f"{name}: expected a number, got {shown(value)}")
    return float(value)


def number(value: Any, name: str, low: int, high: int) -> float:
    """Check a number against its range; NaN lies in none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise InvalidArgumentError(f"{name}: expected a number from {low} to {high}, got {shown(value)}")
    return float(value)


def flag(value: Any, name: str) -> bool:
    """Check a bool argument."""
    if value is True or value is False:
        return value
    if not isinstance(value, bool | np.bool_):
        raise InvalidArgumentError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def folder(value: Any, name: str) -> Path:
    """Check the path of a folder."""
    if not isinstance(value, str | os.PathLike):
        raise InvalidArgumentError(f"{name}: expected a folder as str or Path, got {shown(value)}")
    path = os.fspath(value)
    if "\0" in path:
        raise InvalidArgumentError(f"{name}: expected a folder, got a path with a zero byte, {path!r}")
    return Path(path)


def mapping(filter: Any) -> Filter | None:
    """Check the outer form of a filter; its operators are checked where it is compiled."""
    if filter is not None and not isinstance(filter, dict):
        raise InvalidArgumentError(f'filter: expected a dict such as {{"year": {{"$gte": 2020}}}}, got {shown(filter)}')
    return filter
