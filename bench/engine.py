"""What `bench.ann` asks of every engine: the task, and the calls that an engine answers it by."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

M = 16
EF_CONSTRUCTION = 200
PROBES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
EFS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)

Floats = npt.NDArray[np.float32]
Knobs = tuple[int, ...]
Calls = tuple[Callable[[Any], Any], Sequence[Any]]


@dataclass(frozen=True)
class Task:
    """What all engines are asked alike; `efs` is the sweep of those that have an ef, `m` is for vecstore alone."""

    rows: int
    dim: int
    metric: str
    k: int
    threads: int
    build_threads: int
    scratch: Path
    efs: tuple[int, ...] = EFS
    m: int = M

    @property
    def by_product(self) -> bool:
        """Whether the inner product ranks the rows."""
        return self.metric != "l2"


class Engine:
    """An index over the rows of a task, and calls that search it."""

    package: ClassVar[str]
    knobs: ClassVar[tuple[str, ...]] = ("ef",)
    batches: ClassVar[tuple[int, ...]] = (1,)

    def __init__(self, task: Task) -> None:
        self.task = task

    def version(self) -> str:
        """The version of the engine's package."""
        return importlib.metadata.version(self.package)

    def warm(self) -> None:
        """Import and compile whatever is needed, before memory and time are taken."""

    def build(self, rows: Floats) -> None:
        """Index the rows `(n, dim)`, numbered from 0."""
        raise NotImplementedError

    def sweep(self) -> list[Knobs]:
        """The settings to search with, the fastest first."""
        return [(ef,) for ef in self.task.efs if ef >= self.task.k]

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        """A call that searches, and what to call it with, one for each query."""
        raise NotImplementedError

    def batched(self, queries: Floats, knobs: Knobs, batch: int) -> Calls:
        """A call that searches `batch` queries, and what to call it with; what returns is a result for each query."""
        raise NotImplementedError

    def ids(self, result: Any) -> Sequence[int]:
        """The row numbers in what a call returned for one query."""
        raise NotImplementedError


def in_rows(queries: Floats, batch: int = 1) -> list[Floats]:
    """The queries as arrays `(batch, dim)`."""
    return [queries[first : first + batch] for first in range(0, len(queries), batch)]


def lists_for(rows: int) -> int:
    """Lists of the inverted files of other engines: about four times the square root of the rows."""
    return 1 << round(math.log2(4 * math.sqrt(rows)))


def block_of(dim: int) -> int:
    """Dimensions that share a code of four bits; more in long rows, whose codes are scanned for longer."""
    return 2 if dim <= 512 else 4
