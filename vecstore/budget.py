"""How much RAM the indexes of a database may take, and which of them fit into it."""

from __future__ import annotations

import threading
from typing import Final

from vecstore.index.sizes import sizes_of
from vecstore.types import HNSW, IVF, Binary, CollectionInfo, Flat, IndexConfig, Int4, Quantization

# What is proposed in the place of an index that does not fit, the best first.
PROPOSALS: Final[tuple[tuple[IndexConfig, Quantization], ...]] = (
    (HNSW(), Int4()),
    (IVF(), Int4()),
    (HNSW(m=8), Int4()),
    (IVF(), Binary()),
    (IVF(resident=False), Binary()),
)


class Budget:
    """A limit in bytes, or none, and what each share of it has taken."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._taken: dict[Share, int] = {}
        self._lock = threading.Lock()

    def take(self, share: Share, info: CollectionInfo, count: int) -> str:
        """Let a share have what an index of so many rows takes, also while it grows; or why it cannot have it."""
        limit = self.limit
        if limit is None:
            return ""
        with self._lock:
            others = sum(taken for one, taken in self._taken.items() if one is not share)
            need = _need(info, info.index, info.quantization, count)
            if others + need <= limit:
                self._taken[share] = sizes_of(info.index, info.quantization, count, info.dim, info.metric).whole
                return ""
            self._taken.pop(share, None)
        beside = f" beside the {_mb(others)} of other indexes" if others else ""
        return (
            f"memory_limit={limit}: {_named(info.index, info.quantization)} of {count:,} rows needs {_mb(need)} "
            f"while it grows{beside}, the limit is {_mb(limit)}; {_proposal(info, count, limit - others)}"
        )

    def give_back(self, share: Share) -> None:
        """What a share had is free again."""
        with self._lock:
            self._taken.pop(share, None)


class Share:
    """What the index of one collection has of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._known: tuple[CollectionInfo, int] | None = None  # what was found to fit
        self.refusal = ""
        """Why the index is not there, or nothing."""

    def fits(self, info: CollectionInfo, count: int) -> bool:
        """Whether an index of so many rows may be made, loaded or grow; else `refusal` says why not."""
        if self._budget.limit is None:
            return True
        step = max(1024, 1 << max(0, count.bit_length() - 5))
        asked = info, -(-count // step) * step
        if asked == self._known:
            return True
        self.refusal = self._budget.take(self, *asked)
        self._known = None if self.refusal else asked
        return not self.refusal

    def give_back(self) -> None:
        """There is no index any more."""
        self._known = None
        self._budget.give_back(self)


def _need(info: CollectionInfo, index: IndexConfig, quantization: Quantization | None, count: int) -> int:
    return sizes_of(index, quantization, count, info.dim, info.metric).peak


def _proposal(info: CollectionInfo, count: int, room: int) -> str:
    for index, quantization in PROPOSALS:
        need = _need(info, index, quantization, count)
        if need <= room:
            return f"set_index({_named(index, quantization)}) would need {_mb(need)}"
    return f"set_index({Flat()!r}, quantization=None) needs nothing, and scans rows"


def _named(index: IndexConfig, quantization: Quantization | None) -> str:
    said = ""
    if isinstance(index, HNSW) and index.m != HNSW().m:
        said = f"m={index.m}"
    elif isinstance(index, IVF) and not index.resident:
        said = "resident=False"
    shown = f"{type(index).__name__}({said})"
    return f"{shown}, quantization={quantization!r}"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
