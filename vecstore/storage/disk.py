"""The disk: what an error of it, or of LMDB, means to the user, and how what was written is made durable."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import lmdb

from vecstore.errors import CorruptionError, DiskFullError, NotADatabaseError, StorageError, VecstoreError

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def translated(error: lmdb.Error, path: Path, written: Path | None = None) -> VecstoreError:
    """What an error of LMDB with the file `path` means to the user; `written` is what was written to, if not that."""
    name = str(path)
    if isinstance(error, lmdb.InvalidError | lmdb.VersionMismatchError):
        return NotADatabaseError(f"{name} is not a database of vecstore; it was left as it is", path=name)
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.PanicError):
        return CorruptionError(f"{name} is damaged: {error}", path=name)
    if isinstance(error, lmdb.ReadersFullError):
        return StorageError(
            f"{name}: as many transactions read it as its table of readers holds; close some", path=name
        )
    written = written or path
    if error.code in NO_ROOM or (
        # A write that was cut short; where it does without the page cache, an odd length.
        error.code in (errno.EIO, errno.EINVAL) and _no_room(written)
    ):
        return DiskFullError(
            f"no room on the disk for {written}; nothing of this write was kept. Make room and repeat it",
            path=str(written),
        )
    return StorageError(f"{written}: {error}", path=str(written))


def _no_room(path: Path) -> bool:
    """Whether the file system, a quota or a file-size limit refuses a file another megabyte."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and path.exists() and path.stat().st_size + (1 << 20) > limit:
        return True
    probe = path.with_name(f".probe-{os.getpid()}")
    try:
        with probe.open("wb") as file:
            file.write(bytes(1 << 20))
    except OSError:
        return True
    finally:
        probe.unlink(missing_ok=True)
    return False


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system says into a StorageError; vecstore's own errors pass."""
    try:
        yield
    except VecstoreError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(f"no room on the disk for {path}", path=str(path)) from error
        raise StorageError(f"{path}: {error.strerror}", path=str(path)) from error


def make_folder(path: Path) -> None:
    """Make a folder, and those it is in, durably; where it is there already nothing is done."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # who may write to a folder need not be able to list it
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make what was created, renamed or removed in a folder durable."""
    sync(path)


def sync(path: Path) -> None:
    """Make what was written to a file, or changed in a folder, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
