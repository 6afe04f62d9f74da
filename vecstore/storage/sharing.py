"""Which file a store has open, and on whose behalf.

LMDB allows a file only once in each process, so the databases of a process that open one folder share a store. It is a
writer's while one of them writes, and else a reader's, as in any other process: then the file is not its own. Another
process may write to it, sync it later, or put another one in its place, which the store then goes on with.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from pathlib import Path
from typing import Any, Final, Self

from vecstore.errors import ClosedError, CorruptionError, NotADatabaseError, StorageError, VecstoreError
from vecstore.storage import compaction, log, pages, recovery, salvage
from vecstore.storage.compaction import DATA_FILE
from vecstore.storage.config import CHANGEABLE, FORMAT, read_config, upgrade
from vecstore.storage.environment import DATABASES, Environment
from vecstore.storage.gate import ReplacedError
from vecstore.storage.lock import not_replaced

_shared: Final[dict[tuple[int, int], SharedFile]] = {}
sharing: Final = threading.Lock()
"""Held while a store takes up another file, or another use of its file begins or ends; taken behind the turn to write.

Whoever holds it may wait until no view is left, so none who has one may wait for it (but the writer, whose turn keeps
all others from waiting for views)."""


class SharedFile(abc.ABC):
    """The data.mdb of a folder, opened with the options of `Environment`."""

    env: Environment
    config: dict[str, Any]

    def __init__(self, folder: Path, *, read_only: bool, **options: Any) -> None:
        self._users = self._writers = 0
        self._left = False  # by a writer, with readers still there
        self.env, self.config = _opened(folder, read_only=read_only, **options)
        self.env.on_remap = self._forget

    @abc.abstractmethod
    def _forget(self) -> None:
        """Addresses are others by now."""

    @abc.abstractmethod
    def _take(self, fresh: Environment) -> None:
        """Go on with another file: `env`, and nothing that was derived from the old one."""

    @abc.abstractmethod
    def _seen_lsn(self) -> int:
        """The last write that was seen."""

    def refuse_unwritable(self) -> None:
        """ReadOnlyError where no one of this process writes; ClosedError where no one does any more. What holds with
        the turn to write holds until its end."""
        if self._left:
            raise ClosedError(f'collection "{self.env.path.parent.name}" is closed')
        self.env.refuse_read_only()

    # -- another file in the place of this one ---------------------------------------------------------------

    def follow_file(self, old: Environment) -> None:
        """Go on with the file that has taken the place of `old`; CollectionNotFoundError if none has."""
        with sharing:
            self._follow_file(old)

    def _follow_file(self, old: Environment) -> None:
        if self.env is not old or old.closed:
            return
        fresh = None
        try:
            fresh = Environment(old.path, read_only=True, turn=old.turn)
        except StorageError:
            if old.path.exists():
                raise
        if fresh is None or not self._continues(fresh):
            if fresh is not None:
                fresh.close()
            self._unlist()
            old.retire(old.dropped)
            raise old.dropped()
        self._go_on_with(fresh)

    def _continues(self, fresh: Environment) -> bool:
        """Whether a file holds this collection in a later state, and not another one of its name."""
        try:
            with fresh.reading() as txn:
                config, lsn = read_config(txn, fresh), log.last(txn, fresh.db("log")).lsn
        except ReplacedError:  # by nothing
            return False
        # A file of format 1 has no uid, and is given one by the next writer.
        same = all(config.get(key) == self.config[key] for key in self.config.keys() - {"format", *CHANGEABLE})
        return same and lsn > self._seen_lsn()

    def _go_on_with(self, fresh: Environment) -> None:
        fresh.on_remap = self._forget
        old = self.env
        self._take(fresh)
        if self._users:
            self._unlist()
            _shared[fresh.device, fresh.inode] = self  # not what its path leads to by now
        old.retire()

    def is_current(self) -> bool:
        """Whether the collection is still there, under its path."""
        if self.env.still_there():
            return True
        with sharing:
            env = self.env
            if not env.read_only or env.closed:
                return env.still_there()
            try:
                self._notice_replaced()
            except VecstoreError:
                return False
            return not self.env.closed

    def _notice_replaced(self) -> None:
        if self.env.read_only and not self.env.still_there():
            self._follow_file(self.env)

    # -- several uses of one file ----------------------------------------------------------------------------

    @classmethod
    def share(cls, folder: Path, *, read_only: bool, **options: Any) -> Self:
        """Open a store, or join those in this process that have it open. The `options` are those of the writer, of
        which there is one at a time; its store may be joined by itself."""
        path = folder / DATA_FILE
        with sharing:
            # No writer of another process renames files from here on; one of this process would need `sharing`.
            with not_replaced(folder) if read_only else contextlib.nullcontext():
                for one in set(_shared.values()):
                    with contextlib.suppress(VecstoreError):  # which those who use it are told
                        one._notice_replaced()
                store = _shared.get(_identity(path))
                if store is None:
                    store = cls(folder, read_only=read_only, **options)
                    _shared[store.env.device, store.env.inode] = store
                elif not read_only and not store._writers:
                    store._open_anew(read_only=False, **options)
            store._users += 1
            store._writers += not read_only
            assert isinstance(store, cls)
            return store

    def release(self, *, read_only: bool) -> None:
        """End one use. The last one closes the file; with the last writer's it is left to those who read."""
        if self.env.forked:
            return  # who holds a lock may be no thread of this process
        with self.env.turn, sharing:
            self._users -= 1
            self._writers -= not read_only
            if self._users == 0:
                self._unlist()
                self.env.close()
                self._forget()
            elif not read_only and not self._writers and self in _shared.values():
                self._open_anew(read_only=True)

    def _open_anew(self, *, read_only: bool, **options: Any) -> None:
        """Open the file as another one would that reads or writes, once nobody is in it; the process holds the lock of
        the folder. Whoever comes meanwhile waits."""
        old, failure = self.env, None
        try:
            old.close(ReplacedError)
        except StorageError as error:
            failure = error  # what was written last is lost, and gone when the file is opened again
        try:
            if read_only:
                recovery.recover(old.path)
            fresh, self.config = _opened(old.path.parent, read_only=read_only, turn=old.turn, **options)
        except BaseException as error:
            self._unlist()
            text = f"{old.path} could not be opened again ({error}); open its database anew"
            old.retire(lambda: StorageError(text, path=str(old.path)) if old.path.exists() else old.dropped())
            if not read_only or not isinstance(error, VecstoreError):
                raise
        else:
            self._left = read_only
            self._go_on_with(fresh)
        if failure is not None:
            raise failure

    @staticmethod
    def close_dropped(folder: Path) -> None:
        """Close the store of a dropped collection, if this process has it open; calls on it then say what happened."""
        with sharing:
            store = _shared.get(_identity(folder / DATA_FILE)) if (folder / DATA_FILE).exists() else None
        if store is not None:
            with store.env.turn, sharing:
                store._unlist()
                store.env.close(store.env.dropped)
                store._forget()

    def _unlist(self) -> None:
        for key in [key for key, store in _shared.items() if store is self]:
            del _shared[key]


