# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Searches of lists (IVF), each in one call: code the query, choose lists, scan their codes, rescore from the rows.

Lists are laid out as gathering.py says.
"""

from __future__ import annotations

import numpy as np
from numba.core.types import float32, float64, int32, int64, uint8, uint16, void

from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.encode import encode_query, scale_of
from vecstore.kernels.floats import dot_f32, l2sq_f32
from vecstore.kernels.gathering import (
    COARSE_CODES,
    COARSE_TERMS,
    CODE_BYTES,
    CODES,
    HEADS,
    LISTED,
    LISTS,
    NEXT,
    OFFSET_TERMS,
    OFFSETS,
    SIZES,
    SLOTS,
    TAIL_CODES,
    TAIL_SIZE,
    TAIL_SLOTS,
    TAIL_TERMS,
    TERM_BYTES,
    TERMS,
    gather_list,
    rescore_found,
)
from vecstore.kernels.graph import FLOAT, query_score
from vecstore.kernels.keys import keep_best, sort_keys
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
from vecstore.kernels.pools import EMPTY
from vecstore.kernels.rotate import dot_f64, rotate_row
from vecstore.kernels.rows import L2, query_scale_of
from vecstore.kernels.scans import INT4, INT8
from vecstore.kernels.tables import block_estimates, query_table, table_sums
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.kernels.walks import is_allowed, rescore

MORE_LISTS = 8
"""Lists whose centroids are compared exactly, by the estimates the best: five quarters of nprobe, and so many."""


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
