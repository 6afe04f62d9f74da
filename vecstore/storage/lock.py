"""One writer per folder: a lock file that names the process which holds it.

The lock is flock(2): the kernel drops it with the process, however that ends, so a leftover file locks nobody out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from vecstore.errors import DatabaseLockedError, NotADatabaseError, StorageError

try:
    import fcntl
except ImportError:  # pragma: no cover
    raise ImportError("vecstore needs a POSIX system (Linux or macOS) for its file locks") from None


class WriterLock:
    """Held from construction to `release`."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"cannot write to {path}: {error.strerror}", path=str(path)) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid, is_read = _holder(self._fd), _is_shared(self._fd)
            os.close(self._fd)
            if not isinstance(error, BlockingIOError):
                raise StorageError(f"cannot lock {path}: {error.strerror}", path=str(path)) from error
            raise _read_from(path.parent) if is_read else _locked(path.parent, pid) from None
        with contextlib.suppress(OSError):  # on a full disk it is held without a name
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        # A forked child shares the lock: it gives its descriptor back, or it would hold it when the parent has gone.
        os.register_at_fork(after_in_child=self.release)

    def release(self) -> None:
        """Let the next writer in."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_keeping_out: Final[set[int]] = set()  # descriptors


def keep_writers_out(path: Path) -> Callable[[], None]:
    """Hold the lock file of a folder together with others that do, until the returned function is called: nobody writes
    there meanwhile. DatabaseLockedError if someone does. For who reads, but cannot tell LMDB what it reads."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # nobody has ever written there, as in a backup
        return lambda: None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        pid = _holder(fd)
        os.close(fd)
        if not isinstance(error, BlockingIOError):
            raise StorageError(f"cannot lock {path}: {error.strerror}", path=str(path)) from error
        raise DatabaseLockedError(
            f"{path.parent} is open for writing in process {pid or 'unknown'}, and this one cannot register as a "
            "reader: it may not write to the files *-lock in the folders of the collections",
            path=str(path.parent), pid=pid,
        ) from None  # fmt: skip
    _keeping_out.add(fd)

    def release() -> None:
        if fd in _keeping_out:
            _keeping_out.discard(fd)
            os.close(fd)

    return release


def _give_back_in_child() -> None:
    while _keeping_out:
        os.close(_keeping_out.pop())


os.register_at_fork(after_in_child=_give_back_in_child)


def _is_shared(fd: int) -> bool:
    """Whether a lock that is held is held by readers, `keep_writers_out`."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False


def _read_from(folder: Path) -> DatabaseLockedError:
    text = f"{folder} is open for reading in a process that may not write to it, and cannot register as a reader"
    return DatabaseLockedError(f"{text}; close it there", path=str(folder), pid=None)


@contextlib.contextmanager
def not_replaced(folder: Path, *, replacing: bool = False) -> Iterator[None]:
    """Any number may open the files of a folder; one alone, in the moment in which it is `replacing` them.

    For LMDB finds the table of readers by a name beside the data, so that two files would otherwise share one.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotADatabaseError(f"{folder}: {error.strerror}", path=str(folder)) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if replacing else fcntl.LOCK_SH)
        try:
            yield
        finally:  # a process that was forked meanwhile would hold it
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _holder(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _locked(folder: Path, pid: int | None) -> DatabaseLockedError:
    if pid == os.getpid():
        text = f"{folder} is open for writing in this process already; close that database first, or use it"
    else:
        text = (
            f"{folder} is open for writing in process {pid or 'unknown'}; close it there, "
            "or open it here with read_only=True"
        )
    return DatabaseLockedError(text, path=str(folder), pid=pid)


def writable(path: Path) -> bool:
    """Whether this process may write to a file, or create it."""
    effective = os.access in os.supports_effective_ids
    return os.access(path if path.exists() else path.parent, os.W_OK, effective_ids=effective)
