"""A collection's graph and its rows: how the one follows the other, in searches and in the background."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import ClosedError, CollectionNotFoundError, DeadlineExceededError, StateError
from vecstore.index.background import Indexer
from vecstore.index.flat import Rows
from vecstore.index.hnsw import Change, HnswIndex
from vecstore.storage.store import Store, View
from vecstore.types import HNSW, CollectionInfo

Slots = npt.NDArray[np.int64]

# Rows that may wait to be linked: a search scans their codes, in some 400 us at 384 dimensions. Behind it writers wait.
MAX_TAIL = 32_768
NO_BOUND: Final = 2**31


class Indexing:
    """The graph of one collection, and the thread that keeps it up; `rows_of(view)` are the rows in place."""

    def __init__(self, info: CollectionInfo, store: Store, rows_of: Callable[[View], Rows]) -> None:
        assert isinstance(info.index, HNSW)
        self.name = info.name
        self.index = HnswIndex(info.index, info.quantization, info.dim, info.metric)
        self.indexer = Indexer(info.name, self._step)
        self._store = store
        self._rows_of = rows_of
        self._bound = NO_BOUND  # of a collection that was just opened, whose rows all wait to be linked

    @contextlib.contextmanager
    def _view(self) -> Iterator[View]:
        with self._store.view() as view:  # which tells if the collection was dropped
            if self.indexer.stopping:
                raise ClosedError(f'collection "{self.name}" is closed')
            yield view

    # -- following -------------------------------------------------------------------------------------------

    def follow(self, view: View) -> None:
        """Bring the index up to a view."""
        self.index.follow(self._rows_of(view), view.state.lsn, *_changes(view))

    def _step(self) -> bool:
        """Some of the work of the indexer; whether there is more."""
        index = self.index
        try:
            with self._store.view() as view:
                if view.state.lsn > index.lsn and not index.scans(view.state.count):
                    self.follow(view)
                if index.needs_refit(view.state.count):
                    index.refit(self._rows_of(view), view.state.lsn, view.table.live_slots())
        except (ClosedError, CollectionNotFoundError):
            self.indexer.end()
            return False
        more = index.link() > 0
        if not more or index.crowded:
            index.settle()
        return more

    # -- writers ---------------------------------------------------------------------------------------------

    def raise_error(self) -> None:
        """StateError if the thread has failed since it was last asked: before a write, which then writes nothing."""
        error = self.indexer.take_error()
        if error is not None:
            raise StateError(
                f'collection "{self.name}": indexing in the background failed ({type(error).__name__}: {error}). '
                "This call wrote nothing, and nothing is lost: searches scan what is not linked. Try again"
            ) from error

    def written(self) -> None:
        """Wake the indexer, and wait while more rows wait to be linked than searches should have to scan."""
        self.indexer.wake()
        index = self.index
        if index.graph is None:
            return
        self._bound = max(MAX_TAIL, min(self._bound, index.to_link))
        if index.to_link > self._bound:
            self.indexer.wait_until(lambda: index.to_link <= self._bound)

    # -- verbs -----------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> None:
        """Return when all rows are linked, or else raise DeadlineExceededError after `timeout` seconds."""
        index = self.index
        with self._view() as view:
            lsn, small = view.state.lsn, index.scans(view.state.count)
        if small or self._reaches(lsn):
            return
        self.indexer.wake()
        if self.indexer.wait_until(lambda: self._reaches(lsn), timeout):
            return
        with self._view():
            pass  # it was neither closed nor dropped
        error = self.indexer.error
        if error is not None:
            raise StateError(f'collection "{self.name}": indexing in the background failed: {error}')
        raise DeadlineExceededError(f'collection "{self.name}": not all rows are linked after {timeout:g} s')

    def _reaches(self, lsn: int) -> bool:
        return self.index.lsn >= lsn and not self.index.to_link

    def rebuild(self, seed: int | None) -> None:
        """Build the graph anew, and put it in the place of the old one."""
        index = self.index
        with self._view() as view:
            lsn, (live, *_) = view.state.lsn, _changes(view)
            graph = index.begun(self._rows_of(view), live(), seed)
        # It takes long, and needs no rows: outside of a view, for which a write that has to grow the map would wait.
        index.link_all(graph, going_on=lambda: not self.indexer.stopping)
        replaced = False
        while not replaced:
            with self._view() as view:
                replaced = index.replace(graph, lsn, self._rows_of(view), view.state.lsn, *_changes(view))
        self.indexer.wake()

    # -- life ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """There is nothing left to index: the collection was dropped."""
        self.indexer.end()

    def close(self) -> None:
        """End the thread."""
        self.indexer.stop()


def _changes(view: View) -> tuple[Callable[[], Slots], Callable[[int], Change | None], Callable[[Slots], Slots]]:
    """How an index learns of the rows of a view: the slots of all, what has changed since an lsn, and the int ids of
    some. Rows are held against their checksums before they are coded."""

    def live() -> Slots:
        view.verify()
        return view.table.live_slots()

    def since(lsn: int) -> Change | None:
        change = view.changed_since(lsn)
        if change is None:
            return None
        added, removed = change
        added = added[view.table.alive_all(added)]
        view.verify(np.unique(added >> view.layout.shift))
        return Change(added, removed)

    def ids_of(slots: Slots) -> Slots:
        ids = np.full(len(slots), -1, np.int64)
        for first in range(0, len(slots), 1000):
            some, _ = view.rows_of(slots[first : first + 1000].tolist())
            ids[first : first + len(some)] = [one if type(one) is int else -1 for one in some]
            if type(some[0]) is not int:
                break  # most likely no ids are: they are looked up
        return ids

    return live, since, ids_of
