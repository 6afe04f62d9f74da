# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Exact scores from full-precision rows, read in place: scans of slot ranges, rescoring, gathering.

Rows stand in blocks of `1 << shift`, in memory that the caller holds: `blocks[b]` is the address of the
float32 rows of block b (0: there is none), and their L2 norms follow the rows. `live` has a bit for each
slot, in little bit order; slots without the bit are passed over. Scores are float32, higher is better:
cosine, the dot product, or minus the Euclidean distance, which is summed up from differences, so that near
duplicates far from the origin are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core.types import float32, int32, int64, uint8, void
from numpy.typing import NDArray

from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.eights import dots_f32
from vecstore.kernels.floats import dot_f32, l2sq_f32
from vecstore.kernels.memory import address_of, copy_bytes, load_f32, prefetch, trailing_zeros
from vecstore.kernels.pools import pool_bound, pool_offer
from vecstore.kernels.tiles import scale_and_compare, tile_dot, tile_l2sq
from vecstore.kernels.twins import TILE_QUERIES, TILE_ROWS

COSINE, DOT, L2 = 0, 1, 2
# A bound on a distance is squared once and compared with squares: wide enough to let no rounding lose a tie.
_SLACK = np.float32(1 + 1e-6)


@inlined
def inverse_norm(norm):
    """1 / norm; 0 for a norm of 0, so that a zero vector scores 0 instead of NaN."""
    if norm > np.float32(0):
        return np.float32(1) / norm
    return np.float32(0)


@inlined
def row_score(metric, row, norm, query, query_scale, dim):
    """Score of the row at address `row`, whose norm stands at address `norm`. float32."""
    if metric == L2:
        return -np.sqrt(l2sq_f32(row, query, dim))
    score = dot_f32(row, query, dim)
    if metric == COSINE:
        score = score * (query_scale * inverse_norm(load_f32(norm)))
    return score


@inlined
def query_scale_of(metric, query, dim):
    """What a dot product with the query is multiplied by under cosine. float32."""
    if metric == COSINE:
        return inverse_norm(np.sqrt(dot_f32(query, query, dim)))
    return np.float32(1)


@inlined
def live_bits(live, group, start, stop):
    """The live slots of start..stop among the eight of `group`, as bits of an int64."""
    bits = np.int64(live[group])
    first = group * 8
    if first < start:
        bits &= 255 << (start - first)
    if first + 8 > stop:
        bits &= (1 << (stop - first)) - 1
    return bits


@kernel(
    int64(
        const(int64[::1]), int64, int64, int64, const(uint8[::1]), int64, int64,
        const(float32[::1]), float32, int64[::1],
    )
)  # fmt: skip
def scan_rows(blocks, shift, dim, metric, live, start, stop, query, threshold, pool):
    """Offer the live slots of start..stop that reach `threshold` to `pool`; returns how many were scored.

    Eight neighbours that all live are scored together, in another order of summing: for scores that do not depend on
    their neighbours, rescore the best.
    """
    products = np.empty(8, np.float32)
    products_address = address_of(products)
    scored = 0
    capacity = pool.shape[0]
    pool_address = address_of(pool)
    query_address = address_of(query)
    query_scale = query_scale_of(metric, query_address, dim)
    bound = pool_bound(pool_address, capacity, threshold)
    block_rows = 1 << shift
    for group in range(start >> 3, (stop + 7) >> 3):
        bits = live_bits(live, group, start, stop)
        block = blocks[group >> (shift - 3)]
        if bits == 0 or block == 0:
            continue
        norms = block + block_rows * dim * 4
        if bits == 255 and metric != L2:
            first = (group * 8) & (block_rows - 1)
            dots_f32(block + first * dim * 4, dim * 4, query_address, dim, products_address)
            for i in range(8):
                score = products[i]
                if metric == COSINE:
                    score = score * (query_scale * inverse_norm(load_f32(norms + (first + i) * 4)))
                if score >= bound:
                    bound = pool_offer(pool_address, capacity, score, group * 8 + i, threshold)
            scored += 8
            continue
        while bits != 0:
            slot = group * 8 + trailing_zeros(bits)
            bits &= bits - 1
            scored += 1
            i = slot & (block_rows - 1)
            score = row_score(metric, block + i * dim * 4, norms + i * 4, query_address, query_scale, dim)
            if score >= bound:
                bound = pool_offer(pool_address, capacity, score, slot, threshold)
    return scored


