"""index.mdb: the arrays of an index as they were at one write, so that opening a collection need not make them again.

It is derived from data.mdb and may be missing, of another time or damaged: whoever loads it compares what its header
says, and makes the index anew where that does not fit. Arrays ("columns") are cut into pieces, one to a value with a
checksum of its own, and a checkpoint writes those whose bytes have changed, in one transaction. LMDB keeps in memory
what a transaction writes; so where much has changed, a new file is written in several, and takes the place of the old.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt
import xxhash

from vecstore.errors import CorruptionError, FormatVersionError, NotADatabaseError, VecstoreError
from vecstore.storage import pages
from vecstore.storage.disk import disk_errors, sync_folder
from vecstore.storage.environment import Environment
from vecstore.storage.failpoints import reach
from vecstore.storage.gate import ReplacedError
from vecstore.storage.lock import not_replaced
from vecstore.storage.pace import paced

INDEX_FILE: Final = "index.mdb"
DATABASES: Final = ("meta", "block")
FORMAT: Final = 1
MAGIC: Final = "vecstore index"
HEADER_KEY: Final = b"header"

PIECE_MAGIC: Final = b"cblk"
_PIECE = struct.Struct("<4sII4xQ8x")  # magic, number, bytes that follow, checksum
# With this header and LMDB's own of 16 bytes a piece fills 32 pages of 4 KiB.
PIECE_BYTES: Final = 128 * 1024 - 16 - _PIECE.size
_CHECKSUM = struct.Struct("<Q")

# Bytes that one transaction writes, or such a share of all.
AT_ONCE: Final = 4 << 20
AT_ONCE_SHARE: Final = 1 / 4
# How often a file is read again that another took the place of, or that was written, while it was opened.
TRIES: Final = 5
DAMAGED: Final = (
    CorruptionError, FormatVersionError, NotADatabaseError, ValueError, KeyError, TypeError, struct.error,
)  # fmt: skip

Header = dict[str, Any]
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Written:
    """What a checkpoint cost: pieces and bytes that were written, and pieces in all."""

    pieces: int
    bytes: int
    total: int


class CheckpointFile:
    """The index.mdb of one collection; it is open only while it is read or written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / INDEX_FILE
        self._using = threading.Lock()  # LMDB allows a file only once per process
        self._damaged = False

    def write(self, header: Header, columns: Columns) -> Written:
        """Replace what is there, durably: all of it, or an error and none of it. `header` is what msgpack can pack."""
        with self._using, disk_errors(self.path):
            reach("checkpoint.begun")
            if self._damaged or not _sound(self.path):
                self._delete()
                reach("checkpoint.deleted")
            try:
                written = self._write(header, columns)
            except (CorruptionError, NotADatabaseError):
                self._delete()
                written = self._write(header, columns)
            self._damaged = False
            reach("checkpoint.written")
            return written

    def _write(self, header: Header, columns: Columns) -> Written:
        unfinished = self.path.with_name(f"{self.path.name}-new")
        _delete(unfinished)  # a killed process may have left it
        if self.path.exists():
            written = _write_to(self.path, header, columns)
            if written is not None:
                return written
        # A new one gets its name when it is complete, so that a file of that name always holds a checkpoint.
        try:
            written = _write_to(unfinished, header, columns, in_parts=True)
            assert written is not None
            with not_replaced(self.path.parent, replacing=True):
                _lock_of(self.path).unlink(missing_ok=True)
                reach("checkpoint.unlocked")
                unfinished.rename(self.path)
        finally:
            _delete(unfinished)
        sync_folder(self.path.parent)
        return written

    def _delete(self) -> None:
        with not_replaced(self.path.parent, replacing=True):
            _delete(self.path)

    def load(self, allocate: Callable[[tuple[int, ...], Any], npt.NDArray[Any]] = np.empty) -> tuple[Header, Columns]:
        """Header and columns of the last checkpoint, the columns in arrays of their own from `allocate(shape, dtype)`.

        FileNotFoundError if there is none, FormatVersionError if a newer vecstore wrote it, CorruptionError if any byte
        of it is not what was written. A damaged file is replaced by the next `write`.
        """
        with self._using:
            for left in reversed(range(TRIES)):
                if (before := self.stamp()) is None:
                    break
                try:
                    with disk_errors(self.path):
                        return self._load(allocate)
                except ReplacedError:  # by a later one, or by nothing
                    continue
                except DAMAGED as error:
                    # Its pages are looked through before a transaction holds them: a writer may have used them again.
                    if left and self.stamp() != before:
                        continue
                    self._damaged = True
                    if isinstance(error, VecstoreError):
                        raise
                    raise CorruptionError(f"{self.path}: {error}", path=str(self.path)) from error
            raise FileNotFoundError(self.path)

    def verified(self) -> Header:
        """The header of the last checkpoint, whose pieces are all as they were written; errors as of `load`."""
        return self.load()[0]

    def delete(self) -> None:
        """Delete it, where it is of no use any more."""
        with self._using, disk_errors(self.path):
            self._delete()

    def _load(self, allocate: Callable[[tuple[int, ...], Any], npt.NDArray[Any]]) -> tuple[Header, Columns]:
        pages.verify(self.path)
        env = Environment(self.path, databases=DATABASES, read_only=True)
        try:
            with env.reading() as txn:
                return _load(txn, env, allocate)
        finally:
            env.close()

    def stamp(self) -> object:
        """Something else after each `write`; None where there is no file."""
        with contextlib.suppress(OSError):
            stat = self.path.stat()
            return stat.st_ino, stat.st_mtime_ns, stat.st_size
        return None

    def copy(self, target: Path) -> bool:
        """Copy the last checkpoint into a new file, not synced; whether there is one that could be copied."""
        with self._using, contextlib.suppress(CorruptionError, FileNotFoundError, NotADatabaseError):
            try:
                pages.verify(self.path)
            except OSError:
                return False
            env = Environment(self.path, databases=DATABASES, read_only=True)
            try:
                with env.reading() as txn:
                    env.copy(target, txn)
                    return True
            except ReplacedError:  # by a sound one, or by nothing
                target.unlink(missing_ok=True)
            finally:
                env.close()
        return False


