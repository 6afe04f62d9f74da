# mypy: disable-error-code="no-untyped-call"
"""Where compiled kernels are kept between processes.

A folder per digest of (all kernel sources, Numba, llvmlite, Python), one file per (entry point, signature,
CPU name and features). A file is written beside its final name and moved there, carries a checksum of its
content, and is never changed: processes that start together may compile the same kernel twice, but none can
see half of it. There is no index to race for, which is why Numba's own cache is not used: it stamps a
function with its own file only, so that an edited callee keeps running in cached callers, and rewrites a
shared index.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

log = logging.getLogger("vecstore")
config: Any = numba.config  # the settings of NUMBA_* variables, which are made at run time

KEPT_DIGESTS = 4  # folders of other versions that stay: branches and upgrades go back and forth
_FOLDER = "vecstore-kernels-"
_CHECKSUM = 32


@cache
def source_digest() -> str | None:
    """Digest of everything that decides what the kernels compile to; None where no sources can be read."""
    package = Path(__file__).parent
    files = sorted(package.glob("*.py")) + sorted((package.parent / "quantization").glob("*.py"))
    if not files:
        return None
    state = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, sys.version, sys.implementation.cache_tag):
        state.update(f"{part}\0".encode())
    for file in files:
        state.update(f"{file.parent.name}/{file.name}\0".encode())
        state.update(hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()[:16]


@cache
def _file_digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return path


def _user_cache_root() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache_folders() -> Iterator[Path]:
    """The folders where compiled kernels may stand, the preferred one first."""
    digest = source_digest()
    if digest is None:
        return
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR) / f"{_FOLDER}{digest}"
    try:
        yield _user_cache_root() / "vecstore" / f"{_FOLDER}{digest}"
    except RuntimeError:  # the user has no home
        return


@cache
def writable_folder() -> Path | None:
    """The first cache folder that can be written to, made if need be; None if there is none."""
    for folder in cache_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            os.utime(folder)
        except OSError:
            continue
        _remove_stale(folder)
        return folder
    return None


def _remove_stale(current: Path) -> None:
    """Drop all but the most recently used folders of other digests."""

    def used(folder: Path) -> float:
        try:
            return folder.stat().st_mtime
        except OSError:  # another process removed it
            return 0.0

    others = [f for f in current.parent.glob(f"{_FOLDER}*") if f != current and f.is_dir()]
    for folder in sorted(others, key=used, reverse=True)[KEPT_DIGESTS:]:
        shutil.rmtree(folder, ignore_errors=True)


class KernelCache(_Cache):
    """The compiled forms of one function, in the protocol of Numba's dispatcher."""

    def __init__(self, py_func: Any) -> None:
        self._py_func = py_func

    @property
    def cache_path(self) -> str | None:
        folder = writable_folder()
        return str(folder) if folder else None

    def _file_name(self, sig: Any, codegen: Any) -> str:
        code = self._py_func.__code__
        where = (self._py_func.__module__, self._py_func.__qualname__, code.co_firstlineno)
        # The digest has no file of a kernel that is declared elsewhere.
        key = repr((where, _file_digest(code.co_filename), str(sig), codegen.magic_tuple(), config.OPT))
        return f"{self._py_func.__name__}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        name = self._file_name(sig, target_context.codegen())
        for folder in cache_folders():
            try:
                content = (folder / name).read_bytes()
            except OSError:
                continue
            checksum, data = content[:_CHECKSUM], content[_CHECKSUM:]
            if hashlib.sha256(data).digest() != checksum:
                log.warning("vecstore: %s is damaged and will be compiled again", folder / name)
                continue
            return CompileResult._rebuild(target_context, *pickle.loads(data))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        folder = writable_folder()
        if folder is None:
            return
        if data.library.has_dynamic_globals or any(not lifted.can_cache for lifted in data.lifted):
            raise AssertionError(f"{self._py_func.__qualname__} cannot be cached: it refers to live objects")
        content = dumps(data._reduce())
        name = self._file_name(sig, data.codegen)
        try:
            handle, temporary = tempfile.mkstemp(prefix=f"{name}.", suffix=".tmp", dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                Path(temporary).replace(folder / name)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:  # a full disk must not stop a search
            log.warning("vecstore: cannot keep compiled kernels in %s: %s", folder, error)

    def enable(self) -> None:
        """Part of Numba's protocol; this cache is always on."""

    def disable(self) -> None:
        """Part of Numba's protocol; this cache is always on."""

    def flush(self) -> None:
        """Part of Numba's protocol; files are never stale, as their names hold all that decides them."""
