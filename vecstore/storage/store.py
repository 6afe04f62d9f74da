"""The truth of one collection: rows in data.mdb, read through views and changed through transactions.

A view is one read transaction with the table of its commit. A write is one transaction that changes rows, both
id maps, payloads, live bits, counters and log together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import msgpack
import numpy as np
import numpy.typing as npt

from vecstore.arguments import index_config
from vecstore.errors import (
    CorruptionError,
    FormatVersionError,
    InvalidArgumentError,
    NotADatabaseError,
    StateError,
    StorageError,
    VecstoreError,
)
from vecstore.storage import blocks, compaction, interval, log, repair, snapshot
from vecstore.storage.blocks import Layout
from vecstore.storage.checkpoint import CheckpointFile
from vecstore.storage.compaction import DATA_FILE
from vecstore.storage.environment import Environment, ReplacedError, disk_errors, sync_folder
from vecstore.storage.failpoints import reach
from vecstore.storage.lock import not_replaced
from vecstore.storage.log import State
from vecstore.storage.reader import Reader
from vecstore.storage.snapshot import Table
from vecstore.storage.transaction import Transaction
from vecstore.storage.writer import Writer
from vecstore.types import INDEX_KINDS, KIND_NAMES, Finding, Metric

FORMAT: Final = 2
CONFIG_KEY: Final = b"config"
UID_BYTES: Final = 16
MAGIC: Final = "vecstore"

T = TypeVar("T")


class View(Reader):
    """One commit, for as long as its transaction is open."""

    def __init__(self, txn: Any, env: Environment, layout: Layout, table: Table) -> None:
        super().__init__(txn, env)
        self.layout = layout
        self.table = table

    @property
    def state(self) -> State:
        """The counters of the commit."""
        return self.table.state

    def vectors(self, slots: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Copies of the rows of some live slots, `(n, dim) float32`, their blocks verified."""
        wanted = np.asarray(slots, np.int64)
        self.verify(np.unique(wanted >> self.layout.shift))
        out = np.empty((len(wanted), self.layout.dim), np.float32)
        for i, slot in enumerate(wanted.tolist()):
            row = int(self.table.rows[slot >> self.layout.shift])
            row += (slot & (self.layout.rows - 1)) * self.layout.dim * 4
            out[i] = np.frombuffer(blocks.at(row, self.layout.dim * 4), np.float32)
        return out

    def verify(self, numbers: Iterable[int] | npt.NDArray[np.int64] | None = None) -> None:
        """Hold blocks (all of them by default) against their checksums, each once per change of it."""
        sound = self.table.sound
        todo = np.flatnonzero(sound == 0) if numbers is None else numbers
        for number in todo:
            row = int(self.table.rows[number])
            if sound[number]:
                continue
            if not row:
                first = int(number) << self.layout.shift
                if len(self.table.live_slots(first, first + self.layout.rows)):
                    raise CorruptionError(
                        f"{self.env.path}: block {number} of vectors is missing", path=str(self.env.path)
                    )
                continue
            value = blocks.at(row - blocks.HEADER_SIZE, self.layout.size)
            try:
                blocks.verify(value, self.layout, int(number))
            except CorruptionError as error:
                raise CorruptionError(f"{self.env.path}: {error}", path=str(self.env.path)) from None
            sound[number] = 1

    def added_since(self, lsn: int) -> log.Slots | None:
        """The slots that got rows after the write `lsn`, ascending; None where the log no longer tells."""
        change = self.changed_since(lsn)
        return None if change is None else change[0]

    def write_id(self, lsn: int) -> bytes:
        """What the log calls the write `lsn`; nothing where it does not tell."""
        state = log.at(self.txn, self.env.db("log"), lsn)
        return b"" if state is None else state.write_id

    def changed_since(self, lsn: int) -> tuple[log.Slots, log.Slots] | None:
        """The slots that got rows after the write `lsn`, and those that lost one, each ascending; or None, as above."""
        entries = log.since(self.txn, self.env.db("log"), lsn, self.state.lsn)
        if entries is None:
            return None
        added = np.unique(np.concatenate([log.NO_SLOTS, *(entry.added for entry in entries)]))
        removed = np.unique(np.concatenate([log.NO_SLOTS, *(entry.removed for entry in entries)]))
        return added, removed


