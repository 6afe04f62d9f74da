"""The embedded collection: how storage and index answer a verb together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from vecstore import analysis, arguments, results, writing
from vecstore.arguments import Rows
from vecstore.budget import Budget
from vecstore.errors import CorruptionError, ReadOnlyError, StorageError
from vecstore.figures import estimate_of, stats_of
from vecstore.index import flat
from vecstore.index.codes import CodeScan
from vecstore.index.following import PastError
from vecstore.index.kinds import GraphOrLists
from vecstore.indexing import Indexing
from vecstore.keywords import verb
from vecstore.searching import Searching
from vecstore.storage import pages
from vecstore.storage.backup import back_up
from vecstore.storage.check import check_store
from vecstore.storage.disk import disk_errors
from vecstore.storage.store import Store
from vecstore.storage.transaction import Transaction
from vecstore.storage.view import View
from vecstore.types import (
    Clustering,
    CollectionInfo,
    DuplicateGroup,
    Estimate,
    Filter,
    Finding,
    Hit,
    Id,
    IndexConfig,
    Page,
    Quantization,
    Record,
    Stats,
    WriteResult,
)
from vecstore.upkeep import Upkeep
from vecstore.verbs.checks import search_options
from vecstore.verbs.collection import CollectionVerbs, Operation
from vecstore.verbs.query import Query

# How often a search begins anew, of the rows as they are then, where a compaction has come into its way: it would have
# to scan all rows as they were.
SEARCH_TRIES: Final = 3


class Collection(CollectionVerbs):
    """A collection in a folder of this machine; made by a Database, safe to use from many threads."""

    def __init__(self, info: CollectionInfo, store: Store, *, read_only: bool, budget: Budget | None = None) -> None:
        self._store = store
        self._read_only = read_only
        self._searching = Searching(info.dim, info.metric)
        self._upkeep = Upkeep(info, store, self._searching.rows_of, read_only=read_only, budget=budget or Budget())
        self._view = self._upkeep.view

    @property
    def info(self) -> CollectionInfo:
        return self._upkeep.means.info

    def _info_now(self) -> CollectionInfo:
        with self._view():
            return self._upkeep.current().info

    @property
    def _indexing(self) -> Indexing | None:
        return self._upkeep.means.indexing

    @property
    def _index(self) -> GraphOrLists | None:
        return self._upkeep.means.index

    @property
    def _codes(self) -> CodeScan | None:
        return self._upkeep.means.codes

    # -- writing ---------------------------------------------------------------------------------------------

    def _write(self, operation: Operation, rows: Rows, merge: bool = True) -> WriteResult:
        return self._transaction(lambda write: writing.put(write, operation, rows, merge), writing.size_of(rows))

    def _delete(self, ids: list[Id] | None, filter: Filter | None) -> WriteResult:
        return self._transaction(lambda write: writing.delete(write, ids, filter))

    def _transaction(self, work: Callable[[Transaction], WriteResult], size: int = 0) -> WriteResult:
        self._refuse_unwritable()
        if (indexing := self._indexing) is not None:
            indexing.raise_error()
        result = self._store.write(work, size)
        if (indexing := self._indexing) is not None:
            indexing.written()
        return result

    # -- reading ---------------------------------------------------------------------------------------------

    def _get(self, ids: list[Id], with_payload: bool, with_vectors: bool) -> list[Record | None]:
        with self._view() as view:
            return results.found_records(view, ids, with_payload, with_vectors)

    def _search(self, query: Query) -> list[list[Hit]]:
        tries = SEARCH_TRIES
        while True:
            tries -= 1
            with contextlib.suppress(PastError), self._view() as view:
                means = self._upkeep.current()
                if query.has_options:  # which suited the index that there was when they were checked
                    search_options(means.info, query.oversampling, query.ef, query.nprobe, query.exact)
                return self._searching.search(view, means, query, scan_if_past=not tries)

    def _scroll(
        self, filter: Filter | None, limit: int, cursor: str | None, with_payload: bool, with_vectors: bool
    ) -> Page:
        with self._view() as view:
            return results.page(view, filter, limit, cursor, with_payload, with_vectors)

    def _count(self, filter: Filter | None) -> int:
        with self._view() as view:
            return view.state.count if filter is None else len(results.matching(view, filter))

    # -- about all rows --------------------------------------------------------------------------------------

    def _cluster(
        self, n: int, filter: Filter | None, iterations: int, seed: int, progress: analysis.Progress
    ) -> Clustering:
        return analysis.cluster(self._source(filter), n, iterations, seed, progress)

    def _near_duplicates(
        self, threshold: float, filter: Filter | None, exact: bool, progress: analysis.Progress
    ) -> list[DuplicateGroup]:
        return analysis.near_duplicates(self._source(filter), threshold, exact, progress)

    def _outliers(
        self, n: int, k: int, filter: Filter | None, with_payload: bool, with_vectors: bool, progress: analysis.Progress
    ) -> list[Hit]:
        best = analysis.outliers(self._source(filter), n, k, progress)
        records = self._get([one for one, _ in best], with_payload, with_vectors)
        return [
            Hit(record.id, score, record.payload, record.vector)
            for record, (_, score) in zip(records, best, strict=True)
            if record is not None
        ]

    def _source(self, filter: Filter | None) -> analysis.Source:
        def matching(view: View) -> results.Slots:
            return view.table.live_slots() if filter is None else results.matching(view, filter)

        def nearest(
            view: View,
            allowed: npt.NDArray[np.uint8],
            count: int,
            queries: npt.NDArray[np.float32],
            k: int,
            threshold: float | None,
            exact: bool,
        ) -> flat.Found:
            query = Query(queries, k, score_threshold=threshold, exact=exact)
            return self._searching.found(view, self._upkeep.current(), allowed, count, query)

        return analysis.Source(self.metric, self._view, self._searching.rows_of, matching, nearest)

    # -- the index and the file ------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Counts and sizes."""
        with self._view() as view:
            return stats_of(view, self._upkeep.current(), read_only=self._read_only)

    def _estimate(
        self, count: int | None, index: IndexConfig | None, quantization: Quantization | Literal["same"] | None
    ) -> Estimate:
        with self._view() as view:
            return estimate_of(view, self._upkeep.current(), count, index, quantization)

    def _check(self, progress: Callable[[int, int], None]) -> list[Finding]:
        with self._view() as view:  # which keeps writers from the pages that it looks at
            try:
                with disk_errors(view.env.path):
                    pages.verify(view.env.path)
            except CorruptionError as error:
                if view.env.still_there():
                    return [Finding("pages", f"{error}; a repair saves what is whole")]
            except StorageError:
                if not view.env.path.exists():
                    raise view.env.dropped() from None
                raise
        findings = check_store(self._view, progress)
        if not findings and (indexing := self._indexing) is not None:
            findings = indexing.check()
        return findings

    def _wait_indexed(self, timeout: float | None) -> None:
        with self._view():  # it is neither closed nor dropped
            indexing = self._upkeep.current().indexing
        if indexing is not None:
            indexing.wait(timeout)

    def _rebuild(self, seed: int | None) -> None:
        self._upkeep.rebuild(seed)

    def _set_index(
        self,
        index: IndexConfig,
        quantization: Quantization | Literal["same"] | None,
        progress: Callable[[int, int], None],
    ) -> None:
        self._refuse_unwritable()
        self._upkeep.set_index(index, quantization, progress)

    def _compact(self) -> None:
        self._refuse_unwritable()
        self._upkeep.compact()

    @verb
    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the collection, as of one commit, to a new database at `path` that holds just it; otherwise as
        `Database.backup`."""
        self._upkeep.refuse_closed()
        self._store.env.refuse_forked()
        back_up(arguments.folder(path, "path"), [(self.name, self._store)])

    # -- life ------------------------------------------------------------------------------------------------

    def _refuse_unwritable(self) -> None:
        self._upkeep.refuse_closed()
        if self._read_only:
            raise ReadOnlyError(f'collection "{self.name}" belongs to a database opened with read_only=True')

    @property
    def closed(self) -> bool:
        """Whether it was closed, by itself or with its database."""
        return self._upkeep.closed

    def _current(self) -> bool:
        """Whether its file is still the collection's: a writer may have dropped it, and created another."""
        return self._store.is_current()

    def _dropped(self) -> None:
        self._upkeep.dropped()

    def close(self) -> None:
        """Let go of the collection's file once running calls have returned; closing twice is allowed."""
        self._upkeep.close()
