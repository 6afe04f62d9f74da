"""One engine in a process of its own: its memory is told apart, its threads disturb no other, and it may crash alone.

The rows come as a mapped file, so that the anonymous memory of the process grows by the index only. The process answers
one request at a time; while another engine is measured it waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.durable import COLLECTIONS, cpus
from bench.engine import Engine, Knobs, Task
from bench.engines import ENGINES

LEAST = 0.05  # seconds; few queries are asked again until they took that long


class EngineError(Exception):
    """The engine is not installed, refused, or crashed; the message says which."""


@dataclass(frozen=True)
class Built:
    """What an engine is after its rows were added; `row_bytes` is None where the system does not tell."""

    version: str
    seconds: float
    row_bytes: float | None
    knobs: tuple[str, ...]
    batches: tuple[int, ...]
    sweep: list[Knobs]


class Worker:
    """The side that asks. Closing it ends the process."""

    def __init__(self, engine: str, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._log = task.scratch / f"{engine}-{task.m}.log"
        self._process = context.Process(target=_serve, args=(theirs, engine, task, self._log), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it may answer again."""
        return self._process.is_alive()

    def build(self) -> Built:
        """Index the rows."""
        return self._ask("build")

    def measure(self, knobs: Knobs, batch: int) -> tuple[float, npt.NDArray[np.int64]]:
        """The best seconds for all queries, and the row numbers found, `(q, k)` with -1 where there were fewer."""
        return self._ask("measure", knobs, batch)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(5)
        self._process.kill()

    def _ask(self, *request: Any) -> Any:
        try:
            self._connection.send(request)
            done, answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise EngineError(f"its process ended with {self._process.exitcode}; {self._last_words()}") from None
        if not done:
            raise EngineError(answer)
        return answer

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "it left no word")


def _serve(connection: Connection, name: str, task: Task, log: Path) -> None:
    """Answer until the other side closes. What libraries print goes to the log."""
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    engine = (ENGINES | COLLECTIONS)[name](task)
    rows = np.asarray(np.load(task.scratch / "rows.npy", mmap_mode="c"))
    queries = np.load(task.scratch / "queries.npy")
    with contextlib.suppress(EOFError), cpus(max(task.build_threads, task.threads)):
        while True:
            verb, *arguments = connection.recv()
            try:
                answer = _build(engine, rows) if verb == "build" else _measure(engine, queries, *arguments)
            except ImportError as error:
                connection.send((False, f"{error.name or engine.package} is not installed"))
            except Exception as error:
                connection.send((False, f"{type(error).__name__}: {error}"))
            else:
                connection.send((True, answer))


def _build(engine: Engine, rows: npt.NDArray[np.float32]) -> Built:
    engine.warm()
    rows.sum()  # every page of the file is in memory
    before = _anonymous()
    start = time.perf_counter()
    engine.build(rows)
    seconds = time.perf_counter() - start
    after = _anonymous()
    grown = (after - before) / len(rows) if before is not None and after is not None else None
    return Built(engine.version(), seconds, grown, engine.knobs, engine.batches, engine.sweep())


def _measure(
    engine: Engine, queries: npt.NDArray[np.float32], knobs: Knobs, batch: int
) -> tuple[float, npt.NDArray[np.int64]]:
    call, asked = engine.calls(queries, knobs) if batch == 1 else engine.batched(queries, knobs, batch)
    for some in asked[: max(1, 50 // batch)]:
        call(some)
    gc.collect()
    gc.disable()
    best, spent = math.inf, 0.0
    while spent < LEAST:
        start = time.perf_counter()
        results = [call(some) for some in asked]
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
    gc.enable()
    found = np.full((len(queries), engine.task.k), -1, np.int64)
    single = results if batch == 1 else [one for some in results for one in some]
    for row, result in zip(found, single, strict=True):
        ids = engine.ids(result)
        row[: len(ids)] = ids
    return best, found


def _anonymous() -> int | None:
    """Bytes of anonymous memory of this process, after what is free was given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    smaps = Path("/proc/self/smaps_rollup")
    if not smaps.exists():
        return None
    line = next(line for line in smaps.read_text().splitlines() if line.startswith("Anonymous:"))
    return int(line.split()[1]) << 10
