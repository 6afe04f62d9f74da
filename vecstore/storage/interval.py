"""Commits that are synced later, at an interval, and what makes that safe where the power fails.

Without a sync the disk may hold any of the pages written since the last one, and a meta page that leads to pages which
never arrived. So what the last sync made durable is kept whole, and found again:

1. A read transaction stays open on the commit that was last synced: LMDB reuses none of its pages meanwhile.
2. Its meta page is kept in `data.mdb-synced`, together with what names this run of the machine.
3. Whoever opens the file after another run puts that meta page back, and so is at the last sync. In the same run (the
   process was killed) the kernel has every page: the file is taken as it is.

A sync: `env.sync` (all pages up to some commit are on the disk), then the record of that commit's meta page, synced,
and only then the transaction on the commit before it ends. Each order that a crash can leave is one of the two.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import fcntl
import logging
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xxhash

from vecstore.errors import CorruptionError, StorageError
from vecstore.storage.disk import disk_errors, sync_folder
from vecstore.storage.failpoints import reach

log = logging.getLogger("vecstore")

SUFFIX: Final = "-synced"

# Pages of the last sync are not used again before the next one: it comes early when the file has grown by so much.
GROWTH: Final = 256 << 20

# Without commits for so long, all is synced and the record says so: then nothing is lost whatever happens.
IDLE_SECONDS: Final = 1.0

# MDB_meta of LMDB 0.9 on a machine of 64 bits, behind the header of its page: magic, version, address, size of the
# map, two databases of 48 bytes (the first field of the first is the size of a page), last page, transaction.
META_AT: Final = 16
META_SIZE: Final = 136
_MAGIC: Final = 0xBEEFC0DE
_PAGE_SIZE_AT: Final = 24
_LAST_PAGE_AT: Final = 120
_TXN_AT: Final = 128

_SLOT: Final = struct.Struct(f"<8sQB7x16s{META_SIZE}s")
_SLOT_MAGIC: Final = b"vsynced1"
_SLOTS_AT: Final = (0, 4096)  # in pages of their own, so that writing one cannot tear the other


@dataclass(frozen=True, slots=True)
class Record:
    """What `data.mdb-synced` says: whether there may be commits behind the last sync (`open`), the digest of the boot
    they were made in, and the meta page of the last sync."""

    number: int
    open: bool
    boot: bytes
    meta: bytes

    def pack(self) -> bytes:
        """A slot: the fields, then XXH3-64 of them."""
        fields = _SLOT.pack(_SLOT_MAGIC, self.number, self.open, self.boot, self.meta)
        return fields + xxhash.xxh3_64_digest(fields)

    @classmethod
    def unpack(cls, slot: bytes) -> Record | None:
        """The record in a slot, or None where none was written whole."""
        fields = slot[: _SLOT.size]
        if len(slot) < _SLOT.size + 8 or slot[_SLOT.size : _SLOT.size + 8] != xxhash.xxh3_64_digest(fields):
            return None
        magic, number, is_open, boot, meta = _SLOT.unpack(fields)
        return cls(number, bool(is_open), boot, meta) if magic == _SLOT_MAGIC else None


def boot_id() -> str | None:
    """What names this run of the machine, until it goes down; None where the system does not tell."""
    if sys.platform == "darwin":
        buffer, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
        libc = ctypes.CDLL(ctypes.util.find_library("c"))
        found = libc.sysctlbyname(b"kern.bootsessionuuid", buffer, ctypes.byref(size), None, 0) == 0
        return buffer.value.decode() if found and buffer.value else None
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def available() -> bool:
    """Whether commits can be synced later on this machine."""
    return boot_id() is not None and struct.calcsize("P") == 8


def _boot_digest() -> bytes:
    boot = boot_id()
    return bytes(16) if boot is None else xxhash.xxh3_128_digest(boot.encode())


def sync_file(fd: int) -> None:
    """Have all that was written to a file on the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # on macOS fsync(2) leaves it to the cache of the drive
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def read_record(data: Path) -> Record | None:
    """The record of a data file, or None if there is none."""
    path = data.with_name(data.name + SUFFIX)
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    found = [record for at in _SLOTS_AT if (record := Record.unpack(whole[at:])) is not None]
    if not found:
        raise CorruptionError(
            f"{path} is damaged. If the machine has not gone down since the database was last used, delete it",
            path=str(path),
        )
    return max(found, key=lambda record: record.number)


def _unfinished(data: Path) -> Path:
    """What a record is called before it is whole."""
    return data.with_name(f".{data.name}{SUFFIX}")


