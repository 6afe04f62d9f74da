"""The verbs of a collection that write and read rows."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from vecstore import arguments
from vecstore.arguments import Rows
from vecstore.errors import InvalidArgumentError
from vecstore.keywords import verb
from vecstore.types import CollectionInfo, Filter, Hit, Id, Metric, Page, Record, WriteResult
from vecstore.verbs.analysis import AnalysisVerbs
from vecstore.verbs.checks import checked, search_options
from vecstore.verbs.closing import Closing
from vecstore.verbs.query import Query
from vecstore.verbs.upkeep import UpkeepVerbs

Operation: TypeAlias = Literal["insert", "upsert", "update"]

VectorsLike: TypeAlias = Any
"""`(n, dim)` numbers: a NumPy array, nested lists, or anything with `__array__` or DLPack; stored as float32."""


class CollectionVerbs(AnalysisVerbs, UpkeepVerbs, Closing):
    """A named set of rows: each an id, a vector of `dim` float32, and a payload or none.

    Every write is one transaction: when it returns, all of it is durable and the next search sees it; when it
    raises, nothing of it remains.
    """

    @property
    @abstractmethod
    def info(self) -> CollectionInfo:
        """What the collection was created with, with the index and the codes that it has by now. Where another process
        changes them, as this one has seen them last."""

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.info.name

    @property
    def dim(self) -> int:
        """Numbers in each vector."""
        return self.info.dim

    @property
    def metric(self) -> Metric:
        """cosine, dot or l2."""
        return self.info.metric

    # -- writing ---------------------------------------------------------------------------------------------

    @verb
    def insert(self, ids: Any, vectors: VectorsLike, payloads: Any = None) -> WriteResult:
        """Store new rows; AlreadyExistsError, and no change, if one of the ids is there already.

        `ids` are n ints or strs, `vectors` `(n, dim)`, `payloads` n dicts (or None for a row without). A single
        id goes with one vector `(dim,)` and one dict. NaN, infinity, a wrong dimension, an id given twice and,
        under cosine, a zero vector are refused.
        """
        return self._write("insert", self._rows(ids, vectors, payloads))

    @verb
    def upsert(self, ids: Any, vectors: VectorsLike, payloads: Any = None) -> WriteResult:
        """Store rows; one whose id is there already replaces it whole, its payload too. Arguments as for insert."""
        return self._write("upsert", self._rows(ids, vectors, payloads))

    @verb
    def update(self, ids: Any, vectors: VectorsLike = None, payloads: Any = None, *, merge: bool = True) -> WriteResult:
        """Change vectors, payloads or both of existing rows; NotFoundError, and no change, if one is missing.

        A payload is merged into the row's own: its top-level fields are set, the others stay. With
        `merge=False` it takes the place of the row's own. A payload of None leaves that row's as it is, or
        with `merge=False` takes it away.
        """
        if vectors is None and payloads is None:
            raise InvalidArgumentError("update() needs vectors, payloads or both")
        if not arguments.flag(merge, "merge") and payloads is None:
            raise InvalidArgumentError("update(): merge=False has no effect without payloads")
        rows = arguments.rows(ids, vectors, payloads, self.dim, self.metric)
        return self._write("update", rows, merge)

    def _rows(self, ids: Any, vectors: VectorsLike, payloads: Any) -> Rows:
        if vectors is None:
            raise InvalidArgumentError("vectors: expected one for each id, got None")
        return arguments.rows(ids, vectors, payloads, self.dim, self.metric)

    @verb
    def delete(self, ids: Any = None, *, filter: Filter | None = None) -> WriteResult:
        """Delete rows by their ids, or all that match a filter (`{}` matches every row).

        Ids that are not there are passed over; `deleted` of the result counts those that were.
        """
        if (ids is None) == (filter is None):
            raise InvalidArgumentError("delete() takes either ids or filter")
        if ids is not None:
            single = isinstance(ids, int | str | np.integer)
            return self._delete(arguments.id_list([ids] if single else ids), None)
        return self._delete(None, checked(filter))

    # -- reading ---------------------------------------------------------------------------------------------

    @overload
    def get(self, ids: Id, *, with_payload: bool = ..., with_vectors: bool = ...) -> Record | None: ...

    @overload
    def get(
        self, ids: list[Id] | list[int] | list[str], *, with_payload: bool = ..., with_vectors: bool = ...
    ) -> list[Record | None]: ...

    @overload
    def get(self, ids: Any, *, with_payload: bool = ..., with_vectors: bool = ...) -> Any: ...

    @verb
    def get(self, ids: Any, *, with_payload: bool = True, with_vectors: bool = False) -> Any:
        """The records of some ids in the order asked, None for what is missing; of one id, the one record."""
        single = isinstance(ids, int | str | np.integer)
        wanted = arguments.id_list([ids] if single else ids)
        found = self._get(
            wanted, arguments.flag(with_payload, "with_payload"), arguments.flag(with_vectors, "with_vectors")
        )
        return found[0] if single else found

    @overload
    def search(
        self,
        query: list[float],
        k: int = ...,
        *,
        filter: Filter | None = ...,
        score_threshold: float | None = ...,
        with_payload: bool = ...,
        with_vectors: bool = ...,
        oversampling: float | None = ...,
        ef: int | None = ...,
        nprobe: int | None = ...,
        exact: bool = ...,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        query: list[list[float]],
        k: int = ...,
        *,
        filter: Filter | None = ...,
        score_threshold: float | None = ...,
        with_payload: bool = ...,
        with_vectors: bool = ...,
        oversampling: float | None = ...,
        ef: int | None = ...,
        nprobe: int | None = ...,
        exact: bool = ...,
    ) -> list[list[Hit]]: ...

    @overload
    def search(
        self,
        query: Any,
        k: int = ...,
        *,
        filter: Filter | None = ...,
        score_threshold: float | None = ...,
        with_payload: bool = ...,
        with_vectors: bool = ...,
        oversampling: float | None = ...,
        ef: int | None = ...,
        nprobe: int | None = ...,
        exact: bool = ...,
    ) -> Any: ...

    @verb
    def search(
        self,
        query: VectorsLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        score_threshold: float | None = None,
        with_payload: bool = True,
        with_vectors: bool = False,
        oversampling: float | None = None,
        ef: int | None = None,
        nprobe: int | None = None,
        exact: bool = False,
    ) -> Any:
        """The k nearest rows, best first: a list of hits for one query `(dim,)`, a list of such lists for `(n, dim)`.

        There are fewer than k hits only where fewer rows match. With `filter` only rows whose payload matches
        count, with `score_threshold` only those with at least that score. `score` is higher for nearer rows:
        the cosine, the inner product, or minus the Euclidean distance.

        In a collection with `quantization`, `k * oversampling` candidates by their codes are rescored from the rows
        (by default 2 for each hit with Int8 and Int4, 10 with Binary; in a graph or lists as many as may change the
        answer). A graph is searched with `ef` candidates (1 to 10,000, but never fewer than k; by default the `ef` of
        the collection's HNSW), of the lists of an IVF the `nprobe` nearest are scanned (1 to 65,536; by default those
        of its IVF): more find more, and take longer. `exact=True` scans the rows instead of all that.
        """
        queries, single = arguments.query_rows(query, self.dim, self.metric)
        if oversampling is not None or ef is not None or nprobe is not None:
            try:
                search_options(self.info, oversampling, ef, nprobe, exact)
            except InvalidArgumentError:
                search_options(self._info_now(), oversampling, ef, nprobe, exact)
        found = self._search(
            Query(
                queries,
                arguments.whole_number(k, "k", 1, arguments.MAX_K),
                None if filter is None else checked(filter),
                None if score_threshold is None else arguments.threshold(score_threshold),
                arguments.flag(with_payload, "with_payload"),
                arguments.flag(with_vectors, "with_vectors"),
                None
                if oversampling is None
                else arguments.number(oversampling, "oversampling", 1, arguments.MAX_FACTOR),
                None if ef is None else arguments.whole_number(ef, "ef", 1, arguments.MAX_EF),
                None if nprobe is None else arguments.whole_number(nprobe, "nprobe", 1, arguments.MAX_LISTS),
                arguments.flag(exact, "exact"),
            )
        )
        return found[0] if single else found

    @verb
    def scroll(
        self,
        *,
        filter: Filter | None = None,
        limit: int = 100,
        cursor: str | None = None,
        with_payload: bool = True,
        with_vectors: bool = False,
    ) -> Page:
        """Walk over all rows in the order of their ids (ints first), `limit` at a time.

        Returns `(records, cursor)`; hand the cursor to the next call until it is None. A row that stays
        untouched while others are written is met exactly once.
        """
        if cursor is not None and not isinstance(cursor, str):
            raise InvalidArgumentError(f"cursor: expected one that scroll() returned, got {cursor!r}")
        return self._scroll(
            checked(filter),
            arguments.whole_number(limit, "limit", 1, arguments.MAX_LIMIT),
            cursor,
            arguments.flag(with_payload, "with_payload"),
            arguments.flag(with_vectors, "with_vectors"),
        )

    @verb
    def count(self, filter: Filter | None = None) -> int:
        """How many rows there are, or how many match a filter."""
        return self._count(checked(filter))

    def __len__(self) -> int:
        return self._count(None)

    @abstractmethod
    def _write(self, operation: Operation, rows: Rows, merge: bool = True) -> WriteResult: ...

    @abstractmethod
    def _delete(self, ids: list[Id] | None, filter: Filter | None) -> WriteResult: ...

    @abstractmethod
    def _get(self, ids: list[Id], with_payload: bool, with_vectors: bool) -> list[Record | None]: ...

    @abstractmethod
    def _search(self, query: Query) -> list[list[Hit]]: ...

    @abstractmethod
    def _scroll(
        self, filter: Filter | None, limit: int, cursor: str | None, with_payload: bool, with_vectors: bool
    ) -> Page: ...

    @abstractmethod
    def _count(self, filter: Filter | None) -> int: ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.dim} dimensions, {self.metric}>"
