"""The verbs of databases and collections, embedded and remote alike.

A public method checks its arguments and hands them, in one form, to the abstract method of the same name with an
underscore. The two backends implement only those, so that they cannot drift apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from vecstore import arguments
from vecstore.analysis_verbs import AnalysisVerbs, Progress, checked, reported
from vecstore.arguments import Rows
from vecstore.errors import InvalidArgumentError
from vecstore.keywords import verb
from vecstore.types import (
    HNSW,
    IVF,
    CollectionInfo,
    Estimate,
    Filter,
    Finding,
    Flat,
    Hit,
    Id,
    IndexConfig,
    Metric,
    Page,
    Quantization,
    Record,
    Stats,
    WriteResult,
)

Operation: TypeAlias = Literal["insert", "upsert", "update"]

VectorsLike: TypeAlias = Any
"""`(n, dim)` numbers: a NumPy array, nested lists, or anything with `__array__` or DLPack; stored as float32."""


class Query(NamedTuple):
    """A checked search: `queries` is `(n, dim) float32`."""

    queries: npt.NDArray[np.float32]
    k: int
    filter: Filter | None = None
    score_threshold: float | None = None
    with_payload: bool = True
    with_vectors: bool = False
    oversampling: float | None = None
    ef: int | None = None
    nprobe: int | None = None
    exact: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it asks for the nearest rows and nothing else."""
        return self.filter is None and self.score_threshold is None and self.oversampling is None and not self.exact

    @property
    def effort(self) -> int | None:
        """How far the search goes, in the terms of the collection's index."""
        return self.ef or self.nprobe


