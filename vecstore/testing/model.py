"""The verbs over a dict, searched by brute force in float64: what a database must do, as plainly as it can be said."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vecstore.arguments import Rows, query_rows
from vecstore.errors import (
    AlreadyExistsError,
    ClosedError,
    CollectionNotFoundError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
)
from vecstore.filters import compile_filter
from vecstore.payloads import unpack_payload
from vecstore.types import (
    KIND_NAMES,
    Clustering,
    CollectionInfo,
    DuplicateGroup,
    Estimate,
    Filter,
    Finding,
    Hit,
    Id,
    IndexConfig,
    Metric,
    Page,
    Payload,
    Quantization,
    Record,
    Stats,
    Vector,
    WriteResult,
)
from vecstore.verbs.collection import CollectionVerbs, Operation
from vecstore.verbs.database import DatabaseVerbs
from vecstore.verbs.query import Query

Doubles: TypeAlias = npt.NDArray[np.float64]


@dataclass(slots=True)
class ModelRow:
    """One row: its vector `(dim,) float32`, and its payload or None."""

    vector: Vector
    payload: Payload | None


@dataclass(slots=True)
class ModelRows:
    """What would lie in a collection's folder; `rows` by id."""

    info: CollectionInfo
    rows: dict[Id, ModelRow] = field(default_factory=dict)
    lsn: int = 0
    dropped: bool = False


class ModelDatabase(DatabaseVerbs):
    """A Database in memory. Two with the same `folder` see the same collections, as if opened on one path."""

    def __init__(self, folder: dict[str, ModelRows] | None = None, *, read_only: bool = False) -> None:
        self.folder = {} if folder is None else folder
        self.read_only = read_only
        self._handles: dict[str, ModelCollection] = {}
        self._closed = False

    def _create(self, info: CollectionInfo, exist_ok: bool) -> ModelCollection:
        self._refuse_write()
        taken = next((name for name in self.folder if name.lower() == info.name.lower()), None)
        if taken is None:
            self.folder[info.name] = ModelRows(info)
        elif taken != info.name or not exist_ok or self.folder[taken].info != info:
            raise AlreadyExistsError(f'collection "{taken}" is there already', name=taken)
        return self._open(info.name)

    def _open(self, name: str) -> ModelCollection:
        rows = self._rows(name)
        known = self._handles.get(name)
        if known is None or known.closed or known.stored is not rows:
            known = self._handles[name] = ModelCollection(rows, read_only=self.read_only)
        return known

    def _drop(self, name: str) -> None:
        self._refuse_write()
        self._rows(name).dropped = True
        del self.folder[name]

    def _rows(self, name: str) -> ModelRows:
        if name not in self.list_collections():
            raise CollectionNotFoundError(f'no collection "{name}"', name=name)
        return self.folder[name]

    def list_collections(self) -> list[str]:
        """The names of all collections, sorted."""
        if self._closed:
            raise ClosedError("the database is closed")
        return sorted(self.folder)

    def _refuse_write(self) -> None:
        self.list_collections()
        if self.read_only:
            raise ReadOnlyError("the database was opened with read_only=True")

    def close(self) -> None:
        """Close all collections; what they hold stays in `folder`."""
        self._closed = True
        for handle in self._handles.values():
            handle.close()


