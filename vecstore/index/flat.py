"""No index: the exact scan over every row where it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.index.parallel import cpus, over_ranges
from vecstore.kernels import rows as kernels
from vecstore.kernels.pools import merge_pools, new_pools, unpack_pools
from vecstore.types import Metric

Floats = npt.NDArray[np.float32]
Found = list[tuple[npt.NDArray[np.int32], Floats]]
"""For each query the slots and scores of the best rows, best first, equals by slot."""

METRICS: Final = {"cosine": kernels.COSINE, "dot": kernels.DOT, "l2": kernels.L2}

# Products below which a second thread costs more than it saves: handing work over takes some 50 us.
MIN_WORK: Final = 1 << 21
# From this many queries on, reading eight rows for all of them beats reading each row for each: a panel of the batch
# kernel holds 32, and costs the same however many of them are used. Measured at d = 384 and 1536.
MIN_BATCH: Final = 4
# Queries of one pass over the rows: their panels and bounds stay in the second-level cache.
MAX_BATCH: Final = 256
# A scan finds, and the scores are then those of each row by itself: the scans sum in other orders, so that the last
# bits differ. Hence some spare places behind the k-th; a threshold is held against the scores that are returned.
SPARE: Final = 8
LOWEST: Final = np.float32(-np.inf)
# Rows that a thread copies at once, to code them, and their bytes.
MAX_PART, PART_BYTES = 2048, 4 << 20
# Bytes of rows that are scanned between two words to the system on what comes next.
SCAN_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """Full rows of one commit, by address: what a scan reads, valid while its transaction is open.

    `blocks[b]` is the address of the first row of block b, `1 << shift` rows to a block, 0 for none; the L2 norms of
    a block follow its rows. `slots` is the number of slots. Where the system does not read ahead, `read_soon` is told
    which addresses will be read, and how many bytes at each.
    """

    blocks: npt.NDArray[np.int64]
    shift: int
    dim: int
    slots: int
    metric: Metric
    read_soon: Callable[[npt.NDArray[np.int64], int], None] | None = None

    def expect(self, slots: npt.NDArray[Any]) -> None:
        """The rows of some slots are read next, in any order; -1 is none."""
        if self.read_soon is not None:
            slots = slots[slots >= 0].astype(np.int64)
            blocks, within = self.blocks[slots >> self.shift], slots & ((1 << self.shift) - 1)
            blocks, within = blocks[blocks != 0], within[blocks != 0]
            self.read_soon(blocks + 4 * self.dim * within, 4 * self.dim)
            self.read_soon(blocks + (4 * self.dim << self.shift) + 4 * within, 4)  # their norms

    def parts(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The slots from `first` to `last`, as parts that are scanned one after the other."""
        if self.read_soon is None:
            yield first, last
            return
        block = 4 * (self.dim + 1) << self.shift
        size = max(1, SCAN_BYTES // block) << self.shift
        for begin in range(first, last, size):
            for ahead in (begin, begin + size) if begin == first else (begin + size,):
                self.read_soon(self.blocks[ahead >> self.shift : min(ahead + size, last) >> self.shift], block)
            yield begin, min(begin + size, last)


def search(
    rows: Rows,
    allowed: npt.NDArray[np.uint8],
    queries: Floats,
    k: int,
    threshold: float | None = None,
    threads: int | None = None,
) -> Found:
    """The k best rows for each of `(n, dim)` queries, among the slots whose bit in `allowed` is set.

    `allowed` has one bit a slot, least significant first. Rows that score below `threshold` are left out.
    """
    bound = _bound(threshold)
    found: Found = []
    for first in range(0, len(queries), MAX_BATCH):
        some = queries[first : first + MAX_BATCH]
        if len(some) < MIN_BATCH:
            pools = [_scan_one(rows, allowed, query, k, bound, threads) for query in some]
        else:
            pools = _scan_batch(rows, allowed, some, k, bound, threads)
        found += [_unpack(pool, threshold) for pool in pools]
    return found


def rescored(rows: Rows, queries: Floats, pools: npt.NDArray[np.int64], k: int, threshold: float | None) -> Found:
    """The k best of the candidates in `pools` `(n, depth)` by their exact scores."""
    bound, depth = _bound(threshold), pools.shape[1]
    _, slots, _ = _columns(pools)
    return [
        _unpack(rescore(rows, query, some, min(k, depth), bound), threshold)
        for query, some in zip(queries, slots, strict=True)
    ]


def best_of(
    rows: Rows, query: Floats, slots: npt.NDArray[np.int32], k: int, threshold: float | None
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The k best of some slots by their exact scores."""
    return _unpack(rescore(rows, query, slots, min(k, max(1, len(slots))), _bound(threshold)), threshold)


def gathered(
    rows: Rows, slots: npt.NDArray[np.int64], allocate: Callable[..., npt.NDArray[Any]] = np.empty
) -> tuple[Floats, Floats]:
    """Copies of the rows of some slots, `(n, dim)` in an array from `allocate(shape, dtype)`, and their norms."""
    rows.expect(slots)
    vectors, norms = allocate((len(slots), rows.dim), np.float32), np.empty(len(slots), np.float32)
    kernels.gather_rows(rows.blocks, rows.shift, rows.dim, slots.astype(np.int32), vectors, norms)
    return vectors, norms


def part_rows(dim: int) -> int:
    """Rows that a thread copies at once."""
    return min(MAX_PART, max(64, PART_BYTES // (4 * dim)))


def _bound(threshold: float | None) -> np.float32:
    """The float32 just below a threshold: what the kernels let pass; the rest is compared in float64."""
    with np.errstate(over="ignore"):
        return LOWEST if threshold is None else np.nextafter(np.float32(threshold), LOWEST)


def threads_for(rows: Rows, queries: int, threads: int | None, share: int = 1) -> int:
    """Threads that a scan is worth, where a row costs a `share`-th of its dot product."""
    return min(threads or cpus(), max(1, rows.slots * rows.dim * queries // (MIN_WORK * share)))


def _scan_one(
    rows: Rows, allowed: npt.NDArray[np.uint8], query: Floats, k: int, bound: np.float32, threads: int | None
) -> npt.NDArray[np.int64]:
    capacity = min(k + SPARE, max(1, rows.slots))

    def work(first: int, last: int) -> npt.NDArray[np.int64]:
        pools = new_pools(1, capacity)
        for begin, end in rows.parts(first, last):
            kernels.scan_rows(
                rows.blocks, rows.shift, rows.dim, METRICS[rows.metric], allowed, begin, end, query, LOWEST, pools[0]
            )
        return pools

    pools = merged(over_ranges(rows.slots, 1 << rows.shift, threads_for(rows, 1, threads), work), 1, capacity)
    _, slots, _ = _columns(pools)
    return rescore(rows, query, slots[0], min(k, capacity), bound)


def _scan_batch(
    rows: Rows, allowed: npt.NDArray[np.uint8], queries: Floats, k: int, bound: np.float32, threads: int | None
) -> list[npt.NDArray[np.int64]]:
    capacity = min(k + SPARE, max(1, rows.slots))
    metric = METRICS[rows.metric]
    panels = kernels.query_panels(queries, metric)
    bounds = np.full(len(queries), LOWEST, np.float32)

    def work(first: int, last: int) -> npt.NDArray[np.int64]:
        pools = new_pools(len(queries), capacity)
        scratch = np.empty(32 * (8 + len(panels)), np.float32)
        for begin, end in rows.parts(first, last):
            kernels.scan_rows_batch(
                rows.blocks, rows.shift, rows.dim, metric, allowed, begin, end, panels, bounds, pools, scratch
            )
        return pools

    threads = threads_for(rows, len(queries), threads)
    pools = merged(over_ranges(rows.slots, 1 << rows.shift, threads, work), len(queries), capacity)
    _, slots, _ = _columns(pools)
    k = min(k, capacity)
    return [rescore(rows, query, some, k, bound) for query, some in zip(queries, slots, strict=True)]


def rescore(
    rows: Rows, query: Floats, slots: npt.NDArray[np.int32], k: int, bound: np.float32
) -> npt.NDArray[np.int64]:
    """The best k of some slots by their exact scores, as a pool `(1, k)`."""
    rows.expect(slots)
    pools = new_pools(1, k)
    kernels.rescore_rows(rows.blocks, rows.shift, rows.dim, METRICS[rows.metric], query, slots, bound, pools[0])
    return pools


def merged(parts: list[npt.NDArray[np.int64]], n: int, capacity: int) -> npt.NDArray[np.int64]:
    pools = parts[0] if parts else new_pools(n, capacity)
    for part in parts[1:]:
        merge_pools(pools, part)
    return pools


def _columns(pools: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    scores, slots = np.empty(pools.shape, np.float32), np.empty(pools.shape, np.int32)
    counts = np.empty(len(pools), np.int64)
    unpack_pools(pools, scores, slots, counts)
    return scores, slots, counts


def _unpack(pool: npt.NDArray[np.int64], threshold: float | None) -> tuple[npt.NDArray[np.int32], Floats]:
    scores, slots, counts = _columns(pool)
    count = int(counts[0])
    if threshold is not None:  # the kernels compare in float32
        count = int(np.count_nonzero(scores[0, :count].astype(np.float64) >= threshold))
    return slots[0, :count], scores[0, :count]
