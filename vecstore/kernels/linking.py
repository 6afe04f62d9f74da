# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Building a graph (graph.py) in batches, without locks: each call writes only the rows of links that it owns.

1. `link_rows`: for each new node, the frozen graph is walked for candidates, the batch is scanned for more, and the
   pruned list becomes the node's links. No link to a new node exists before all of the batch are done.
2. The caller sorts the reverse edges by target; `link_back` appends them to the links of each target, or prunes its
   list anew where it is full.

3. `sweep`: nodes with links to dead ones are linked to the nearest of those that the dead ones were linked to instead
   (after the in-place deletes of Xu et al., IP-DiskANN, 2025): all of them in one pass over the links, which finds
   every such node. Rows of dead nodes are not written.

Pruning (RobustPrune of Subramanya et al., DiskANN, 2019): from the nearest candidate down, one is kept unless a kept
one is nearer to it by `alpha` than it is to the node itself. Distances are those between codes. The result does not
depend on how nodes and targets are spread over threads.
"""

from __future__ import annotations

import numpy as np
from numba.core.types import float32, float64, int32, int64, uint8, uint16, void

from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.codes import dot_u4s8, dot_u8s8
from vecstore.kernels.encode import LONGEST
from vecstore.kernels.graph import (
    CODE_BYTES,
    CODES,
    COSINES,
    EQUALS,
    FLOAT,
    LINKS,
    PAIR,
    PAIR_BYTES,
    PAIRS,
    TOP,
    WIDTH,
    begin,
    expand,
    key_node,
    nearness,
    node_key,
    offer,
    walk,
)
from vecstore.kernels.memory import (
    address_of,
    key_score,
    load_f32,
    load_i32,
    load_i64,
    prefetch,
    store_i32,
    store_i64,
)
from vecstore.kernels.pools import EMPTY
from vecstore.kernels.rows import COSINE, L2
from vecstore.kernels.scans import BINARY, INT4, INT8

EXPANDED = 2
"""An expanded code takes at most so many times the bytes of the code."""
FACTS = 4
HEIRS = 3
"""Nodes near a dead one that take its place in the links of each node that was linked to it."""


@inlined
def prune(kind, fields, node, beam, count, most, alpha2, kept, kept_facts, row):
    """Write at most `most` of the candidates in the beam into the links at address `row`, and -1 behind them.

    `kept` and `kept_facts` have room for the expanded codes of `most` nodes. Returns how many were kept.
    """
    size, pair_bytes = fields[CODE_BYTES], fields[PAIR_BYTES]
    codes, pairs, cosines, top = fields[CODES], fields[PAIRS], fields[COSINES], load_f32(fields[TOP])
    stride = size * EXPANDED
    n = np.int64(0)
    for i in range(count):
        key = load_i64(beam + 8 * i)
        if key == EMPTY or n == most:
            break
        other = key_node(key)
        if other == node:
            continue
        near = key_score(key)
        code, pair = codes + other * size, pairs + other * pair_bytes
        occluded = False
        for j in range(n):
            between = nearness(
                kind, code, size, pair, pair_bytes, top, kept + j * stride, kept_facts + j * 4 * FACTS, cosines
            )
            if alpha2 * between >= near:
                occluded = True
                break
        if not occluded:
            expand(kind, code, size, pair, pair_bytes, top, kept + n * stride, kept_facts + n * 4 * FACTS)
            store_i32(row + 4 * n, other)
            n += 1
    for i in range(n, fields[WIDTH]):
        store_i32(row + 4 * i, -1)
    return n


@inlined
def link_nodes(
    kind, fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited, candidates,
    kept, kept_facts,
):  # fmt: skip
    size, pair_bytes = fields[CODE_BYTES], fields[PAIR_BYTES]
    top, cosines = load_f32(fields[TOP]), fields[COSINES]
    facts = address_of(kept_facts)
    beam_at, query_at = address_of(beam), address_of(query)
    for i in range(first, last):
        node = np.int64(batch[i])
        code, pair = address_of(batch_codes) + i * size, address_of(batch_pairs) + i * pair_bytes
        expand(kind, code, size, pair, pair_bytes, top, query_at, facts)
        begin(beam_at, ef, address_of(visited), visited.shape[0])
        walk(
            PAIR, kind, fields, query_at, facts, beam_at, ef, 1, EQUALS, np.float32(0), np.float32(0),
            address_of(visited), visited.shape[0], address_of(candidates), beam_at + 16 * ef, beam_at + 8 * ef,
        )  # fmt: skip
        other, other_pair = address_of(batch_codes), address_of(batch_pairs)
        for j in range(batch.shape[0]):
            if j != i:
                near = nearness(kind, other, size, other_pair, pair_bytes, top, query_at, facts, cosines)
                offer(beam_at, ef, node_key(near, np.int64(batch[j])))
            other += size
            other_pair += pair_bytes
        row = fields[LINKS] + node * fields[WIDTH] * 4
        prune(kind, fields, node, beam_at, ef, most, alpha2, address_of(kept), facts + 4 * FACTS, row)


@inlined
def holds(row, count, node):
    """Whether a node is among the first `count` links at address `row`."""
    found = False
    for i in range(count):
        found |= np.int64(load_i32(row + 4 * i)) == node
    return found


@inlined
def degree_of(row, width):
    """How many links there are at address `row`."""
    count = np.int64(0)
    while count < width and load_i32(row + 4 * count) >= 0:
        count += 1
    return count


@inlined
def link_targets(kind, fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts):
    size, pair_bytes, width = fields[CODE_BYTES], fields[PAIR_BYTES], fields[WIDTH]
    codes, pairs = fields[CODES], fields[PAIRS]
    top, cosines = load_f32(fields[TOP]), fields[COSINES]
    facts = address_of(kept_facts)
    beam_at, query_at = address_of(beam), address_of(query)
    capacity = beam.shape[0]
    start = first
    while start < last:
        target = edges[start] >> 32
        stop = start
        while stop < last and edges[stop] >> 32 == target:
            stop += 1
        row = fields[LINKS] + target * width * 4
        degree = degree_of(row, width)
        if degree + stop - start <= width:
            added = degree
            for i in range(start, stop):
                source = edges[i] & 0xFFFFFFFF
                if not holds(row, degree, source):
                    store_i32(row + 4 * added, source)
                    added += 1
        else:
            expand(kind, codes + target * size, size, pairs + target * pair_bytes, pair_bytes, top, query_at, facts)
            for i in range(capacity):
                store_i64(beam_at + 8 * i, EMPTY)
            for i in range(degree):
                prefetch(codes + np.int64(load_i32(row + 4 * i)) * size, size)
            for i in range(degree + stop - start):
                if i < degree:
                    slot = np.int64(load_i32(row + 4 * i))
                else:
                    slot = edges[start + i - degree] & 0xFFFFFFFF
                    if holds(row, degree, slot):
                        continue
                near = nearness(
                    kind, codes + slot * size, size, pairs + slot * pair_bytes, pair_bytes, top, query_at, facts,
                    cosines,
                )  # fmt: skip
                offer(beam_at, capacity, node_key(near, slot))
            prune(kind, fields, target, beam_at, capacity, most, alpha2, address_of(kept), facts + 4 * FACTS, row)
        start = stop


@inlined
def sweep_nodes(kind, fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts):
    size, pair_bytes, width = fields[CODE_BYTES], fields[PAIR_BYTES], fields[WIDTH]
    codes, pairs, links = fields[CODES], fields[PAIRS], fields[LINKS]
    top, cosines = load_f32(fields[TOP]), fields[COSINES]
    facts = address_of(kept_facts)
    beam_at, query_at, added_at = address_of(beam), address_of(query), address_of(added)
    capacity = beam.shape[0]
    nearest = beam_at + 8 * (capacity - HEIRS)
    for node in range(first, last):
        row = links + node * width * 4
        degree = degree_of(row, width)
        gone = np.int64(0)
        for i in range(degree):
            gone += np.int64(dead[load_i32(row + 4 * i)])
        if gone == 0 or dead[node]:
            continue
        expand(kind, codes + node * size, size, pairs + node * pair_bytes, pair_bytes, top, query_at, facts)
        count = np.int64(0)
        for i in range(degree):
            other = load_i32(row + 4 * i)
            if not dead[other]:
                store_i32(added_at + 4 * count, other)
                count += 1
        for i in range(degree):
            other = np.int64(load_i32(row + 4 * i))
            if not dead[other]:
                continue
            for j in range(HEIRS):
                store_i64(nearest + 8 * j, EMPTY)
            theirs = links + other * width * 4
            for j in range(degree_of(theirs, width)):
                heir = np.int64(load_i32(theirs + 4 * j))
                if dead[heir] or heir == node or holds(added_at, count, heir):
                    continue
                near = nearness(
                    kind, codes + heir * size, size, pairs + heir * pair_bytes, pair_bytes, top, query_at, facts,
                    cosines,
                )  # fmt: skip
                offer(nearest, np.int64(HEIRS), node_key(near, heir))
            for j in range(HEIRS):
                key = load_i64(nearest + 8 * j)
                if key != EMPTY:
                    store_i32(added_at + 4 * count, key_node(key))
                    count += 1
        if count <= width:
            for i in range(width):
                store_i32(row + 4 * i, np.int64(load_i32(added_at + 4 * i)) if i < count else np.int64(-1))
            continue
        room = min(count, capacity)
        for i in range(room):
            store_i64(beam_at + 8 * i, EMPTY)
        for i in range(count):
            other = np.int64(load_i32(added_at + 4 * i))
            near = nearness(
                kind, codes + other * size, size, pairs + other * pair_bytes, pair_bytes, top, query_at, facts, cosines
            )
            offer(beam_at, room, node_key(near, other))
        prune(kind, fields, node, beam_at, room, most, alpha2, address_of(kept), facts + 4 * FACTS, row)


_LINK = void(
    const(int64[::1]), const(int32[::1]), const(uint8[:, ::1]), const(float32[:, ::1]), int64, int64, int64, int64,
    float32, uint8[::1], int64[::1], uint16[::1], int32[::1], uint8[::1], float32[::1],
)  # fmt: skip
_BACK = void(
    const(int64[::1]), const(int64[::1]), int64, int64, int64, float32, uint8[::1], int64[::1], uint8[::1],
    float32[::1],
)  # fmt: skip


_SWEEP = void(
    const(int64[::1]), const(uint8[::1]), int64, int64, int64, float32, uint8[::1], int64[::1], int32[::1],
    uint8[::1], float32[::1],
)  # fmt: skip


@kernel(_LINK)
def link_int8(
    fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited, candidates, kept,
    kept_facts,
):  # fmt: skip
    """Codes of a byte a dim."""
    link_nodes(
        INT8, fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited, candidates,
        kept, kept_facts,
    )  # fmt: skip


@kernel(_BACK)
def link_back_int8(fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts):
    """Codes of a byte a dim."""
    link_targets(INT8, fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts)


@kernel(_SWEEP)
def sweep_int8(fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts):
    """Codes of a byte a dim."""
    sweep_nodes(INT8, fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts)


@kernel(_LINK)
def link_int4(
    fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited, candidates, kept,
    kept_facts,
):  # fmt: skip
    """Codes of half a byte a dim."""
    link_nodes(
        INT4, fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited, candidates,
        kept, kept_facts,
    )  # fmt: skip


@kernel(_BACK)
def link_back_int4(fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts):
    """Codes of half a byte a dim."""
    link_targets(INT4, fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts)


@kernel(_SWEEP)
def sweep_int4(fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts):
    """Codes of half a byte a dim."""
    sweep_nodes(INT4, fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts)


@kernel(_LINK)
def link_binary(
    fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited, candidates, kept,
    kept_facts,
):  # fmt: skip
    """Codes of a bit a dim."""
    link_nodes(
        BINARY, fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited,
        candidates, kept, kept_facts,
    )  # fmt: skip


@kernel(_BACK)
def link_back_binary(fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts):
    """Codes of a bit a dim."""
    link_targets(BINARY, fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts)


@kernel(_SWEEP)
def sweep_binary(fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts):
    """Codes of a bit a dim."""
    sweep_nodes(BINARY, fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts)


@kernel(_LINK)
def link_float32(
    fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited, candidates, kept,
    kept_facts,
):  # fmt: skip
    """The rows themselves."""
    link_nodes(
        FLOAT, fields, batch, batch_codes, batch_pairs, first, last, ef, most, alpha2, query, beam, visited, candidates,
        kept, kept_facts,
    )  # fmt: skip


@kernel(_BACK)
def link_back_float32(fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts):
    """The rows themselves."""
    link_targets(FLOAT, fields, edges, first, last, most, alpha2, query, beam, kept, kept_facts)


@kernel(_SWEEP)
def sweep_float32(fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts):
    """The rows themselves."""
    sweep_nodes(FLOAT, fields, dead, first, last, most, alpha2, query, beam, added, kept, kept_facts)


@kernel(
    void(
        int64, int64, const(uint8[:, ::1]), const(float32[:, ::1]), const(float32[::1]), float64, float32, float64,
        float32[:, ::1],
    )
)  # fmt: skip
def pair_rows(kind, metric, codes, terms, norms, unit, step, centre_square, pairs):
    """What distances between codes need to know of each (graph.py): pairs (n, 2), or (n, 3) for dot products.

    codes (n, code_bytes) and terms as `encode_rows` made them; norms (n,) of the rows; unit, step and the squared
    length of the centre are the quantizer's.
    """
    size = codes.shape[1]
    query = np.empty(size * EXPANDED, np.uint8)
    facts = np.empty(FACTS, np.float32)
    query_at, facts_at = address_of(query), address_of(facts)
    for i in range(codes.shape[0]):
        length = min(np.float64(norms[i]) * unit, LONGEST)
        square = np.float64(1) if metric == COSINE else length * length
        if pairs.shape[1] > 2:
            pairs[i, 2] = square
        code, pair = address_of(codes) + i * size, address_of(pairs) + i * 4 * pairs.shape[1]
        if kind == FLOAT:
            pairs[i, 0], pairs[i, 1] = 0, 0
        elif kind == BINARY:
            pairs[i, 0] = 0
            rest = -np.float64(terms[i, 1]) if metric == L2 else square - 2 * np.float64(terms[i, 1]) - centre_square
            pairs[i, 1] = max(rest, 0)
        else:
            pairs[i, 0] = step
            if terms.shape[1] != 0:
                pairs[i, 0] = step * terms[i, 0] * np.float32(0.5 if metric == L2 else 1)
            pairs[i, 1] = 0
            expand(kind, code, size, pair, 8, np.float32(0), query_at, facts_at)
            total = dot_u4s8(code, query_at, size) if kind == INT4 else dot_u8s8(code, query_at, size)
            # In the order of `nearness`: equal codes must be at distance 0 exactly, or `prune` keeps all of them.
            pairs[i, 1] = (np.float32(total) - facts[0]) * (pairs[i, 0] * pairs[i, 0])
