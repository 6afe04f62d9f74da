# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Searches of lists (IVF), each in one call: code the query, choose lists, scan their codes, rescore from the rows.

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
from numba.core.types import float32, float64, int32, int64, uint8, uint16, void

from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.encode import encode_query, per_unit_of, scale_of
from vecstore.kernels.floats import dot_f32, l2sq_f32
from vecstore.kernels.graph import FLOAT, query_score
from vecstore.kernels.memory import (
    address_of,
    key_score,
    key_slot,
    load_f32,
    load_i32,
    load_i64,
    pack_key,
    prefetch,
    store_i64,
    trailing_zeros,
)
from vecstore.kernels.pools import EMPTY, pool_bound, pool_offer
from vecstore.kernels.rotate import dot_f64, rotate_row
from vecstore.kernels.rows import L2, query_scale_of, row_score
from vecstore.kernels.scans import INT4, INT8
from vecstore.kernels.tables import MOST_ENTRY, block_estimates, table_sums
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.kernels.walks import ROWS_AHEAD, as_estimate, ask_for_row, is_allowed, rescore

LISTED = 4
"""Beside the kinds of scans and graphs: bits relative to the centroid of a list."""

(
    LISTS, HEADS, SIZES, NEXT, CODES, CODE_BYTES, TERMS, TERM_BYTES, SLOTS, TAIL_CODES, TAIL_TERMS, TAIL_SLOTS,
    TAIL_SIZE, COARSE_CODES, COARSE_TERMS, OFFSETS, OFFSET_TERMS,
) = range(17)  # fmt: skip
FIELDS = 17
MORE_LISTS = 8
"""Lists whose centroids are compared exactly, by the estimates the best: five quarters of nprobe, and so many."""
AT_ONCE = 24
"""Rows that are rescored together, so that memory answers for several at a time."""


