"""The embedded collection: how storage and index answer a verb together."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vecstore import analysis, arguments
from vecstore.arguments import Rows, pack_payload, unpack_payload
from vecstore.budget import Budget, Share
from vecstore.errors import (
    AlreadyExistsError,
    ClosedError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
)
from vecstore.estimates import ROW_BYTES, estimated
from vecstore.filters import compile_filter
from vecstore.index import flat
from vecstore.index.answering import NO_FIGURES
from vecstore.index.calls import NO_NAMES
from vecstore.index.codes import CodeScan
from vecstore.index.kinds import GraphOrLists
from vecstore.indexing import Indexing
from vecstore.keywords import verb
from vecstore.means import Means, follow_codes
from vecstore.storage import keys
from vecstore.storage.backup import back_up
from vecstore.storage.check import check_store
from vecstore.storage.config import CHANGEABLE, config_of, info_of
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
    Estimate,
    Filter,
    Finding,
    Hit,
    Id,
    IndexConfig,
    Page,
    Quantization,
    Record,
    Stats,
    WriteResult,
    hits_of,
)
from vecstore.verbs import CollectionVerbs, Operation, Query

Slots = npt.NDArray[np.int64]


class Collection(CollectionVerbs):
    """A collection in a folder of this machine; made by a Database, safe to use from many threads."""

    def __init__(self, info: CollectionInfo, store: Store, *, read_only: bool, budget: Budget | None = None) -> None:
        self._store = store
        self._read_only = read_only
        self._kept: tuple[Table, flat.Rows] | None = None
        self._looks_up_ids = False  # since some are strings
        self._closed = False
        self._closing = threading.Lock()
        # Held by what makes an index or a file anew, one at a time; taken before the turn to write.
        self._maintaining = threading.Lock()
        self._switching = threading.Lock()
        self._budget = budget or Budget()
        self._become(Means.of(info, store, self._rows_of, read_only=read_only, share=Share(self._budget)))

    def _become(self, means: Means) -> None:
        self._means, self.info = means, means.info

    @property
    def _indexing(self) -> Indexing | None:
        return self._means.indexing

    @property
    def _index(self) -> GraphOrLists | None:
        return self._means.index

    @property
    def _codes(self) -> CodeScan | None:
        return self._means.codes

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
        if (indexing := self._indexing) is not None:
            indexing.raise_error()
        result = self._store.write(work, size)
        if (indexing := self._indexing) is not None:
            indexing.written()
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
            means = self._current_means()
            allowed, matches = view.table.live, view.state.count
            if len(query.queries) == 1 and means.indexing is not None and query.is_plain:
                hits = self._nearest(means.indexing, view, query)
                if hits is not None:
                    return [hits]
            if query.filter is not None:
                slots = _matching(view, query.filter)
                allowed, matches = _bits(slots, len(allowed)), len(slots)
            found = self._scan(view, means, allowed, matches, query)
            return self._hits(view, means.index, found, query)

    def _nearest(self, indexing: Indexing, view: View, query: Query) -> list[Hit] | None:
        """The hits of one query in the ordinary case, without what the general one costs; None in any other."""
        lsn, index = view.state.lsn, indexing.index
        if lsn > index.lsn:
            indexing.follow(view)
            indexing.indexer.wake()
            if lsn > index.lsn:
                return None
        bare = not (query.with_payload or query.with_vectors or self._looks_up_ids)
        names, version = index.names(lsn) if bare else (NO_NAMES, 0)
        found = index.nearest(
            self._rows_of(view), view.table.live, view.state.count, query.queries, query.k, query.effort, names
        )
        if found is None or index.lost_since(lsn):
            return None
        best, scores = found
        if not len(names):
            return _hits(view, best[0], scores[0], query)
        ids = best[0].tolist()
        if -1 in ids:
            self._looks_up_ids = True
            return None
        return hits_of(ids, scores[0].tolist()) if index.names_are(version) else None

    def _hits(self, view: View, index: GraphOrLists | None, found: flat.Found, query: Query) -> list[list[Hit]]:
        if index is None or not found or query.with_payload or query.with_vectors or query.exact:
            return [_hits(view, slots, scores, query) for slots, scores in found]
        one = len(found) == 1
        ids = index.ids(found[0][0] if one else np.concatenate([slots for slots, _ in found]), view.state.lsn)
        if ids is None:
            return [_hits(view, slots, scores, query) for slots, scores in found]
        if one:
            return [hits_of(ids, found[0][1].tolist())]
        some = iter(ids)
        return [hits_of(islice(some, len(scores)), scores.tolist()) for _, scores in found]

    def _scan(self, view: View, means: Means, allowed: npt.NDArray[np.uint8], matches: int, query: Query) -> flat.Found:
        rows, indexing, codes = self._rows_of(view), means.indexing, means.codes
        if indexing is not None and not query.exact:
            index = indexing.index
            if view.state.lsn > index.lsn:
                indexing.follow(view)
                indexing.indexer.wake()
            if index.graph is not None and index.lsn >= view.state.lsn:
                return index.search(
                    rows, allowed, matches, query.queries, query.k, effort=query.effort,
                    threshold=query.score_threshold, oversampling=query.oversampling, lsn=view.state.lsn,
                )  # fmt: skip
        view.verify()
        if codes is not None and not query.exact and not means.share.fits(means.info, view.state.count):
            codes.let_go()
            codes = None
        if codes is None or query.exact:
            return flat.search(rows, allowed, query.queries, query.k, query.score_threshold)
        follow_codes(codes, view, rows)
        return codes.search(
            rows, allowed, query.queries, query.k, query.score_threshold, query.oversampling, lsn=view.state.lsn
        )

    def _current_means(self) -> Means:
        """What answers a search; within a view, where a reader learns that the writer has changed it."""
        means = self._means
        if not self._read_only or means.config is self._store.config:
            return means
        with self._switching:
            means, config = self._means, self._store.config
            info = info_of(self.name, config)
            if means.only_tunes(info):
                self._become(means.tuned(info, config))
            elif not self._closed:
                means.share.give_back()
                share = Share(self._budget)
                self._become(Means.of(info, self._store, self._rows_of, read_only=True, share=share, succeeds=True))
                if means.indexing is not None:
                    means.indexing.end()  # not waited for: it may wait until no view is left
            return self._means

    # -- indexing --------------------------------------------------------------------------------------------

    def _wait_indexed(self, timeout: float | None) -> None:
        with self._view():  # it is neither closed nor dropped
            indexing = self._current_means().indexing
        if indexing is not None:
            indexing.wait(timeout)

    def _rebuild(self, seed: int | None) -> None:
        with self._maintaining:
            with self._view():
                means = self._current_means()
            if means.indexing is not None:
                means.indexing.rebuild(seed)
            elif means.info.quantization is not None:
                self._become(dataclasses.replace(means, codes=CodeScan(means.info.quantization)))

    def _set_index(
        self,
        index: IndexConfig,
        quantization: Quantization | Literal["same"] | None,
        progress: Callable[[int, int], None],
    ) -> None:
        self._refuse_unwritable()
        with self._maintaining:
            with self._view():
                before = self._means  # of a collection that is neither closed nor dropped
            codes = before.info.quantization if quantization == "same" else quantization
            info = dataclasses.replace(before.info, index=index, quantization=codes)
            if info == before.info:
                return
            if before.only_tunes(info):
                self._take(lambda config: before.tuned(info, config), info)
                return
            share = Share(self._budget)
            made = Means.of(info, self._store, self._rows_of, read_only=False, share=share, succeeds=True)
            try:
                made.build(self._store, self._rows_of, progress, self._refuse_closed)
                self._take(lambda config: dataclasses.replace(made, config=config), info)
            except BaseException:
                share.give_back()
                if made.indexing is not None:
                    made.indexing.end()
                raise
            before.share.give_back()
            if before.indexing is not None:
                before.indexing.retire()
            if made.indexing is not None:
                made.indexing.begin()
            else:
                self._store.log_kept_from = None
                self._store.checkpoint.delete()

    def _take(self, means: Callable[[dict[str, Any]], Means], info: CollectionInfo) -> None:
        """Keep another index, durably, and go on with it."""
        with self._closing:
            self._refuse_closed()
            self._store.change_config({name: value for name, value in config_of(info).items() if name in CHANGEABLE})
            self._become(means(self._store.config))

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
            query = Query(queries, k, score_threshold=threshold, exact=exact)
            return self._scan(view, self._current_means(), allowed, count, query)

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
            means = self._current_means()
            info, indexing, code_scan = means.info, means.indexing, means.codes
            codes = 0 if code_scan is None else code_scan.bytes
            figures: dict[str, Any] = {**NO_FIGURES, "code_bytes": codes, "index_bytes": codes}
            if indexing is not None:
                figures |= indexing.index.figures()
                figures["index_bytes"] += indexing.index.id_bytes
            return Stats(
                name=self.name,
                dim=self.dim,
                metric=self.metric,
                index=type(info.index).__name__,
                quantization=None if info.quantization is None else KIND_NAMES[type(info.quantization)],
                count=view.state.count,
                dead=view.state.slots - view.state.count,
                lsn=view.state.lsn,
                durability=None if self._read_only else "commit" if view.env.sync_interval is None else "interval",
                synced_lsn=None if self._read_only else view.env.synced_lsn(view.state.lsn),
                checkpoint_lsn=0 if indexing is None else indexing.checkpoint_lsn,
                vector_bytes=int(np.count_nonzero(view.table.rows)) * view.layout.size,
                row_bytes=_bytes(view.txn.stat(view.env.db("row"))),
                id_bytes=_bytes(view.txn.stat(view.env.db("slot"))),
                log_bytes=_bytes(view.txn.stat(view.env.db("log"))),
                free_bytes=free_bytes,
                file_bytes=file_bytes,
                index_error=means.share.refusal or None if indexing is None else indexing.error,
                **figures,
            )

    def _estimate(
        self, count: int | None, index: IndexConfig | None, quantization: Quantization | Literal["same"] | None
    ) -> Estimate:
        with self._view() as view:
            info, there = self._current_means().info, view.state.count
            beside = sum(_bytes(view.txn.stat(view.env.db(name))) for name in ("row", "slot"))
        return estimated(
            there if count is None else count,
            info.dim,
            info.metric,
            index or info.index,
            info.quantization if quantization == "same" else quantization,
            max(ROW_BYTES, beside / there) if there else ROW_BYTES,
        )

    def _check(self, progress: Callable[[int, int], None]) -> list[Finding]:
        findings = check_store(self._view, progress)
        if not findings and (indexing := self._indexing) is not None:
            findings = indexing.check()
        return findings

    def _compact(self) -> None:
        self._refuse_unwritable()
        with self._maintaining:
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
        derived = self._means.codes or self._means.index
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
        self._means.share.give_back()
        if self._indexing is not None:
            self._indexing.end()

    def close(self) -> None:
        """Let go of the collection's file once running calls have returned; closing twice is allowed."""
        with self._closing:
            if not self._closed:
                self._closed = True
                if self._indexing is not None:
                    self._indexing.close()
                self._means.share.give_back()
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