class Closing(ABC):
    """Something that is closed once, by `close()` or at the end of a `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files or connections; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CollectionVerbs(AnalysisVerbs, Closing):
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
        found = self._search(
            Query(
                queries,
                arguments.whole_number(k, "k", 1, arguments.MAX_K),
                None if filter is None else checked(filter),
                None if score_threshold is None else arguments.threshold(score_threshold),
                arguments.flag(with_payload, "with_payload"),
                arguments.flag(with_vectors, "with_vectors"),
                None if oversampling is None else self._oversampling(oversampling, exact),
                None if ef is None else self._effort("ef", ef, HNSW, arguments.MAX_EF, exact),
                None if nprobe is None else self._effort("nprobe", nprobe, IVF, arguments.MAX_LISTS, exact),
                arguments.flag(exact, "exact"),
            )
        )
        return found[0] if single else found

    def _oversampling(self, value: Any, exact: bool) -> float:
        if self.info.quantization is None or exact:
            reason = "exact=True rescores nothing" if exact else "this collection has no quantization"
            raise InvalidArgumentError(f"oversampling has no effect: {reason}; leave it out")
        return arguments.number(value, "oversampling", 1, arguments.MAX_FACTOR)

    def _effort(self, name: str, value: Any, kind: type[HNSW] | type[IVF], most: int, exact: bool) -> int:
        own = self.info.index
        if exact or not isinstance(own, kind):
            others = {HNSW: "; use ef", IVF: "; use nprobe"}
            reason = (
                f"this collection has no {'graph' if kind is HNSW else 'lists'}, its index is {type(own).__name__}()"
            )
            reason = "exact=True scans the rows" if exact else reason + others.get(type(own), "")
            raise InvalidArgumentError(f"{name} has no effect: {reason}; leave it out")
        return arguments.whole_number(value, name, 1, most)

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
    def stats(self) -> Stats:
        """Counts and sizes."""

    @verb
    def check(self, *, progress: Progress | None = None) -> list[Finding]:
        """Read and verify everything that is stored, and the graph: what is wrong, or an empty list. Others read and
        write meanwhile.

        `progress(done, total)` is called now and then.
        """

        return self._check(reported(progress))

    @verb
    def compact(self) -> None:
        """Write the collection anew with nothing but its rows: the file shrinks to them, and rows that the graph links
        come to lie near each other. Meanwhile searches go on, and writers wait. It takes as much room on the disk
        again as the rows do. If the timeout of a connection ends first, the caller gets DeadlineExceededError, and the
        server goes on.
        """
        self._compact()

    # -- indexing --------------------------------------------------------------------------------------------

    @verb
    def wait_indexed(self, timeout: float | None = None) -> None:
        """Return when the graph holds every committed row; DeadlineExceededError if `timeout` seconds end before.

        No search needs it: a row that the graph does not hold yet is found all the same. It is for measurements.
        """
        seconds = None if timeout is None else arguments.number(timeout, "timeout", 0, arguments.MAX_SECONDS)
        self._wait_indexed(seconds)

    @verb
    def rebuild(self, *, seed: int | None = None) -> None:
        """Build the index anew from the rows, and return when it is done; searches go on meanwhile.

        Whatever is drawn at random is drawn with `seed` (0 to 2^31 - 1), or else with the seed of the collection's
        HNSW. If the timeout of a connection ends first, the caller gets DeadlineExceededError, and the server builds
        on.
        """
        if isinstance(self.info.index, Flat) and self.info.quantization is None:
            raise InvalidArgumentError("rebuild() has no effect: this collection has neither a graph nor codes")
        self._rebuild(None if seed is None else arguments.whole_number(seed, "seed", 0, arguments.MAX_SEED))

    @verb
    def set_index(
        self,
        index: IndexConfig,
        *,
        quantization: Quantization | Literal["same", "auto"] | None = "same",
        progress: Progress | None = None,
    ) -> None:
        """Give the collection another index, other parameters of it, or other codes, and return when that is done.

        The new index is built beside the old one, which takes memory for both; searches and writes go on with the old
        one until then. What fails or is killed before leaves the old one. Parameters that only searches go by (`ef`,
        `nprobe`) change at once, and what is there already is left alone. `quantization` stays the "same" unless it is
        given; "auto" is what `create_collection` would take. `progress(done, total)` is called now and then. If the
        timeout of a connection ends first, the caller gets DeadlineExceededError, and the server goes on.
        """
        if index is None:
            raise InvalidArgumentError("index: expected vecstore.HNSW(), IVF() or Flat(), got None")
        config = arguments.index_config(index)
        same = isinstance(quantization, str) and quantization == "same"
        codes = "same" if same else arguments.quantization_kind(quantization, config, self.dim)
        self._set_index(config, codes, reported(progress))  # type: ignore[arg-type]

    @verb
    def estimate(
        self,
        count: int | None = None,
        *,
        index: IndexConfig | None = None,
        quantization: Quantization | Literal["same", "auto"] | None = "same",
    ) -> Estimate:
        """About what the collection takes in RAM and on the disk with `count` rows (by default those that it has), or
        would with another index or other codes (see `set_index`). Nothing is changed."""
        config = None if index is None else arguments.index_config(index)
        rows = None if count is None else arguments.whole_number(count, "count", 0, arguments.MAX_ROWS)
        same = isinstance(quantization, str) and quantization == "same"
        codes = "same" if same else arguments.quantization_kind(quantization, config or self.info.index, self.dim)
        return self._estimate(rows, config, codes)  # type: ignore[arg-type]

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

    @abstractmethod
    def _wait_indexed(self, timeout: float | None) -> None: ...

    @abstractmethod
    def _check(self, progress: Progress) -> list[Finding]: ...

    @abstractmethod
    def _compact(self) -> None: ...

    @abstractmethod
    def _rebuild(self, seed: int | None) -> None: ...

    @abstractmethod
    def _estimate(
        self, count: int | None, index: IndexConfig | None, quantization: Quantization | Literal["same"] | None
    ) -> Estimate: ...

    @abstractmethod
    def _set_index(
        self,
        index: IndexConfig,
        quantization: Quantization | Literal["same"] | None,
        progress: Progress,
    ) -> None: ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.dim} dimensions, {self.metric}>"


class DatabaseVerbs(Closing):
    """A set of collections."""

    @verb
    def create_collection(
        self,
        name: str,
        dim: int,
        metric: Metric = "cosine",
        *,
        index: IndexConfig | None = None,
        quantization: Quantization | Literal["auto"] | None = "auto",
        exist_ok: bool = False,
    ) -> CollectionVerbs:
        """Create a collection for vectors of `dim` numbers (1 to 8192), compared by cosine, dot or l2.

        AlreadyExistsError if there is one of that name; with `exist_ok=True` it is returned instead, provided
        it was created alike. A name has 1 to 128 letters, digits, dots, dashes and underscores.

        `index` is `HNSW()`, a graph, unless it is `IVF()`, lists, which are built sooner and take less memory, or
        `Flat()`, where every search reads every row. With `quantization`
        (`Int8()`, `Int4()` or `Binary()`) a search reads codes in RAM instead of the rows, which is several times as
        fast, and rescores the best candidates from the rows. "auto" is `Int4()` for 192 dimensions and more, `Int8()`
        for fewer, `Binary()` with `IVF()` from 256 on, and None with `Flat()`, which so stays exact.
        """
        name, dim = collection_name(name), arguments.dimension(dim)
        metric = arguments.metric_name(metric)
        config = HNSW() if index is None else arguments.index_config(index)
        codes = arguments.quantization_kind(quantization, config, dim)
        wanted = CollectionInfo(name, dim, metric, config, codes)
        return self._create(wanted, arguments.flag(exist_ok, "exist_ok"))

    @verb
    def get_collection(self, name: str) -> CollectionVerbs:
        """Open a collection; CollectionNotFoundError if there is none of that name."""
        return self._open(collection_name(name))

    @abstractmethod
    def list_collections(self) -> list[str]:
        """The names of all collections, sorted."""

    @verb
    def drop_collection(self, name: str) -> None:
        """Delete a collection with all its rows, for good; CollectionNotFoundError if there is none."""
        self._drop(collection_name(name))

    @abstractmethod
    def _create(self, info: CollectionInfo, exist_ok: bool) -> CollectionVerbs: ...

    @abstractmethod
    def _open(self, name: str) -> CollectionVerbs: ...

    @abstractmethod
    def _drop(self, name: str) -> None: ...


def collection_name(name: Any) -> str:
    """Check the name of a collection."""
    import re

    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise InvalidArgumentError(
            f"name: expected 1 to 128 letters, digits, dots, dashes and underscores, "
            f"the first a letter or digit, got {name!r}"
        )
    return name
