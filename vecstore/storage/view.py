"""Views: what one commit holds, for as long as its read transaction is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError
from vecstore.storage import blocks, log
from vecstore.storage.blocks import Layout
from vecstore.storage.environment import Environment
from vecstore.storage.gate import ReplacedError
from vecstore.storage.log import State
from vecstore.storage.pace import paced
from vecstore.storage.reader import Reader
from vecstore.storage.snapshot import Table

# Blocks that are asked for before they are read.
AHEAD: Final = 32

if TYPE_CHECKING:
    from vecstore.storage.store import Store


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

    def verify(self, numbers: npt.NDArray[np.int64] | None = None) -> None:
        """Hold blocks (all of them by default) against their checksums, each once per change of it."""
        sound = self.table.sound
        todo = np.flatnonzero(sound == 0) if numbers is None else numbers[sound[numbers] == 0]
        for at, number in enumerate(paced(todo)):
            if at % AHEAD == 0:
                self.expect(todo[at : at + 2 * AHEAD])
            row = int(self.table.rows[number])
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

    def expect(self, numbers: npt.NDArray[np.int64]) -> None:
        """Some blocks are read next."""
        if (soon := self.env.fetching.soon) is not None:
            starts = self.table.rows[numbers]
            soon(starts[starts != 0] - blocks.HEADER_SIZE, self.layout.size)

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
                store.follow_file(env)
        try:
            return View(txn, env, store.layout, store._table_of(txn, env))
        except BaseException as error:
            self._reading.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._reading.__exit__(kind, error, trace)