def _delete(path: Path) -> None:
    """Delete an LMDB file with its table of readers, which tells of its last transaction: no other must find it."""
    for one in (path, _lock_of(path)):
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-lock")


def _sound(path: Path) -> bool:
    """Whether there is no file yet, or one that can be written to."""
    try:
        pages.verify(path)
    except (CorruptionError, IsADirectoryError):
        return False
    except FileNotFoundError:
        pass
    return True


def piece_key(column: str, number: int) -> bytes:
    """The name of the column, a zero byte, and the number of the piece, 4 bytes big-endian."""
    return column.encode() + b"\0" + number.to_bytes(4, "big")


def _checksum(key: bytes, piece: Any) -> int:
    return xxhash.xxh3_64_intdigest(piece, xxhash.xxh3_64_intdigest(key))


def _pieces(name: str, column: npt.NDArray[Any]) -> Iterator[tuple[bytes, int, npt.NDArray[np.uint8]]]:
    """Key, number and bytes of each piece of a column."""
    flat = column.reshape(-1).view(np.uint8)
    for number in range(-(-len(flat) // PIECE_BYTES)):
        yield piece_key(name, number), number, flat[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]


def _write_to(path: Path, header: Header, columns: Columns, *, in_parts: bool = False) -> Written | None:
    """Write a checkpoint in one transaction; None, and nothing is written, where that would be too large. Or, to a file
    that there is not yet, `in_parts`: before the last one it holds no header."""
    env = Environment(path, databases=DATABASES, create=True)
    try:
        with env.reading() as txn, txn.cursor(env.db("block")) as cursor:
            there = {bytes(key): bytes(value[: _PIECE.size]) for key, value in paced(cursor)}
        todo: list[tuple[bytes, bytes, npt.NDArray[np.uint8]]] = []
        total = all_bytes = 0
        for name, column in columns.items():
            for key, number, piece in paced(_pieces(name, np.ascontiguousarray(column))):
                head = _PIECE.pack(PIECE_MAGIC, number, len(piece), _checksum(key, piece))
                if there.pop(key, None) != head:
                    todo.append((key, head, piece))
                total, all_bytes = total + 1, all_bytes + len(piece)
        changed = sum(len(piece) for _, _, piece in todo)
        if not in_parts and changed > max(AT_ONCE, AT_ONCE_SHARE * all_bytes):
            return None
        written = len(todo)
        count = max(1, AT_ONCE // PIECE_BYTES)
        while in_parts and len(todo) > count:
            env.write(lambda txn: _put(txn, env, todo[:count]))
            reach("checkpoint.part")
            del todo[:count]
        shapes = [[name, column.dtype.str, list(column.shape)] for name, column in columns.items()]
        packed = msgpack.packb({"magic": MAGIC, "format": FORMAT, "columns": shapes, **header})

        def last(txn: Any) -> None:
            _put(txn, env, todo)
            for key in there:
                txn.delete(key, db=env.db("block"))
            txn.put(HEADER_KEY, _CHECKSUM.pack(xxhash.xxh3_64_intdigest(packed)) + packed, db=env.db("meta"))
            reach("checkpoint.header")

        env.write(last)
        return Written(written, changed + len(packed), total)
    finally:
        env.close()


def _put(txn: Any, env: Environment, pieces: list[tuple[bytes, bytes, npt.NDArray[np.uint8]]]) -> None:
    for key, head, piece in paced(pieces):
        txn.put(key, head + piece.tobytes(), db=env.db("block"))
        reach("checkpoint.piece")


def _load(
    txn: Any, env: Environment, allocate: Callable[[tuple[int, ...], Any], npt.NDArray[Any]]
) -> tuple[Header, Columns]:
    header = _header(txn.get(HEADER_KEY, db=env.db("meta")))
    shapes = [(name, np.dtype(dtype), tuple(shape)) for name, dtype, shape in header.pop("columns")]
    if sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in shapes) > env.path.stat().st_size:
        raise ValueError("the columns are larger than the file")
    columns = {}
    for name, dtype, shape in shapes:
        column = columns[name] = allocate(shape, dtype)
        for key, number, piece in paced(_pieces(name, column)):
            value = txn.get(key, db=env.db("block"))
            if value is None:
                raise ValueError(f"piece {number} of {name} is missing")
            if len(value) != _PIECE.size + len(piece):
                raise ValueError(f"piece {number} of {name} is damaged: it has {len(value)} bytes")
            magic, own_number, size, checksum = _PIECE.unpack_from(value)
            if (magic, own_number, size) != (PIECE_MAGIC, number, len(piece)):
                raise ValueError(f"piece {number} of {name} is damaged: its header is another's")
            piece[:] = np.frombuffer(value, np.uint8, size, _PIECE.size)
            if _checksum(key, piece) != checksum:
                raise ValueError(f"piece {number} of {name} is damaged: its checksum does not fit its bytes")
    return header, columns


def _header(value: Any) -> Header:
    if value is None or len(value) < _CHECKSUM.size:
        raise ValueError("there is no header")
    packed = bytes(value)[_CHECKSUM.size :]
    if _CHECKSUM.unpack_from(value)[0] != xxhash.xxh3_64_intdigest(packed):
        raise ValueError("the header is damaged")
    with contextlib.suppress(KeyError):
        header: Header = msgpack.unpackb(packed)
        if header.pop("magic") == MAGIC:
            if (found := header.pop("format")) > FORMAT:
                raise FormatVersionError(f"it has format {found}", found=found, supported=FORMAT)
            return header
    raise ValueError("the header is not a checkpoint's")
