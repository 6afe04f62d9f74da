"""One LMDB file: how it is opened, read, written, grown and closed.

Every transaction of the process goes through here, because two things need to know of all of them: growing the map
moves it, and closing it unmaps it. Both wait until no reader is left (`gate.py`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from vecstore.errors import (
    ClosedError,
    CollectionNotFoundError,
    DatabaseFullError,
    NotADatabaseError,
    ReadOnlyError,
    StorageError,
    VecstoreError,
)
from vecstore.storage import advice, disk, log
from vecstore.storage.failpoints import reach
from vecstore.storage.folder import LOCK
from vecstore.storage.gate import Gate
from vecstore.storage.interval import Syncer
from vecstore.storage.lock import keep_writers_out, not_replaced, writable

GIB: Final = 1 << 30
# Address space only; the file grows on demand. A thousand collections of 64 GiB fit the 47 bits of a process.
FIRST_MAP_SIZE: Final = 64 * GIB
# Transactions of all processes that read a file at the same time: 64 bytes each of a file of holes.
MAX_READERS: Final = 16_384
LOOK_FOR_DEAD_SECONDS: Final = 1.0  # it takes some 2 us for each process that reads
DATABASES: Final = ("meta", "vector:vector", "row", "slot", "live", "log")

T = TypeVar("T")


class Environment(Gate):
    """An open LMDB file of some named databases. `max_size` bounds it in bytes; without one only the disk does. With
    `sync_interval` commits are synced every so many seconds, else each before it returns. A file that takes the place
    of another takes over its `turn` to write."""

    def __init__(
        self,
        path: Path,
        *,
        databases: Sequence[str] = DATABASES,
        read_only: bool = False,
        max_size: int | None = None,
        create: bool = False,
        sync_interval: float | None = None,
        turn: threading.RLock | None = None,
    ) -> None:
        super().__init__(path, read_only=read_only)
        self.max_size = max_size
        # Called when the map has moved, before a reader enters again, for whoever keeps addresses.
        self.on_remap: Callable[[], None] = lambda: None
        self.turn = turn or threading.RLock()
        size = path.stat().st_size if path.exists() else 0
        wanted = max(FIRST_MAP_SIZE, 4 * size)
        self._map_size = wanted if max_size is None else max(min(wanted, max_size), size)
        self._databases = databases
        self._dbs: dict[str, Any] = {}
        self._look_for_dead_at = 0.0
        # An index.mdb is read as a whole. `fetching` looks again when a file of rows has grown.
        self._reads_ahead = "vector:vector" not in databases or not advice.is_large(size)
        self.fetching = advice.Fetching()
        self.sync_interval = sync_interval
        self._syncer: Syncer | None = None
        self._let_writers_in: Callable[[], None] = lambda: None
        try:
            with not_replaced(path.parent):
                self._open(create)
                try:
                    stat = path.stat()
                except OSError as error:  # dropped in this moment
                    self._env.close()
                    self._let_writers_in()
                    raise StorageError(f"{path}: {error.strerror}", path=str(path)) from error
                self.inode, self.device = stat.st_ino, stat.st_dev
        except lmdb.NotFoundError:
            raise NotADatabaseError(f"{path} is an LMDB file, but none of vecstore's", path=str(path)) from None
        except lmdb.Error as error:
            raise self.translate(error) from error

    def _open(self, create: bool = False) -> None:
        registers = not self.read_only or writable(self.path.with_name(f"{self.path.name}-lock"))
        if not registers:
            self._let_writers_in = keep_writers_out(self.path.parents[2] / LOCK)
        try:
            self._open_file(create, registers)
        except BaseException:
            self._let_writers_in()
            raise

    def _open_file(self, create: bool, registers: bool) -> None:
        self._env = lmdb.open(
            os.fspath(self.path),
            subdir=False,
            map_size=self._map_size,
            readonly=self.read_only,
            lock=registers,
            max_dbs=len(self._databases),
            max_readers=MAX_READERS,
            max_spare_txns=8,
            mode=0o644,
            # The engine of LMDB 0.9: its pages have 16-byte headers, on which the alignment of rows rests.
            lib_version=0,
            sync=self.sync_interval is None,
            readahead=self._reads_ahead,
        )
        self._settled = self.read_only
        try:
            self._env.reader_check()
            for name in self._databases:
                self._dbs[name] = self._env.open_db(name.encode(), create=create)
            self.resume_syncing()
        except BaseException:
            self._env.close()
            raise

    def db(self, name: str) -> Any:
        """The handle of one of its databases."""
        return self._dbs[name]

    # -- readers ---------------------------------------------------------------------------------------------

    def reading(self) -> Reading:
        """A read transaction; what it returns are memoryviews into the map, gone with it. ReplacedError if the path
        leads to another file by now."""
        return Reading(self)

    def _begin(self, *, write: bool = False) -> Any:
        while True:
            try:
                if write and not self._settled:
                    self._settle()
                return self._env.begin(buffers=True, write=write)
            except lmdb.ReadersFullError:
                if not self._env.reader_check():  # of processes that have died
                    raise
            except lmdb.MapResizedError:  # the writer, another process, has grown its map
                self._aside(lambda: self._remap(0))
            except lmdb.PanicError:  # a commit has failed in its last step, in this process
                self._aside(self._revive)

    def _settle(self) -> None:
        """Sync what was there before this process, or this opening of the file, wrote.

        After a commit that has failed in its last step its meta page may be on the disk, and the one that LMDB has put
        back only in the page cache. It must be on the disk before a page of the failed commit is used again, or a power
        loss would find the meta page of that commit, and pages of a later one.
        """
        self._env.sync(True)
        self._settled = True

    def _given_up(self) -> bool:
        """Whether LMDB takes no more transactions, because it could not write a meta page."""
        try:
            self._env.begin().abort()
        except lmdb.PanicError:
            return True
        return False

    def _revive(self) -> None:
        """Open a file anew that LMDB has given up. It has put the meta page back."""
        if not self._given_up():
            return  # another thread was first
        if self._syncer is not None:
            with contextlib.suppress(StorageError):  # which it keeps: nothing is written any more
                self._syncer.detach()
        self._env.close()
        try:
            self._open()
        except lmdb.Error as error:
            message = f"{self.path} could not be opened anew after a failed commit ({error}); open the database again"
            self._closed = lambda: StorageError(message, path=str(self.path))
            raise self._closed() from error
        finally:
            self.on_remap()

    # -- the writer ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The turn to write, one thread at a time."""
        self.refuse_read_only()
        with self.turn:
            yield

    def refuse_read_only(self) -> None:
        """ReadOnlyError where nothing may be written."""
        if self.read_only:
            raise ReadOnlyError(f"{self.path.parent.name} was opened with read_only=True")

    def write(self, work: Callable[[Any], T]) -> T:
        """Run `work(txn)` in a write transaction and commit it durably: all of it, or an error and none of it.

        `work` runs again from the start, in a new transaction, where the map had to grow for it.
        """
        with self.writing():
            while True:
                try:
                    return self.write_once(work)
                except lmdb.MapFullError:
                    self.grow()

    def write_once(self, work: Callable[[Any], T]) -> T:
        """The same without growing: MapFullError of LMDB where the map is too small, to be met by `grow`."""
        # A writer reads the map too: it counts as a reader, so that nobody closes it meanwhile.
        me = self._enter()
        try:
            if self._syncer is not None:
                self._syncer.before_commit()
            self._forget_dead_readers()
            with self._begin(write=True) as txn:
                result = work(txn)
                reach("commit.before")
            if self._syncer is not None:
                self._syncer.committed()
            reach("commit.after")
            return result
        except lmdb.MapFullError:
            raise
        except lmdb.Error as error:
            if self._given_up():
                raise StorageError(
                    f"{self.path}: {error} in the last step of a commit. It was most likely not kept; read it back, "
                    "or repeat it",
                    path=str(self.path),
                ) from error
            raise self.translate(error) from error
        finally:
            with self._lock:  # as `_leave`, but an interruption can come between a call and its first line
                self._inside.discard(me)
                if not self._inside and self._exclusive:
                    self._gate.notify_all()

    def _forget_dead_readers(self) -> None:
        """A process that died in a search would keep the pages it saw from being used again."""
        now = time.monotonic()
        if now >= self._look_for_dead_at:
            self._look_for_dead_at = now + LOOK_FOR_DEAD_SECONDS
            self._env.reader_check()

    def settle(self) -> None:
        """Have every commit on the disk, with the turn to write: until the next one the file may be moved."""
        if self._syncer is not None:
            try:
                self._syncer.settle()
            except lmdb.Error as error:
                raise self.translate(error) from error

    def sync_commits(self, lsn: int) -> None:
        """Have all writes up to `lsn`, which is committed, on the disk; with or without the turn to write."""
        if (syncer := self._syncer) is not None:
            try:
                syncer.sync(lsn)
            except lmdb.Error as error:
                raise self.translate(error) from error

    def synced_lsn(self, lsn: int) -> int:
        """Of the writes up to `lsn`, the last one that is on the disk, where this process writes."""
        synced = None if (syncer := self._syncer) is None else syncer.synced_lsn
        return lsn if synced is None else min(synced, lsn)

    def last_txn_id(self) -> int:
        """The transaction that was committed last."""
        number: int = self._env.info()["last_txnid"]
        return number

    def grow(self) -> None:
        """Double the map, once no reader is in it; DatabaseFullError if `max_size` forbids it."""
        size = self._map_size * 2 if self.max_size is None else min(self._map_size * 2, self.max_size)
        if size <= self._map_size:
            raise DatabaseFullError(
                f"{self.path.parent.name}: this write does not fit into max_size={self.max_size} bytes; "
                "delete rows, or open the database with a larger max_size",
                path=str(self.path),
                limit=self.max_size,
            )
        self.settle()  # its transactions do not outlive the map
        self._alone(lambda: self._remap(size))
        self._map_size = size
        reach("map.grown")

    def _remap(self, size: int) -> None:
        self._env.set_mapsize(size)
        self.on_remap()

    # -- the rest --------------------------------------------------------------------------------------------

    def used(self, txn: Any) -> tuple[int, int]:
        """Bytes of the file, and bytes of its free pages."""
        info, page = self._env.info(), self._env.stat()["psize"]
        in_use = 2 + sum(  # two meta pages
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            for stat in (txn.stat(), *(txn.stat(db) for db in self._dbs.values()))
        )
        size = (info["last_pgno"] + 1) * page
        return size, max(0, size - in_use * page)

    def geometry(self) -> tuple[int, int, int]:
        """Bytes of a page and of the map, and the number of the last page that a commit has taken."""
        info = self._env.info()
        return self._env.stat()["psize"], info["map_size"], info["last_pgno"]

    def length(self) -> int:
        """Bytes of the file, as far as one can tell: another may have taken its name."""
        with contextlib.suppress(FileNotFoundError):
            stat = self.path.stat()
            if (stat.st_ino, stat.st_dev) == (self.inode, self.device):
                return stat.st_size
        return self._map_size

    def copy(self, target: Path, txn: Any) -> None:
        """Write the commit that a read transaction sees to a new file, without free pages; not synced."""
        try:
            self._env.copy(os.fspath(target), compact=True, txn=txn)
        except lmdb.Error as error:
            raise self.translate(error, target) from error

    def dropped(self) -> VecstoreError:
        """The error of a collection that was dropped while it was open."""
        name = self.path.parent.name
        return CollectionNotFoundError(f'collection "{name}" was dropped', name=name)

    def close(self, because: Callable[[], Exception] = ClosedError) -> None:
        """Close the file once its last reader has left; later calls raise `because()`. Closing twice is allowed."""
        if self.forked:
            return  # the parent's file: closing it here would release the parent's locks

        with contextlib.nullcontext() if self.read_only else self.turn:
            try:
                if self._closed is None:
                    self.pause_syncing()
            finally:
                self._alone(lambda: self._shut(because))

    def _shut(self, because: Callable[[], Exception], *, aside: bool = False) -> None:
        super()._shut(because, aside=aside)
        self._let_writers_in()

    def resume_syncing(self) -> None:
        """Begin to sync at an interval, if that is wanted."""
        if self.sync_interval is not None:
            # A sync that has failed stays so: the next one would not bring what it lost.
            failed = None if self._syncer is None else self._syncer.error
            self._syncer = Syncer(self._env, self.path, self.sync_interval, self.turn, self._lsn_of, failed)

    def _lsn_of(self, txn: Any) -> int:
        return log.last(txn, self.db("log")).lsn

    def pause_syncing(self) -> None:
        """Have every commit on the disk, and no record of syncs: until `resume_syncing` there is no commit."""
        if self._syncer is not None:
            try:
                self._syncer.close()
            except lmdb.Error as error:
                raise self.translate(error) from error
            self._syncer = None

    def translate(self, error: lmdb.Error, written: Path | None = None) -> VecstoreError:
        """What an error of LMDB means to the user; `written` is what was written to, if not this file."""
        return disk.translated(error, self.path, written)


class Reading:
    """A context with a read transaction. Not a generator, which would take a tenth of the time of a search."""

    __slots__ = ("_env", "_thread", "_txn")

    def __init__(self, env: Environment) -> None:
        self._env = env

    def __enter__(self) -> Any:
        env = self._env
        thread = self._thread = env._enter()
        try:
            self._txn = env._begin()
        except BaseException as error:
            env._leave(thread)
            self._translated(error)
            raise
        return self._txn

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._txn.abort()
        self._env._leave(self._thread)
        if error is not None:
            self._translated(error)

    def _translated(self, error: BaseException) -> None:
        if isinstance(error, lmdb.Error):
            raise self._env.translate(error) from error