def is_behind(data: Path) -> bool:
    """Whether the machine went down before all of a data file was synced, so that it needs `recover`."""
    record = read_record(data)
    return record is not None and record.open and record.boot != _boot_digest()


def recover(data: Path) -> None:
    """Have a data file that no one has open hold what is durable, and nothing else, and forget its record."""
    with disk_errors(data):
        _unfinished(data).unlink(missing_ok=True)
        record = read_record(data)
        if record is None:
            return
        fd = os.open(data, os.O_RDWR)
        try:
            if record.open and record.boot != _boot_digest():
                _put_back(fd, data, record.meta)
            reach("interval.put_back")
            sync_file(fd)
        finally:
            os.close(fd)
        data.with_name(data.name + SUFFIX).unlink()
        sync_folder(data.parent)


def _put_back(fd: int, data: Path, meta: bytes) -> None:
    page_size, txn_id = _number(meta, _PAGE_SIZE_AT, 4), _number(meta, _TXN_AT)
    there = [_number(os.pread(fd, META_SIZE, page * page_size + META_AT), _TXN_AT) for page in (0, 1)]
    if max(there) < txn_id:
        log.warning(
            "vecstore: %s is older than its record of syncs: it was put back by hand, and is taken as it is", data
        )
        return
    # The page that LMDB reads the transaction from comes first; the other one may lead nowhere, so it gets the same.
    for page in (txn_id & 1, ~txn_id & 1):
        os.pwrite(fd, meta, page * page_size + META_AT)
    log.warning("vecstore: the machine went down while %s was written; it is at its last sync again", data)


