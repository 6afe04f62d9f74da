"""A collection's graph or lists and its rows: how the one follows the other, in searches and in the background."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.budget import Share
from vecstore.checkpoints import AWAIT_SECONDS, Checkpoints
from vecstore.errors import (
    ClosedError,
    CollectionNotFoundError,
    DeadlineExceededError,
    StateError,
    VecstoreError,
)
from vecstore.index.arrays import aligned
from vecstore.index.background import Indexer
from vecstore.index.check import check_graph, check_lists, check_sample
from vecstore.index.flat import Rows
from vecstore.index.following import Change
from vecstore.index.hnsw import HnswIndex
from vecstore.index.kinds import index_of
from vecstore.index.lists import InvertedFile
from vecstore.storage.checkpoint import INDEX_FILE
from vecstore.storage.pace import paced
from vecstore.storage.scratch import Scratch
from vecstore.storage.store import Store
from vecstore.storage.view import View
from vecstore.types import IVF, CollectionInfo, Finding, Id

Slots = npt.NDArray[np.int64]

# Rows that may wait to be linked: a search scans their codes, in some 400 us at 384 dimensions. Behind it writers wait.
MAX_TAIL = 32_768
# A compaction fits codes anew to so many times the rows that they were fitted on.
REFIT_GROWTH: Final = 4
NO_BOUND: Final = 2**31
# Looked up in one call, in which other threads may find no way in.
IDS_AT_ONCE: Final = 256
# An index that takes the place of another is built beside it: each row is coded, then linked, and perhaps once again.
BUILDING_WORK: Final = 4
# Between two looks for a checkpoint that a process which reads waits for.
LOOK_AGAIN_SECONDS: Final = 0.05
# Rows that a process which reads leaves to the writer to link, whose checkpoints come when a 32nd of all has changed: a
# 32nd, but so many at least and at most. Their codes are scanned in 12 to 100 us at 384 dimensions.
LEFT_SHARE, LEAST_LEFT, MOST_LEFT = 1 / 32, 1024, 8192
# With such a share of rows that have gone it leaves no more: walks pass over them.
MOST_GONE: Final = 1 / 4
# Where more rows than that came since it last looked, or more writes than that, it takes the writer's checkpoint first.
MAX_CODED, FEW_WRITES = 4096, 8

log = logging.getLogger("vecstore")


class Indexing:
    """The index of one collection, and the thread that keeps it up; `rows_of(view)` are the rows in place."""

    def __init__(
        self,
        info: CollectionInfo,
        store: Store,
        rows_of: Callable[[View], Rows],
        *,
        read_only: bool,
        share: Share,
        succeeds: bool = False,
    ) -> None:
        """Begin with the last checkpoint; not where it `succeeds` another index, to be built (`build`) or, by who
        reads, to be loaded once its builder has written it."""
        self.name = info.name
        self._info = info
        self._read_only = read_only
        self._share = share
        allocate = aligned
        if isinstance(info.index, IVF) and not info.index.resident:
            allocate = Scratch(store.checkpoint.path.parent, aligned)
        self.index = index_of(info.index, info.quantization, info.dim, info.metric, allocate)
        self.indexer = Indexer(info.name, self._step)
        self.checkpoints = Checkpoints(self.index, info, store, allocate, read_only=read_only, succeeds=succeeds)
        self._store = store
        self._rows_of = rows_of
        self._bound = NO_BOUND  # of a collection that was just opened, whose rows all wait to be linked
        self._due = False
        self._waiting: set[object] = set()  # calls that wait until all rows are linked
        self._own_from: float | None = None  # when a process that reads links by itself what the writer has not
        if not succeeds and store.config["format"] > 1 and self._has_room():
            self.checkpoints.load()

    def _has_room(self) -> bool:
        with self._store.view() as view:
            fits = self._share.fits(self._info, view.state.count)
        if not fits:
            log.warning("%s is not indexed: %s", self.name, self._share.refusal)
        return fits

    @contextlib.contextmanager
    def _view(self) -> Iterator[View]:
        with self._store.view() as view:  # which tells if the collection was dropped
            if self.indexer.stopping:
                raise ClosedError(f'collection "{self.name}" is closed')
            yield view

    # -- following -------------------------------------------------------------------------------------------

    def follow(self, view: View) -> bool:
        """Bring the index up to a view; False where it stays behind: there may soon be a checkpoint, or there is no
        room for it."""
        if not self._share.fits(self._info, view.state.count):
            self.index.let_go()
            return False
        if not self.checkpoints.follows(view):
            return False
        if self._read_only and self._is_far(view):
            self.checkpoints.renew(view)
        self.index.follow(self._rows_of(view), view.state.lsn, *_changes(view))
        return True

    def _is_far(self, view: View) -> bool:
        """Whether to code what has changed takes longer than to load the writer's checkpoint, if there is one."""
        index = self.index
        if index.structure is None:
            return not index.scans(view.state.count)
        if view.state.lsn - index.lsn <= FEW_WRITES:
            return False
        change = view.changed_since(index.lsn)
        return change is None or len(change[0]) > MAX_CODED

    def refit(self, view: View) -> None:
        """Fit the codes to the rows of a view, if those are many more than they were fitted on."""
        index, count = self.index, view.state.count
        if index.structure is None or index.kind == "float32":
            return
        if count >= REFIT_GROWTH * index.structure.fitted_on:
            index.refit(self._rows_of(view), view.state.lsn, view.table.live_slots())

    def order(self, view: View) -> Slots:
        """The live slots of a view in the order of the nodes or lists, so that neighbours lie near each other."""
        live, structure = view.table.live_slots(), self.index.structure
        if structure is None or self.index.lsn < view.state.lsn:
            return live
        slots, known = structure.slots_in_order(), np.zeros(view.state.slots, bool)
        slots = slots[slots < len(known)]
        slots = slots[view.table.alive_all(slots)]
        known[slots] = True
        return np.concatenate([slots, live[~known[live]]])

    def _step(self) -> bool:
        """Some of the work of the indexer; whether there is more."""
        try:
            if self._due:
                self.checkpoints.try_write()
            if self._read_only and (left := self._left_to_writer()) is not None:
                return left
            following = self._prepare()
        except (ClosedError, CollectionNotFoundError):
            self.indexer.end()
            return False
        if not following and self._share.refusal:
            return False
        if not following:
            time.sleep(LOOK_AGAIN_SECONDS)
            return True
        self.indexer.error = None  # before the step: whoever waits for the last row to be linked need not see it
        more = self.index.step()
        # Not in the same step: whoever waits for the last row to be linked need not wait for the checkpoint too.
        self._due = self.checkpoints.is_due(idle=not more)
        return more or self._due

    def _left_to_writer(self) -> bool | None:
        """In a process that reads, whose searches follow the writes: None where it has something to do by itself, else
        whether to look again. What waits to be linked comes with the writer's next checkpoint, for less."""
        index, structure = self.index, self.index.structure
        if structure is None or self.checkpoints.is_awaited:
            return None
        if index.to_link or structure.gone:
            self.checkpoints.spare_links(self._rows_of, _changes)
        count = structure.arrays.count
        left = min(MOST_LEFT, max(LEAST_LEFT, count * LEFT_SHARE))
        if self._waiting or index.to_link > MAX_TAIL:
            return None
        if index.to_link <= left and structure.gone <= count * MOST_GONE:
            self._own_from = None
            return False
        self._own_from = self._own_from or time.monotonic() + AWAIT_SECONDS
        if time.monotonic() >= self._own_from:
            return None
        time.sleep(LOOK_AGAIN_SECONDS)
        return True

    def _prepare(self) -> bool:
        """Follow the writes, and take what the next step needs of the rows; False where the index stays behind."""
        index = self.index
        with self.checkpoints.keeping, self._store.view() as view:
            # An index that there is goes on, however few rows are left: its work waits for it to know of them.
            wanted = index.structure is not None or not index.scans(view.state.count)
            if view.state.lsn > index.lsn and wanted and not self.follow(view):
                return False
            index.prepare(self._rows_of(view), view.state.lsn, view.state.count, _changes(view)[0])
            return True

    # -- one index in the place of another -------------------------------------------------------------------

    def build(self, progress: Callable[[int, int], None], refuse_closed: Callable[[], None]) -> None:
        """Index all rows in this thread, before the index is taken into use; it follows what is written meanwhile.
        `progress(done, total)` counts rows."""
        index, enough = self.index, 0
        while True:
            refuse_closed()
            if not self._prepare():
                raise StateError(f'collection "{self.name}" keeps its index: {self._share.refusal}')
            count = 0 if index.structure is None else index.structure.arrays.count
            enough = enough or index.work + BUILDING_WORK * (count + MAX_TAIL)
            more = index.step()
            progress(count - min(count, index.to_link), count)
            # What is left when others write as quickly as this links, the thread will do.
            if not more or index.work > enough:
                return

    def retune(self, info: CollectionInfo) -> None:
        """Search by other numbers from now on."""
        self._info = self.checkpoints.info = info
        self.index.retune(info.index)

    def begin(self) -> None:
        """Be the index of the collection from now on, which its config says already."""
        self._store.log_kept_from = None  # it was for the index before
        if self.index.structure is not None:
            self.checkpoints.try_write()
        self.indexer.wake()

    def retire(self) -> None:
        """Be that no longer: nothing is linked or kept any more. Searches that have begun may go on."""
        self.indexer.stop()
        self.checkpoints.retire()

    # -- writers ---------------------------------------------------------------------------------------------

    def raise_error(self) -> None:
        """StateError if the thread has failed since it was last asked: before a write, which then writes nothing."""
        error, what = self.indexer.take_error(), "indexing"
        if error is None:
            error, what = self.checkpoints.take_error(), f"writing {INDEX_FILE}"
        if error is not None:
            raise StateError(
                f'collection "{self.name}": {what} in the background failed ({type(error).__name__}: {error}). '
                "This call wrote nothing, and nothing is lost: searches scan what is not linked. Try again"
            ) from error

    @property
    def error(self) -> str | None:
        """What the thread last failed with."""
        failure = self.checkpoints.failure
        return (
            self._share.refusal
            or self.indexer.error
            or (None if failure is None else f"{type(failure).__name__}: {failure}")
        )

    def written(self) -> None:
        """Wake the indexer, and wait while more rows wait to be linked than searches should have to scan."""
        self.indexer.wake()
        index = self.index
        if index.structure is None:
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
        self._waiting.add(call := object())
        try:
            self.indexer.wake()
            linked = self.indexer.wait_until(lambda: self._reaches(lsn) or bool(self._share.refusal), timeout)
        finally:
            self._waiting.discard(call)
        if linked:
            if self._share.refusal:
                raise StateError(f'collection "{self.name}": rows are not indexed ({self._share.refusal})')
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
        """Build graph or lists anew, and put them in the place of the old one."""
        index: Any = self.index
        with self._view() as view:
            if not self._share.fits(self._info, view.state.count):
                raise StateError(f'collection "{self.name}": {self._share.refusal}')
            lsn, (live, *_) = view.state.lsn, _changes(view)
            structure = index.begun(self._rows_of(view), live(), seed)
        # It takes long, and needs no rows: outside of a view, for which a write that has to grow the map would wait.
        if isinstance(index, HnswIndex):  # lists are filled in their place: that takes the rows
            index.link_all(structure, going_on=lambda: not self.indexer.stopping)
        replaced = False
        while not replaced:
            with self._view() as view:
                replaced = index.replace(structure, lsn, self._rows_of(view), view.state.lsn, *_changes(view))
        self.indexer.wake()
        self.wait(None)

    def check(self) -> list[Finding]:
        """What does not fit together in graph or lists, if there are any."""
        if self.index.structure is None:
            return []
        with self._view() as view:
            if view.state.lsn > self.index.lsn:
                self.follow(view)
            structure = self.index.structure
            if structure is None or self.index.lsn != view.state.lsn:
                problems = []
            else:
                live = view.table.live_slots()
                view.verify()
                problems = check_sample(self.index, self._rows_of(view), live, view.table.live, view.state.lsn)
            findings = [Finding("index", text, _ids(view, slots)) for text, slots in problems]
        findings += self.checkpoints.check(self._view)
        if structure is not None:
            problems = list(check_lists(structure) if isinstance(structure, InvertedFile) else check_graph(structure))
            with self._view() as view:
                findings += [Finding("index", text, _ids(view, slots)) for text, slots in problems]
        return findings

    # -- life ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """There is nothing left to index: the collection was dropped."""
        self.indexer.end()

    def close(self) -> None:
        """End the thread, write a checkpoint of where it has come to, and let go of the index: whoever has kept the
        collection need not keep that."""
        self.indexer.stop()
        try:
            if self._read_only or self.index.structure is None:
                return
            with self._store.view() as view:
                self.follow(view)
            if self.checkpoints.is_behind:
                self.checkpoints.write()
        except CollectionNotFoundError:
            pass
        except VecstoreError as why:
            log.warning("%s of %s was not written (%s): the next open makes up for it", INDEX_FILE, self.name, why)
        finally:
            self.index.let_go()

    def compacted(self) -> None:
        """Keep the index under the new numbers of slots: the last checkpoint is of no use for them."""
        if self.index.structure is not None:
            self.checkpoints.try_write()
        self.indexer.wake()


def _ids(view: View, slots: Slots) -> tuple[Id, ...]:
    slots = slots[slots < view.state.slots]
    return tuple(view.rows_of(slots[view.table.alive_all(slots)].tolist())[0])


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
        for first in paced(range(0, len(slots), IDS_AT_ONCE)):
            some, _ = view.rows_of(slots[first : first + IDS_AT_ONCE].tolist())
            ids[first : first + len(some)] = [one if type(one) is int else -1 for one in some]
            if type(some[0]) is not int:
                break  # most likely no ids are: they are looked up
        return ids

    return live, since, ids_of
