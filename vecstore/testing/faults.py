"""What LMDB asks of the operating system, seen, slowed, failed or recorded: for tests of this process's storage.

    with storage_calls(lambda call: None) as calls:     # record: calls.made is a list of Call, in order
        docs.upsert(...)

    def slow(call):                                     # every sync takes 5 ms longer
        if call.synced:
            time.sleep(0.005)

    def full(call):                                     # the third write finds no room; what the disk says of the rest
        if call.kind == "write" and next(count) == 3:
            return Fail(errno.ENOSPC)

    with storage_calls(full): ...
    with storage_calls(slow, record=False): ...         # nothing is kept, for long runs

`on_call(call)` is called before each, by whatever thread makes it. It returns None (go on), `Fail(errno)` (nothing is
done), `Fail(errno, done=n)` (the first n bytes are written, or the sync takes place, and then the error is told), or
`Short(n)` (n bytes are written, and LMDB is told so). It may sleep, and it may kill the process.

Nothing is compiled, and only LMDB is met: the slots through which its extension calls libc are led here, and back
when the context ends. Linux on x86-64 and aarch64; `unavailable()` says why not elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import lmdb

from vecstore.testing import elf

Kind = Literal["write", "sync", "truncate"]

_FD, _SIZE, _SSIZE, _OFFSET, _POINTER = ctypes.c_int, ctypes.c_size_t, ctypes.c_ssize_t, ctypes.c_int64, ctypes.c_void_p
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "pwrite": (_SSIZE, _FD, _POINTER, _SIZE, _OFFSET),
    "pwritev": (_SSIZE, _FD, _POINTER, ctypes.c_int, _OFFSET),
    "write": (_SSIZE, _FD, _POINTER, _SIZE),
    "writev": (_SSIZE, _FD, _POINTER, ctypes.c_int),
    "fsync": (ctypes.c_int, _FD),
    "fdatasync": (ctypes.c_int, _FD),
    "msync": (ctypes.c_int, _POINTER, _SIZE, ctypes.c_int),
    "ftruncate": (ctypes.c_int, _FD, _OFFSET),
}
for _name in ("pwrite", "pwritev", "ftruncate"):
    _SIGNATURES[f"{_name}64"] = _SIGNATURES[_name]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: a write of `data` at `offset`, a sync, or a change of the file's size to `offset`.

    `synced` where what was written before (a sync) or by it (a write to a file opened with O_DSYNC) is on the disk
    when it returns.
    """

    kind: Kind
    function: str
    path: str
    offset: int = 0
    data: bytes = b""
    synced: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """An answer to a call: the error, after `done` bytes of a write (all of it at most), or with done=1 the sync."""

    errno: int
    done: int = 0


@dataclass(frozen=True, slots=True)
class Short:
    """An answer to a write: `n` bytes were written, and there was no error."""

    n: int


Answer = Fail | Short | None


@dataclass(slots=True)
class Calls:
    """What was called, in the order in which calls returned, and how each ended: the bytes written, 0, or -errno."""

    made: list[Call] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    broken: BaseException | None = None


def unavailable() -> str | None:
    """Why storage calls cannot be met in this process; None where they can."""
    if sys.platform != "linux" or platform.machine() not in elf.ADDRESSES:
        return "storage calls are met on Linux only, on x86-64 and aarch64"
    found = dict(elf.slots(_extension(), _SIGNATURES))
    if not {"write", "pwrite", "pwrite64", "pwritev"} & found.keys() or not {"fsync", "fdatasync"} & found.keys():
        return "this build of lmdb does not call libc through a table"
    return None


def _extension() -> str:
    # A class of the extension; lmdb.cffi would have none.
    module = sys.modules.get("lmdb.cpython")
    return str(getattr(module, "__file__", None) or lmdb.__file__)


