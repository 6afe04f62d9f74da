"""What a power loss leaves of commits that were not synced, and how the last sync is put back: `data.mdb-synced`.

It holds the meta page of the last sync, and what names the run of the machine it was made in. Whoever opens data.mdb
after another run puts that meta page back; in the same run (the process was killed) the kernel has every page, and the
file is taken as it is. How that page and those it leads to are kept whole: `interval.py`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import fcntl
import logging
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from vecstore.errors import CorruptionError
from vecstore.storage.disk import disk_errors, sync_folder
from vecstore.storage.failpoints import reach

log = logging.getLogger("vecstore")

SUFFIX: Final = "-synced"

# MDB_meta of LMDB 0.9 on a machine of 64 bits, behind the header of its page: magic, version, address, size of the
# map, two databases of 48 bytes (the first field of the first is the size of a page), last page, transaction.
META_AT: Final = 16
META_SIZE: Final = 136
MAGIC: Final = 0xBEEFC0DE
PAGE_SIZE_AT: Final = 24
LAST_PAGE_AT: Final = 120
TXN_AT: Final = 128

_SLOT: Final = struct.Struct(f"<8sQB7x16s{META_SIZE}s")
_SLOT_MAGIC: Final = b"vsynced1"
SLOTS_AT: Final = (0, 4096)  # in pages of their own, so that writing one cannot tear the other


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


def boot_digest() -> bytes:
    """16 bytes of it; zeros where the system does not tell."""
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
    found = [record for at in SLOTS_AT if (record := Record.unpack(whole[at:])) is not None]
    if not found:
        raise CorruptionError(
            f"{path} is damaged. If the machine has not gone down since the database was last used, delete it",
            path=str(path),
        )
    return max(found, key=lambda record: record.number)


def unfinished(data: Path) -> Path:
    """What a record is called before it is whole."""
    return data.with_name(f".{data.name}{SUFFIX}")


def is_behind(data: Path) -> bool:
    """Whether the machine went down before all of a data file was synced, so that it needs `recover`."""
    record = read_record(data)
    return record is not None and record.open and record.boot != boot_digest()


def recover(data: Path) -> None:
    """Have a data file that no one has open hold what is durable, and nothing else, and forget its record."""
    with disk_errors(data):
        unfinished(data).unlink(missing_ok=True)
        record = read_record(data)
        if record is None:
            return
        fd = os.open(data, os.O_RDWR)
        try:
            if record.open and record.boot != boot_digest():
                _put_back(fd, data, record.meta)
            reach("interval.put_back")
            sync_file(fd)
        finally:
            os.close(fd)
        data.with_name(data.name + SUFFIX).unlink()
        sync_folder(data.parent)


def _put_back(fd: int, data: Path, meta: bytes) -> None:
    page_size, txn_id = number(meta, PAGE_SIZE_AT, 4), number(meta, TXN_AT)
    there = [number(os.pread(fd, META_SIZE, page * page_size + META_AT), TXN_AT) for page in (0, 1)]
    if max(there) < txn_id:
        log.warning(
            "vecstore: %s is older than its record of syncs: it was put back by hand, and is taken as it is", data
        )
        return
    # The page that LMDB reads the transaction from comes first; the other one may lead nowhere, so it gets the same.
    for page in (txn_id & 1, ~txn_id & 1):
        os.pwrite(fd, meta, page * page_size + META_AT)
    log.warning("vecstore: the machine went down while %s was written; it is at its last sync again", data)


def number(meta: bytes, at: int, size: int = 8) -> int:
    """A field of an MDB_meta, of 8 bytes or so many."""
    return int.from_bytes(meta[at : at + size], sys.byteorder)
