# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The best k of a stream: pools of packed int64 keys (memory.pack_key), sorted descending, EMPTY at the end.

Equal scores rank by lower slot, whatever the order of arrival or the number of threads. A pool is filled by
any number of calls, and pools of several threads are merged by `merge_pools`.
"""

from __future__ import annotations

import numpy as np
from numba.core.types import float32, int32, int64, void

from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.memory import (
    address_of,
    copy_bytes,
    count_greater,
    key_score,
    key_slot,
    load_i64,
    pack_key,
    store_i64,
)

EMPTY = -(1 << 63)
"""Less than every packed key; what a new pool is filled with."""


def new_pools(count: int, k: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """`count` empty pools of `k` places: (count, k) int64."""
    return np.full((count, k), EMPTY, np.int64)


@inlined
def pool_insert(pool, capacity, key):
    """Put a key that beats the last one into the pool at address `pool`; the last one drops out."""
    rank = count_greater(pool, capacity, key)
    where = pool + 8 * rank
    copy_bytes(where + 8, where, 8 * (capacity - 1 - rank))
    store_i64(where, key)


@inlined
def pool_bound(pool, capacity, threshold):
    """The score below which nothing enters the pool at address `pool`: its worst, at least `threshold`."""
    last = load_i64(pool + 8 * (capacity - 1))
    if last == EMPTY:
        return threshold
    return max(key_score(last), threshold)


@inlined
def pool_offer(pool, capacity, score, slot, threshold):
    """Insert a slot whose score reached the bound, and return the new bound. float32."""
    key = pack_key(score, slot)
    if key > load_i64(pool + 8 * (capacity - 1)):
        pool_insert(pool, capacity, key)
    return pool_bound(pool, capacity, threshold)


@kernel(void(int64[:, ::1], const(int64[:, ::1])))
def merge_pools(pools, others):
    """Bring the keys of `others` (n, m) into `pools` (n, k), row by row. A key must not be in both."""
    capacity = pools.shape[1]
    for i in range(others.shape[0]):
        pool = address_of(pools) + 8 * i * capacity
        for j in range(others.shape[1]):
            key = others[i, j]
            if key <= load_i64(pool + 8 * (capacity - 1)):
                break
            pool_insert(pool, capacity, key)


@kernel(void(const(int64[:, ::1]), float32[:, ::1], int32[:, ::1], int64[::1]))
def unpack_pools(pools, scores, slots, counts):
    """Pools (n, k) into scores (n, k) float32, slots (n, k) int32 and how many each holds, (n,) int64.

    Places that were not filled get -inf and -1.
    """
    for i in range(pools.shape[0]):
        counts[i] = 0
        for j in range(pools.shape[1]):
            key = pools[i, j]
            if key == EMPTY:
                scores[i, j] = -np.inf
                slots[i, j] = -1
            else:
                scores[i, j] = key_score(key)
                slots[i, j] = key_slot(key)
                counts[i] += 1