@inlined
def query_table(row, dims, table, facts, sums):
    """The table of the rotated query at address `row`, (D / 4 * 16,) uint8; facts: scale and shift, float32. `sums` is
    room for 16 float32."""
    groups = dims >> 2
    least_sum, total, widest = np.float64(0), np.float64(0), np.float32(0)
    for g in range(groups):
        low, high = np.float32(0), np.float32(0)
        for j in range(4):
            value = load_f32(row + 16 * g + 4 * j)
            low += min(value, np.float32(0))
            high += max(value, np.float32(0))
        widest = max(widest, high - low)
        least_sum += low
        total += low + high
    most = np.float64(min(np.int64(MOST_ENTRY), np.int64(65535) // groups))
    unit = np.float64(widest) / most
    per_unit = per_unit_of(unit)
    for g in range(groups):
        low = np.float32(0)
        for j in range(4):
            low += min(load_f32(row + 16 * g + 4 * j), np.float32(0))
        # Patterns of more bits are those of fewer, and one bit more.
        sums[0] = np.float32(0.5) - low * per_unit
        for j in range(4):
            value = load_f32(row + 16 * g + 4 * j) * per_unit
            for pattern in range(1 << j):
                sums[pattern + (1 << j)] = sums[pattern] + value
        for pattern in range(16):
            table[16 * g + pattern] = np.uint8(sums[pattern])
    root = np.sqrt(np.float64(dims))
    facts[0] = np.float32(2 * unit / root) if per_unit > np.float32(0) else np.float32(0)
    facts[1] = np.float32((2 * least_sum - total) / root)


@inlined
def keep_best(keys, count, wanted):
    """Bring the `wanted` largest of the first `count` keys to the front, in any order (quickselect)."""
    first, last = np.int64(0), np.int64(count - 1)
    while first < last:
        middle = (first + last) >> 1
        a, b, c = keys[first], keys[middle], keys[last]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = first, last
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if wanted - 1 <= j:
            last = j
        elif wanted - 1 >= i:
            first = i
        else:
            return


@inlined
def sort_keys(keys, count):
    """The first `count` keys, the largest first (heapsort: no room, and never quadratic)."""
    start, end = count >> 1, count
    while end > 1:
        if start > 0:
            start -= 1
        else:
            end -= 1
            keys[0], keys[end] = keys[end], keys[0]
        at = start
        key = keys[at]
        child = 2 * at + 1
        while child < end:
            if child + 1 < end and keys[child + 1] < keys[child]:
                child += 1
            if keys[child] >= key:
                break
            keys[at] = keys[child]
            at, child = child, 2 * child + 1
        keys[at] = key


@inlined
def scan_block(
    kind, codes, size, terms, term_bytes, slots, places, query, facts, base, sums, estimates, allowed, blocks, shift,
    found, count, depth, bound,
):  # fmt: skip
    """Add the allowed rows of a block that reach `bound` to the first `count` keys in `found`, of which the best
    `depth` are kept whenever it is full. Returns the new count and bound; `places` of the block are taken."""
    if kind == LISTED:
        table_sums(codes, query, size, sums)
        none = np.float32(0)
        reached = block_estimates(sums, terms, load_f32(facts), load_f32(facts + 4), base, none, bound, estimates)
        reached &= (np.int64(1) << places) - 1
    else:
        reached = (np.int64(1) << places) - 1
    while reached != 0:
        i = trailing_zeros(reached)
        reached &= reached - 1
        slot = np.int64(load_i32(slots + 4 * i))
        if slot < 0 or not is_allowed(allowed, slot) or blocks[slot >> shift] == 0:
            continue
        if kind == LISTED:
            score = load_f32(estimates + 4 * i)
        else:
            score = query_score(kind, codes + i * size, size, terms + i * term_bytes, term_bytes, query, facts)
        if score < bound:
            continue
        found[count] = pack_key(score, slot)
        count += 1
        if count == found.shape[0]:
            keep_best(found, count, depth)
            count = depth
            worst = found[0]
            for j in range(1, depth):
                worst = min(worst, found[j])
            bound = key_score(worst)
    return count, bound


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


@inlined
def choose_lists(kind, fields, query, facts, row, dims, product, metric, sums, estimates, chosen, probes):
    """The `probes` lists of the best centroids to the front of `chosen` as keys, the best first; for LISTED their
    score is exact. `product` is <m, q>."""
    count, size, term_bytes = fields[LISTS], fields[CODE_BYTES], fields[TERM_BYTES]
    if kind == LISTED:
        block_terms, block_size = 4 * 3 * BLOCK_ROWS, size * BLOCK_ROWS
        for block in range((count + BLOCK_ROWS - 1) // BLOCK_ROWS):
            table_sums(fields[COARSE_CODES] + block * block_size, query, block_size, sums)
            block_estimates(
                sums, fields[COARSE_TERMS] + block * block_terms, load_f32(facts), load_f32(facts + 4), np.float32(0),
                np.float32(0), np.float32(0), estimates,
            )  # fmt: skip
            for i in range(min(np.int64(BLOCK_ROWS), count - block * BLOCK_ROWS)):
                chosen[block * BLOCK_ROWS + i] = pack_key(load_f32(estimates + 4 * i), block * BLOCK_ROWS + i)
        nearer = min(count, probes + (probes >> 2) + MORE_LISTS)
        if nearer < count:
            keep_best(chosen, count, nearer)
        for i in range(nearer):
            one = np.int64(key_slot(chosen[i]))
            offset = fields[OFFSETS] + 4 * dims * one
            if metric == L2:
                score = -l2sq_f32(offset, row, dims)
            else:
                score = dot_f32(offset, row, dims) + load_f32(fields[OFFSET_TERMS] + 8 * one) + np.float32(product)
            chosen[i] = pack_key(score, one)
        count = nearer
    else:
        for i in range(count):
            code, term = fields[COARSE_CODES] + i * size, fields[COARSE_TERMS] + i * term_bytes
            chosen[i] = pack_key(query_score(kind, code, size, term, term_bytes, query, facts), i)
    if probes < count:
        keep_best(chosen, count, probes)
    sort_keys(chosen, min(probes, count))


@inlined
def search(
    kind, fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums,
    estimates, chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores, counts,
):  # fmt: skip
    dims, lists = signs.shape[1], fields[LISTS]
    size, term_bytes = fields[CODE_BYTES], fields[TERM_BYTES]
    block_size = size * BLOCK_ROWS
    block_terms = 4 * 3 * BLOCK_ROWS if kind == LISTED else term_bytes * BLOCK_ROWS
    sums_at, estimates_at, best_at, row = address_of(sums), address_of(estimates), address_of(best), address_of(scratch)
    coded, facts = address_of(codes), address_of(factors)
    lowest = np.float32(-np.inf)
    for i in range(queries.shape[0]):
        query = address_of(queries) + 4 * i * dim
        product = np.float64(0)
        tail_base = np.float32(0)
        if kind == FLOAT:
            scale = np.float32(scale_of(np.sqrt(dot_f64(query, query, dim)), metric, unit))
            for j in range(dim):
                scratch[0, j] = queries[i, j] * scale
            for j in range(dim, scratch.shape[1]):
                scratch[0, j] = np.float32(0)
            factors[0, 0], tails[0, 0] = np.float32(0 if metric == L2 else 1), 0
            coded = row
        elif kind == LISTED:
            scale = scale_of(np.sqrt(dot_f64(query, query, dim)), metric, unit)
            for j in range(dim):
                scratch[0, j] = queries[i, j] * scale
            for j in range(dim, dims):
                scratch[0, j] = np.float32(0)
            product = dot_f64(row, address_of(centres), dims)
            for j in range(dim):
                scratch[0, j] -= centres[0, j]
            rotate_row(row, address_of(signs), signs.shape[0], dims)
            query_table(row, dims, codes[0], factors[0], estimates)
            tails[0, 0] = 0
            tail_base = np.float32(-dot_f64(row, row, dims) if metric == L2 else product)
        else:
            encode_query(
                kind, metric, term_bytes != 0, i, queries, 0, centres, signs, unit, step, codes, factors, tails,
                scratch, levels,
            )  # fmt: skip
        count, bound, scored, full = np.int64(0), lowest, np.int64(0), False
        gathers = kind == LISTED and sure > 0
        query_scale, square = np.float32(1), np.float64(0)
        if gathers:
            query_scale, square = query_scale_of(metric, query, dim), dot_f64(row, row, dims)
            for j in range(2 * k):
                store_i64(best_at + 8 * j, EMPTY)
        if lists != 0:
            choose_lists(kind, fields, coded, facts, row, dims, product, metric, sums_at, estimates_at, chosen, probes)
        for p in range(min(probes, lists)):
            one = np.int64(key_slot(chosen[p]))
            base = key_score(chosen[p]) if kind == LISTED else np.float32(0)
            left = np.int64(load_i32(fields[SIZES] + 4 * one))
            block = np.int64(load_i32(fields[HEADS] + 4 * one))
            scored += left
            if p + 1 < min(probes, lists):
                following = np.int64(load_i32(fields[HEADS] + 4 * np.int64(key_slot(chosen[p + 1]))))
                if following >= 0:
                    prefetch(fields[CODES] + following * block_size, block_size)
                    prefetch(fields[TERMS] + following * block_terms, block_terms)
            if gathers:
                if metric == L2:
                    distance = np.float64(-base)
                else:
                    # <c'', q''> is what the base holds beside the terms of list and query.
                    near = np.float64(base) - product - load_f32(fields[OFFSET_TERMS] + 8 * one)
                    distance = square - 2 * near + load_f32(fields[OFFSET_TERMS] + 8 * one + 4)
                count, full, bound = gather_list(
                    fields, block, True, left, fields[CODES], fields[TERMS], fields[SLOTS], coded, facts, base,
                    np.float32(sure * np.sqrt(max(distance, 0.0))), sums_at, estimates_at, allowed, blocks, shift, dim,
                    metric, unit, query, query_scale, found, count, best_at, k, full, bound,
                )  # fmt: skip
                continue
            while left > 0:
                behind = np.int64(load_i32(fields[NEXT] + 4 * block))
                count, bound = scan_block(
                    kind, fields[CODES] + block * block_size, block_size if kind == LISTED else size,
                    fields[TERMS] + block * block_terms, term_bytes, fields[SLOTS] + 4 * BLOCK_ROWS * block,
                    min(left, np.int64(BLOCK_ROWS)), coded, facts, base, sums_at, estimates_at, allowed, blocks, shift,
                    found, count, depth, bound,
                )  # fmt: skip
                left -= BLOCK_ROWS
                block = behind
        left = fields[TAIL_SIZE]
        scored += left
        block = np.int64(0)
        if gathers:
            count, full, bound = gather_list(
                fields, block, False, left, fields[TAIL_CODES], fields[TAIL_TERMS], fields[TAIL_SLOTS], coded, facts,
                tail_base, np.float32(sure * np.sqrt(square)), sums_at, estimates_at, allowed, blocks, shift, dim,
                metric, unit, query, query_scale, found, count, best_at, k, full, bound,
            )  # fmt: skip
            left = np.int64(0)
        while left > 0:
            count, bound = scan_block(
                kind, fields[TAIL_CODES] + block * block_size, block_size if kind == LISTED else size,
                fields[TAIL_TERMS] + block * block_terms, term_bytes, fields[TAIL_SLOTS] + 4 * BLOCK_ROWS * block,
                min(left, np.int64(BLOCK_ROWS)), coded, facts, tail_base, sums_at, estimates_at, allowed, blocks,
                shift, found, count, depth, bound,
            )  # fmt: skip
            left -= BLOCK_ROWS
            block += 1
        if gathers:
            rescore_found(found, count, bound, blocks, shift, dim, metric, unit, query, query_scale, best_at, k)
        else:
            if count > depth:
                keep_best(found, count, depth)
                count = depth
            sort_keys(found, count)
            rescore(
                address_of(found), count, max(least, k), blocks, shift, dim, metric, unit, tails[0, 0], query, best_at,
                k,
            )  # fmt: skip
        n = np.int64(0)
        for j in range(k):
            key = load_i64(best_at + 8 * j)
            if key == EMPTY:
                slots[i, j], scores[i, j] = -1, -np.inf
            else:
                slots[i, j], scores[i, j] = key_slot(key), key_score(key)
                n += 1
        counts[i, 0], counts[i, 1] = n, scored


_SIGNATURE = void(
    const(int64[::1]), const(uint8[::1]), const(float32[:, ::1]),
    const(float32[:, ::1]), const(float32[:, ::1]), float64, float32,
    uint8[:, ::1], float32[:, ::1], float64[:, ::1], float32[:, ::1], uint8[::1],
    uint16[::1], float32[::1], int64[::1], int64[::1],
    const(int64[::1]), int64, int64, int64,
    int64, int64, int64, int64, float64, int64[::1],
    int32[:, ::1], float32[:, ::1], int64[:, ::1],
)  # fmt: skip


@kernel(_SIGNATURE)
def search_listed(
    fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums, estimates,
    chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores, counts,
):  # fmt: skip
    """Codes of a bit a dim, relative to the centroid."""
    search(
        LISTED, fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums,
        estimates, chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores,
        counts,
    )  # fmt: skip


@kernel(_SIGNATURE)
def search_int8(
    fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums, estimates,
    chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores, counts,
):  # fmt: skip
    """Codes of a byte a dim."""
    search(
        INT8, fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums,
        estimates, chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores,
        counts,
    )  # fmt: skip


@kernel(_SIGNATURE)
def search_int4(
    fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums, estimates,
    chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores, counts,
):  # fmt: skip
    """Codes of half a byte a dim."""
    search(
        INT4, fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums,
        estimates, chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores,
        counts,
    )  # fmt: skip


@kernel(_SIGNATURE)
def search_float32(
    fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums, estimates,
    chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores, counts,
):  # fmt: skip
    """The rows themselves."""
    search(
        FLOAT, fields, allowed, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels, sums,
        estimates, chosen, found, blocks, shift, dim, metric, k, probes, depth, least, sure, best, slots, scores,
        counts,
    )  # fmt: skip
