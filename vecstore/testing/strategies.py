"""Hypothesis strategies for what goes into the verbs, drawn from few values, so that calls meet each other's rows."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vecstore.arguments import MAX_INT_ID, MAX_SEED, MAX_STR_ID
from vecstore.types import HNSW, IVF, Binary, Filter, Flat, Id, IndexConfig, Int4, Int8, Metric, Payload, Quantization

FIELDS = ("a", "b", "c")

index_configs: st.SearchStrategy[IndexConfig] = st.one_of(
    st.just(Flat()),
    st.builds(
        HNSW,
        m=st.sampled_from([8, 16, 32]),
        ef_construction=st.integers(16, 200),
        ef=st.integers(10, 200),
        alpha=st.floats(1, 2),
        seed=st.integers(0, MAX_SEED),
    ),
    st.builds(IVF, nlist=st.none() | st.integers(1, 200), nprobe=st.integers(1, 200), seed=st.integers(0, MAX_SEED)),
)
"""The `index` of a new collection."""

quantizations: st.SearchStrategy[Quantization | Literal["auto"] | None] = st.sampled_from(
    ["auto", None, Int8(), Int4(), Binary()]
)
"""The `quantization` of a new collection."""

common_ids: st.SearchStrategy[Id] = st.one_of(st.integers(0, 60), st.integers(0, 20).map(str))
"""Few enough to be met again: 7 and "7" are two of them."""

_odd_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
odd_ids: st.SearchStrategy[Id] = st.one_of(
    st.integers(0, MAX_INT_ID),
    st.sampled_from([0, 255, 256, 2**32, MAX_INT_ID]),
    st.sampled_from(["\0", "é", "\U0010ffff", "￿", "a", "a\0", "x" * MAX_STR_ID]),
    _odd_text.filter(lambda text: len(text.encode()) <= MAX_STR_ID),
)
"""From the whole range, its edges, and where byte order and order of code points differ."""

ids: st.SearchStrategy[Id] = st.one_of(common_ids, common_ids, common_ids, odd_ids)


def id_lists(min_size: int = 0, max_size: int = 12) -> st.SearchStrategy[list[Id]]:
    """Lists without repeats: some ids one by one, or a run of ints, which fills blocks."""
    runs = st.builds(
        lambda start, n: list(range(start, start + n)), st.integers(0, 60), st.integers(max(1, min_size), 40)
    )
    return st.one_of(st.lists(ids, min_size=min_size, max_size=max_size, unique=True), runs)


scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from(["x", "y", ""]), st.sampled_from([-0.5, 1.0, 2.5])
)
"""The leaves of payloads, few enough for filters to match."""

values: st.SearchStrategy[Any] = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.sampled_from(FIELDS), scalars, max_size=2),
    st.lists(st.dictionaries(st.sampled_from(FIELDS), scalars, max_size=2), max_size=2),
)

_odd_values = st.sampled_from(
    [2**64 - 1, -(2**63), 1e300, float("inf"), b"\0\xff", "\0é", "x" * 3000, [[[]]], {"": {}}]
)

payloads: st.SearchStrategy[Payload | None] = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=3),
    st.dictionaries(st.sampled_from(FIELDS), scalars, min_size=1, max_size=2),
    st.dictionaries(_odd_text, st.one_of(scalars, _odd_values), max_size=2),
)


def payload_lists(n: int) -> st.SearchStrategy[list[Payload | None] | None]:
    """`n` payloads, or None for none at all; long lists repeat a few of them."""
    few = st.lists(payloads, min_size=1, max_size=4).map(lambda some: [some[i % len(some)] for i in range(n)])
    return st.one_of(st.none(), few)


def vectors(n: int, dim: int, metric: Metric) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    """`(n, dim) float32` that a collection of this metric takes.

    Some are small whole numbers, so that scores tie; some are drawn evenly, some are very long or very short.
    """

    def even(seed: int, scale: float) -> npt.NDArray[np.float32]:
        return (np.random.default_rng(seed).standard_normal((n, dim)) * scale).astype(np.float32)

    def directed(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if metric == "cosine":
            matrix[~matrix.any(axis=1), 0] = 1
        return matrix

    whole = arrays.arrays(np.float32, (n, dim), elements=st.integers(-2, 2), fill=st.integers(-2, 2)).map(directed)
    drawn = st.builds(even, st.integers(0, 2**32 - 1), st.sampled_from([1, 1, 1, 1e-12, 1e12]))
    return st.one_of(whole, drawn, drawn)


def queries(dim: int, metric: Metric) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    """One query `(dim,)`, or up to three `(n, dim)`."""
    return st.one_of(
        vectors(1, dim, metric).map(lambda matrix: matrix[0]),
        st.integers(0, 3).flatmap(lambda n: vectors(n, dim, metric)),
    )


thresholds: st.SearchStrategy[float | None] = st.one_of(
    st.none(), st.sampled_from([0, -1, 1, 0.5, float("inf"), float("-inf"), 1e300, -1e300]), st.floats(-5, 5)
)

_paths = st.one_of(
    st.sampled_from(FIELDS),
    st.sampled_from(FIELDS),
    st.builds("{}.{}".format, st.sampled_from(FIELDS), st.sampled_from([*FIELDS, "0"])),
)
_operators = st.one_of(
    st.builds(lambda name, value: {name: value}, st.sampled_from(["$eq", "$ne"]), values),
    st.builds(
        lambda name, value: {name: value},
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
        st.one_of(st.integers(-2, 3), st.sampled_from(["x", "y", 0.5])),
    ),
    st.builds(lambda name, some: {name: some}, st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=3)),
    st.booleans().map(lambda there: {"$exists": there}),
)
_conditions = st.one_of(
    scalars,
    _operators,
    st.builds(lambda one, two: {**one, **two}, _operators, _operators),
    _operators.map(lambda inner: {"$not": inner}),
)
_clauses = st.dictionaries(_paths, _conditions, max_size=2)

filters: st.SearchStrategy[Filter] = st.recursive(
    _clauses,
    lambda inner: st.one_of(
        st.builds(
            lambda name, parts: {name: parts}, st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=2)
        ),
        inner.map(lambda one: {"$not": one}),
    ),
    max_leaves=3,
)
"""Filters over the fields, and mostly over the values, of `payloads`."""
