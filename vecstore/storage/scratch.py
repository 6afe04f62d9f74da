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


class Scratch:
    """`scratch(shape, dtype, fill=0)` makes arrays in files of a folder, or of the system's folder for such where
    nothing may be written to it; `others` makes small ones. StorageError where the disk has no room."""

    def __init__(self, folder: Path, others: Allocate) -> None:
        self._folder, self._others = folder, others

    def __call__(self, shape: tuple[int, ...], dtype: Any, fill: int = 0) -> npt.NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size < LEAST:
            return self._others(shape, dtype, fill)
        with disk_errors(self._folder):
            try:
                mapping = _Mapping.of(_File(self._folder), size)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                mapping = _Mapping.of(_File(None), size)
        made: npt.NDArray[Any] = np.frombuffer(mapping, dtype).reshape(shape)
        if fill:
            made[...] = fill
        return made

    def extended(self, array: npt.NDArray[Any], length: int, fill: int = 0) -> npt.NDArray[Any] | None:
        """An array of `length` rows in the file of another, which goes on to be as it is: the rows that both have are
        one memory. None if that one is in no file."""
        mapping: Any = array
        while isinstance(mapping, np.ndarray | memoryview):
            mapping = mapping.base if isinstance(mapping, np.ndarray) else mapping.obj
        if not isinstance(mapping, _Mapping):
            return None
        shape = (length, *array.shape[1:])
        with disk_errors(self._folder):
            longer = _Mapping.of(mapping.file, int(np.prod(shape)) * array.itemsize)
        made: npt.NDArray[Any] = np.frombuffer(longer, array.dtype).reshape(shape)
        made[len(array) :] = fill
        return made


class _Mapping(mmap.mmap):
    """A file in memory, which is there as long as one of its mappings."""

    file: _File

    @classmethod
    def of(cls, file: _File, size: int) -> _Mapping:
        # Room is taken now: a page that the disk has no room for later would kill the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.descriptor, 0, size)
        else:
            os.ftruncate(file.descriptor, size)
        made = cls(file.descriptor, size)
        made.file = file
        return made


class _File:
    """A file without a name, closed with the last mapping that holds it."""

    def __init__(self, folder: Path | None) -> None:
        with tempfile.TemporaryFile(dir=folder, prefix=".vecstore-") as file:
            self.descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
