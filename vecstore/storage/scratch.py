"""Arrays in files of their own without a name: memory that the system may take back, and that no one finds later."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.storage.disk import disk_errors

Allocate = Callable[..., npt.NDArray[Any]]

# Smaller ones are left to whoever else allocates.
LEAST: Final = 1 << 20
NOT_HERE: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def allocator(folder: Path, others: Allocate) -> Allocate:
    """`allocate(shape, dtype, fill=0)`: arrays in files of a folder, or of the system's folder for such where nothing
    may be written to it; `others` makes small ones. StorageError where the disk has no room."""

    def allocate(shape: tuple[int, ...], dtype: Any, fill: int = 0) -> npt.NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size < LEAST:
            return others(shape, dtype, fill)
        with disk_errors(folder):
            try:
                mapping = _mapped(folder, size)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                mapping = _mapped(None, size)
        made: npt.NDArray[Any] = np.frombuffer(mapping, dtype).reshape(shape)
        if fill:
            made[...] = fill
        return made

    return allocate


def _mapped(folder: Path | None, size: int) -> mmap.mmap:
    with tempfile.TemporaryFile(dir=folder, prefix=".vecstore-") as file:
        # Room is taken now: a page that the disk has no room for later would kill the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            os.ftruncate(file.fileno(), size)
        return mmap.mmap(file.fileno(), size)
