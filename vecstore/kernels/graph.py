# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The walk over a graph of codes: a beam of the best candidates, expanded one at a time from the best down.

A graph is passed as `fields`, int64, with a place for each name below: addresses of arrays that the caller holds, and
their sizes. Its nodes are numbered by themselves; `slots` tells for each which slot of the rows it stands for, -1 for
none any more. Row i of `links` holds the nodes that node i is linked to, -1 from the first free place on. Pilots are
nodes that a walk may start from, with their codes next to each other. Nodes from TAIL_FIRST to TAIL_LAST are not linked
yet, so that a search scans them.

The beam is a pool (pools.py) of keys whose lower half holds 2 * node, plus 1 once the node was expanded. `visited` is
a table of nodes that were met (memory.gather): by the lower bits of its number a node finds its place, which holds the
upper ones, uint16; a newcomer takes the place, so that the table stays in the first-level cache whatever the size of
the graph, and a node may be scored twice, which `merge` notices.

Scores are of one of two kinds, told by `mode`. QUERY: estimates of the score of a query, as the scans make them.
PAIR: nearness, minus half the squared distance between what the codes of two nodes stand for; a node's `pairs` are
(scale, square[, norm**2]), float32: <row, row'> = scale * scale' * (sum over dims of level * level'), its squared
length, and the squared norm that dot products lift it by. Facts of a query, float32: factors of the quantizer, or for
PAIR (bias, scale, square, lift).
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels._jit import inlined
from vecstore.kernels.bits import hamming
from vecstore.kernels.codes import dot_u4s8, dot_u8s8, expand_u4, expand_u8
from vecstore.kernels.floats import dot_f32, l2sq_f32
from vecstore.kernels.memory import (
    copy_bytes,
    count_greater,
    gather,
    key_score,
    key_slot,
    load_f32,
    load_i32,
    load_i64,
    load_u8,
    pack_key,
    prefetch,
    store_f32,
    store_i64,
    store_u16,
    trailing_zeros,
)
from vecstore.kernels.pools import EMPTY
from vecstore.kernels.scans import BINARY, INT4, INT8, estimate

FLOAT = 3
"""Beside the kinds of scans: the codes are the rows themselves, float32, of length 1 under cosine."""

(
    CODES, CODE_BYTES, TERMS, TERM_BYTES, PAIRS, PAIR_BYTES, LINKS, WIDTH, LIMIT, PILOTS, PILOT_COUNT, PILOT_CODES,
    PILOT_TERMS, PILOT_PAIRS, SLOTS, TAIL_FIRST, TAIL_LAST, COSINES, TOP,
) = range(19)  # fmt: skip
FIELDS = 19
QUERY, PAIR = 0, 1
STARTS = 8
"""Pilots that a walk starts from."""
AHEAD = 12
"""Codes asked for before they are scored: fewer and more were slower at 192 bytes a code."""
EQUALS = 8
"""Equal nodes that enter a beam, if no more are asked for."""
EARLY = 8
"""Candidates that are scored before the links of the next node are read, which have been asked for by then."""


@inlined
def query_score(kind, code, size, term, term_bytes, query, facts):
    """The estimate for the code at address `code`, its terms at `term`. float32."""
    if kind == FLOAT:
        if load_f32(facts) == np.float32(0):
            return -l2sq_f32(code, query, size >> 2)
        return dot_f32(code, query, size >> 2)
    score = estimate(kind, code, size, query, facts)
    if term_bytes != 0:
        score = score * load_f32(term) + load_f32(term + 4)
    return score


@inlined
def lift_of(pair, pair_bytes, top):
    """The coordinate that brings a row to the squared norm `top`, where dot products ask for it. float32."""
    if pair_bytes > 8:
        return np.float32(np.sqrt(max(np.float32(top) - load_f32(pair + 8), np.float32(0))))
    return np.float32(0)


@inlined
def nearness(kind, code, size, pair, pair_bytes, top, query, facts, cosines):
    """Minus half the squared distance of the code at address `code` to an expanded one. float32, at most 0."""
    half = np.float32(0.5)
    if kind == FLOAT:
        near = -half * l2sq_f32(code, query, size >> 2)
    elif kind == BINARY:
        lengths = np.sqrt(load_f32(facts + 8) * load_f32(pair + 4))
        cosine = load_f32(cosines + 4 * np.int64(hamming(code, query, size)))
        near = lengths * cosine - half * (load_f32(facts + 8) + load_f32(pair + 4))
    else:
        if kind == INT4:
            total = np.float32(dot_u4s8(code, query, size))
        else:
            total = np.float32(dot_u8s8(code, query, size))
        product = (total - load_f32(facts)) * (load_f32(facts + 4) * load_f32(pair))
        near = product - half * (load_f32(facts + 8) + load_f32(pair + 4))
    if pair_bytes > 8:
        difference = load_f32(facts + 12) - lift_of(pair, pair_bytes, top)
        near = near - half * difference * difference
    return min(near, np.float32(0))


@inlined
def expand(kind, code, size, pair, pair_bytes, top, query, facts):
    """The code at address `code` in the form of a query, and its facts, for PAIR."""
    bias = np.float32(0)
    if kind == INT4:
        expand_u4(code, query, size)
        bias = np.float32(8) * np.float32(sum_of_levels(kind, query, size))
    elif kind == INT8:
        expand_u8(code, query, size)
        bias = np.float32(128) * np.float32(sum_of_levels(kind, query, size))
    else:
        copy_bytes(query, code, size)
    store_f32(facts, bias)
    store_f32(facts + 4, load_f32(pair))
    store_f32(facts + 8, load_f32(pair + 4))
    store_f32(facts + 12, lift_of(pair, pair_bytes, top))


@inlined
def sum_of_levels(kind, query, size):
    """The sum of an expanded code: of its products with codes of ones."""
    total = np.int64(0)
    if kind == INT4:
        size = size * 2
    for j in range(size):
        level = np.int64(load_u8(query + j))
        total += level - 256 * (level >> 7)
    return total


@inlined
def score_node(mode, kind, code, size, term, term_bytes, top, query, facts, cosines):
    """The score of a code by `mode`; for PAIR the terms are its pairs. float32."""
    if mode == QUERY:
        return query_score(kind, code, size, term, term_bytes, query, facts)
    return nearness(kind, code, size, term, term_bytes, top, query, facts, cosines)


@inlined
def node_key(score, node):
    """The key of a node that was not expanded."""
    return pack_key(score, node << 1)


@inlined
def key_node(key):
    """The node of a key of the beam."""
    return (np.int64(key_slot(key)) & 0xFFFFFFFF) >> 1


@inlined
def begin(beam, ef, visited, places):
    """Empty the beam and the table of visited nodes."""
    for i in range(ef):
        store_i64(beam + 8 * i, EMPTY)
    for i in range(0, places, 4):
        store_i64(visited + 2 * i, -1)


@inlined
def offer(beam, ef, key):
    """Insert a key into the beam if it beats the last; returns its rank, or ef."""
    if key <= load_i64(beam + 8 * (ef - 1)):
        return ef
    rank = count_greater(beam, ef, key)
    where = beam + 8 * rank
    copy_bytes(where + 8, where, 8 * (ef - 1 - rank))
    store_i64(where, key)
    return rank


@inlined
def merge(beam, ef, passed, n, spare):
    """Merge n keys that beat the last one into the beam, but for those that it holds; returns the rank of the best.

    `passed` has room for one more key, `spare` for as many as the beam. A merge without branches: which of two keys is
    the greater cannot be foreseen, and a wrong guess costs as much as twenty of these turns.
    """
    for i in range(1, n):
        key = load_i64(passed + 8 * i)
        j = i
        while j > 0 and load_i64(passed + 8 * (j - 1)) < key:
            store_i64(passed + 8 * j, load_i64(passed + 8 * (j - 1)))
            j -= 1
        store_i64(passed + 8 * j, key)
    store_i64(passed + 8 * n, EMPTY)
    rank = count_greater(beam, ef, load_i64(passed))
    old, new = beam + 8 * rank, passed
    for at in range(rank, ef):
        x, y = load_i64(new), load_i64(old)
        same = (x | 1) == (y | 1) and x != EMPTY
        newer = x > y and not same
        store_i64(spare + 8 * at, x if newer else y)
        new += 8 * (newer | same)
        old += 8 * (not newer)
    copy_bytes(beam + 8 * rank, spare + 8 * rank, 8 * (ef - rank))
    return rank


@inlined
def start(mode, kind, fields, query, facts, beam, ef, visited, places):
    """Put the best pilots into the beam. Returns how many were scored."""
    size = fields[CODE_BYTES]
    code, term, term_bytes = fields[PILOT_CODES], fields[PILOT_TERMS], fields[TERM_BYTES]
    if mode == PAIR:
        term, term_bytes = fields[PILOT_PAIRS], fields[PAIR_BYTES]
    top, cosines = load_f32(fields[TOP]), fields[COSINES]
    starts = min(np.int64(STARTS), ef)
    for i in range(fields[PILOT_COUNT]):
        score = score_node(mode, kind, code, size, term, term_bytes, top, query, facts, cosines)
        offer(beam, starts, node_key(score, np.int64(load_i32(fields[PILOTS] + 4 * i))))
        code += size
        term += term_bytes
    for i in range(starts):
        key = load_i64(beam + 8 * i)
        if key != EMPTY:
            node = key_node(key)
            store_u16(visited + 2 * (node & (places - 1)), node >> trailing_zeros(places))
            prefetch(fields[LINKS] + node * fields[WIDTH] * 4, fields[WIDTH] * 4)
    return fields[PILOT_COUNT]


@inlined
def distinct(beam, ef, k):
    """The key of the k-th of the scores in the beam, each counted once, or EMPTY if there are fewer."""
    count, last = np.int64(0), np.int64(EMPTY)
    for i in range(ef):
        key = load_i64(beam + 8 * i)
        if key == EMPTY:
            break
        count += key >> 32 != last >> 32 or i == 0
        last = key
        if count == k:
            return key
    return np.int64(EMPTY)


@inlined
def walk(
    mode, kind, fields, query, facts, beam, ef, k, most_equal, zero, stretch, visited, places, candidates, passed, spare
):
    """Fill the beam with the best nodes that can be reached from the pilots. Returns how many were scored.

    It ends when all of the beam was expanded, or, with a `stretch` above 0, when the next one's distance to the query
    is more than sqrt(stretch) times that of the k-th best, `zero` being the score at distance 0; nodes that score alike
    count as one of the k. Of nodes that score as the very node they were reached from, equal rows most likely,
    `most_equal` enter: thousands of them would fill the beam, and leave no way past them. candidates: room for
    2 * WIDTH int32, passed and spare: for WIDTH + 1 and ef int64.
    """
    size, codes = fields[CODE_BYTES], fields[CODES]
    terms, term_bytes = fields[TERMS], fields[TERM_BYTES]
    if mode == PAIR:
        terms, term_bytes = fields[PAIRS], fields[PAIR_BYTES]
    top, cosines, limit = load_f32(fields[TOP]), fields[COSINES], fields[LIMIT]
    links, row_bytes = fields[LINKS], fields[WIDTH] * 4
    scored = start(mode, kind, fields, query, facts, beam, ef, visited, places)
    following = np.int64(0)
    here, there = candidates, candidates + row_bytes
    count, asked = np.int64(0), np.int64(0)
    level, next_level = np.int64(0), np.int64(0)  # scores of expanded nodes, as in their keys
    equals, best_level = np.int64(0), np.int64(EMPTY) >> 32
    while True:
        # The next node to expand is chosen before the candidates of the last one are scored: its links, and then the
        # codes that they lead to, are on their way meanwhile. Memory, not arithmetic, is what a walk waits for.
        node = np.int64(-1)
        while following < ef:
            key = load_i64(beam + 8 * following)
            if key == EMPTY:
                break
            if key & 1:
                if stretch > np.float32(0):
                    kth = load_i64(beam + 8 * (k - 1))
                    if kth != EMPTY and key_score(key) < zero - stretch * (zero - key_score(kth)):
                        kth = distinct(beam, ef, k)
                        if kth != EMPTY and key_score(key) < zero - stretch * (zero - key_score(kth)):
                            break
                node = key_node(key)
                next_level = key >> 32
                store_i64(beam + 8 * following, key - 1)
                following += 1
                break
            following += 1
        if node < 0 and count == 0:
            break
        row = links + node * row_bytes
        if node >= 0:
            prefetch(row, row_bytes)
        worst = load_i64(beam + 8 * (ef - 1))
        scored += count
        if level > best_level:
            equals, best_level = np.int64(0), level
        next_count, next_asked = np.int64(0), np.int64(0)
        n = np.int64(0)
        early = min(count, np.int64(EARLY))
        for part in range(2):
            first, last = np.int64(0), early
            if part == 1:
                first, last = early, count
                if node >= 0:
                    next_count = gather(row, row_bytes, limit, visited, places, there)
            for i in range(first, last):
                if asked < count:
                    prefetch(codes + np.int64(load_i32(here + 4 * asked)) * size, size)
                    asked += 1
                elif next_asked < next_count:
                    prefetch(codes + np.int64(load_i32(there + 4 * next_asked)) * size, size)
                    next_asked += 1
                other = np.int64(load_i32(here + 4 * i))
                code, term = codes + other * size, terms + other * term_bytes
                key = node_key(score_node(mode, kind, code, size, term, term_bytes, top, query, facts, cosines), other)
                store_i64(passed + 8 * n, key)
                equal = (key >> 32) == level
                equals += equal
                n += (key > worst) and not (equal and equals > most_equal)
        while next_asked < min(next_count, np.int64(AHEAD)):
            prefetch(codes + np.int64(load_i32(there + 4 * next_asked)) * size, size)
            next_asked += 1
        if n > 0:
            following = min(following, merge(beam, ef, passed, n, spare))
        here, there = there, here
        count, asked, level = next_count, next_asked, next_level
    return scored
