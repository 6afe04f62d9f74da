"""A collection's graph or lists and its rows: how the one follows the other, in searches and in the background, and is
kept in checkpoints."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import (
    ClosedError,
    CollectionNotFoundError,
    CorruptionError,
    DeadlineExceededError,
    FormatVersionError,
    StateError,
    VecstoreError,
)
from vecstore.index import hnsw
from vecstore.index.arrays import aligned
from vecstore.index.background import Indexer
from vecstore.index.check import check_graph, check_lists, check_sample
from vecstore.index.flat import Rows
from vecstore.index.following import Change
from vecstore.index.kinds import index_of
from vecstore.index.lists import InvertedFile
from vecstore.storage.checkpoint import INDEX_FILE
from vecstore.storage.environment import Environment
from vecstore.storage.store import Store
from vecstore.storage.view import View
from vecstore.types import CollectionInfo, Finding, Id

Slots = npt.NDArray[np.int64]

# Rows that may wait to be linked: a search scans their codes, in some 400 us at 384 dimensions. Behind it writers wait.
MAX_TAIL = 32_768
# A compaction fits codes anew to so many times the rows that they were fitted on.
REFIT_GROWTH: Final = 4
NO_BOUND: Final = 2**31

# A checkpoint is written when as many nodes were linked, coded or removed since the last one: at least so many, and a
# share of all. While rows are being linked it takes a twentieth of the time at most.
BUSY_ROWS, BUSY_SHARE = 4096, 1 / 8
IDLE_ROWS, IDLE_SHARE = 1024, 1 / 32
REST: Final = 20
# Or when so many writes came since: each is a record of the log that is kept for the next open.
MAX_WRITES = 16_384
# That a process which reads waits for the writer's checkpoint of a compaction. Meanwhile it scans rows; to link them by
# itself takes longer than that, from some ten thousand rows on.
AWAIT_SECONDS, LOOK_AGAIN_SECONDS = 10.0, 0.05

log = logging.getLogger("vecstore")


class Indexing:
    """The graph of one collection, and the thread that keeps it up; `rows_of(view)` are the rows in place."""

    def __init__(self, info: CollectionInfo, store: Store, rows_of: Callable[[View], Rows], *, read_only: bool) -> None:
        self.name = info.name
        self._info = info
        self._read_only = read_only
        self.index = index_of(info.index, info.quantization, info.dim, info.metric)
        self.indexer = Indexer(info.name, self._step)
        self._store = store
        self._rows_of = rows_of
        # Around a view in which links wait, and links in which a view is waited for: never both at once.
        self._keeping = threading.Lock()
        self._renewing = threading.Lock()
        self._awaited: tuple[Environment, float, object] | None = None  # a file, until when, the checkpoint seen last
        self._bound = NO_BOUND  # of a collection that was just opened, whose rows all wait to be linked
        self.checkpoint_lsn = 0
        self._kept_work, self._kept_lsn = 0, 0  # how far the index was when a checkpoint was last written, or tried
        self._due, self._not_before = False, 0.0
        self._env = store.env
        self._failure: VecstoreError | None = None  # of the last checkpoint
        self._untold: VecstoreError | None = None
        self._load()

    @contextlib.contextmanager
    def _view(self) -> Iterator[View]:
        with self._store.view() as view:  # which tells if the collection was dropped
            if self.indexer.stopping:
                raise ClosedError(f'collection "{self.name}" is closed')
            yield view

    # -- following -------------------------------------------------------------------------------------------

    def follow(self, view: View) -> bool:
        """Bring the index up to a view; False where it stays behind, since there may soon be a checkpoint."""
        if self._read_only and view.env is not self._env and not self._renew(view):
            return False
        self.index.follow(self._rows_of(view), view.state.lsn, *_changes(view))
        return True

    def refit(self, view: View) -> None:
        """Fit the codes to the rows of a view, if those are many more than they were fitted on."""
        graph, count = self.index.graph, view.state.count
        if graph is not None and self.index.kind != "float32" and count >= REFIT_GROWTH * graph.fitted_on:
            self.index.refit(self._rows_of(view), view.state.lsn, view.table.live_slots())

    def order(self, view: View) -> Slots:
        """The live slots of a view in the order of the graph's nodes, so that neighbours lie near each other."""
        live, graph = view.table.live_slots(), self.index.graph
        if graph is None or self.index.lsn < view.state.lsn:
            return live
        slots = graph.slots_in_order()
        known = slots[np.isin(slots, live)]
        return np.concatenate([known, np.setdiff1d(live, known)])

    def _step(self) -> bool:
        """Some of the work of the indexer; whether there is more."""
        index, following = self.index, True
        try:
            if self._due:
                self._try_checkpoint()
            with self._keeping, self._store.view() as view:
                # An index that there is goes on, however few rows are left: its work waits for it to know of them.
                if view.state.lsn > index.lsn and (index.graph is not None or not index.scans(view.state.count)):
                    following = self.follow(view)
                if following:
                    index.prepare(self._rows_of(view), view.state.lsn, view.state.count, _changes(view)[0])
        except (ClosedError, CollectionNotFoundError):
            self.indexer.end()
            return False
        if not following:
            time.sleep(LOOK_AGAIN_SECONDS)
            return True
        more = index.link() > 0
        self.indexer.error = None  # whoever waited for the last row to be linked need not see it
        if not more or index.crowded:
            index.settle()
        # In a step of its own: whoever waits for the last row to be linked need not wait for the checkpoint too.
        self._due = self._is_due(idle=not more)
        return more or self._due

    # -- writers ---------------------------------------------------------------------------------------------

    def raise_error(self) -> None:
        """StateError if the thread has failed since it was last asked: before a write, which then writes nothing."""
        error, what = self.indexer.take_error(), "indexing"
        if error is None:
            (error, self._untold), what = (self._untold, None), f"writing {INDEX_FILE}"
        if error is not None:
            raise StateError(
                f'collection "{self.name}": {what} in the background failed ({type(error).__name__}: {error}). '
                "This call wrote nothing, and nothing is lost: searches scan what is not linked. Try again"
            ) from error

    @property
    def error(self) -> str | None:
        """What the thread last failed with."""
        failure = self._failure
        return self.indexer.error or (None if failure is None else f"{type(failure).__name__}: {failure}")

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
        index: Any = self.index
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
        self.wait(None)

    def check(self) -> list[Finding]:
        """What does not fit together in the graph, if it is there."""
        if self.index.graph is None:
            return []
        with self._view() as view:
            if view.state.lsn > self.index.lsn:
                self.follow(view)
            graph = self.index.graph
            if graph is None or self.index.lsn != view.state.lsn:
                problems = []
            else:
                live = view.table.live_slots()
                view.verify()
                problems = check_sample(self.index, self._rows_of(view), live, view.table.live, view.state.lsn)
            findings = [Finding("index", text, _ids(view, slots)) for text, slots in problems]
        findings += self._check_file()
        if graph is not None:
            problems = list(check_lists(graph) if isinstance(graph, InvertedFile) else check_graph(graph))
            with self._view() as view:
                findings += [Finding("index", text, _ids(view, slots)) for text, slots in problems]
        return findings

    # -- life ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """There is nothing left to index: the collection was dropped."""
        self.indexer.end()

    def close(self) -> None:
        """End the thread, and write a checkpoint of where it has come to."""
        self.indexer.stop()
        index = self.index
        if self._read_only or index.graph is None:
            return
        try:
            with self._store.view() as view:
                self.follow(view)
            if index.lsn != self.checkpoint_lsn or index.work != self._kept_work:
                self._checkpoint()
        except CollectionNotFoundError:
            pass
        except VecstoreError as why:
            log.warning("%s of %s was not written (%s): the next open makes up for it", INDEX_FILE, self.name, why)

    # -- checkpoints -----------------------------------------------------------------------------------------

    def _is_due(self, *, idle: bool) -> bool:
        """Whether enough has changed for a checkpoint: less, if the thread has nothing else to do."""
        index, graph = self.index, self.index.graph
        if self._read_only or graph is None:
            return False
        least, share = (IDLE_ROWS, IDLE_SHARE) if idle else (BUSY_ROWS, BUSY_SHARE)
        work = index.work - self._kept_work
        if work <= max(least, graph.arrays.count * share) and index.lsn - self._kept_lsn <= MAX_WRITES:
            return False
        return idle or time.monotonic() >= self._not_before

    def _try_checkpoint(self) -> None:
        """Write a checkpoint, or tell why not to the next writer: linking goes on."""
        try:
            self._checkpoint()
            self._failure = None
        except VecstoreError as error:
            if not self._store.env.still_there():
                return
            log.exception("%s of %s was not written: what is there stays", INDEX_FILE, self.name)
            self._failure = self._untold = error

    def _checkpoint(self) -> None:
        """Write what has changed of the index since the last one; writers and searches go on meanwhile."""
        started = time.monotonic()
        with self._keeping, self.index.held() as kept:
            if kept is None:
                return
            self._kept_work, self._kept_lsn = kept.work, kept.lsn  # if it fails, it is tried again after as much
            with self._store.view() as view:
                write_id = view.write_id(kept.lsn)
            if not write_id or not self._store.env.still_there():
                return
            self._store.env.sync_commits(kept.lsn)  # or a power loss might take the write that it names
            header = {"lsn": kept.lsn, "write_id": write_id, "facts": kept.facts, **self._identity()}
            written = self._store.checkpoint.write(header, kept.parts)
        self.checkpoint_lsn = self._store.log_kept_from = kept.lsn
        seconds = time.monotonic() - started
        self._not_before = time.monotonic() + REST * seconds
        log.debug("%s of %s: write %d, %d of %d pieces, %.1f MB in %.0f ms", INDEX_FILE, self.name, kept.lsn,
                  written.pieces, written.total, written.bytes / 1e6, seconds * 1e3)  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        """What the collection and its index are: a checkpoint of anything else is of no use."""
        config = self._store.config
        return {name: config.get(name) for name in ("uid", "dim", "metric", "quantization", "index")}

    def _load(self) -> None:
        """Begin with the last checkpoint, if there is one that fits the rows; or else from nothing."""
        if self._store.config["format"] == 1:
            return
        loaded, reason = None, ""
        try:
            loaded = self._store.checkpoint.load(aligned)
        except FileNotFoundError:
            reason = "is missing"
        except CorruptionError as error:
            reason = f"is damaged ({error})"
        except VecstoreError as error:
            reason = f"cannot be read ({error})"
        # Only now, so that the view is not older than the checkpoint of a writer that is at work.
        with self._store.view() as view:
            if loaded is not None:
                reason = self._restore(view, *loaded)
            if reason and view.state.count >= hnsw.LINK_FROM:
                log.warning("%s of %s %s: the index is made anew from the rows", INDEX_FILE, self.name, reason)

    def _renew(self, view: View) -> bool:
        """In a process that reads, whose file is another by now: after a compaction, go on with the writer's checkpoint
        of it. Whether the index can follow from what it has; False while that checkpoint is awaited."""
        with self._renewing:
            if view.env is self._env:
                return True
            if self._awaited is None or self._awaited[0] is not view.env:
                self._awaited = view.env, time.monotonic() + AWAIT_SECONDS, None
            _, until, seen = self._awaited
            if self.index.graph is None or view.changed_since(self.index.lsn) is not None:
                until = 0.0  # nothing was numbered anew, or there is nothing to lose
            elif (stamp := self._store.checkpoint.stamp()) != seen:
                self._awaited = view.env, until, stamp
                if self._renewed(view):
                    until = 0.0
            if time.monotonic() < until:
                return False
            self._env, self._awaited = view.env, None
            return True

    def _renewed(self, view: View) -> bool:
        with contextlib.suppress(VecstoreError, OSError, ValueError, KeyError, TypeError):
            header, columns = self._store.checkpoint.load(aligned)
            if not self._unfit(view, header):
                self.index.renew(header["lsn"], header["facts"], columns, view.state.slots)
                self.checkpoint_lsn = header["lsn"]
                return True
        return False

    def _check_file(self) -> Iterator[Finding]:
        """What is wrong with index.mdb: damage, or that it contradicts the log although it is in use."""
        try:
            header = self._store.checkpoint.verified()
        except FileNotFoundError:
            return
        except VecstoreError as error:
            yield Finding(INDEX_FILE, f"{error}; it is made anew from the rows")
            return
        with self._view() as view:
            reason = self._unfit(view, header)
            # The log need not tell of a checkpoint that a later one is to replace, as after a compaction.
            if reason and self.checkpoint_lsn and view.write_id(header["lsn"]):
                yield Finding(INDEX_FILE, f"{INDEX_FILE} {reason}; it is made anew from the rows")

    def compacted(self) -> None:
        """Keep the index under the new numbers of slots: the last checkpoint is of no use for them."""
        if self.index.graph is not None:
            self._try_checkpoint()
        self.indexer.wake()

    def _restore(self, view: View, header: dict[str, Any], columns: dict[str, Any]) -> str:
        """Make a checkpoint the index; the reason if it cannot be."""
        try:
            reason = self._unfit(view, header)
            if reason:
                return reason
            self.index.restore(header["lsn"], header["facts"], columns, view.state.slots)
        except (CorruptionError, FormatVersionError, ValueError, KeyError, TypeError) as error:
            return f"does not fit together ({error!r})"
        self.checkpoint_lsn = self._kept_lsn = header["lsn"]
        if not self._read_only:
            self._store.log_kept_from = self.checkpoint_lsn
        return ""

    def _unfit(self, view: View, header: dict[str, Any]) -> str:
        """Why a checkpoint is not one of these rows, or nothing if it is."""
        lsn, now = header["lsn"], view.state.lsn
        write_id = view.write_id(lsn)
        wrong = {
            "belongs to another collection": header["uid"] != self._store.config["uid"],
            "is of an index of another kind": any(header[name] != value for name, value in self._identity().items()),
            f"is newer than the rows (write {lsn}, the last is {now})": lsn > now,
            f"is too old (write {lsn}, of which the log tells no more; the last is {now})": not write_id,
            f"is of rows that were written otherwise (write {lsn})": write_id != header["write_id"],
        }
        return next((reason for reason, is_so in wrong.items() if is_so), "")


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
        for first in range(0, len(slots), 1000):
            some, _ = view.rows_of(slots[first : first + 1000].tolist())
            ids[first : first + len(some)] = [one if type(one) is int else -1 for one in some]
            if type(some[0]) is not int:
                break  # most likely no ids are: they are looked up
        return ids

    return live, since, ids_of
