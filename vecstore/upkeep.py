"""How the index or the file of a collection is made anew, or another takes its place: one at a time, while searches and
writes go on."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vecstore.budget import Budget, Share
from vecstore.errors import ClosedError
from vecstore.index.codes import CodeScan
from vecstore.index.flat import Rows
from vecstore.means import Means
from vecstore.storage.config import CHANGEABLE, config_of, info_of
from vecstore.storage.failpoints import reach
from vecstore.storage.store import Store
from vecstore.storage.view import View, Viewing
from vecstore.types import CollectionInfo, IndexConfig, Quantization

Slots = npt.NDArray[np.int64]


class Upkeep:
    """Holds the means of one open collection, until it is closed; `rows_of(view)` are its rows in place."""

    means: Means
    """Those of now: a search takes them once."""

    def __init__(
        self,
        info: CollectionInfo,
        store: Store,
        rows_of: Callable[[View], Rows],
        *,
        read_only: bool,
        budget: Budget,
    ) -> None:
        self.closed = False
        self._store, self._rows_of = store, rows_of
        self._read_only, self._budget = read_only, budget
        self._closing = threading.Lock()
        # Held by what makes an index or a file anew, one at a time; taken before the turn to write.
        self._maintaining = threading.Lock()
        self._switching = threading.Lock()
        self.means = Means.of(info, store, rows_of, read_only=read_only, share=Share(budget))

    def view(self) -> Viewing:
        """A view of the rows, in which the collection is neither closed nor dropped."""
        self.refuse_closed()
        return self._store.view()

    def refuse_closed(self) -> None:
        """ClosedError if it is closed."""
        if self.closed:
            raise ClosedError(f'collection "{self.means.info.name}" is closed')

    def current(self) -> Means:
        """What answers a search; within a view, where a reader learns that the writer has changed it."""
        means = self.means
        if not self._read_only or means.config is self._store.config:
            return means
        with self._switching:
            means, config = self.means, self._store.config
            info = info_of(means.info.name, config)
            if means.only_tunes(info):
                self.means = means.tuned(info, config)
            elif not self.closed:
                means.share.give_back()
                self.means = self._others(info)
                if means.indexing is not None:
                    means.indexing.end()  # not waited for: it may wait until no view is left
            return self.means

    def _others(self, info: CollectionInfo) -> Means:
        """Means without rows, to take the place of those of now."""
        share = Share(self._budget)
        return Means.of(info, self._store, self._rows_of, read_only=self._read_only, share=share, succeeds=True)

    # -- another index ---------------------------------------------------------------------------------------

    def rebuild(self, seed: int | None) -> None:
        """The same index anew from the rows."""
        self._store.env.refuse_forked()
        with self._maintaining:
            with self.view():
                means = self.current()
            if means.indexing is not None:
                means.indexing.rebuild(seed)
            elif means.info.quantization is not None:
                self.means = dataclasses.replace(means, codes=CodeScan(means.info.quantization))

    def set_index(
        self,
        index: IndexConfig,
        quantization: Quantization | Literal["same"] | None,
        progress: Callable[[int, int], None],
    ) -> None:
        """Another index, built beside the old one, whose place it takes in one transaction."""
        self._store.env.refuse_forked()
        with self._maintaining:
            with self.view():
                before = self.means  # of a collection that is neither closed nor dropped
            codes = before.info.quantization if quantization == "same" else quantization
            info = dataclasses.replace(before.info, index=index, quantization=codes)
            if info == before.info:
                return
            if before.only_tunes(info):
                self._take(lambda config: before.tuned(info, config), info)
                return
            made = self._others(info)
            try:
                made.build(self._store, self._rows_of, progress, self.refuse_closed)
                reach("index.built")
                self._take(lambda config: dataclasses.replace(made, config=config), info)
            except BaseException:
                if self.means is before:
                    made.share.give_back()
                    if made.indexing is not None:
                        made.indexing.end()
                else:
                    self._hand_over(before, made)
                raise
            self._hand_over(before, made)

    def _take(self, means: Callable[[dict[str, Any]], Means], info: CollectionInfo) -> None:
        """Keep another index, durably, and go on with it; also where it is kept although the disk failed."""
        changes = {name: value for name, value in config_of(info).items() if name in CHANGEABLE}
        with self._closing:
            self.refuse_closed()
            try:
                self._store.change_config(changes)
            finally:
                if changes.items() <= self._store.config.items():
                    self.means = means(self._store.config)

    def _hand_over(self, before: Means, made: Means) -> None:
        """End the index that was, and keep the one that is."""
        reach("index.changed")
        before.share.give_back()
        if before.indexing is not None:
            before.indexing.retire()
        if made.indexing is not None:
            made.indexing.begin()
        else:
            self._store.log_kept_from = None
            self._store.checkpoint.delete()
            reach("index.deleted")

    # -- another file ----------------------------------------------------------------------------------------

    def compact(self) -> None:
        """A file with nothing but the rows, in the order of the graph."""
        self._store.env.refuse_forked()
        with self._maintaining:
            self._store.compact(self._order, self._renumbering)
            if self.means.indexing is not None:
                self.means.indexing.compacted()

    def _order(self, view: View) -> Slots:
        indexing = self.means.indexing
        if indexing is None:
            return view.table.live_slots()
        if not indexing.index.scans(view.state.count):
            indexing.follow(view)
            indexing.refit(view)
        return indexing.order(view)

    @contextlib.contextmanager
    def _renumbering(self, slots: Slots, lsn: int, view: View) -> Iterator[None]:
        derived = self.means.codes or self.means.index
        if derived is None:
            yield
        else:
            with derived.renumbering(slots, view.state.lsn, lsn):
                yield

    # -- the end ---------------------------------------------------------------------------------------------

    def dropped(self) -> None:
        """There is nothing left to index, although the collection may stay open: its calls say what happened."""
        self.means.share.give_back()
        if self.means.indexing is not None:
            self.means.indexing.end()

    def close(self) -> None:
        """Let go of index and file; once."""
        if self._store.env.forked:
            return  # both are the parent's
        with self._closing:
            if not self.closed:
                self.closed = True
                if self.means.indexing is not None:
                    self.means.indexing.close()
                self.means.share.give_back()
                self._store.release(read_only=self._read_only)