def _opened(folder: Path, *, read_only: bool, **options: Any) -> tuple[Environment, dict[str, Any]]:
    """The data.mdb of a folder, and what its collection was created with."""
    data = folder / DATA_FILE
    if not read_only:
        compaction.finish(folder)
        recovery.recover(data)
    _verify_pages(data, main_only=read_only)
    env = Environment(data, read_only=read_only, **options)
    try:
        with env.reading() as txn:
            if read_only:  # only now, when no writer takes the pages that it looks at
                _verify_pages(data)
            config = read_config(txn, env)
        if config["format"] < FORMAT and not read_only:
            config = env.write(lambda txn: upgrade(txn, env, config))
        return env, config
    except ReplacedError:  # by nothing: it was dropped in this moment
        env.close()
        raise env.dropped() from None
    except BaseException:
        env.close()
        raise


def _verify_pages(data: Path, *, main_only: bool = False) -> None:
    try:
        pages.verify_open(data, main_only=main_only)
    except CorruptionError as error:
        if _is_foreign(data):
            return  # as LMDB will tell
        text = f"{error}. Restore a backup, or save what is whole: Database.repair_collection, vecstore check --repair"
        raise CorruptionError(text, path=str(data)) from None


def _is_foreign(data: Path) -> bool:
    try:
        return all(left.names.isdisjoint(DATABASES) for left in salvage.remains(data))
    except CorruptionError:
        return False


def _identity(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise NotADatabaseError(f"{path.parent} holds no {path.name}", path=str(path)) from None
    return stat.st_dev, stat.st_ino