class Viewing:
    """A context with the view of the newest commit."""

    __slots__ = ("_reading", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> View:
        store = self._store
        while True:
            env = store.env
            self._reading = env.reading()
            try:
                txn = self._reading.__enter__()
                break
            except ReplacedError:
                store._follow_file(env)
        try:
            return View(txn, env, store.layout, store._table_of(txn, env))
        except BaseException as error:
            self._reading.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._reading.__exit__(kind, error, trace)


class Store:
    """An open data.mdb."""

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        max_size: int | None = None,
        sync_interval: float | None = None,
    ) -> None:
        if not read_only:
            interval.recover(folder / DATA_FILE)
        self.env = Environment(folder / DATA_FILE, read_only=read_only, max_size=max_size, sync_interval=sync_interval)
        try:
            with self.env.reading() as txn:
                self.config = _read_config(txn, self.env)
            if self.config["format"] < FORMAT and not read_only:
                self.config = self.env.write(self._upgrade)
        except ReplacedError:  # by nothing: it was dropped in this moment
            self.env.close()
            raise self.env.dropped() from None
        except BaseException:
            self.env.close()
            raise
        self.layout = Layout(self.config["dim"], self.config["shift"])
        self.env.on_remap = self._forget
        # The table of the newest commit, and the file whose addresses it holds.
        self._table: tuple[Environment, Table] | None = None
        self._table_lock = threading.Lock()
        self._writer = Writer(self)
        self._users = 0
        self.checkpoint = CheckpointFile(folder)
        self.log_kept_from: int | None = None
        """The write of the last durable checkpoint: the log is kept from its record on."""

    def _upgrade(self, txn: Any) -> dict[str, Any]:
        """From format 1, which had neither uid nor write ids."""
        config = {**self.config, "format": FORMAT, "uid": secrets.token_bytes(UID_BYTES)}
        txn.put(CONFIG_KEY, msgpack.packb(config), db=self.env.db("meta"))
        log.give_write_id(txn, self.env.db("log"))
        return config

    @classmethod
    def create(cls, folder: Path, config: dict[str, Any]) -> None:
        """Lay an empty store into an existing, empty folder, durably."""
        env = Environment(folder / DATA_FILE, create=True)
        reach("create.laid_out")
        try:
            layout = Layout.of(config["dim"])
            uid = secrets.token_bytes(UID_BYTES)
            full = {"magic": MAGIC, "format": FORMAT, **config, "shift": layout.shift, "uid": uid}

            def work(txn: Any) -> None:
                txn.put(CONFIG_KEY, msgpack.packb(full), db=env.db("meta"))

            env.write(work)
        finally:
            env.close()
        sync_folder(folder)

    def view(self) -> Viewing:
        """The newest commit, this process's or the writer's, as a context."""
        return Viewing(self)

    def _table_of(self, txn: Any, env: Environment) -> Table:
        kept = self._table
        if kept is not None and kept[0] is env and kept[1].txn_id == txn.id():
            return kept[1]
        with self._table_lock:
            kept = self._table
            table = None if kept is None or kept[0] is not env else kept[1]
            if table is not None and table.txn_id == txn.id():
                return table
            if table is None or table.txn_id > txn.id():  # another thread has seen a later commit: ours is older
                fresh = snapshot.load(txn, env, self.layout)
            else:
                fresh = snapshot.advance(table, txn, env, self.layout)
            if env is self.env and (table is None or fresh.txn_id > table.txn_id):
                self._table = env, fresh
            return fresh

    def _forget(self) -> None:
        self._table = None

    def write(self, work: Callable[[Transaction], T], size: int = 0) -> T:
        """Run `work` in a transaction and commit it durably; on an error nothing of it remains.

        Works of several threads share a transaction. `work` may run several times, each time from the start and in a
        transaction that knows nothing of the time before. One that changes nothing leaves no trace. `size` is about
        what it writes, in bytes.
        """
        self.env.refuse_forked()
        result: T = self._writer.run(work, size)
        return result

    # -- compaction ------------------------------------------------------------------------------------------

    def compact(
        self,
        order: Callable[[View], log.Slots],
        in_step: Callable[[log.Slots, int, View], contextlib.AbstractContextManager[None]],
    ) -> None:
        """Write the live rows into a new file, in the order of the slots that `order(view)` gives, and go on with it.

        Writers wait; readers do not. The new file is taken into use within `in_step(slots, lsn, view)`: row
        i of it is the one that had the slot `slots[i]`, from the write `lsn` on.
        """
        with self.env.writing(), self.view() as view:
            view.verify()
            slots, lsn = order(view), view.state.lsn + compaction.LSN_STEP
            source = compaction.Source(view.txn, view.env, self.layout, slots, view.table.rows, view.row, view.ids)
            new = self._written(source, lsn)
            with _sharing, in_step(slots, lsn, view):
                self._replace(new)

    def repair(self) -> list[Finding]:
        """Write the rows that are whole into a new file, and go on with it; what was left out stands in a file
        beside it."""
        with self.env.writing(), self.env.reading() as txn:
            source, lost, lsn = repair.salvaged(txn, self.env, self.layout)
            lsn += compaction.LSN_STEP
            new = self._written(source, lsn)
            repair.write_quarantine(self.env.path.parent, lsn, lost)
            with _sharing:
                self._replace(new)
            return [one.finding for one in lost]

    def _written(self, source: compaction.Source, lsn: int) -> Path:
        try:
            return compaction.write(source, lsn)
        except StorageError:
            if not source.env.still_there():
                raise source.env.dropped() from None
            raise

    def _replace(self, new: Path) -> None:
        """Put a new file into the place of data.mdb, and go on with it; within `_sharing` and the turn to write."""
        old = self.env
        try:
            old.pause_syncing()  # its record of syncs would be taken for that of the new file
            compaction.put_in_place(new)
        except BaseException as error:
            if isinstance(error, StorageError) and not old.still_there():
                raise old.dropped() from None
            old.resume_syncing()
            raise
        try:
            with disk_errors(old.path):
                sync_folder(old.path.parent)
            reach("compact.synced")
            fresh = Environment(old.path, max_size=old.max_size, sync_interval=old.sync_interval, turn=old.turn)
        except BaseException as error:
            # Nobody would find again what is written to the old file.
            self._unlist()
            if isinstance(error, StorageError) and not old.path.exists():
                old.retire(old.dropped)
                raise old.dropped() from None
            text = f"{old.path} could not be opened again after compact() ({error}); nothing is lost, open it anew"
            old.retire(lambda: StorageError(text, path=str(old.path)))
            raise
        self._go_on_with(fresh)

    def _go_on_with(self, fresh: Environment) -> None:
        fresh.on_remap = self._forget
        with self._table_lock:
            old, self.env = self.env, fresh
            self._table = None
            self._writer.forget()
        if self._users:
            self._unlist()
            _shared[fresh.device, fresh.inode] = self  # not what its path leads to by now
        old.retire()

    def _follow_file(self, old: Environment) -> None:
        with _sharing:
            self._reopen(old)

    def _reopen(self, old: Environment) -> None:
        """Go on with the file that has taken the place of `old`, which a reader had open; CollectionNotFoundError if
        none has. Within `_sharing`."""
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
                config, lsn = _read_config(txn, fresh), log.last(txn, fresh.db("log")).lsn
        except ReplacedError:  # by nothing
            return False
        # A file of format 1 has no uid, and is given one by the next writer.
        same = all(config.get(key) == value for key, value in self.config.items() if key != "format")
        return same and (self._table is None or lsn > self._table[1].state.lsn)

    def is_current(self) -> bool:
        """Whether the collection is still there, under its path."""
        env = self.env
        if env.still_there():
            return True
        if not env.read_only:
            return False
        try:
            with _sharing:
                self._reopen(env)
        except VecstoreError:
            return False
        return not env.closed or self.env is not env

    # -- sharing ---------------------------------------------------------------------------------------------

    @classmethod
    def share(
        cls, folder: Path, *, read_only: bool, max_size: int | None = None, sync_interval: float | None = None
    ) -> Store:
        """Open a store, or join those in this process that have it open: LMDB allows a file only once in each."""
        path = folder / DATA_FILE
        with _sharing:
            # No writer of another process renames files from here on; one of this process would need `_sharing`.
            with not_replaced(folder) if read_only else contextlib.nullcontext():
                for one in set(_shared.values()):
                    one._notice_replaced()
                store = _shared.get(_identity(path))
                if store is None:
                    if not read_only:
                        compaction.finish(folder)
                    store = cls(folder, read_only=read_only, max_size=max_size, sync_interval=sync_interval)
                    _shared[_identity(path)] = store
            if store.env.read_only and not read_only:
                raise StateError(f"{folder} is open read-only in this process; close that database first")
            store._users += 1
            return store

    def _notice_replaced(self) -> None:
        if self.env.read_only and not self.env.still_there():
            with contextlib.suppress(VecstoreError):  # which those who use it are told
                self._reopen(self.env)

    def release(self) -> None:
        """End one use; the last one closes the file."""
        with self.env.turn, _sharing:
            self._users -= 1
            if self._users == 0:
                self._unlist()
                self.env.close()
                self._table = None

    @staticmethod
    def close_dropped(folder: Path) -> None:
        """Close the store of a dropped collection, if this process has it open; calls on it then say what happened."""
        with _sharing:
            store = _shared.get(_identity(folder / DATA_FILE)) if (folder / DATA_FILE).exists() else None
        if store is not None:
            with store.env.turn, _sharing:
                store._unlist()
                store.env.close(store.env.dropped)
                store._table = None

    def _unlist(self) -> None:
        for key in [key for key, store in _shared.items() if store is self]:
            del _shared[key]