def query_panels(queries: NDArray[np.float32], metric: int) -> NDArray[np.float32]:
    """Queries (n, dim) for `scan_rows_batch`: ((n + 31) // 32, dim, 32) float32, of length 1 for cosine."""
    count, dim = queries.shape
    panels: Any = np.zeros((-(-count // TILE_QUERIES) * TILE_QUERIES, dim), np.float32)
    panels[:count] = queries
    if metric == COSINE:
        norms = np.sqrt(np.einsum("ij,ij->i", queries, queries))
        panels[:count] /= np.where(norms > 0, norms, 1)[:, None]
    return np.ascontiguousarray(panels.reshape(-1, TILE_QUERIES, dim).transpose(0, 2, 1))


@inlined
def tile_bound(metric, bound):
    """The bound in the terms of a tile: a score, or minus a squared distance."""
    if metric == L2:
        if bound > np.float32(0):
            return np.float32(np.inf)
        return -(bound * bound) * _SLACK
    return bound


@kernel(
    int64(
        const(int64[::1]), int64, int64, int64, const(uint8[::1]), int64, int64,
        const(float32[:, :, ::1]), const(float32[::1]), int64[:, ::1], float32[::1],
    )
)  # fmt: skip
def scan_rows_batch(blocks, shift, dim, metric, live, start, stop, panels, thresholds, pools, scratch):
    """`scan_rows` for many queries: panels by `query_panels`, thresholds (n,), pools (n, k).

    `scratch` holds at least 32 * (8 + number of panels) float32. Returns how many rows were scored.
    """
    scored = 0
    count, capacity = pools.shape
    block_rows = 1 << shift
    tile = address_of(scratch)
    bounds = tile + 4 * TILE_ROWS * TILE_QUERIES
    first_bound = TILE_ROWS * TILE_QUERIES
    for q in range(panels.shape[0] * TILE_QUERIES):
        scratch[first_bound + q] = np.inf
    for q in range(count):
        bound = pool_bound(address_of(pools) + 8 * q * capacity, capacity, thresholds[q])
        scratch[first_bound + q] = tile_bound(metric, bound)
    for group in range(start >> 3, (stop + 7) >> 3):
        bits = live_bits(live, group, start, stop)
        block = blocks[group >> (shift - 3)]
        if bits == 0 or block == 0:
            continue
        first = (group * 8) & (block_rows - 1)
        rows = block + first * dim * 4
        norms = block + (block_rows * dim + first) * 4
        for p in range(panels.shape[0]):
            panel = address_of(panels) + 4 * p * dim * TILE_QUERIES
            if metric == L2:
                tile_l2sq(rows, dim * 4, panel, dim, tile)
            else:
                tile_dot(rows, dim * 4, panel, dim, tile)
            rest = bits
            while rest != 0:
                i = trailing_zeros(rest)
                rest &= rest - 1
                scale = np.float32(1)
                if metric == COSINE:
                    scale = inverse_norm(load_f32(norms + 4 * i))
                elif metric == L2:
                    scale = np.float32(-1)
                reached = scale_and_compare(tile + 4 * TILE_QUERIES * i, scale, bounds + 4 * TILE_QUERIES * p)
                while reached != 0:
                    j = trailing_zeros(reached)
                    reached &= reached - 1
                    q = p * TILE_QUERIES + j
                    score = scratch[i * TILE_QUERIES + j]
                    if metric == L2:
                        score = -np.sqrt(-score)
                    if score >= thresholds[q]:
                        pool = address_of(pools) + 8 * q * capacity
                        bound = pool_offer(pool, capacity, score, group * 8 + i, thresholds[q])
                        scratch[first_bound + q] = tile_bound(metric, bound)
        rest = bits
        while rest != 0:
            rest &= rest - 1
            scored += 1
    return scored


@kernel(
    void(
        const(int64[::1]), int64, int64, int64, const(float32[::1]), const(int32[::1]), float32, int64[::1]
    )
)  # fmt: skip
def rescore_rows(blocks, shift, dim, metric, query, slots, threshold, pool):
    """Offer the exact scores of `slots` (n,) to `pool`, passing over negative slots and missing blocks."""
    capacity = pool.shape[0]
    pool_address = address_of(pool)
    query_address = address_of(query)
    query_scale = query_scale_of(metric, query_address, dim)
    bound = pool_bound(pool_address, capacity, threshold)
    mask = (1 << shift) - 1
    count = slots.shape[0]
    for n in range(-1, count):
        # One candidate ahead: they come in no order that the hardware could foresee.
        if n + 1 < count and slots[n + 1] >= 0:
            slot = np.int64(slots[n + 1])
            block = blocks[slot >> shift]
            if block != 0:
                prefetch(block + (slot & mask) * dim * 4, dim * 4)
                if metric == COSINE:
                    prefetch(block + ((mask + 1) * dim + (slot & mask)) * 4, 1)
        if n < 0 or slots[n] < 0:
            continue
        slot = np.int64(slots[n])
        block = blocks[slot >> shift]
        if block == 0:
            continue
        i = slot & mask
        norm = block + ((mask + 1) * dim + i) * 4
        score = row_score(metric, block + i * dim * 4, norm, query_address, query_scale, dim)
        if score >= bound:
            bound = pool_offer(pool_address, capacity, score, slot, threshold)


@kernel(int64(const(int64[::1]), int64, int64, const(int32[::1]), float32[:, ::1], float32[::1]))
def gather_rows(blocks, shift, dim, slots, out, norms):
    """Copy the rows of `slots` (n,) into `out` (n, dim) and their norms into `norms` (n,).

    Returns how many had a row; the others are filled with zeros.
    """
    found = 0
    mask = (1 << shift) - 1
    for n in range(slots.shape[0]):
        slot = np.int64(slots[n])
        block = np.int64(0)
        if slot >= 0:
            block = blocks[slot >> shift]
        if block == 0:
            out[n] = 0
            norms[n] = 0
            continue
        found += 1
        copy_bytes(address_of(out) + n * dim * 4, block + (slot & mask) * dim * 4, dim * 4)
        norms[n] = load_f32(block + ((mask + 1) * dim + (slot & mask)) * 4)
    return found
