"""Writing data.mdb anew, with nothing but its live rows, and putting it in the place of the old one.

    data.mdb.new     being written; the next writer deletes it
    data.mdb.next    whole and synced; the next writer puts it in its place, if data.mdb is as it was

Readers keep the old file until they have left it. The new one has a table of readers of its own: who opens a
collection waits while files change their names (`lock.not_replaced`).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError, StorageError
from vecstore.storage import keys, log, pages
from vecstore.storage.blocks import Block, Layout
from vecstore.storage.disk import disk_errors, sync_folder, translated
from vecstore.storage.environment import DATABASES, Environment
from vecstore.storage.failpoints import reach
from vecstore.storage.lock import not_replaced
from vecstore.storage.log import Slots, State
from vecstore.storage.pace import Pace, paced
from vecstore.storage.rows import seal_rows
from vecstore.storage.snapshot import CHUNK_SLOTS

DATA_FILE: Final = "data.mdb"
NEW: Final = ".new"
NEXT: Final = ".next"

# The new log begins behind a number that it never holds: no one can follow from the old numbers of slots to the new.
LSN_STEP: Final = 2

# What one transaction writes: LMDB keeps its pages in memory until it ends.
BLOCKS_AT_ONCE: Final = 64
ROWS_AT_ONCE: Final = 8192
# And what one call writes, in which other threads may find no way in.
PUT_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Source:
    """The rows that are kept: `slots` `(n,)` in their new order, and where to find them in the old file, data.mdb.

    `meta` is what stands in that database.
    `rows[b]` is the address of the first row of block b, `row(slot)` gives the id key and the payload of a slot, `ids`
    pairs of id key and slot in the order of the keys, all of them.
    """

    path: Path
    meta: list[tuple[bytes, bytes]]
    layout: Layout
    slots: Slots
    rows: npt.NDArray[np.int64]
    row: Callable[[int], tuple[bytes, bytes | None]]
    ids: Callable[[], Iterable[tuple[bytes, int]]]


def meta_of(txn: Any, env: Environment) -> list[tuple[bytes, bytes]]:
    """What stands in the database `meta`."""
    with txn.cursor(env.db("meta")) as cursor:
        return [(bytes(key), bytes(value)) for key, value in cursor]


def write(source: Source, lsn: int) -> Path:
    """Write data.mdb.new, synced, as of the write `lsn`; what fails leaves nothing."""
    path = source.path.with_name(DATA_FILE + NEW)
    try:
        with disk_errors(path):
            path.unlink(missing_ok=True)
            _write(path, source, lsn)
    except lmdb.Error as error:
        path.unlink(missing_ok=True)
        raise translated(error, source.path, path) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _write(path: Path, source: Source, lsn: int) -> None:
    size = max(1 << 26, 4 * source.path.stat().st_size)
    # No one else knows of it, so that it needs no table of readers, and one sync at the end is enough.
    env = lmdb.open(
        os.fspath(path), subdir=False, map_size=size, max_dbs=len(DATABASES), lock=False, sync=False, mode=0o644,
        lib_version=0,
    )  # fmt: skip
    try:
        dbs = {name: env.open_db(name.encode()) for name in DATABASES}
        pace = Pace()
        for name, items in _contents(source, lsn):
            with env.begin(write=True) as txn, txn.cursor(dbs[name]) as cursor:
                for first in range(0, len(items), PUT_AT_ONCE):
                    cursor.putmulti(items[first : first + PUT_AT_ONCE], append=True)
                    pace()
            reach("compact.part")
        env.sync(True)
    finally:
        env.close()


def _contents(source: Source, lsn: int) -> Iterator[tuple[str, list[tuple[bytes, Any]]]]:
    """What the new file holds, by database, each in the order of its keys."""
    n = len(source.slots)
    yield "meta", source.meta
    for first in range(0, -(-n // source.layout.rows), BLOCKS_AT_ONCE):
        some = range(first, min(first + BLOCKS_AT_ONCE, -(-n // source.layout.rows)))
        yield "vector:vector", [(keys.block_key(number), _block(source, number, lsn)) for number in paced(some)]
    for first in range(0, n, ROWS_AT_ONCE):
        some = range(first, min(first + ROWS_AT_ONCE, n))
        id_keys, payloads = zip(*map(source.row, paced(source.slots[first : some.stop].tolist())), strict=True)
        yield "row", list(zip(map(keys.slot_key, some), seal_rows(some, id_keys, payloads), strict=True))
    numbers = np.full(int(source.slots.max(initial=-1)) + 1, -1, np.int32)
    numbers[source.slots] = np.arange(n, dtype=np.int32)
    ids, found = paced(source.ids()), 0
    while some_ids := list(itertools.islice(ids, ROWS_AT_ONCE)):
        found += len(some_ids)
        slots = np.array([slot for _, slot in some_ids])
        new = numbers[np.minimum(slots, len(numbers) - 1)] if len(numbers) else np.full(len(slots), -1)
        if slots.min() < 0 or slots.max() >= len(numbers) or new.min() < 0:
            raise _unfit(source)
        yield "slot", [(key, keys.slot_key(number)) for (key, _), number in zip(some_ids, new.tolist(), strict=True)]
    if found != n:
        raise _unfit(source)
    yield "live", [(keys.chunk_key(chunk), _live(n, chunk)) for chunk in range(-(-n // CHUNK_SLOTS))]
    state = State(lsn, n, n, secrets.token_bytes(log.WRITE_ID_BYTES))
    record = log.Entry(np.arange(n), log.NO_SLOTS, log.NO_SLOTS).pack(state)
    yield "log", [(keys.lsn_key(lsn), record)]


def _unfit(source: Source) -> CorruptionError:
    path = str(source.path)
    return CorruptionError(f"{path}: its ids do not lead to its rows; check() tells more", path=path)


def _block(source: Source, number: int, lsn: int) -> bytearray:
    layout = source.layout
    block = Block(layout, number)
    slots = source.slots[number << layout.shift : (number + 1) << layout.shift]
    width, to = 4 * layout.dim, block.vectors.ctypes.data
    starts = source.rows[slots >> layout.shift]
    within = slots & (layout.rows - 1)
    for i, start in enumerate((starts + within * width).tolist()):
        ctypes.memmove(to + i * width, start, width)
    to = block.norms.ctypes.data
    for i, start in enumerate((starts + layout.rows * width + within * 4).tolist()):
        ctypes.memmove(to + i * 4, start, 4)
    return block.seal(lsn)


def _live(n: int, chunk: int) -> bytes:
    bits = np.arange(chunk * CHUNK_SLOTS, (chunk + 1) * CHUNK_SLOTS) < n
    return np.packbits(bits, bitorder="little").tobytes()


def put_in_place(new: Path) -> None:
    """Give a file that `write` has written the name data.mdb; on an error the old one has it still. Nobody writes to
    the old one meanwhile, nor to the new one before its folder is synced."""
    data = new.with_name(DATA_FILE)
    following = new.with_name(DATA_FILE + NEXT)
    reach("compact.written")
    with disk_errors(data):
        try:
            new.rename(following)
            reach("compact.next")
            _rename(following, data)
        except BaseException:
            new.unlink(missing_ok=True)
            following.unlink(missing_ok=True)
            raise
    reach("compact.renamed")


def _rename(following: Path, data: Path) -> None:
    with not_replaced(data.parent, replacing=True):
        _lock_of(data).unlink(missing_ok=True)
        reach("compact.unlocked")
        following.rename(data)


def finish(folder: Path) -> None:
    """Delete what a killed process has left, or complete what it had decided on: before a writer opens data.mdb."""
    data, following = folder / DATA_FILE, folder / (DATA_FILE + NEXT)
    with disk_errors(folder):
        (folder / (DATA_FILE + NEW)).unlink(missing_ok=True)
        if following.exists():
            # Where data.mdb is damaged, or missing, there is still all of it in the other.
            if (decided := _last_lsn(following)) == (now := _last_lsn(data)) + LSN_STEP or decided > now == -1:
                _rename(following, data)
            else:
                following.unlink()
        sync_folder(folder)  # who was killed may have renamed, but not synced


def _last_lsn(path: Path) -> int:
    """The lsn of a file that none in this process has open; -1 where it cannot be read."""
    try:
        pages.verify_open(path)
        env = Environment(path, read_only=True)
        try:
            with env.reading() as txn, txn.cursor(env.db("log")) as cursor:
                return keys.number(cursor.key()) if cursor.last() else 0
        finally:
            env.close()
    except StorageError:
        return -1
    finally:
        if path.name != DATA_FILE:
            _lock_of(path).unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    """LMDB's table of readers."""
    return path.with_name(path.name + "-lock")
