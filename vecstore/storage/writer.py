"""How the works of several threads become one commit, and what becomes of them where that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lmdb

from vecstore.errors import DatabaseFullError
from vecstore.storage.failpoints import reach
from vecstore.storage.group import Pending, WriteQueue, again
from vecstore.storage.transaction import Allocator, Transaction, Turn

if TYPE_CHECKING:
    from vecstore.storage.store import Store


class Writer:
    """Writes to a store, for all threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._allocator: Allocator | None = None
        self._queue = WriteQueue(self.commit)

    def run(self, work: Callable[[Transaction], Any], size: int) -> Any:
        """The result of a work of about `size` bytes, once it is committed; or its error."""
        return self._queue.run(work, size)

    def forget(self) -> None:
        """Slots have other numbers by now."""
        self._allocator = None

    def commit(self, group: list[Pending]) -> None:
        """Run a group of works and commit them; a work that fails does so alone."""
        self._store.refuse_unwritable()
        # In no context manager of its own, in whose code an interruption could leave the turn taken.
        with self._store.env.turn:
            self._store.refuse_unwritable()
            batches = [group]
            while batches:
                batch = batches.pop()
                try:
                    rest = self._attempt(batch)
                    if rest:
                        batches.append(rest)
                except lmdb.MapFullError:
                    self._make_room(batch, batches)
                except Exception as error:
                    for one in batch:
                        one.error = error if len(batch) == 1 else again(error)
                    _all_done(batch)

    def _make_room(self, batch: list[Pending], batches: list[list[Pending]]) -> None:
        """Have a batch that did not fit into the map run again: in a larger one, or else each work by itself."""
        try:
            self._store.env.grow()
            batches.append(batch)
        except DatabaseFullError as error:
            if len(batch) > 1:
                batches.extend([one] for one in reversed(batch))
            else:
                batch[0].error, batch[0].done = error, True

    def _attempt(self, batch: list[Pending]) -> list[Pending]:
        """Run works in one transaction and commit it. If one spoils it, nothing is kept, and the others are returned
        to run again."""
        allocator = self._take_allocator()
        txn_id = 0

        def run(txn: Any) -> None:
            nonlocal txn_id
            txn_id = txn.id()
            turn = Turn(txn, self._store.env, self._store.layout, allocator, self._store.log_kept_from)
            for one in batch:
                one.error = None
                write = Transaction(turn)
                reach("write.begun")
                try:
                    one.result = one.work(write)
                    reach("write.worked")
                    write.finish()
                    reach("write.logged")
                except lmdb.MapFullError:
                    raise
                except Exception as error:
                    if write.touched or isinstance(error, lmdb.Error):
                        raise _SpoiltError(one, error) from error
                    one.error = error
                else:
                    allocator.follow(write)
            turn.flush()

        try:
            self._store.env.write_once(run)
        except _SpoiltError as spoilt:
            error = spoilt.error
            spoilt.one.error = self._store.env.translate(error) if isinstance(error, lmdb.Error) else error
            spoilt.one.done = True
            return [one for one in batch if one is not spoilt.one]
        except Exception:
            raise
        except BaseException:  # an interruption, perhaps behind the commit
            if txn_id and self._store.env.last_txn_id() >= txn_id:
                _all_done(batch)
            raise
        self._allocator = allocator
        _all_done(batch)
        return []

    def _take_allocator(self) -> Allocator:
        """The allocator, which is put back only behind a commit: whatever stops a write short of it voids it."""
        allocator, self._allocator = self._allocator, None
        if allocator is None:
            with self._store.view() as view:
                allocator = Allocator(view.table, self._store.layout)
        return allocator


class _SpoiltError(Exception):
    """A work has failed when it had changed something already."""

    def __init__(self, one: Pending, error: Exception) -> None:
        super().__init__()
        self.one = one
        self.error = error


def _all_done(batch: list[Pending]) -> None:
    for one in batch:
        one.done = True
