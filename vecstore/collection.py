"""The embedded collection: where storage and index meet. Nobody else knows both."""

from __future__ import annotations

import base64
import binascii
import contextlib
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.arguments import Rows, pack_payload, unpack_payload
from vecstore.errors import (
    AlreadyExistsError,
    ClosedError,
    CollectionNotFoundError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    StateError,
)
from vecstore.filters import compile_filter
from vecstore.index import flat
from vecstore.index.background import Indexer
from vecstore.index.codes import CodeScan
from vecstore.index.hnsw import FIT_FROM, NO_FIGURES, Change, HnswIndex
from vecstore.storage import keys
from vecstore.storage.check import check_store
from vecstore.storage.reader import Reader
from vecstore.storage.snapshot import Table
from vecstore.storage.store import Store, View
from vecstore.storage.transaction import Transaction
from vecstore.types import (
    HNSW,
    KIND_NAMES,
    CollectionInfo,
    Filter,
    Finding,
    Hit,
    Id,
    Page,
    Record,
    Stats,
    WriteResult,
)
from vecstore.verbs import CollectionVerbs, Operation, Query

Slots = npt.NDArray[np.int64]

# Rows that may wait to be linked: a search scans their codes, in some 400 us at 384 dimensions. Behind it writers wait.
MAX_TAIL = 32_768
NO_BOUND = 2**31


