"""One bounded pool of threads for all kernels of the process: they release the GIL, so it is as wide as the CPUs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # The thread that asks works too.
    return ThreadPoolExecutor(max(1, cpus() - 1), thread_name_prefix="vecstore-kernel")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


def over_ranges(stop: int, step: int, threads: int, work: Callable[[int, int], T]) -> list[T]:
    """`work(first, last)` for `threads` parts of 0 to `stop`, cut at multiples of `step`; the results in order."""
    parts = list(_parts(stop, step, threads))
    if len(parts) <= 1:
        return [work(*part) for part in parts]
    futures = [_pool().submit(work, *part) for part in parts[1:]]
    return [work(*parts[0]), *(future.result() for future in futures)]


def _parts(stop: int, step: int, threads: int) -> Iterator[tuple[int, int]]:
    size = -(-stop // (max(1, threads) * step)) * step
    for first in range(0, stop, size or 1):
        yield first, min(first + size, stop)
