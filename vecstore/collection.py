"""The embedded collection: how storage and index answer a verb together."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore import analysis, arguments
from vecstore.arguments import Rows, pack_payload, unpack_payload
from vecstore.errors import (
    AlreadyExistsError,
    ClosedError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
)
from vecstore.filters import compile_filter
from vecstore.index import flat
from vecstore.index.answering import NO_FIGURES
from vecstore.index.codes import CodeScan
from vecstore.indexing import Indexing
from vecstore.keywords import verb
from vecstore.storage import keys
from vecstore.storage.backup import back_up
from vecstore.storage.check import check_store
from vecstore.storage.reader import Reader
from vecstore.storage.snapshot import Table
from vecstore.storage.store import Store
from vecstore.storage.transaction import Transaction
from vecstore.storage.view import View, Viewing
from vecstore.types import (
    KIND_NAMES,
    Clustering,
    CollectionInfo,
    DuplicateGroup,
    Filter,
    Finding,
    Flat,
    Hit,
    Id,
    Page,
    Record,
    Stats,
    WriteResult,
    hits_of,
)
from vecstore.verbs import CollectionVerbs, Operation, Query

Slots = npt.NDArray[np.int64]


class Collection(CollectionVerbs):
    """A collection in a folder of this machine; made by a Database, safe to use from many threads."""

    def __init__(self, info: CollectionInfo, store: Store, *, read_only: bool) -> None:
        self.info = info
        self._store = store
        self._read_only = read_only
        self._codes: CodeScan | None = None
        self._indexing: Indexing | None = None
        if not isinstance(info.index, Flat):
            self._indexing = Indexing(info, store, self._rows_of, read_only=read_only)
        elif info.quantization is not None:
            self._codes = CodeScan(info.quantization)
        self._index = None if self._indexing is None else self._indexing.index
        self._kept: tuple[Table, flat.Rows] | None = None
        self._closed = False
        self._closing = threading.Lock()

    # -- writing ---------------------------------------------------------------------------------------------

    def _write(self, operation: Operation, rows: Rows, merge: bool = True) -> WriteResult:
        id_keys = keys.id_keys(rows.ids)

        def work(write: Transaction) -> WriteResult:
            slots = write.slots(id_keys)
            old = (slots >= 0).nonzero()[0]
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
        self._refuse_unwritable()
        if self._indexing is None:
            return self._store.write(work, size)
        self._indexing.raise_error()
        result = self._store.write(work, size)
        self._indexing.written()
        return result

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
        one = len(found) == 1
        ids = self._index.ids(found[0][0] if one else np.concatenate([slots for slots, _ in found]), view.state.lsn)
        if ids is None:
            return [_hits(view, slots, scores, query) for slots, scores in found]
        if one:
            return [hits_of(ids, found[0][1].tolist())]
        some = iter(ids)
        return [hits_of(islice(some, len(scores)), scores.tolist()) for _, scores in found]

    def _scan(self, view: View, allowed: npt.NDArray[np.uint8], matches: int, query: Query) -> flat.Found:
        rows = self._rows_of(view)
        if self._index is not None and not query.exact:
            if view.state.lsn > self._index.lsn:
                self._follow(view)
            if self._index.graph is not None and self._index.lsn >= view.state.lsn:
                return self._index.search(
                    rows, allowed, matches, query.queries, query.k, effort=query.effort,
                    threshold=query.score_threshold, oversampling=query.oversampling, lsn=view.state.lsn,
                )  # fmt: skip
        view.verify()
        if self._codes is None or query.exact:
            return flat.search(rows, allowed, query.queries, query.k, query.score_threshold)
        state = view.state
        self._codes.follow(rows, state.lsn, state.count, view.table.live_slots, view.added_since)
        return self._codes.search(
            rows, allowed, query.queries, query.k, query.score_threshold, query.oversampling, lsn=state.lsn
        )

    # -- indexing --------------------------------------------------------------------------------------------

    def _follow(self, view: View) -> None:
        assert self._indexing is not None
        self._indexing.follow(view)
        self._indexing.indexer.wake()

    def _wait_indexed(self, timeout: float | None) -> None:
        with self._view():
            pass  # it is neither closed nor dropped
        if self._indexing is not None:
            self._indexing.wait(timeout)

    def _rebuild(self, seed: int | None) -> None:
        with self._view():
            pass
        if self._indexing is not None:
            self._indexing.rebuild(seed)
        else:
            self._codes = None if self.info.quantization is None else CodeScan(self.info.quantization)

    # -- about all rows --------------------------------------------------------------------------------------

    def _cluster(
        self, n: int, filter: Filter | None, iterations: int, seed: int, progress: analysis.Progress
    ) -> Clustering:
        return analysis.cluster(self._source(filter), n, iterations, seed, progress)

    def _near_duplicates(
        self, threshold: float, filter: Filter | None, exact: bool, progress: analysis.Progress
    ) -> list[DuplicateGroup]:
        return analysis.near_duplicates(self._source(filter), threshold, exact, progress)

    def _outliers(
        self, n: int, k: int, filter: Filter | None, with_payload: bool, with_vectors: bool, progress: analysis.Progress
    ) -> list[Hit]:
        best = analysis.outliers(self._source(filter), n, k, progress)
        records = self._get([one for one, _ in best], with_payload, with_vectors)
        return [
            Hit(record.id, score, record.payload, record.vector)
            for record, (_, score) in zip(records, best, strict=True)
            if record is not None
        ]

    def _source(self, filter: Filter | None) -> analysis.Source:
        def matching(view: View) -> Slots:
            return view.table.live_slots() if filter is None else _matching(view, filter)

        def nearest(
            view: View,
            allowed: npt.NDArray[np.uint8],
            count: int,
            queries: npt.NDArray[np.float32],
            k: int,
            threshold: float | None,
            exact: bool,
        ) -> flat.Found:
            return self._scan(view, allowed, count, Query(queries, k, score_threshold=threshold, exact=exact))

        return analysis.Source(self.metric, self._view, self._rows_of, matching, nearest)

    # -- the rest --------------------------------------------------------------------------------------------

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
                figures |= self._index.figures()
            return Stats(
                name=self.name,
                dim=self.dim,
                metric=self.metric,
                index=type(self.info.index).__name__,
                quantization=None if self.info.quantization is None else KIND_NAMES[type(self.info.quantization)],
                count=view.state.count,
                dead=view.state.slots - view.state.count,
                lsn=view.state.lsn,
                durability=None if self._read_only else "commit" if view.env.sync_interval is None else "interval",
                synced_lsn=None if self._read_only else view.env.synced_lsn(view.state.lsn),
                checkpoint_lsn=0 if self._indexing is None else self._indexing.checkpoint_lsn,
                vector_bytes=int(np.count_nonzero(view.table.rows)) * view.layout.size,
                row_bytes=_bytes(view.txn.stat(view.env.db("row"))),
                id_bytes=_bytes(view.txn.stat(view.env.db("slot"))),
                log_bytes=_bytes(view.txn.stat(view.env.db("log"))),
                free_bytes=free_bytes,
                file_bytes=file_bytes,
                index_error=None if self._indexing is None else self._indexing.error,
                **figures,
            )

    def _check(self, progress: Callable[[int, int], None]) -> list[Finding]:
        findings = check_store(self._view, progress)
        if not findings and self._indexing is not None:
            findings = self._indexing.check()
        return findings

    def _compact(self) -> None:
        self._refuse_unwritable()
        self._store.compact(self._order, self._renumbering)
        if self._indexing is not None:
            self._indexing.compacted()

    def _order(self, view: View) -> Slots:
        if self._indexing is None:
            return view.table.live_slots()
        if not self._indexing.index.scans(view.state.count):
            self._indexing.follow(view)
            self._indexing.refit(view)
        return self._indexing.order(view)

    @contextlib.contextmanager
    def _renumbering(self, slots: Slots, lsn: int, view: View) -> Iterator[None]:
        derived = self._codes or self._index
        if derived is None:
            yield
        else:
            with derived.renumbering(slots, view.state.lsn, lsn):
                yield

    @verb
    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the collection, as of one commit, to a new database at `path` that holds just it; otherwise as
        `Database.backup`."""
        self._refuse_closed()
        back_up(arguments.folder(path, "path"), [(self.name, self._store)])

    def _rows_of(self, view: View) -> flat.Rows:
        """Where the rows of a view are; made once for each commit."""
        kept = self._kept
        if kept is None or kept[0] is not view.table:
            rows = flat.Rows(view.table.rows, view.layout.shift, self.dim, view.state.slots, self.metric)
            kept = self._kept = (view.table, rows)
        return kept[1]

    # -- life ------------------------------------------------------------------------------------------------

    def _view(self) -> Viewing:
        self._refuse_closed()
        return self._store.view()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError(f'collection "{self.name}" is closed')

    def _refuse_unwritable(self) -> None:
        self._refuse_closed()
        if self._read_only:
            raise ReadOnlyError(f'collection "{self.name}" belongs to a database opened with read_only=True')

    @property
    def closed(self) -> bool:
        """Whether it was closed, by itself or with its database."""
        return self._closed

    def _current(self) -> bool:
        """Whether its file is still the collection's: a writer may have dropped it, and created another."""
        return self._store.is_current()

    def _dropped(self) -> None:
        """There is nothing left to index, although the handle may stay: its calls say what happened."""
        if self._indexing is not None:
            self._indexing.end()

    def close(self) -> None:
        """Let go of the collection's file once running calls have returned; closing twice is allowed."""
        with self._closing:
            if not self._closed:
                self._closed = True
                if self._indexing is not None:
                    self._indexing.close()
                self._store.release(read_only=self._read_only)


def _records(
    view: View, ids: list[Id], slots: npt.NDArray[np.int64], with_payload: bool, with_vectors: bool
) -> list[Record]:
    payloads = [unpack_payload(view.row(slot)[1]) if with_payload else None for slot in slots.tolist()]
    vectors: Any = view.vectors(slots) if with_vectors else [None] * len(ids)
    return [Record(*parts) for parts in zip(ids, payloads, vectors, strict=True)]


def _hits(view: View, slots: npt.NDArray[np.int32], scores: npt.NDArray[np.float32], query: Query) -> list[Hit]:
    ids, packed = view.rows_of(slots.tolist())
    if not query.with_payload and not query.with_vectors:
        return hits_of(ids, scores.tolist())
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