_shared: dict[tuple[int, int], Store] = {}
_sharing = threading.Lock()


def _identity(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise NotADatabaseError(f"{path.parent} holds no {path.name}", path=str(path)) from None
    return stat.st_dev, stat.st_ino


def _read_config(txn: Any, env: Environment) -> dict[str, Any]:
    path = str(env.path)
    value = txn.get(CONFIG_KEY, db=env.db("meta"))
    try:
        config: dict[str, Any] = msgpack.unpackb(value) if value is not None else {}
        if config["magic"] != MAGIC:
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise NotADatabaseError(f"{path} was not written by vecstore", path=path) from None
    if not isinstance(config.get("format"), int):
        raise CorruptionError(f"{path}: its format is {config.get('format')!r}", path=path)
    if config["format"] > FORMAT:
        raise FormatVersionError(
            f"{path} has format {config['format']}, and this version of vecstore reads up to {FORMAT}; "
            "upgrade vecstore",
            path=path,
            found=config["format"],
            supported=FORMAT,
        )
    if not _makes_sense(config):
        raise CorruptionError(f"{path}: what the collection was created with is damaged: {config}", path=path)
    return config


def _makes_sense(config: dict[str, Any]) -> bool:
    known = {"dim", "metric", "index", "quantization", "shift"} <= config.keys()
    return (
        known
        and (config["format"] == 1 or (isinstance(config.get("uid"), bytes) and len(config["uid"]) == UID_BYTES))
        and isinstance(config["dim"], int)
        and isinstance(config["shift"], int)
        and config["metric"] in get_args(Metric)
        and config["quantization"] in (None, *KIND_NAMES.values())
        and Layout.of(config["dim"]).shift == config["shift"]
        and _index_makes_sense(config["index"])
    )


def _index_makes_sense(index: Any) -> bool:
    """Whether it is a map of a known kind with just the numbers of that kind, each in its range."""
    if not isinstance(index, dict) or index.get("kind") not in INDEX_KINDS:
        return False
    kind = INDEX_KINDS[index["kind"]]
    names = {one.name for one in dataclasses.fields(kind)}
    if index.keys() != {"kind", *names}:
        return False
    try:
        index_config(kind(**{name: index[name] for name in names}))
    except InvalidArgumentError:
        return False
    return True