def _number(meta: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(meta[at : at + size], sys.byteorder)


class Syncer:
    """Syncs the commits of an open LMDB environment at an interval of some `seconds`.

    `before_commit`, `committed` and `settle` are called with the `turn` to write; the thread works without it.
    `lsn_of(txn)` is the last write that a transaction sees.
    """

    def __init__(
        self,
        env: Any,
        path: Path,
        seconds: float,
        turn: Any,
        lsn_of: Callable[[Any], int],
        error: Exception | None = None,
    ) -> None:
        self._env = env
        self._path = path
        self._seconds = seconds
        self._turn = turn
        self._data = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._page_size: int = env.stat()["psize"]
        self._record: int | None = None  # the file, once there is one
        self._last = Record(0, False, bytes(16), bytes(META_SIZE))
        self._stepping = threading.Lock()  # around each step that syncs and records; taken behind the turn
        self._mutex = threading.Lock()
        self._newest: tuple[Any, bytes] | None = None  # a transaction on the newest commit, and its meta page
        self._kept: Any = None  # the transaction on the commit that was synced last; None where all is synced
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._seen = 0  # the last transaction of which there was a commit to sync
        self._lsn_of = lsn_of
        self.synced_lsn: int | None = None
        """The last write that was synced; None where all are."""
        self.error = error
        """Why what was written last may never be on the disk: nothing is written any more."""

    def before_commit(self) -> None:
        """Keep what is durable now, before a transaction may write over it."""
        self._raise_error()
        if self._kept is not None:
            return
        with self._stepping:
            if not self._last.number:
                self._env.sync(True)
            txn, meta = self._open_newest()
            try:
                self._write(True, meta)
            except BaseException:
                txn.abort()
                raise
            self._kept, self._seen, self.synced_lsn = txn, txn.id(), self._lsn_of(txn)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"vecstore-sync-{self._path.parent.name}", daemon=True
            )
            self._thread.start()

    def committed(self) -> None:
        """Remember the commit that was just made, for the next sync; it is made, so that nothing is raised."""
        try:
            newest = self._open_newest()
        except Exception as error:
            self.error = error
            return
        if newest[0].id() == self._seen:  # it changed nothing
            newest[0].abort()
            return
        self._seen = newest[0].id()
        with self._mutex:
            before, self._newest = self._newest, newest
        if before is not None:
            before[0].abort()
        grown = _number(newest[1], _LAST_PAGE_AT) - _number(self._last.meta, _LAST_PAGE_AT)
        if grown * self._page_size > GROWTH:
            self._wake.set()

    def settle(self) -> None:
        """Sync everything, and say so: until the next commit the file may be moved, or mapped anew."""
        with self._stepping:
            with self._mutex:
                newest, self._newest = self._newest, None
            if newest is not None:
                newest[0].abort()
            if self._kept is None:
                return
            self._sync()
            self._write(False, self._last.meta)
            self._kept.abort()
            self._kept = self.synced_lsn = None

    def sync(self, lsn: int) -> None:
        """Have the writes up to `lsn` synced, which is committed; with or without the turn to write."""
        while self.synced_lsn is not None and self.synced_lsn < lsn:
            self._raise_error()
            try:
                if not self._step():
                    time.sleep(0.001)  # its writer is about to call `committed`
            except Exception as error:
                self.error = error
                raise

    def close(self) -> None:
        """Sync everything and forget the record; StorageError if that or a sync before it failed. The thread
        has ended when this returns, and nothing is open any more."""
        self._end_thread()
        try:
            if self.error is None:
                self.settle()
                if self._record is not None:
                    self._path.with_name(self._path.name + SUFFIX).unlink(missing_ok=True)
                    if self._path.parent.exists():
                        sync_folder(self._path.parent)
        finally:
            self._let_go()
        self._raise_error()

    def detach(self) -> None:
        """Let go of an environment that was synced by another hand, and takes no more transactions."""
        self._end_thread()
        with self._stepping:
            if self._last.open and self.error is None:
                self._write(False, self._last.meta)
        self._let_go()

    def _end_thread(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _let_go(self) -> None:
        for txn in (self._kept, self._newest and self._newest[0]):
            if txn is not None:
                txn.abort()
        self._kept = self._newest = None
        os.close(self._data)
        if self._record is not None:
            os.close(self._record)

    def _raise_error(self) -> None:
        if self.error is not None:
            path = str(self._path)
            raise StorageError(
                f"{path}: what was written last could not be synced ({self.error}); nothing can be written until it "
                "is closed and opened again, which goes back to its last sync",
                path=path,
            ) from self.error

    def _run(self) -> None:
        idle = 0.0
        while True:
            self._wake.wait(self._seconds)
            if self._stopping:
                return
            self._wake.clear()
            try:
                idle = 0.0 if self._step() else idle + self._seconds
                if idle >= IDLE_SECONDS and self._turn.acquire(blocking=False):
                    try:
                        self.settle()
                        self._thread = None  # the next commit starts another one
                        return
                    finally:
                        self._turn.release()
            except Exception as error:
                log.exception("vecstore: what was written to %s could not be synced", self._path)
                self.error = error
                return

    def _step(self) -> bool:
        """Sync and record the newest commit; whether there was one."""
        with self._stepping:
            with self._mutex:
                newest, self._newest = self._newest, None
            if newest is None:
                return False
            txn, meta = newest
            try:
                self._sync()
                reach("interval.synced")
                self._write(True, meta)
                reach("interval.recorded")
            except BaseException:
                txn.abort()
                raise
            self._kept.abort()
            self._kept, self.synced_lsn = txn, self._lsn_of(txn)
            return True

    def _sync(self) -> None:
        try:
            self._env.sync(True)
        except BaseException as error:
            if isinstance(error, Exception):
                self.error = error
            # What the kernel still shows may never reach the disk: no run of the machine may trust it.
            record = Record(self._last.number + 1, True, bytes(16), self._last.meta)
            self._put(record)
            raise

    def _open_newest(self) -> tuple[Any, bytes]:
        """A read transaction on the last commit, and its meta page. Nobody commits meanwhile."""
        txn = self._env.begin()
        meta = os.pread(self._data, META_SIZE, (txn.id() & 1) * self._page_size + META_AT)
        if (_number(meta, 0, 4), _number(meta, _TXN_AT)) != (_MAGIC, txn.id()):
            txn.abort()
            raise CorruptionError(f"{self._path}: its meta page is not that of its last commit", path=str(self._path))
        return txn, meta

    def _write(self, is_open: bool, meta: bytes) -> None:
        self._put(Record(self._last.number + 1, is_open, _boot_digest(), meta))

    def _put(self, record: Record) -> None:
        with disk_errors(self._path):
            if self._record is None:
                self._record = self._create(record)
            else:
                os.pwrite(self._record, record.pack(), _SLOTS_AT[record.number & 1])
                sync_file(self._record)
        self._last = record

    def _create(self, record: Record) -> int:
        path = self._path.with_name(self._path.name + SUFFIX)
        unfinished = _unfinished(self._path)
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, bytes(_SLOTS_AT[1] + 4096), 0)  # so that the next ones find room
            os.pwrite(fd, record.pack(), _SLOTS_AT[record.number & 1])
            sync_file(fd)
            unfinished.rename(path)
            sync_folder(path.parent)
        except BaseException:
            os.close(fd)
            raise
        return fd
