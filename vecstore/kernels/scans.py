# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Scans of quantized codes: the best R candidates of a slot range by estimated score, for one query or a
batch.

One entry point per code kind; codes (cap, code_bytes) uint8 with code_bytes a multiple of 64. An estimate
is `a * sum + b`, the sum being an integer that depends on the kind and a, b being `factors` of the query,
and with `terms` (cap, 2 or more) float32 it is `(a * sum + b) * terms[slot, 0] + terms[slot, 1]`. Pass
terms of shape (cap, 0) where the metric needs none. All arrays are the caller's; pools (n, R) come from
`pools.new_pools`.
"""

from __future__ import annotations

import numpy as np
from numba.core.types import float32, int8, int64, uint8, uint64

from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.bits import dot_planes, popcount
from vecstore.kernels.codes import dot_u4s8, dot_u8s8
from vecstore.kernels.eights import dots_u8s8
from vecstore.kernels.memory import address_of, load_f32, trailing_zeros
from vecstore.kernels.pools import pool_bound, pool_offer
from vecstore.kernels.rows import live_bits

INT8, INT4, BINARY = 0, 1, 2
# Rows that are scored against all queries before the next ones are read: 64 of 384 bytes fill half of an L1
# cache.
_BLOCK_GROUPS = 8


@inlined
def estimate(kind, code, size, query, factors):
    """`a * sum + b` of the code at address `code`; `kind` is a constant and leaves one branch. float32."""
    if kind == INT8:
        total = np.float32(dot_u8s8(code, query, size))
    elif kind == INT4:
        total = np.float32(dot_u4s8(code, query, size))
    else:
        total = np.float32(dot_planes(code, query, size))
    score = load_f32(factors) * total + load_f32(factors + 4)
    if kind == BINARY:
        score += load_f32(factors + 8) * np.float32(popcount(code, size))
    return score


@inlined
def scan_codes(kind, codes, terms, live, start, stop, queries, query_bytes, factors, pools):
    size = codes.shape[1]
    term_bytes = 4 * terms.shape[1]
    factor_bytes = 4 * factors.shape[1]
    codes_address, terms_address = address_of(codes), address_of(terms)
    count, capacity = pools.shape
    no_threshold = np.float32(-np.inf)
    sums = np.empty(8, np.int32)
    sums_address = address_of(sums)
    scored = 0
    last = (stop + 7) >> 3
    for block in range(start >> 3, last, _BLOCK_GROUPS):
        for q in range(count):
            query = queries + q * query_bytes
            factor = address_of(factors) + q * factor_bytes
            pool = address_of(pools) + 8 * q * capacity
            bound = pool_bound(pool, capacity, no_threshold)
            for group in range(block, min(block + _BLOCK_GROUPS, last)):
                bits = live_bits(live, group, start, stop)
                if kind == INT8 and bits == 255:
                    dots_u8s8(codes_address + group * 8 * size, size, query, size, sums_address)
                    for i in range(8):
                        slot = group * 8 + i
                        score = load_f32(factor) * np.float32(sums[i]) + load_f32(factor + 4)
                        if term_bytes != 0:
                            term = terms_address + slot * term_bytes
                            score = score * load_f32(term) + load_f32(term + 4)
                        if score >= bound:
                            bound = pool_offer(pool, capacity, score, slot, no_threshold)
                    scored += 8
                    continue
                while bits != 0:
                    slot = group * 8 + trailing_zeros(bits)
                    bits &= bits - 1
                    score = estimate(kind, codes_address + slot * size, size, query, factor)
                    if term_bytes != 0:
                        term = terms_address + slot * term_bytes
                        score = score * load_f32(term) + load_f32(term + 4)
                    scored += 1
                    if score >= bound:
                        bound = pool_offer(pool, capacity, score, slot, no_threshold)
    return scored


@kernel(
    int64(
        const(uint8[:, ::1]), const(float32[:, ::1]), const(uint8[::1]), int64, int64,
        const(int8[:, ::1]), const(float32[:, ::1]), int64[:, ::1],
    )
)  # fmt: skip
def scan_int8(codes, terms, live, start, stop, queries, factors, pools):
    """Sum of code byte * query byte. queries (n, code_bytes), factors (n, 2): a, b. Returns how many."""
    size = queries.shape[1]
    return scan_codes(INT8, codes, terms, live, start, stop, address_of(queries), size, factors, pools)


@kernel(
    int64(
        const(uint8[:, ::1]), const(float32[:, ::1]), const(uint8[::1]), int64, int64,
        const(int8[:, ::1]), const(float32[:, ::1]), int64[:, ::1],
    )
)  # fmt: skip
def scan_int4(codes, terms, live, start, stop, queries, factors, pools):
    """Sum of nibble * query byte. queries (n, 2 * code_bytes), factors (n, 2): a, b. Returns how many."""
    size = queries.shape[1]
    return scan_codes(INT4, codes, terms, live, start, stop, address_of(queries), size, factors, pools)


@kernel(
    int64(
        const(uint8[:, ::1]), const(float32[:, ::1]), const(uint8[::1]), int64, int64,
        const(uint64[:, :, ::1]), const(float32[:, ::1]), int64[:, ::1],
    )
)  # fmt: skip
def scan_binary(codes, terms, live, start, stop, queries, factors, pools):
    """Sum over j of 2**j * popcount(code & plane j), plus c * popcount(code).

    queries (n, 4, code_bytes // 8), factors (n, 3): a, b, c. Returns how many.
    """
    size = 32 * queries.shape[2]
    return scan_codes(BINARY, codes, terms, live, start, stop, address_of(queries), size, factors, pools)
