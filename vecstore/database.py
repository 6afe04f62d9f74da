"""A folder of collections: `open()`, and the verbs on the folder. What lies in it: storage/folder.py."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from vecstore import arguments
from vecstore.budget import Budget
from vecstore.collection import Collection
from vecstore.errors import (
    AlreadyExistsError,
    ClosedError,
    CollectionNotFoundError,
    CorruptionError,
    DatabaseLockedError,
    InvalidArgumentError,
    ReadOnlyError,
    StorageError,
)
from vecstore.keywords import verb
from vecstore.storage import folder, recovery
from vecstore.storage.backup import back_up
from vecstore.storage.compaction import DATA_FILE
from vecstore.storage.config import config_of, info_of
from vecstore.storage.disk import disk_errors, make_folder, sync_folder
from vecstore.storage.failpoints import reach
from vecstore.storage.gate import forked
from vecstore.storage.lock import WriterLock
from vecstore.storage.repair import repair_remains
from vecstore.storage.store import Store
from vecstore.types import CollectionInfo, Finding
from vecstore.verbs.checks import collection_name
from vecstore.verbs.database import DatabaseVerbs

MIN_SIZE: Final = 1 << 20
RECOVERY_SECONDS: Final = 10  # that a reader waits for a writer which is about it
DURABILITIES: Final = ("commit", "interval")
SYNC_INTERVAL: Final = 0.1  # seconds


@verb
def open(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    max_size: int | None = None,
    durability: Literal["commit", "interval"] = "commit",
    sync_interval: float | None = None,
    memory_limit: int | None = None,
) -> Database:
    """Open a folder as a database, and create it if it is not there or empty.

    One process writes; any number of others may open the folder at the same time with `read_only=True`, and see
    each of its commits. One of them that may not write to the folder cannot register as a reader: it opens collections
    only while nobody writes, and keeps writers out until it is closed. `max_size` bounds the file of each collection,
    in bytes; without it only the disk does.

    With `durability="interval"` a write returns before it is on the disk, and is synced within `sync_interval` seconds
    (0.001 to 60, by default 0.1). A killed process loses nothing then either. Where the machine goes down, the writes
    of the last `sync_interval`, and of the time that a sync takes, may be lost: the last ones, each whole.

    `memory_limit` bounds the RAM that the indexes of all collections together may take, in bytes, as `estimate` reckons
    it: not Python itself, nor pages of the files, which the system takes back. An index that does not fit, or no longer
    does when its collection has grown, is let go: writes go on, searches scan the rows, `index_error` in `stats()` says
    why and what would fit, and `set_index` refuses what would not.

    A process that forks closes its databases before, and opens them in parent and child: a child can use none that its
    parent opened.

    Raises DatabaseLockedError if another process writes, or reads without registering, NotADatabaseError if the folder
    holds something else, FormatVersionError if a newer vecstore wrote it.
    """
    place = arguments.folder(path, "path")
    if max_size is not None:
        max_size = arguments.whole_number(max_size, "max_size", MIN_SIZE, 2**46)
        if read_only:
            raise InvalidArgumentError("open(): max_size has no effect with read_only=True")
    read_only = arguments.flag(read_only, "read_only")
    if memory_limit is not None:
        memory_limit = arguments.whole_number(memory_limit, "memory_limit", MIN_SIZE, 2**46)
    return Database(place, read_only, max_size, _interval(durability, sync_interval, read_only), memory_limit)


def _interval(durability: Any, sync_interval: Any, read_only: bool) -> float | None:
    """Seconds between syncs, or None where each commit is synced."""
    if durability not in DURABILITIES:
        raise InvalidArgumentError(f'durability: expected "commit" or "interval", got {durability!r}')
    if durability == "commit":
        if sync_interval is not None:
            raise InvalidArgumentError('open(): sync_interval has no effect without durability="interval"')
        return None
    if read_only:
        raise InvalidArgumentError("open(): durability has no effect with read_only=True")
    if not recovery.available():
        raise InvalidArgumentError('durability="interval": this system does not tell whether it was down meanwhile')
    if sync_interval is None:
        return SYNC_INTERVAL
    seconds = arguments.number(sync_interval, "sync_interval", 0, 60)
    if seconds < 0.001:
        raise InvalidArgumentError(f"sync_interval: expected 0.001 to 60 seconds, got {sync_interval!r}")
    return seconds


class Database(DatabaseVerbs):
    """An open folder of collections; made by `vecstore.open()`, safe to use from many threads."""

    def __init__(
        self,
        path: Path,
        read_only: bool,
        max_size: int | None,
        sync_interval: float | None = None,
        memory_limit: int | None = None,
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._max_size = max_size
        self._sync_interval = sync_interval
        self._budget = Budget(memory_limit)
        self._open_collections: dict[str, Collection] = {}
        self._mutex = threading.RLock()
        self._pid = os.getpid()
        self._closed = False
        self._lock: WriterLock | None = None
        if read_only:
            folder.check_marker(path)
            return
        folder.refuse_foreign(path)
        with disk_errors(path):
            make_folder(path)
        self._lock = WriterLock(path / folder.LOCK)
        try:
            with disk_errors(path):
                folder.lay_out(path)
            folder.check_marker(path)
            with disk_errors(path):
                folder.remove_leftovers(path / folder.COLLECTIONS)
                names = folder.names(path / folder.COLLECTIONS)
            # All of them at once: a process that reads may be the first to open one.
            for name in names:
                with contextlib.suppress(StorageError):  # told when that collection is opened
                    recovery.recover(path / folder.COLLECTIONS / name / DATA_FILE)
        except BaseException:
            self._lock.release()
            raise

    def _create(self, info: CollectionInfo, exist_ok: bool) -> Collection:
        self._refuse_forked()
        with self._mutex:
            self._refuse_unwritable()
            taken = next((name for name in self.list_collections() if name.lower() == info.name.lower()), None)
            if taken is not None:
                return self._existing(taken, info, exist_ok)
            parent = self.path / folder.COLLECTIONS
            unfinished = parent / f".{info.name}-{secrets.token_hex(4)}"
            with disk_errors(parent):
                try:
                    unfinished.mkdir()
                    reach("create.folder")
                    Store.create(unfinished, config_of(info))
                    reach("create.written")
                    unfinished.rename(parent / info.name)
                    reach("create.renamed")
                    sync_folder(parent)
                    reach("create.synced")
                except BaseException:
                    # What is written to a collection whose name is not on the disk might be lost.
                    with contextlib.suppress(OSError):
                        (parent / info.name).rename(unfinished)
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise
            return self._open(info.name)

    def _existing(self, taken: str, info: CollectionInfo, exist_ok: bool) -> Collection:
        if taken != info.name:
            raise AlreadyExistsError(
                f'collection "{taken}" differs from "{info.name}" only in case, which not every disk can tell apart',
                name=taken,
            )
        if not exist_ok:
            raise AlreadyExistsError(
                f'collection "{taken}" is there already; get_collection() opens it, and exist_ok=True does either',
                name=taken,
            )
        there = self._open(taken)
        if there.info != info:
            raise AlreadyExistsError(
                f'collection "{taken}" is there already, but created otherwise: {there.info} instead of {info}',
                name=taken,
            )
        return there

    def _open(self, name: str) -> Collection:
        self._refuse_forked()
        with self._mutex:
            self._refuse_closed()
            known = self._open_collections.get(name)
            if known is not None and not known.closed and known._current():
                return known
            store = self._share(name)
            info = info_of(name, store.config)
            opened = Collection(info, store, read_only=self.read_only, budget=self._budget)
            if known is not None and not known.closed:
                known._dropped()
            self._open_collections[name] = opened
            return opened

    def _share(self, name: str) -> Store:
        """The store of a collection, to be released."""
        place = self.path / folder.COLLECTIONS / name
        if name not in self.list_collections():
            raise self._no_collection(name)
        if self.read_only:
            self._recover(place / DATA_FILE)
            return Store.share(place, read_only=True)
        return Store.share(place, read_only=False, max_size=self._max_size, sync_interval=self._sync_interval)

    def _recover(self, data: Path) -> None:
        """Have a file as it was at its last sync, if the machine went down since and no writer was here yet."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while recovery.is_behind(data):
            try:
                lock = WriterLock(self.path / folder.LOCK)
            except DatabaseLockedError:  # by a writer, which begins with just this
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            try:
                recovery.recover(data)
            finally:
                lock.release()

    def list_collections(self) -> list[str]:
        """The names of all collections, sorted."""
        self._refuse_closed()
        try:
            names = folder.names(self.path / folder.COLLECTIONS)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.startswith("."))

    def _drop(self, name: str) -> None:
        self._refuse_forked()
        with self._mutex:
            self._refuse_unwritable()
            if name not in self.list_collections():
                raise self._no_collection(name)
            parent = self.path / folder.COLLECTIONS
            leftover = parent / f".{name}-{secrets.token_hex(4)}"
            reach("drop.before")
            with disk_errors(parent):
                (parent / name).rename(leftover)  # from here on it is gone, whatever happens to this process
                reach("drop.renamed")
                try:
                    sync_folder(parent)
                    reach("drop.synced")
                finally:  # or else what is written to it would be lost, and nobody be told
                    Store.close_dropped(leftover)
                    dropped = self._open_collections.pop(name, None)
                    if dropped is not None:
                        dropped._dropped()
            reach("drop.closed")
            shutil.rmtree(leftover, ignore_errors=True)
            reach("drop.deleted")

    @verb
    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy all collections to a new database at `path`, while others read and write; `vecstore.open(path)` opens
        it. Each collection is copied as of one commit.

        `path` must not be there, or be an empty folder (else AlreadyExistsError). A backup that fails or is killed
        leaves nothing there that would open.
        """
        back_up(arguments.folder(path, "path"), self._stores())

    @verb
    def repair_collection(self, name: str) -> list[Finding]:
        """Take damaged rows out of a collection, and make all that follows from the others anew. What was left out, a
        finding each; it is also written to `quarantine-LSN.jsonl` in the folder of the collection.

        Also of one that does not open, because of pages that LMDB cannot follow; if it was open it is closed, to be got
        anew. CorruptionError where nothing is left that could be read: then only a backup helps.
        """
        name = collection_name(name)
        self._refuse_forked()
        with self._mutex:
            self._refuse_unwritable()
            if name not in self.list_collections():
                raise self._no_collection(name)
            with contextlib.suppress(CorruptionError):  # so that LMDB must not read it
                store = self._share(name)
                try:
                    return store.repair()
                finally:
                    store.release(read_only=False)
            if (opened := self._open_collections.pop(name, None)) is not None:
                opened.close()
            return repair_remains(self.path / folder.COLLECTIONS / name)

    def _stores(self) -> Iterator[tuple[str, Store]]:
        for name in self.list_collections():
            with contextlib.suppress(CollectionNotFoundError):  # dropped meanwhile
                with self._mutex:
                    store = self._share(name)
                try:
                    yield name, store
                finally:
                    store.release(read_only=self.read_only)

    def _no_collection(self, name: str) -> CollectionNotFoundError:
        names = self.list_collections()
        there = f"there are {', '.join(names[:10])}" if names else "there are none yet"
        return CollectionNotFoundError(f'no collection "{name}" in {self.path}; {there}', name=name)

    def _refuse_closed(self) -> None:
        self._refuse_forked()
        if self._closed:
            raise ClosedError(f"{self.path} is closed")

    def _refuse_forked(self) -> None:
        """StateError in a child of the process that opened it, which has not its lock; before any lock of a thread that
        may be held for ever in a child."""
        if os.getpid() != self._pid:
            raise forked(self.path)

    def _refuse_unwritable(self) -> None:
        self._refuse_closed()
        if self.read_only:
            raise ReadOnlyError(f"{self.path} was opened with read_only=True")

    def close(self) -> None:
        """Close all collections and let the next writer in; closing twice is allowed."""
        if os.getpid() != self._pid:
            return  # what is open is the parent's
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            with contextlib.ExitStack() as closing:  # each of them, also where one fails
                if self._lock is not None:
                    closing.callback(self._lock.release)
                for opened in self._open_collections.values():
                    closing.callback(opened.close)

    def __repr__(self) -> str:
        return f"<Database {str(self.path)!r}{' read-only' if self.read_only else ''}>"