class ModelCollection(CollectionVerbs):
    """A Collection in memory; made by a ModelDatabase."""

    def __init__(self, stored: ModelRows, *, read_only: bool = False) -> None:
        self._info = stored.info
        self.stored = stored
        self.closed = False
        self._read_only = read_only

    @property
    def info(self) -> CollectionInfo:
        return self._info

    # -- writing ---------------------------------------------------------------------------------------------

    def _write(self, operation: Operation, rows: Rows, merge: bool = True) -> WriteResult:
        old = self._writable().rows
        there = [one for one in rows.ids if one in old]
        if operation == "insert" and there:
            raise AlreadyExistsError(f"insert: {there} are there already", ids=there[:10])
        if operation == "update" and len(there) < len(rows.ids):
            missing = [one for one in rows.ids if one not in old]
            raise NotFoundError(f"update: {missing} are not there", ids=missing[:10])
        for i, one in enumerate(rows.ids):
            before = old.get(one) if operation == "update" else None
            old[one] = _written(before, rows, i, merge)
        return WriteResult(self._lsn(bool(rows.ids)), inserted=len(rows.ids) - len(there), updated=len(there))

    def _delete(self, ids: list[Id] | None, filter: Filter | None) -> WriteResult:
        rows = self._writable().rows
        gone = [one for one in dict.fromkeys(ids) if one in rows] if ids is not None else self.matching(filter)
        for one in gone:
            del rows[one]
        return WriteResult(self._lsn(bool(gone)), deleted=len(gone))

    def _lsn(self, changed: bool) -> int:
        self.stored.lsn += changed
        return self.stored.lsn

    def _writable(self) -> ModelRows:
        if self._read_only and not self.closed:
            raise ReadOnlyError(f'collection "{self.name}" belongs to a database opened with read_only=True')
        return self._readable()

    def _readable(self) -> ModelRows:
        if self.closed:
            raise ClosedError(f'collection "{self.name}" is closed')
        if self.stored.dropped:
            raise CollectionNotFoundError(f'collection "{self.name}" was dropped', name=self.name)
        self._info = self.stored.info
        return self.stored

    # -- reading ---------------------------------------------------------------------------------------------

    def matching(self, filter: Filter | None) -> list[Id]:
        """The ids whose payload matches, in the order of a scroll; a row without payload is judged as `{}`."""
        matches = compile_filter(filter or {})
        rows = self._readable().rows
        return [one for one in sorted(rows, key=_place) if matches(rows[one].payload or {})]

    def scores(self, query: Any, filter: Filter | None = None) -> tuple[list[Id], Doubles, Doubles]:
        """The matching ids, their scores for one query `(dim,)` in float64, and how far float32 may be off each."""
        ids = self.matching(filter)
        checked, _ = query_rows(query, self.dim, self.metric)
        rows = np.array([self.stored.rows[one].vector for one in ids], np.float64).reshape(len(ids), self.dim)
        return ids, *_scores(rows, checked[0].astype(np.float64), self.metric)

    def _get(self, ids: list[Id], with_payload: bool, with_vectors: bool) -> list[Record | None]:
        rows = self._readable().rows
        return [Record(one, *self._parts(one, with_payload, with_vectors)) if one in rows else None for one in ids]

    def _search(self, query: Query) -> list[list[Hit]]:
        self._readable()
        return [self._best(one, query) for one in query.queries]

    def _best(self, one: Vector, query: Query) -> list[Hit]:
        ids, scores, _ = self.scores(one, query.filter)
        order = [i for i in np.argsort(-scores, kind="stable").tolist() if _enough(scores[i], query.score_threshold)]
        return [
            Hit(ids[i], float(scores[i]), *self._parts(ids[i], query.with_payload, query.with_vectors))
            for i in order[: query.k]
        ]

    def _scroll(
        self, filter: Filter | None, limit: int, cursor: str | None, with_payload: bool, with_vectors: bool
    ) -> Page:
        ids = self.matching(filter)
        if cursor is not None:
            after = _place(_cursor_id(cursor))
            ids = [one for one in ids if _place(one) > after]
        records = [Record(one, *self._parts(one, with_payload, with_vectors)) for one in ids[:limit]]
        return Page(records, json.dumps(ids[limit - 1]) if len(ids) > limit else None)

    def _count(self, filter: Filter | None) -> int:
        return len(self.matching(filter))

    def _parts(self, one: Id, with_payload: bool, with_vectors: bool) -> tuple[Payload | None, Vector | None]:
        row = self.stored.rows[one]
        return copy.deepcopy(row.payload) if with_payload else None, row.vector.copy() if with_vectors else None

    def _wait_indexed(self, timeout: float | None) -> None:  # noqa: ARG002
        self._readable()

    def _compact(self) -> None:
        self._writable().lsn += 2

    def _rebuild(self, seed: int | None) -> None:  # noqa: ARG002
        self._readable()

    def _set_index(
        self,
        index: IndexConfig,
        quantization: Quantization | Literal["same"] | None,
        progress: Callable[[int, int], None],  # noqa: ARG002
    ) -> None:
        stored = self._writable()
        codes = stored.info.quantization if quantization == "same" else quantization
        self._info = stored.info = replace(stored.info, index=index, quantization=codes)

    def _estimate(
        self, count: int | None, index: IndexConfig | None, quantization: Quantization | Literal["same"] | None
    ) -> Estimate:
        raise NotImplementedError("a model takes no files")

    def stats(self) -> Stats:
        """Counts; a model has neither file nor index, so all but what it holds is 0 or None."""
        stored, info = self._readable(), self.info
        nothing: dict[str, Any] = {one.name: 0 for one in fields(Stats)}
        nothing |= {"degree": 0.0, "durability": None, "synced_lsn": None, "index_error": None}
        return Stats(
            **nothing
            | {
                "name": self.name,
                "dim": self.dim,
                "metric": self.metric,
                "index": type(info.index).__name__,
                "quantization": None if info.quantization is None else KIND_NAMES[type(info.quantization)],
                "count": len(stored.rows),
                "lsn": stored.lsn,
                "vector_bytes": len(stored.rows) * self.dim * 4,
            }
        )

    def _check(self, progress: Callable[[int, int], None]) -> list[Finding]:  # noqa: ARG002
        """An empty list: there is nothing that could be damaged."""
        self._readable()
        return []

    def _cluster(self, n: int, filter: Filter | None, iterations: int, seed: int, progress: Any) -> Clustering:
        raise NotImplementedError("k-means has no model: other clusters may be as good")

    def _near_duplicates(
        self,
        threshold: float,
        filter: Filter | None,
        exact: bool,  # noqa: ARG002
        progress: Any,  # noqa: ARG002
    ) -> list[DuplicateGroup]:
        """Groups by walking from row to row."""
        ids, scores = self._all_scores(filter)
        near = [np.flatnonzero((row >= threshold) & (np.arange(len(ids)) != one)) for one, row in enumerate(scores)]
        groups: list[DuplicateGroup] = []
        seen: set[int] = set()
        for start in range(len(ids)):
            group, waiting = [], [start]
            while waiting:
                if (one := waiting.pop()) not in seen:
                    seen.add(one)
                    group.append(one)
                    waiting += near[one].tolist()
            if len(group) > 1:
                first = max(sorted(group), key=lambda one: len(near[one]))
                members = [first, *sorted(set(group) - {first}, key=lambda one: -scores[first, one])]
                groups.append(DuplicateGroup([ids[one] for one in members], scores[first, members].tolist()))
        return sorted(groups, key=lambda group: -len(group.ids))

    def _outliers(
        self,
        n: int,
        k: int,
        filter: Filter | None,
        with_payload: bool,
        with_vectors: bool,
        progress: Any,  # noqa: ARG002
    ) -> list[Hit]:
        ids, scores = self._all_scores(filter)
        if len(ids) < 2:
            return []
        np.fill_diagonal(scores, -np.inf)
        best = np.sort(scores, axis=1)[:, ::-1][:, : min(k, len(ids) - 1)]
        far = (self.metric == "cosine") - best.mean(axis=1)
        order = np.argsort(-far, kind="stable")[:n]
        return [Hit(ids[i], float(far[i]), *self._parts(ids[i], with_payload, with_vectors)) for i in order]

    def _all_scores(self, filter: Filter | None) -> tuple[list[Id], Doubles]:
        """The matching ids, and the score of each row for each `(n, n)`."""
        ids = self.matching(filter)
        rows = np.array([self.stored.rows[one].vector for one in ids], np.float64).reshape(len(ids), self.dim)
        return ids, np.array([_scores(rows, row, self.metric)[0] for row in rows])

    def close(self) -> None:
        """Refuse all later calls; closing twice is allowed."""
        self.closed = True


