"""Commits that are synced later, at an interval, and what makes that safe where the power fails.

Without a sync the disk may hold any of the pages written since the last one, and a meta page that leads to pages which
never arrived. So what the last sync made durable is kept whole, and found again:

1. A read transaction stays open on the commit that was last synced: LMDB reuses none of its pages meanwhile.
2. Its meta page is kept in `data.mdb-synced`, for whoever opens the file after a power loss (`recovery.py`).

A sync: `env.sync` (all pages up to some commit are on the disk), then the record of that commit's meta page, synced,
and only then the transaction on the commit before it ends. Each order that a crash can leave is one of the two.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vecstore.errors import CorruptionError, StorageError
from vecstore.storage import recovery
from vecstore.storage.disk import disk_errors, sync_folder
from vecstore.storage.failpoints import reach
from vecstore.storage.recovery import (
    LAST_PAGE_AT,
    MAGIC,
    META_AT,
    META_SIZE,
    SLOTS_AT,
    SUFFIX,
    TXN_AT,
    Record,
    number,
    unfinished,
)

log = logging.getLogger("vecstore")

# Pages of the last sync are not used again before the next one: it comes early when the file has grown by so much.
GROWTH: Final = 256 << 20

# Without commits for so long, all is synced and the record says so: then nothing is lost whatever happens.
IDLE_SECONDS: Final = 1.0


class Syncer:
    """Syncs the commits of an open LMDB environment at an interval of some `seconds`.

    `before_commit`, `committed` and `settle` are called with the `turn` to write; the thread works without it.
    `lsn_of(txn)` is the last write that a transaction sees.
    """

    def __init__(
        self,
        env: Any,
        path: Path,
        seconds: float,
        turn: Any,
        lsn_of: Callable[[Any], int],
        error: Exception | None = None,
    ) -> None:
        self._env = env
        self._path = path
        self._seconds = seconds
        self._turn = turn
        with disk_errors(path):
            self._data = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._page_size: int = env.stat()["psize"]
        self._record: int | None = None  # the file, once there is one
        self._last = Record(0, False, bytes(16), bytes(META_SIZE))
        self._stepping = threading.Lock()  # around each step that syncs and records; taken behind the turn
        self._mutex = threading.Lock()
        self._newest: tuple[Any, bytes] | None = None  # a transaction on the newest commit, and its meta page
        self._kept: Any = None  # the transaction on the commit that was synced last; None where all is synced
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._seen = 0  # the last transaction of which there was a commit to sync
        self._lsn_of = lsn_of
        self.synced_lsn: int | None = None
        """The last write that was synced; None where all are."""
        self.error = error
        """Why what was written last may never be on the disk: nothing is written any more."""

    def before_commit(self) -> None:
        """Keep what is durable now, before a transaction may write over it."""
        self._raise_error()
        if self._kept is not None:
            return
        with self._stepping:
            # Where it is the first one, what was there is on the disk: whoever made it has synced it, or `recover`.
            txn, meta = self._open_newest()
            try:
                self._write(True, meta)
            except BaseException:
                txn.abort()
                raise
            self._kept, self._seen, self.synced_lsn = txn, txn.id(), self._lsn_of(txn)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"vecstore-sync-{self._path.parent.name}", daemon=True
            )
            self._thread.start()

    def committed(self) -> None:
        """Remember the commit that was just made, for the next sync; it is made, so that nothing is raised."""
        try:
            newest = self._open_newest()
        except Exception as error:
            self.error = error
            return
        if newest[0].id() == self._seen:  # it changed nothing
            newest[0].abort()
            return
        with self._mutex:
            before, self._newest = self._newest, newest
        self._seen = newest[0].id()  # behind it, so that an interruption in between loses nothing
        if before is not None:
            before[0].abort()
        grown = number(newest[1], LAST_PAGE_AT) - number(self._last.meta, LAST_PAGE_AT)
        if grown * self._page_size > GROWTH:
            self._wake.set()

    def settle(self) -> None:
        """Sync everything, and say so: until the next commit the file may be moved, or mapped anew."""
        with self._stepping:
            with self._mutex:
                newest, self._newest = self._newest, None
            if newest is not None:
                newest[0].abort()
            if self._kept is None:
                return
            self._sync()
            self._write(False, self._last.meta)
            self._kept.abort()
            self._kept = self.synced_lsn = None

    def sync(self, lsn: int) -> None:
        """Have the writes up to `lsn` synced, which is committed; with or without the turn to write."""
        while self.synced_lsn is not None and self.synced_lsn < lsn:
            self._raise_error()
            try:
                if not self._step():
                    time.sleep(0.001)  # its writer is about to call `committed`
            except Exception as error:
                self.error = error
                raise

    def close(self) -> None:
        """Sync everything and forget the record; StorageError if that or a sync before it failed. The thread
        has ended when this returns, and nothing is open any more."""
        self._end_thread()
        try:
            if self.error is None:
                self.settle()
                if self._record is not None:
                    self._path.with_name(self._path.name + SUFFIX).unlink(missing_ok=True)
                    if self._path.parent.exists():
                        sync_folder(self._path.parent)
        finally:
            self._let_go()
        self._raise_error()

    def detach(self) -> None:
        """Sync everything, and let go of an environment that takes no more transactions."""
        self._end_thread()
        try:
            with self._stepping:
                if self._last.open and self.error is None:
                    self._sync(self._sync_file)
                    self._write(False, self._last.meta)
        finally:
            self._let_go()

    def _sync_file(self) -> None:
        with disk_errors(self._path):
            recovery.sync_file(self._data)

    def _end_thread(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _let_go(self) -> None:
        for txn in (self._kept, self._newest and self._newest[0]):
            if txn is not None:
                txn.abort()
        self._kept = self._newest = None
        os.close(self._data)
        if self._record is not None:
            os.close(self._record)

    def _raise_error(self) -> None:
        if self.error is not None:
            path = str(self._path)
            raise StorageError(
                f"{path}: what was written last could not be synced ({self.error}); nothing can be written until it "
                "is closed and opened again, which goes back to its last sync",
                path=path,
            ) from self.error

    def _run(self) -> None:
        idle = 0.0
        while True:
            self._wake.wait(self._seconds)
            if self._stopping:
                return
            self._wake.clear()
            try:
                idle = 0.0 if self._step() else idle + self._seconds
                if idle >= IDLE_SECONDS and self._turn.acquire(blocking=False):
                    try:
                        self.settle()
                        self._thread = None  # the next commit starts another one
                        return
                    finally:
                        self._turn.release()
            except Exception as error:
                log.exception("vecstore: what was written to %s could not be synced", self._path)
                self.error = error
                return

    def _step(self) -> bool:
        """Sync and record the newest commit; whether there was one."""
        self._notice()
        with self._stepping:
            with self._mutex:
                newest, self._newest = self._newest, None
            if newest is None:
                return False
            txn, meta = newest
            try:
                self._sync()
                reach("interval.synced")
                self._write(True, meta)
                reach("interval.recorded")
            except BaseException:
                txn.abort()
                raise
            self._kept.abort()
            self._kept, self.synced_lsn = txn, self._lsn_of(txn)
            return True

    def _notice(self) -> None:
        """Remember a commit whose writer was interrupted before it had called `committed`."""
        if self._newest is None and self._env.info()["last_txnid"] > self._seen and self._turn.acquire(blocking=False):
            try:
                if self._kept is not None:
                    self.committed()
            finally:
                self._turn.release()

    def _sync(self, sync: Callable[[], None] | None = None) -> None:
        try:
            if sync is None:
                self._env.sync(True)
            else:
                sync()
        except BaseException as error:
            if isinstance(error, Exception):
                self.error = error
            # What the kernel still shows may never reach the disk: no run of the machine may trust it.
            record = Record(self._last.number + 1, True, bytes(16), self._last.meta)
            self._put(record)
            raise

    def _open_newest(self) -> tuple[Any, bytes]:
        """A read transaction on the last commit, and its meta page. Nobody commits meanwhile."""
        txn = self._env.begin()
        meta = os.pread(self._data, META_SIZE, (txn.id() & 1) * self._page_size + META_AT)
        if (number(meta, 0, 4), number(meta, TXN_AT)) != (MAGIC, txn.id()):
            txn.abort()
            raise CorruptionError(f"{self._path}: its meta page is not that of its last commit", path=str(self._path))
        return txn, meta

    def _write(self, is_open: bool, meta: bytes) -> None:
        self._put(Record(self._last.number + 1, is_open, recovery.boot_digest(), meta))

    def _put(self, record: Record) -> None:
        with disk_errors(self._path):
            if self._record is None:
                self._record = self._create(record)
            else:
                os.pwrite(self._record, record.pack(), SLOTS_AT[record.number & 1])
                recovery.sync_file(self._record)
        self._last = record

    def _create(self, record: Record) -> int:
        path = self._path.with_name(self._path.name + SUFFIX)
        hidden = unfinished(self._path)
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, bytes(SLOTS_AT[1] + 4096), 0)  # so that the next ones find room
            os.pwrite(fd, record.pack(), SLOTS_AT[record.number & 1])
            recovery.sync_file(fd)
            hidden.rename(path)
            sync_folder(path.parent)
        except BaseException:
            os.close(fd)
            raise
        return fd
