# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Lists of 1-bit codes, scanned with bounds: rows that may be among the k best are rescored as they are met.

An estimate from a bit a dim is off by a deviation that is known for each row (listing.py). So the k-th best of what
scores are at least is a bound for what others are at most, and as soon as the exact scores of k rows are known, the
k-th of them is. Nothing is sorted, and few rows are kept. (Gao and Long, RaBitQ, SIGMOD 2024, section 4.)

The lists are passed as `fields`, int64, with a place for each name below: addresses of arrays that the caller holds,
and their sizes. Codes stand in blocks of 32 rows, of which a list has a chain: HEADS (lists,) int32 leads to its first
block, NEXT (blocks,) int32 to the one behind each, SIZES (lists,) int32 says how many places there are. SLOTS
(blocks, 32) int32 tells which slot a place stands for, -1 for none any more. The TAIL is a list by itself, in blocks
that follow each other: rows that have no list yet. COARSE are blocks of codes of the centroids themselves.

LISTED codes are of one bit, relative to the centroid (listing.py), laid out for tables (tables.py), with terms
(3, 32) float32 a block. Other kinds are those of scans.py and graph.FLOAT, relative to nothing but the quantizer's
centre: row after row, with terms (32, t).
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels._jit import inlined
from vecstore.kernels.memory import key_score, key_slot, load_f32, load_i32, pack_key, trailing_zeros
from vecstore.kernels.pools import pool_bound, pool_offer
from vecstore.kernels.rows import row_score
from vecstore.kernels.tables import block_estimates, table_sums
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.kernels.walks import ROWS_AHEAD, as_estimate, ask_for_row, is_allowed

LISTED = 4
"""Beside the kinds of scans and graphs: bits relative to the centroid of a list."""

(
    LISTS, HEADS, SIZES, NEXT, CODES, CODE_BYTES, TERMS, TERM_BYTES, SLOTS, TAIL_CODES, TAIL_TERMS, TAIL_SLOTS,
    TAIL_SIZE, COARSE_CODES, COARSE_TERMS, OFFSETS, OFFSET_TERMS,
) = range(17)  # fmt: skip
FIELDS = 17
AT_ONCE = 24
"""Rows that are rescored together, so that memory answers for several at a time."""


@inlined
def gather_block(
    codes, size, terms, slots, places, query, facts, base, reach, sums, estimates, allowed, blocks, shift, found,
    count, hopes, k, full, bound,
):  # fmt: skip
    """Add the allowed rows of a block of LISTED codes whose score may reach `bound` to the first `count` keys in
    `found`, with what it may be at most. Until the exact scores of k rows are known (`full`), the bound is the k-th
    best of what scores are at least, by the pool `hopes`. Returns the new count and bound."""
    table_sums(codes, query, size, sums)
    reached = block_estimates(sums, terms, load_f32(facts), load_f32(facts + 4), base, reach, bound, estimates)
    reached &= (np.int64(1) << places) - 1
    lowest = np.float32(-np.inf)
    while reached != 0:
        i = trailing_zeros(reached)
        reached &= reached - 1
        slot = np.int64(load_i32(slots + 4 * i))
        if slot < 0 or not is_allowed(allowed, slot) or blocks[slot >> shift] == 0:
            continue
        score, off = load_f32(estimates + 4 * i), reach * load_f32(terms + 4 * (2 * BLOCK_ROWS + i))
        found[count] = pack_key(score + off, slot)
        count += 1
        if not full:
            bound = max(bound, pool_offer(hopes, k, score - off, slot, lowest))
    return count, bound


@inlined
def rescore_found(found, count, bound, blocks, shift, dim, metric, unit, query, query_scale, best, k):
    """Offer the exact scores of the first `count` keys in `found` that may reach `bound` to the pool `best`. Returns
    the new bound, in terms of estimates, and whether there are k rows in the pool."""
    kept = np.int64(0)
    for i in range(count):
        found[kept] = found[i]
        kept += np.int64(key_score(found[i]) >= bound)
    lowest, mask = np.float32(-np.inf), (np.int64(1) << shift) - 1
    for i in range(min(np.int64(ROWS_AHEAD), kept)):
        ask_for_row(found[i], blocks, shift, dim, metric)
    exact = pool_bound(best, k, lowest)
    for i in range(kept):
        if i + ROWS_AHEAD < kept:
            ask_for_row(found[i + ROWS_AHEAD], blocks, shift, dim, metric)
        if key_score(found[i]) < bound:
            continue
        slot = np.int64(key_slot(found[i]))
        block = blocks[slot >> shift]
        norm = block + ((mask + 1) * dim + (slot & mask)) * 4
        score = row_score(metric, block + (slot & mask) * dim * 4, norm, query, query_scale, dim)
        if score >= exact:
            exact = pool_offer(best, k, score, slot, lowest)
            if exact != lowest:
                bound = max(bound, np.float32(as_estimate(metric, exact, unit)))
    return bound, exact != lowest


@inlined
def gather_list(
    fields, first, chained, left, codes_at, terms_at, slots_at, coded, facts, base, reach, sums, estimates, allowed,
    blocks, shift, dim, metric, unit, query, query_scale, found, count, best, k, full, bound,
):  # fmt: skip
    """`gather_block` for each block of a list, whose rows are rescored as they come."""
    size = fields[CODE_BYTES] * BLOCK_ROWS
    block, hopes = np.int64(first), best + 8 * k
    while left > 0:
        behind = np.int64(load_i32(fields[NEXT] + 4 * block)) if chained else block + 1
        count, bound = gather_block(
            codes_at + block * size, size, terms_at + block * (4 * 3 * BLOCK_ROWS), slots_at + 4 * BLOCK_ROWS * block,
            min(left, np.int64(BLOCK_ROWS)), coded, facts, base, reach, sums, estimates, allowed, blocks, shift, found,
            count, hopes, k, full, bound,
        )  # fmt: skip
        left -= BLOCK_ROWS
        block = behind
        if count >= AT_ONCE and (full or left <= 0 or count + BLOCK_ROWS > found.shape[0]):
            bound, full = rescore_found(
                found, count, bound, blocks, shift, dim, metric, unit, query, query_scale, best, k
            )
            count = np.int64(0)
    return count, full, bound