def wrong_hits(
    model: ModelCollection,
    found: Sequence[Hit],
    query: Any,
    k: int = 10,
    *,
    filter: Filter | None = None,
    score_threshold: float | None = None,
) -> str | None:
    """Why `found` cannot be the exact answer to one query `(dim,)` over the rows of `model`, or None if it can.

    Scores may be off by what float32 allows, and rows whose scores lie that near to each other may change places.
    """
    ids, scores, slack = model.scores(query, filter)
    hits = [hit.id for hit in found]
    if len(hits) > k or len(set(hits)) < len(hits) or not set(hits) <= set(ids):
        return f"{hits} are more than {k}, repeat an id or hold one that does not match; those that do are {ids}"
    if [hit.score for hit in found] != sorted((hit.score for hit in found), reverse=True):
        return f"the scores {[hit.score for hit in found]} do not descend"
    least = -np.inf if score_threshold is None else score_threshold
    # What is missing must be worse than the last hit or the threshold; with room left, only the threshold excuses it.
    worst = max(least, found[-1].score) if len(hits) == k else least
    score_of = {hit.id: hit.score for hit in found}
    for one, score, off in zip(ids, scores.tolist(), slack.tolist(), strict=True):
        if one not in score_of:
            if score - off > worst or (len(hits) < k and score_threshold is None):
                return f"id {one!r} with score {score} is missing in {score_of}"
        elif not abs(score_of[one] - score) <= off:
            return f"id {one!r} has score {score}, not {score_of[one]}"
        elif score_of[one] < least - off:
            return f"id {one!r} has score {score}, less than {least}"
    return None


def _written(before: ModelRow | None, rows: Rows, i: int, merge: bool) -> ModelRow:
    given = None if rows.payloads is None else unpack_payload(rows.payloads[i])
    if before is None:
        assert rows.vectors is not None
        return ModelRow(rows.vectors[i].copy(), given)
    payload = given
    if rows.payloads is None or (merge and given is None):
        payload = before.payload
    elif merge and given is not None:
        payload = {**(before.payload or {}), **given}
    return ModelRow(before.vector if rows.vectors is None else rows.vectors[i].copy(), payload)


def _scores(rows: Doubles, query: Doubles, metric: Metric) -> tuple[Doubles, Doubles]:
    """Scores `(n,)`, and how far float32 may be off each."""
    sizes = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    error = 4e-7 * (len(query) + 4)
    if metric == "l2":
        scores = -np.linalg.norm(rows - query, axis=1)
        return scores, error * -scores + 1e-18
    if metric == "dot":
        return rows @ query, error * sizes + 1e-36
    return (rows @ query) / sizes, np.full(len(rows), error)


def _enough(score: float, threshold: float | None) -> bool:
    return threshold is None or score >= threshold


def _place(one: Id) -> tuple[bool, int, bytes]:
    """Where an id stands in a scroll: ints first, then strs in the order of their UTF-8."""
    return (True, 0, one.encode()) if isinstance(one, str) else (False, one, b"")


def _cursor_id(cursor: str) -> Id:
    try:
        one = json.loads(cursor)
    except ValueError:
        one = None
    if isinstance(one, bool) or not isinstance(one, int | str):
        raise InvalidArgumentError(f"cursor: expected one that scroll() returned, got {cursor!r}")
    return one