class Collection(CollectionVerbs):
    """A collection in a folder of this machine; made by a Database, safe to use from many threads."""

    def __init__(self, info: CollectionInfo, store: Store, *, read_only: bool) -> None:
        self.info = info
        self._store = store
        self._read_only = read_only
        self._codes: CodeScan | None = None
        self._index: HnswIndex | None = None
        if isinstance(info.index, HNSW):
            self._index = HnswIndex(info.index, info.quantization, info.dim, info.metric)
        elif info.quantization is not None:
            self._codes = CodeScan(info.quantization)
        self._indexer = Indexer(info.name, self._index_step)
        self._bound = NO_BOUND  # of a collection that was just opened, whose rows all wait to be linked
        self._kept: tuple[Table, flat.Rows] | None = None
        self._closed = False
        self._closing = threading.Lock()

    # -- writing ---------------------------------------------------------------------------------------------

    def _write(self, operation: Operation, rows: Rows, merge: bool = True) -> WriteResult:
        id_keys = keys.id_keys(rows.ids)

        def work(write: Transaction) -> WriteResult:
            slots = write.slots(id_keys)
            old = np.flatnonzero(slots >= 0)
            if operation == "insert" and len(old):
                raise _already_there([rows.ids[i] for i in old])
            if operation == "update":
                if len(old) < len(slots):
                    raise _missing([rows.ids[i] for i in np.flatnonzero(slots < 0)])
                return self._update(write, id_keys, slots, rows, merge)
            write.remove(slots[old], [id_keys[i] for i in old], replaced=True)
            self._add(write, id_keys, rows, rows.payloads or [None] * len(id_keys))
            return WriteResult(write.lsn, inserted=len(slots) - len(old), updated=len(old))

        size = 0 if rows.vectors is None else rows.vectors.nbytes
        size += sum(map(len, filter(None, rows.payloads or ())))
        return self._transaction(work, size)

    def _add(self, write: Transaction, id_keys: list[bytes], rows: Rows, payloads: Sequence[bytes | None]) -> None:
        assert rows.vectors is not None and rows.norms is not None
        write.add(id_keys, rows.vectors, rows.norms, payloads)

    def _update(
        self, write: Transaction, id_keys: list[bytes], slots: npt.NDArray[np.int64], rows: Rows, merge: bool
    ) -> WriteResult:
        old = [write.row(slot)[1] for slot in slots.tolist()]
        if rows.payloads is None:
            payloads = old
        elif merge:
            payloads = [_merged(before, given) for before, given in zip(old, rows.payloads, strict=True)]
        else:
            payloads = rows.payloads
        if rows.vectors is None:
            write.set_payloads(slots, id_keys, payloads)
        else:
            write.remove(slots, id_keys, replaced=True)
            self._add(write, id_keys, rows, payloads)
        return WriteResult(write.lsn, updated=len(slots))

    def _delete(self, ids: list[Id] | None, filter: Filter | None) -> WriteResult:
        def work(write: Transaction) -> WriteResult:
            if ids is not None:
                id_keys = keys.id_keys(list(dict.fromkeys(ids)))
                slots = write.slots(id_keys)
                id_keys = [key for key, slot in zip(id_keys, slots, strict=True) if slot >= 0]
                slots = slots[slots >= 0]
            else:
                slots = _matching(write, filter or {})
                id_keys = [write.row(slot)[0] for slot in slots.tolist()]
            write.remove(slots, id_keys)
            return WriteResult(write.lsn, deleted=len(slots))

        return self._transaction(work)

    def _transaction(self, work: Callable[[Transaction], WriteResult], size: int = 0) -> WriteResult:
        self._refuse_closed()
        if self._read_only:
            raise ReadOnlyError(f'collection "{self.name}" belongs to a database opened with read_only=True')
        if self._index is None:
            return self._store.write(work, size)
        error = self._indexer.take_error()
        if error is not None:
            raise StateError(
                f'collection "{self.name}": indexing in the background failed ({type(error).__name__}: {error}). '
                "This call wrote nothing, and nothing is lost: searches scan what is not linked. Try again"
            ) from error
        result = self._store.write(work, size)
        self._wait_for_room()
        return result

    def _wait_for_room(self) -> None:
        """Wake the indexer, and wait while more rows wait to be linked than searches should have to scan."""
        assert self._index is not None
        self._indexer.wake()
        index, graph = self._index, self._index.graph
        if graph is None:
            return
        self._bound = max(MAX_TAIL, min(self._bound, index.to_link))
        if index.to_link > self._bound:
            self._indexer.wait_until(lambda: index.to_link <= self._bound)

    # -- reading ---------------------------------------------------------------------------------------------

    def _get(self, ids: list[Id], with_payload: bool, with_vectors: bool) -> list[Record | None]:
        with self._view() as view:
            slots = view.slots(keys.id_keys(ids))
            there = np.flatnonzero(slots >= 0)
            found: list[Record | None] = [None] * len(ids)
            records = _records(view, [ids[i] for i in there], slots[there], with_payload, with_vectors)
            for i, record in zip(there.tolist(), records, strict=True):
                found[i] = record
            return found

    def _search(self, query: Query) -> list[list[Hit]]:
        with self._view() as view:
            allowed, matches = view.table.live, view.state.count
            if query.filter is not None:
                slots = _matching(view, query.filter)
                allowed, matches = _bits(slots, len(allowed)), len(slots)
            found = self._scan(view, allowed, matches, query)
            return self._hits(view, found, query)

    def _hits(self, view: View, found: flat.Found, query: Query) -> list[list[Hit]]:
        if self._index is None or not found or query.with_payload or query.with_vectors or query.exact:
            return [_hits(view, slots, scores, query) for slots, scores in found]
        index, lsn = self._index, view.state.lsn
        all_slots = found[0][0] if len(found) == 1 else np.concatenate([slots for slots, _ in found])
        ids = index.ids(all_slots, lsn)
        if ids is None:
            return [_hits(view, slots, scores, query) for slots, scores in found]
        some = iter(ids)
        return [list(map(Hit, islice(some, len(scores)), scores.tolist())) for _, scores in found]

    def _scan(self, view: View, allowed: npt.NDArray[np.uint8], matches: int, query: Query) -> flat.Found:
        rows = self._rows_of(view)
        if self._index is not None and not query.exact:
            if view.state.lsn > self._index.lsn:
                self._follow(self._index, view)
                self._indexer.wake()
            if self._index.graph is not None:
                return self._index.search(
                    rows, allowed, matches, query.queries, query.k, ef=query.ef, threshold=query.score_threshold,
                    oversampling=query.oversampling, lsn=view.state.lsn,
                )  # fmt: skip
        view.verify()
        if self._codes is None or query.exact:
            return flat.search(rows, allowed, query.queries, query.k, query.score_threshold)
        state = view.state
        self._codes.follow(rows, state.lsn, state.count, view.table.live_slots, view.added_since)
        return self._codes.search(rows, allowed, query.queries, query.k, query.score_threshold, query.oversampling)

    # -- indexing --------------------------------------------------------------------------------------------

    def _follow(self, index: HnswIndex, view: View) -> None:
        """Bring the index up to a view."""
        index.follow(self._rows_of(view), view.state.lsn, *_changes(view))

    def _index_step(self) -> bool:
        """Some of the work of the indexer; whether there is more."""
        index = self._index
        assert index is not None
        try:
            with self._store.view() as view:
                if view.state.lsn > index.lsn and view.state.count >= FIT_FROM:
                    self._follow(index, view)
                if index.needs_refit(view.state.count):
                    index.refit(self._rows_of(view), view.state.lsn, view.table.live_slots())
        except (ClosedError, CollectionNotFoundError):
            self._indexer.end()
            return False
        more = index.link() > 0
        if not more or index.crowded:
            index.settle()
        return more

    def _indexed(self, lsn: int) -> bool:
        index = self._index
        return index is None or (index.lsn >= lsn and not index.to_link)

    def _wait_indexed(self, timeout: float | None) -> None:
        with self._view() as view:
            lsn, small = view.state.lsn, view.state.count < FIT_FROM
        if self._index is None or small or self._indexed(lsn):
            return
        self._indexer.wake()
        if self._indexer.wait_until(lambda: self._indexed(lsn), timeout):
            return
        with self._view():
            pass  # it was neither closed nor dropped
        error = self._indexer.error
        if error is not None:
            raise StateError(f'collection "{self.name}": indexing in the background failed: {error}')
        raise DeadlineExceededError(f'collection "{self.name}": not all rows are linked after {timeout:g} s')

    def _rebuild(self, seed: int | None) -> None:
        index = self._index
        with self._view() as view:
            if index is None:
                self._codes = None if self.info.quantization is None else CodeScan(self.info.quantization)
                return
            lsn, (live, *_) = view.state.lsn, _changes(view)
            graph = index.begun(self._rows_of(view), live(), seed)
        # It takes long, and needs no rows: outside of a view, for which a write that has to grow the map would wait.
        index.link_all(graph, going_on=lambda: not self._closed)
        replaced = False
        while not replaced:
            with self._view() as view:
                rows = self._rows_of(view)
                replaced = index.replace(graph, lsn, rows, view.state.lsn, *_changes(view))
        self._indexer.wake()

    def _scroll(
        self, filter: Filter | None, limit: int, cursor: str | None, with_payload: bool, with_vectors: bool
    ) -> Page:
        after = b"" if cursor is None else _decode_cursor(cursor)
        matches = None if filter is None else compile_filter(filter)
        with self._view() as view:
            ids: list[Id] = []
            slots: list[int] = []
            key, more = b"", None
            for next_key, slot in view.ids(after):
                if matches is not None and not matches(unpack_payload(view.row(slot)[1]) or {}):
                    continue
                if len(ids) == limit:
                    more = _encode_cursor(key)
                    break
                key = next_key
                ids.append(keys.key_id(key))
                slots.append(slot)
            return Page(_records(view, ids, np.array(slots, np.int64), with_payload, with_vectors), more)

    def _count(self, filter: Filter | None) -> int:
        with self._view() as view:
            return view.state.count if filter is None else len(_matching(view, filter))

    def stats(self) -> Stats:
        """Counts and sizes."""
        with self._view() as view:
            file_bytes, free_bytes = view.env.used(view.txn)
            codes = 0 if self._codes is None else self._codes.bytes
            figures: dict[str, Any] = {**NO_FIGURES, "code_bytes": codes, "index_bytes": codes}
            if self._index is not None:
                figures = self._index.figures()
            return Stats(
                name=self.name,
                dim=self.dim,
                metric=self.metric,
                index=type(self.info.index).__name__,
                quantization=None if self.info.quantization is None else KIND_NAMES[type(self.info.quantization)],
                count=view.state.count,
                dead=view.state.slots - view.state.count,
                lsn=view.state.lsn,
                vector_bytes=int(np.count_nonzero(view.table.rows)) * view.layout.size,
                row_bytes=_bytes(view.txn.stat(view.env.db("row"))),
                id_bytes=_bytes(view.txn.stat(view.env.db("slot"))),
                log_bytes=_bytes(view.txn.stat(view.env.db("log"))),
                free_bytes=free_bytes,
                file_bytes=file_bytes,
                index_error=self._indexer.error,
                **figures,
            )

    def check(self) -> list[Finding]:
        """Read and verify everything that is stored; what is wrong, or an empty list."""
        with self._view() as view:
            return check_store(view)

    def _rows_of(self, view: View) -> flat.Rows:
        """Where the rows of a view are; made once for each commit."""
        kept = self._kept
        if kept is None or kept[0] is not view.table:
            rows = flat.Rows(view.table.rows, view.layout.shift, self.dim, view.state.slots, self.metric)
            kept = self._kept = (view.table, rows)
        return kept[1]

    # -- life ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _view(self) -> Iterator[View]:
        self._refuse_closed()
        with self._store.view() as view:
            yield view

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError(f'collection "{self.name}" is closed')

    @property
    def closed(self) -> bool:
        """Whether it was closed, by itself or with its database."""
        return self._closed

    def _current(self) -> bool:
        """Whether its file is still the collection's: a writer may have dropped it, and created another."""
        return self._store.env.still_there()

    def _dropped(self) -> None:
        """There is nothing left to index, although the handle may stay: its calls say what happened."""
        self._indexer.end()

    def close(self) -> None:
        """Let go of the collection's file once running calls have returned; closing twice is allowed."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._indexer.stop()
                self._store.release()


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


def _records(
    view: View, ids: list[Id], slots: npt.NDArray[np.int64], with_payload: bool, with_vectors: bool
) -> list[Record]:
    payloads = [unpack_payload(view.row(slot)[1]) if with_payload else None for slot in slots.tolist()]
    vectors: Any = view.vectors(slots) if with_vectors else [None] * len(ids)
    return [Record(*parts) for parts in zip(ids, payloads, vectors, strict=True)]


def _hits(view: View, slots: npt.NDArray[np.int32], scores: npt.NDArray[np.float32], query: Query) -> list[Hit]:
    ids, packed = view.rows_of(slots.tolist())
    if not query.with_payload and not query.with_vectors:
        return list(map(Hit, ids, scores.tolist()))
    payloads = map(unpack_payload, packed) if query.with_payload else [None] * len(ids)
    vectors: Any = view.vectors(slots) if query.with_vectors else [None] * len(ids)
    return list(map(Hit, ids, scores.tolist(), payloads, vectors))


def _matching(reader: Reader, filter: Filter) -> npt.NDArray[np.int64]:
    """The slots whose payload matches, ascending; a row without payload is judged as `{}`."""
    matches = compile_filter(filter)
    found = [slot for slot, _, packed in reader.rows() if matches(unpack_payload(packed) or {})]
    return np.array(found, np.int64)


def _bits(slots: npt.NDArray[np.int64], n_bytes: int) -> npt.NDArray[np.uint8]:
    bits = np.zeros(n_bytes * 8, np.uint8)
    bits[slots] = 1
    return np.packbits(bits, bitorder="little")


def _merged(before: bytes | None, given: bytes | None) -> bytes | None:
    if before is None or given is None:
        return before or given
    return pack_payload({**(unpack_payload(before) or {}), **(unpack_payload(given) or {})})


def _bytes(stat: dict[str, int]) -> int:
    return stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])


def _encode_cursor(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


def _decode_cursor(cursor: str) -> bytes:
    try:
        key = base64.urlsafe_b64decode(cursor.encode())
        keys.key_id(key)
    except (ValueError, IndexError, struct.error, binascii.Error):
        raise InvalidArgumentError(f"cursor: expected one that scroll() returned, got {cursor!r}") from None
    return key


def _already_there(ids: list[Id]) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"insert: {_some(ids)} there already; use upsert to replace rows. Nothing was inserted", ids=ids[:10]
    )


def _missing(ids: list[Id]) -> NotFoundError:
    return NotFoundError(f"update: {_some(ids)} not there; nothing was updated", ids=ids[:10])


def _some(ids: list[Id]) -> str:
    """A readable subject for a sentence on ids."""
    if len(ids) == 1:
        return f"id {ids[0]!r} is"
    shown = ", ".join(map(repr, ids[:10]))
    return f"{len(ids)} ids ({shown}{', ...' if len(ids) > 10 else ''}) are"