@contextlib.contextmanager
def storage_calls(on_call: Callable[[Call], Answer], *, record: bool = True) -> Iterator[Calls]:
    """Lead LMDB's calls of this process through `on_call` while the context lasts; one at a time per process.

    An exception in `on_call` becomes an EIO for LMDB, and is raised when the context ends.
    """
    reason = unavailable()
    if reason is not None:
        raise NotImplementedError(reason)
    if not _turn.acquire(blocking=False):
        raise RuntimeError("storage_calls: there is one already in this process")
    calls = Calls()
    before: list[tuple[int, int]] = []
    kept = []  # the callbacks, which must outlive the slots that lead to them
    try:
        for name, slot in elf.slots(_extension(), _SIGNATURES):
            prototype = ctypes.CFUNCTYPE(*_SIGNATURES[name], use_errno=True)
            kept.append(prototype(_Hook(name, on_call, calls, record)))
            before.append((slot, elf.read(slot)))
            elf.write(slot, ctypes.cast(kept[-1], ctypes.c_void_p).value or 0)
        yield calls
    finally:
        for slot, pointer in before:
            elf.write(slot, pointer)
        # A thread may be in a callback still: they are never freed.
        _callbacks.extend(kept)
        _turn.release()
    if calls.broken is not None:
        raise calls.broken


_turn = threading.Lock()
_callbacks: list[Any] = []


class _Hook:
    """What stands in the place of one function of libc."""

    def __init__(self, name: str, on_call: Callable[[Call], Answer], calls: Calls, record: bool) -> None:
        self.name = name
        self.on_call, self.calls, self.record = on_call, calls, record
        result, *arguments = _SIGNATURES[name]
        self.original = getattr(ctypes.CDLL(None, use_errno=True), name)
        self.original.restype, self.original.argtypes = result, arguments
        self.plain = name.removesuffix("64")

    def __call__(self, *arguments: Any) -> int:
        try:
            return self._meet(arguments)
        except BaseException as error:
            self.calls.broken = self.calls.broken or error
            return _fail(errno.EIO)

    def _meet(self, arguments: tuple[Any, ...]) -> int:
        call = self._call(arguments)
        answer = self.on_call(call)
        if answer is None:
            result = int(self.original(*arguments))
            result = result if result >= 0 else -ctypes.get_errno()
        else:
            result = self._instead(call, arguments, answer)
        if self.record:
            self.calls.made.append(call)
            self.calls.results.append(result)
        return result if result >= 0 else _fail(-result)

    def _call(self, arguments: tuple[Any, ...]) -> Call:
        fd = arguments[0]
        if self.plain == "msync":
            return Call("sync", self.name, "", synced=True)
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        if self.plain in ("fsync", "fdatasync"):
            return Call("sync", self.name, path, synced=True)
        if self.plain == "ftruncate":
            return Call("truncate", self.name, path, arguments[1])
        if self.plain in ("pwritev", "writev"):
            data = _gathered(arguments[1], arguments[2])
        else:
            data = ctypes.string_at(arguments[1], arguments[2])
        offset = arguments[3] if self.plain in ("pwrite", "pwritev") else os.lseek(fd, 0, os.SEEK_CUR)
        return Call("write", self.name, path, offset, data, bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC))

    def _instead(self, call: Call, arguments: tuple[Any, ...], answer: Fail | Short) -> int:
        """Do part of a call; its result."""
        n = answer.done if isinstance(answer, Fail) else answer.n
        fd = arguments[0]
        if call.kind == "write":
            some = call.data[:n]
            if self.plain in ("pwrite", "pwritev"):
                done = os.pwrite(fd, some, call.offset) if some else 0
            else:
                done = os.write(fd, some) if some else 0
            assert done == len(some)
        elif n:
            self.original(*arguments)
        return -answer.errno if isinstance(answer, Fail) else min(n, len(call.data))


def _fail(number: int) -> int:
    ctypes.set_errno(number)
    return -1


def _gathered(vector: int, n: int) -> bytes:
    """The bytes of `n` struct iovec (address, length)."""
    pairs = (ctypes.c_uint64 * (2 * n)).from_address(vector)
    return b"".join(ctypes.string_at(pairs[2 * i], pairs[2 * i + 1]) for i in range(n))
