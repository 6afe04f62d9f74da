"""How kernels are declared, compiled and cached: the only place that knows Numba's dispatcher.

    @kernel(int64(const(float32[::1]), int64[::1]))
    def scan(query, pool): ...            # an entry point: called from Python

    @inlined
    def helper(address): ...              # called from kernels only

An entry point has one declared signature. It is compiled (or loaded from the cache, _cache.py) when it is
first called or by `warmup()`, and never again: an array of another dtype or layout is a TypeError, not a
silent recompile. Scalars are converted as NumPy would. With NUMBA_DISABLE_JIT=1 the Python bodies run as
they stand.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

from vecstore.kernels._cache import KernelCache, config, writable_folder
from vecstore.kernels._helpers import HelperCompiler

log = logging.getLogger("vecstore")

JIT = not config.DISABLE_JIT
# Division follows IEEE rules instead of raising; fastmath is left to the intrinsics, which say where it is
# safe.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_HELPER_OPTIONS: dict[str, Any] = {
    **_OPTIONS,
    "forceinline": True,
    "no_cpython_wrapper": True,
    "pipeline_class": HelperCompiler,
}

F = TypeVar("F", bound=Callable[..., Any])


def const(array: types.Array) -> types.Array:
    """The type of a C-contiguous array that the kernel only reads; writable arrays are accepted too."""
    return types.Array(array.dtype, array.ndim, "C", readonly=True, aligned=array.aligned)


def inlined(function: F) -> F:
    """A helper of kernels, inlined by LLVM into each of them and cached with them; Python cannot call it."""
    if not JIT:
        return function
    compiled: F = njit(**_HELPER_OPTIONS)(function)
    return compiled


class Kernel:
    """An entry point: a function of flat arrays and scalars with one signature."""

    def __init__(self, function: Callable[..., Any], signature: Any) -> None:
        self.python = function
        self.signature = signature
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function
        self.dispatcher: Any = None
        self._lock = threading.Lock()
        self._call: Callable[..., Any] = self._first_call if JIT else function

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __repr__(self) -> str:
        return f"<kernel {self.__name__}>"

    def compile(self) -> None:
        """Load the machine code from the cache, or make it. Safe to call from several threads."""
        with self._lock:
            if not JIT or self.dispatcher is not None:
                return
            dispatcher = njit(**_OPTIONS)(self.python)
            dispatcher._cache = _AnnouncingCache(self.python)
            dispatcher.compile(self.signature)
            dispatcher.disable_compile()
            self.dispatcher = dispatcher
            self._call = dispatcher

    def compiled(self) -> Callable[..., Any]:
        """The machine code behind the dispatcher, which takes a third of the time of a call with many arguments.

        Nothing checks the arguments any more: they must have the very types of the signature.
        """
        self.compile()
        if not JIT:
            return self.python
        [overload] = self.dispatcher.overloads.values()
        entry: Callable[..., Any] = overload.entry_point
        return entry

    def _first_call(self, *args: Any) -> Any:
        self.compile()
        return self._call(*args)


class _AnnouncingCache(KernelCache):
    """Tells the user, once per process, why the first call takes seconds."""

    _announced = False
    _announcing = threading.Lock()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None:
            with self._announcing:
                first, _AnnouncingCache._announced = not _AnnouncingCache._announced, True
            if first:
                kept = writable_folder() is not None
                log.warning(
                    "vecstore: compiling its kernels for this CPU, %s; about %d s if all are needed",
                    "once" if kept else "in every process, as no cache folder is writable (set NUMBA_CACHE_DIR)",
                    SECONDS_TO_COMPILE_ALL,
                )
        return found


SECONDS_TO_COMPILE_ALL = 20
"""A round figure: 45 kernels took 28 s on one core of a 2023 server, when it was 1.6 times the work."""

_registry: dict[str, Kernel] = {}


def kernel(signature: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare an entry point of one `signature`, such as `int64(const(float32[::1]), int64[::1])`."""

    def register(function: Callable[..., Any]) -> Kernel:
        entry = Kernel(function, signature)
        _registry[f"{function.__module__}.{function.__qualname__}"] = entry
        return entry

    return register


def kernels() -> dict[str, Kernel]:
    """All entry points by qualified name, with every module of this package imported."""
    for module in pkgutil.iter_modules(importlib.import_module("vecstore.kernels").__path__):
        importlib.import_module(f"vecstore.kernels.{module.name}")
    return dict(_registry)


def warmup(progress: Callable[[str, int, int], None] | None = None) -> int:
    """Compile every entry point that is not in the cache, load the others; returns how many there are.

    `progress(name, done, total)` is called before each, and with an empty name at the end.
    """
    entries = kernels()
    for done, (name, entry) in enumerate(entries.items()):
        if progress is not None:
            progress(name, done, len(entries))
        entry.compile()
    if progress is not None:
        progress("", len(entries), len(entries))
    return len(entries)
