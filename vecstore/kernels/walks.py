# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Searches of a graph (graph.py), each in one call: encode the query, walk, scan the tail, rescore from the rows.

One entry point per kind of codes. A call from Python costs microseconds, a fair part of a search, so that nothing is
left to the caller but to hold the arrays. They return the squared length of the last query. Arguments of all:

fields                      the graph
allowed                     a bit for each slot that may be found, least significant first
centres, signs, unit, step  of the quantizer, as encode.encode_queries takes them
codes, factors, tails, scratch, levels
                            room for one query, as there
beam, visited, candidates   room for a walk: (2 * ef + WIDTH + 1,) int64; uint16, a power of two; (2 * WIDTH,) int32
blocks, shift, dim, metric  the full rows, as rows.rescore_rows takes them
k, ef, depth, least         the best allowed of `ef` candidates are rescored: `least`, and up to `depth` as needed
stop_at, stretch            when to end before the beam is exhausted: `k` and `stretch` of graph.walk
best                        room for k int64
names                       the ids of slots, or nothing
queries (n, dim)
slots, ids, scores (n, k), counts (n, 2)
                            what is found, best first, and how many; and how many codes were scored. `ids` are written
                            where there are names, -1 for slots behind their end
"""

from __future__ import annotations

import numpy as np
from numba.core.types import float32, float64, int32, int64, uint8, uint16

from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.encode import LONGEST, encode_query, scale_of
from vecstore.kernels.graph import (
    CODE_BYTES,
    CODES,
    EQUALS,
    FLOAT,
    QUERY,
    SLOTS,
    TAIL_FIRST,
    TAIL_LAST,
    TERM_BYTES,
    TERMS,
    TOP,
    begin,
    key_node,
    node_key,
    offer,
    query_score,
    walk,
)
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
)
from vecstore.kernels.pools import EMPTY, pool_bound, pool_offer
from vecstore.kernels.rotate import dot_f64
from vecstore.kernels.rows import COSINE, L2, query_scale_of, row_score
from vecstore.kernels.scans import BINARY, INT4, INT8

ROWS_AHEAD = 3
"""Rows asked for before they are scored."""
SURE = 3.0
"""Deviations by which an estimate may be off. In clusters of 256 dims Int4 at ef 128 finds .994 of the true ten at 2.5
by rescoring 26 rows, .998 at 3 by 32, .999 at 4 by 43; text embeddings take 20 to 21 rows."""


@inlined
def is_allowed(allowed, slot):
    """Whether the bit of a slot is set; a slot behind the end is newer than what the caller sees."""
    group = slot >> 3
    return group < allowed.shape[0] and (np.int64(allowed[group]) >> (slot & 7)) & 1 != 0


@inlined
def scan_tail(kind, fields, query, facts, beam, ef, allowed):
    """Offer the allowed nodes of the tail to the beam. Returns how many there are."""
    size, term_bytes = fields[CODE_BYTES], fields[TERM_BYTES]
    for node in range(fields[TAIL_FIRST], fields[TAIL_LAST]):
        slot = np.int64(load_i32(fields[SLOTS] + 4 * node))
        if slot < 0 or not is_allowed(allowed, slot):
            continue
        code, term = fields[CODES] + node * size, fields[TERMS] + node * term_bytes
        offer(beam, ef, node_key(query_score(kind, code, size, term, term_bytes, query, facts), node))
    return fields[TAIL_LAST] - fields[TAIL_FIRST]


@inlined
def score_at_zero(metric, tails, dot_query, top):
    """The raw score that a row at distance 0 from the query would have. float32."""
    if metric == COSINE:
        return np.float32(1 - tails[0, 0])
    if metric == L2:
        return np.float32(-tails[0, 0])
    return np.float32(0.5 * (np.float64(top) + dot_query) - tails[0, 0])


@inlined
def as_estimate(metric, score, unit):
    """An exact score on the scale of the estimates. float64."""
    if metric == COSINE:
        return np.float64(score)
    if metric == L2:
        return -(np.float64(score) * unit) * (np.float64(score) * unit)
    return np.float64(score) * unit * unit


@inlined
def collect(slots, beam, ef, depth, allowed, blocks, shift):
    """The first `depth` allowed nodes of the beam to its front, as keys of their slots. Returns how many."""
    count = np.int64(0)
    for i in range(ef):
        key = load_i64(beam + 8 * i)
        if key == EMPTY or count == depth:
            break
        slot = np.int64(load_i32(slots + 4 * key_node(key)))
        if slot < 0 or not is_allowed(allowed, slot) or blocks[slot >> shift] == 0:
            continue
        store_i64(beam + 8 * count, pack_key(key_score(key), slot))
        count += 1
    return count


@inlined
def ask_for_row(key, blocks, shift, dim, metric):
    """Prefetch the row of a key of `collect`."""
    slot, mask = np.int64(key_slot(key)), (1 << shift) - 1
    block = blocks[slot >> shift]
    prefetch(block + (slot & mask) * dim * 4, dim * 4)
    if metric == COSINE:
        prefetch(block + ((mask + 1) * dim + (slot & mask)) * 4, 1)


@inlined
def rescore(beam, count, least, blocks, shift, dim, metric, unit, offset, query, best, k):
    """The k best by exact score of the `count` keys at address `beam`, into the pool at address `best`.

    After the first `least`, only as many more as may still come among the k best: the estimates, which lack `offset`,
    are in order, and how far they are off is known from those before. Their mean error says nothing of those that
    come: the first are first for being estimated too high. Returns how many were rescored.
    """
    query_scale = query_scale_of(metric, query, dim)
    mask = (1 << shift) - 1
    for i in range(k):
        store_i64(best + 8 * i, EMPTY)
    for i in range(min(np.int64(ROWS_AHEAD), count)):
        ask_for_row(load_i64(beam + 8 * i), blocks, shift, dim, metric)
    lowest = np.float32(-np.inf)
    bound = pool_bound(best, k, lowest)
    squares = np.float64(0)
    for i in range(count):
        key = load_i64(beam + 8 * i)
        estimated = np.float64(key_score(key)) + offset
        if i >= least and estimated + SURE * np.sqrt(squares / i) < as_estimate(metric, bound, unit):
            return i
        if i + ROWS_AHEAD < count:
            ask_for_row(load_i64(beam + 8 * (i + ROWS_AHEAD)), blocks, shift, dim, metric)
        slot = np.int64(key_slot(key))
        block = blocks[slot >> shift]
        norm = block + ((mask + 1) * dim + (slot & mask)) * 4
        score = row_score(metric, block + (slot & mask) * dim * 4, norm, query, query_scale, dim)
        off = as_estimate(metric, score, unit) - estimated
        squares += off * off
        if score >= bound:
            bound = pool_offer(best, k, score, slot, lowest)
    return count


@inlined
def search(
    kind, fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited,
    candidates, blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids,
    scores, counts,
):  # fmt: skip
    beam_at, best_at = address_of(beam), address_of(best)
    top = load_f32(fields[TOP])
    square = np.float64(0)
    for i in range(queries.shape[0]):
        query = address_of(queries) + 4 * i * dim
        square = dot_f64(query, query, dim)
        dot_query = np.float64(0)
        if metric not in (COSINE, L2):
            dot_query = min(square * unit * unit, LONGEST * LONGEST)
        if kind == FLOAT:
            scale = np.float32(scale_of(np.sqrt(square), metric, unit))
            for j in range(dim):
                scratch[0, j] = queries[i, j] * scale
            for j in range(dim, scratch.shape[1]):
                scratch[0, j] = np.float32(0)
            factors[0, 0], tails[0, 0] = np.float32(0 if metric == L2 else 1), 0
            coded = address_of(scratch)
        else:
            with_terms = fields[TERM_BYTES] != 0
            encode_query(
                kind, metric, with_terms, i, queries, 0, centres, signs, unit, step, codes, factors, tails, scratch,
                levels,
            )  # fmt: skip
            coded = address_of(codes)
        begin(beam_at, ef, address_of(visited), visited.shape[0])
        zero = score_at_zero(metric, tails, dot_query, top)
        scored = walk(
            QUERY, kind, fields, coded, address_of(factors), beam_at, ef, stop_at, max(k, EQUALS, ef >> 1), zero,
            stretch, address_of(visited), visited.shape[0], address_of(candidates), beam_at + 16 * ef, beam_at + 8 * ef,
        )  # fmt: skip
        scored += scan_tail(kind, fields, coded, address_of(factors), beam_at, ef, allowed)
        count = collect(fields[SLOTS], beam_at, ef, depth, allowed, blocks, shift)
        rescore(beam_at, count, max(least, k), blocks, shift, dim, metric, unit, tails[0, 0], query, best_at, k)
        found = np.int64(0)
        for j in range(k):
            key = load_i64(best_at + 8 * j)
            if key == EMPTY:
                slots[i, j], scores[i, j] = -1, -np.inf
                if names.shape[0] != 0:
                    ids[i, j] = -1
            else:
                slot = np.int64(key_slot(key))
                slots[i, j], scores[i, j] = slot, key_score(key)
                if names.shape[0] != 0:
                    ids[i, j] = names[slot] if slot < names.shape[0] else np.int64(-1)
                found += 1
        counts[i, 0], counts[i, 1] = found, scored
    return square


_SIGNATURE = float64(
    const(int64[::1]), const(uint8[::1]),
    const(float32[:, ::1]), const(float32[:, ::1]), float64, float32,
    uint8[:, ::1], float32[:, ::1], float64[:, ::1], float32[:, ::1], uint8[::1],
    int64[::1], uint16[::1], int32[::1],
    const(int64[::1]), int64, int64, int64,
    int64, int64, int64, int64, int64, float32, int64[::1],
    const(int64[::1]), const(float32[:, ::1]), int32[:, ::1], int64[:, ::1], float32[:, ::1], int64[:, ::1],
)  # fmt: skip


@kernel(_SIGNATURE)
def search_int8(
    fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited, candidates,
    blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids, scores, counts,
):  # fmt: skip
    """Codes of a byte a dim."""
    return search(
        INT8, fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited,
        candidates, blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids,
        scores, counts,
    )  # fmt: skip


@kernel(_SIGNATURE)
def search_int4(
    fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited, candidates,
    blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids, scores, counts,
):  # fmt: skip
    """Codes of half a byte a dim."""
    return search(
        INT4, fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited,
        candidates, blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids,
        scores, counts,
    )  # fmt: skip


@kernel(_SIGNATURE)
def search_binary(
    fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited, candidates,
    blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids, scores, counts,
):  # fmt: skip
    """Codes of a bit a dim."""
    return search(
        BINARY, fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited,
        candidates, blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids,
        scores, counts,
    )  # fmt: skip


@kernel(_SIGNATURE)
def search_float32(
    fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited, candidates,
    blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids, scores, counts,
):  # fmt: skip
    """The rows themselves."""
    return search(
        FLOAT, fields, allowed, centres, signs, unit, step, codes, factors, tails, scratch, levels, beam, visited,
        candidates, blocks, shift, dim, metric, k, ef, depth, least, stop_at, stretch, best, names, queries, slots, ids,
        scores, counts,
    )  # fmt: skip
