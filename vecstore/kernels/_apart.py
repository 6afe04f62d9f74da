"""Compiling in several processes: Numba compiles one kernel at a time in each."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

CHILD = """
import sys
from vecstore.kernels._jit import kernels
entries = kernels()
print(flush=True)
for line in sys.stdin:
    entries[line.strip()].compile()
    print(flush=True)
"""
Done = Callable[[str], None]


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_apart(names: Sequence[str], processes: int, done: Done) -> None:
    """Have the kernels of some names compiled into the cache by so many processes; `done(name)` after each.

    The first are begun first. What a process fails at, or dies of, is left to the caller.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    ready: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    children = [_child() for _ in range(min(processes, len(names)))]
    threads = [threading.Thread(target=_feed, args=(child, waiting, ready), daemon=True) for child in children]
    try:
        for thread in threads:
            thread.start()
        left = len(threads)
        while left:
            finished = ready.get()
            if finished is None:
                left -= 1
            else:
                done(finished)
    finally:
        for child in children:
            child.kill()
        for child, thread in zip(children, threads, strict=True):
            child.wait()
            thread.join()


def _child() -> subprocess.Popen[str]:
    path = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", CHILD], env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def _feed(child: subprocess.Popen[str], waiting: queue.SimpleQueue[str], ready: queue.SimpleQueue[str | None]) -> None:
    """Give one process a name after the other, each when it has answered; None is `ready` at the end."""
    assert child.stdin is not None and child.stdout is not None
    name = None
    try:
        while child.stdout.readline():
            if name is not None:
                ready.put(name)
            name = waiting.get_nowait()
            child.stdin.write(f"{name}\n")
            child.stdin.flush()
    except (queue.Empty, OSError, ValueError):  # nothing is left to do, or the process is gone
        pass
    finally:
        ready.put(None)
