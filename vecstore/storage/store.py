"""The truth of one collection: rows in data.mdb, read through views and changed through transactions.

A view is one read transaction with the table of its commit. A write is one transaction that changes rows, both
id maps, payloads, live bits, counters and log together.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vecstore.errors import CorruptionError, StorageError
from vecstore.storage import compaction, log, pages, repair, snapshot
from vecstore.storage.blocks import Layout
from vecstore.storage.checkpoint import CheckpointFile
from vecstore.storage.compaction import DATA_FILE
from vecstore.storage.config import CONFIG_KEY, new_config, read_config, write_config
from vecstore.storage.disk import disk_errors, sync_folder
from vecstore.storage.environment import Environment
from vecstore.storage.failpoints import reach
from vecstore.storage.sharing import SharedFile, sharing
from vecstore.storage.snapshot import Table
from vecstore.storage.transaction import Transaction
from vecstore.storage.view import View, Viewing
from vecstore.storage.writer import Writer
from vecstore.types import Finding

T = TypeVar("T")


class Store(SharedFile):
    """An open data.mdb."""

    def __init__(self, folder: Path, *, read_only: bool = False, **options: Any) -> None:
        # The table of the newest commit, and the file whose addresses it holds.
        self._table: tuple[Environment, Table] | None = None
        self._ready: tuple[Environment, Table] | None = None  # that of a file which takes the place of another
        self._table_lock = threading.Lock()
        self._writer = Writer(self)
        self._packed_config = b""
        self.checkpoint = CheckpointFile(folder)
        self.log_kept_from: int | None = None
        """The write of the last durable checkpoint: the log is kept from its record on."""
        super().__init__(folder, read_only=read_only, **options)
        self.layout = Layout(self.config["dim"], self.config["shift"])

    @classmethod
    def create(cls, folder: Path, config: dict[str, Any]) -> None:
        """Lay an empty store into an existing, empty folder, durably."""
        env = Environment(folder / DATA_FILE, create=True)
        reach("create.laid_out")
        try:
            full = new_config(config)
            env.write(lambda txn: write_config(txn, env, full))
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
                if env.read_only:
                    self._follow_config(txn, env)
            return fresh

    def _follow_config(self, txn: Any, env: Environment) -> None:
        """Notice, in a process that reads, that the writer has changed the index of the collection."""
        packed = bytes(txn.get(CONFIG_KEY, db=env.db("meta")) or b"")
        if packed != self._packed_config:
            config = read_config(txn, env)
            if config != self.config:
                self.config = config
            self._packed_config = packed

    def change_config(self, changes: dict[str, Any]) -> None:
        """Keep another index or other codes from now on, in one transaction that changes no row. Where the disk leaves
        open whether that took place, `config` tells it after the error."""
        with self._turn():
            config = {**self.config, **changes}
            try:
                self.env.write(lambda txn: write_config(txn, self.env, config))
            except StorageError:
                with contextlib.suppress(StorageError), self.view() as view:
                    there = read_config(view.txn, view.env)
                    self.config = self.config if there == self.config else there
                raise
            self.config = config

    def _forget(self) -> None:
        self._table = None

    def _take(self, fresh: Environment) -> None:
        with self._table_lock:
            ready, self._ready = self._ready, None
            self.env, self._table = fresh, ready if ready is not None and ready[0] is fresh else None
            self._writer.forget()
        if fresh.read_only:
            self.log_kept_from = None

    def _seen_lsn(self) -> int:
        return -1 if self._table is None else self._table[1].state.lsn

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
        with self._turn(), self.view() as view:
            view.verify()
            slots, lsn = order(view), view.state.lsn + compaction.LSN_STEP
            meta = compaction.meta_of(view.txn, view.env)
            source = compaction.Source(view.env.path, meta, self.layout, slots, view.table.rows, view.row, view.ids)
            new = self._written(source, lsn)
            with sharing, in_step(slots, lsn, view):
                self._replace(new)

    def repair(self) -> list[Finding]:
        """Write the rows that are whole into a new file, and go on with it; what was left out stands in a file
        beside it. CorruptionError where LMDB cannot follow the pages."""
        with self._turn(), self.env.reading() as txn:
            pages.verify(self.env.path)
            source, lost, lsn = repair.salvaged(self.env.path, self._items(txn), self.layout)
            lsn += compaction.LSN_STEP
            new, old = self._written(source, lsn), self.env
            quarantine = repair.quarantine_path(old.path.parent, lsn)
            try:
                repair.write_quarantine(quarantine, lost)
                with sharing:
                    self._replace(new)
            except BaseException:
                new.unlink(missing_ok=True)
                if old.still_there():  # nothing was left out
                    quarantine.unlink(missing_ok=True)
                raise
            self.checkpoint.delete()
            return [one.finding for one in lost]

    def _items(self, txn: Any) -> Callable[[str], Iterator[Any]]:
        def items(name: str) -> Iterator[Any]:
            with txn.cursor(self.env.db(name)) as cursor:
                yield from cursor

        return items

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        self.env.refuse_forked()
        self.refuse_unwritable()
        with self.env.turn:
            self.refuse_unwritable()
            yield

    def _written(self, source: compaction.Source, lsn: int) -> Path:
        try:
            return compaction.write(source, lsn)
        except StorageError:
            if not self.env.still_there():
                raise self.env.dropped() from None
            raise

    def _replace(self, new: Path) -> None:
        """Put a new file into the place of data.mdb, and go on with it; within `sharing` and the turn to write."""
        old = self.env
        try:
            old.pause_syncing()  # its record of syncs would be taken for that of the new file
            compaction.put_in_place(new)
        except BaseException as error:
            if old.still_there():
                old.resume_syncing()
                raise
            self._give_up(old, error)
            raise
        fresh = None
        try:
            with disk_errors(old.path):
                sync_folder(old.path.parent)
            reach("compact.synced")
            fresh = Environment(old.path, max_size=old.max_size, sync_interval=old.sync_interval, turn=old.turn)
            with fresh.reading() as txn:  # what the next search would have to wait for
                table = snapshot.load(txn, fresh, self.layout)
                with contextlib.suppress(CorruptionError):  # which that search tells
                    View(txn, fresh, self.layout, table).verify()
            self._ready = fresh, table
            reach("compact.opened")
            self._go_on_with(fresh)
        except BaseException as error:
            if fresh is not None:
                fresh.close()
            self._give_up(old, error)
            raise

    def _give_up(self, old: Environment, error: BaseException) -> None:
        """Take no more calls, where another file or none has the name of the old one by now: nobody would find again
        what is written to that. Raises what happened if it is not the `error`."""
        self._unlist()
        if isinstance(error, StorageError) and not old.path.exists():
            old.retire(old.dropped)
            raise old.dropped() from None
        text = f"{old.path} could not be opened again after compact() ({error}); nothing is lost, open it anew"
        old.retire(lambda: StorageError(text, path=str(old.path)))
