"""The checkpoints of a collection's index: when one is due, what is written, and whether one that is found can be used.

What a checkpoint says is never trusted: its header must name the collection, the index and a write that the log knows.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from vecstore.errors import CorruptionError, FormatVersionError, VecstoreError
from vecstore.index import hnsw
from vecstore.index.blocks import Allocate
from vecstore.index.flat import Rows
from vecstore.index.kinds import GraphOrLists
from vecstore.storage.checkpoint import INDEX_FILE
from vecstore.storage.config import built_alike, config_of
from vecstore.storage.environment import Environment
from vecstore.storage.store import Store
from vecstore.storage.view import View
from vecstore.types import CollectionInfo, Finding

# A checkpoint is written when as many nodes were linked, coded or removed since the last one: at least so many, and a
# share of all. While rows are being linked it takes a twentieth of the time at most.
BUSY_ROWS, BUSY_SHARE = 4096, 1 / 8
IDLE_ROWS, IDLE_SHARE = 1024, 1 / 32
REST: Final = 20
# Or when so many writes came since: each is a record of the log that is kept for the next open.
MAX_WRITES = 16_384
# That a process which reads waits for the writer's checkpoint of a compaction. Meanwhile it scans rows; to link them by
# itself takes longer than that, from some ten thousand rows on.
AWAIT_SECONDS: Final = 10.0
UNUSABLE: Final = (VecstoreError, OSError, ValueError, KeyError, TypeError)

log = logging.getLogger("vecstore")


class Checkpoints:
    """The checkpoints of one index, written by the process that writes, loaded by all; see the module."""

    def __init__(
        self,
        index: GraphOrLists,
        info: CollectionInfo,
        store: Store,
        allocate: Allocate,
        *,
        read_only: bool,
        succeeds: bool,
    ) -> None:
        self.info = info
        self.lsn = 0
        """The write that the last one is of."""
        self.keeping = threading.Lock()
        """Around a view in which links wait, and links in which a view is waited for: never both at once."""
        self.failure: VecstoreError | None = None
        """Why the last one was not written."""
        self._untold: VecstoreError | None = None
        self._index, self._store, self._allocate = index, store, allocate
        self._read_only, self._succeeds, self._retired = read_only, succeeds, False
        self._kept_work, self._kept_lsn = 0, 0  # how far the index was when one was last written, or tried
        self._not_before = 0.0
        self._renewing = threading.Lock()
        self._seen: object = None  # what the writer's last one looked like when this process last loaded one
        self._env: Environment | None = None if succeeds and read_only else store.env
        self._awaited: tuple[Environment, float, object] | None = None  # a file, until when, the one seen last

    # -- writing ---------------------------------------------------------------------------------------------

    def is_due(self, *, idle: bool) -> bool:
        """Whether enough has changed for another: less, if the thread has nothing else to do."""
        index, structure = self._index, self._index.structure
        if self._read_only or structure is None:
            return False
        least, share = (IDLE_ROWS, IDLE_SHARE) if idle else (BUSY_ROWS, BUSY_SHARE)
        work = index.work - self._kept_work
        if work <= max(least, structure.arrays.count * share) and index.lsn - self._kept_lsn <= MAX_WRITES:
            return False
        return idle or time.monotonic() >= self._not_before

    @property
    def is_behind(self) -> bool:
        """Whether the last one is of another moment than the index."""
        return self._index.lsn != self.lsn or self._index.work != self._kept_work

    def try_write(self) -> None:
        """Write one, or tell why not to the next writer: linking goes on."""
        try:
            self.write()
            self.failure = None
        except VecstoreError as error:
            if not self._store.env.still_there():
                return
            log.exception("%s of %s was not written: what is there stays", INDEX_FILE, self.info.name)
            self.failure = self._untold = error

    def write(self) -> None:
        """Write what has changed of the index since the last one; writers and searches go on meanwhile."""
        started = time.monotonic()
        with self.keeping, self._index.held() as kept:
            if kept is None or self._retired:
                return
            self._kept_work, self._kept_lsn = kept.work, kept.lsn  # if it fails, it is tried again after as much
            with self._store.view() as view:
                write_id = view.write_id(kept.lsn)
            if not write_id or not self._store.env.still_there():
                return
            self._store.env.sync_commits(kept.lsn)  # or a power loss might take the write that it names
            header = {"lsn": kept.lsn, "write_id": write_id, "facts": kept.facts, **self._identity()}
            written = self._store.checkpoint.write(header, kept.parts)
        self.lsn = self._store.log_kept_from = kept.lsn
        seconds = time.monotonic() - started
        self._not_before = time.monotonic() + REST * seconds
        log.debug("%s of %s: write %d, %d of %d pieces, %.1f MB in %.0f ms", INDEX_FILE, self.info.name, kept.lsn,
                  written.pieces, written.total, written.bytes / 1e6, seconds * 1e3)  # fmt: skip

    def take_error(self) -> VecstoreError | None:
        """Why one was not written since it was last asked for."""
        error, self._untold = self._untold, None
        return error

    def retire(self) -> None:
        """Write no more: another index has taken the place of this one."""
        with self.keeping:
            self._retired = True

    # -- loading ---------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Begin with the last one, if it fits the rows; or else from nothing."""
        loaded, reason = None, ""
        self._seen = self._store.checkpoint.stamp()
        try:
            loaded = self._store.checkpoint.load(self._allocate)
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
                log.warning("%s of %s %s: the index is made anew from the rows", INDEX_FILE, self.info.name, reason)

    def _restore(self, view: View, header: dict[str, Any], columns: dict[str, Any]) -> str:
        """Make one the index; the reason if it cannot be."""
        try:
            reason = self._unfit(view, header)
            if reason:
                return reason
            self._index.restore(header["lsn"], header["facts"], columns, view.state.slots)
        except (CorruptionError, FormatVersionError, ValueError, KeyError, TypeError) as error:
            return f"does not fit together ({error!r})"
        self.lsn = self._kept_lsn = header["lsn"]
        if not self._read_only:
            self._store.log_kept_from = self.lsn
        return ""

    def _identity(self) -> dict[str, Any]:
        """What the collection and its index are: a checkpoint of anything else is of no use."""
        return {"uid": self._store.config.get("uid"), **config_of(self.info)}

    def _is_alike(self, header: dict[str, Any]) -> bool:
        own = self._identity()
        return built_alike(header["index"], own.pop("index")) and all(header[name] == own[name] for name in own)

    def _unfit(self, view: View, header: dict[str, Any]) -> str:
        """Why one is not of these rows, or nothing if it is."""
        lsn, now = header["lsn"], view.state.lsn
        write_id = view.write_id(lsn)
        wrong = {
            "belongs to another collection": header["uid"] != self._store.config["uid"],
            "is of an index of another kind": not self._is_alike(header),
            f"is newer than the rows (write {lsn}, the last is {now})": lsn > now,
            f"is too old (write {lsn}, of which the log tells no more; the last is {now})": not write_id,
            f"is of rows that were written otherwise (write {lsn})": write_id != header["write_id"],
        }
        return next((reason for reason, is_so in wrong.items() if is_so), "")

    def check(self, view_now: Callable[[], contextlib.AbstractContextManager[View]]) -> Iterator[Finding]:
        """What is wrong with index.mdb: damage, or that it contradicts the log although it is in use."""
        try:
            header = self._store.checkpoint.verified()
        except FileNotFoundError:
            return
        except VecstoreError as error:
            yield Finding(INDEX_FILE, f"{error}; it is made anew from the rows")
            return
        with view_now() as view:
            reason = self._unfit(view, header)
            # The log need not tell of a checkpoint that a later one is to replace, as after a compaction.
            if reason and self.lsn and view.write_id(header["lsn"]):
                yield Finding(INDEX_FILE, f"{INDEX_FILE} {reason}; it is made anew from the rows")

    # -- reading along ---------------------------------------------------------------------------------------

    @property
    def is_awaited(self) -> bool:
        """Whether rows are scanned until the writer's checkpoint of another file is there."""
        return self._awaited is not None

    def follows(self, view: View) -> bool:
        """Whether the index of a process that reads can follow from what it has. Where its file is another by now, it
        goes on with the writer's checkpoint of that; False while it is awaited."""
        if not self._read_only or view.env is self._env:
            return True
        with self._renewing:
            if view.env is self._env:
                return True
            if self._awaited is None or self._awaited[0] is not view.env:
                self._awaited = view.env, time.monotonic() + AWAIT_SECONDS, None
            _, until, seen = self._awaited
            structure = self._index.structure
            if not self._succeeds if structure is None else view.changed_since(self._index.lsn) is not None:
                until = 0.0  # nothing was numbered anew, or there is nothing to lose
            elif (stamp := self._store.checkpoint.stamp()) != seen:
                self._awaited = view.env, until, stamp
                if self._renewed(view):
                    until = 0.0
            if time.monotonic() < until:
                return False
            self._env, self._awaited = view.env, None
            return True

    def renew(self, view: View) -> None:
        """Go on with the writer's last one, in a process that reads and has fallen far behind."""
        with self._renewing:
            if view.env is self._env and (stamp := self._store.checkpoint.stamp()) != self._seen:
                self._seen = stamp
                self._renewed(view)

    def _renewed(self, view: View) -> bool:
        with contextlib.suppress(*UNUSABLE):
            header, columns = self._store.checkpoint.load(self._allocate)
            if not self._unfit(view, header):
                self._index.renew(header["lsn"], header["facts"], columns, view.state.slots)
                self.lsn = header["lsn"]
                return True
        return False

    def spare_links(self, rows_of: Callable[[View], Rows], changes_of: Callable[[View], Any]) -> None:
        """Go on with the writer's last one, in a process that reads, where it has linked more rows than this process.
        Loading it takes a tenth of the time of linking what has changed from one to the next, or less."""
        if (stamp := self._store.checkpoint.stamp()) == self._seen:
            return
        self._seen = stamp
        with contextlib.suppress(*UNUSABLE):
            header, columns = self._store.checkpoint.load(self._allocate)
            made: Any = None
            while made is None or self.lsn != header["lsn"]:  # a search may have followed a later view meanwhile
                with self._store.view() as view:
                    own = self._index.structure
                    if view.env is not self._env or own is None or self._unfit(view, header):
                        return
                    made = made or self._index.restored(header["facts"], columns, view.state.slots)
                    if made.arrays.linked - made.gone <= own.arrays.linked - own.gone:
                        return
                    now = view.state.lsn
                    if self._index.replace(made, header["lsn"], rows_of(view), now, *changes_of(view)):
                        self.lsn = header["lsn"]
