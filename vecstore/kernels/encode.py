# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Quantized codes of rows and of queries, and the terms and factors that the scans (scans.py) apply.

A row x is divided by its norm under cosine, the centre is taken off, and the difference is rotated: r. With
w = r / |r|, or w = r where the codes have no terms, the codes are

    Int8, Int4   level_j = clip(round(w_j / step) + zero), zero = 128 or 8; y = step * (level - zero)
    Binary       bit_j = r_j >= 0; y = (2 * bit - 1) / sqrt(D)

and with F = |r|**2 / <r, y> the estimate F * <y, q> of <r, q> is exact for q parallel to r and unbiased over
rotations for any q (Gao and Long, RaBitQ, 2024). Terms of a row, c' being the rotated centre:

    cosine, dot  F, <r, c'>
    l2           2 * F, -|r|**2
    Binary       and the standard deviation of terms[0] * <y, q> for a q of length 1:
                 terms[0] / F * |r| * sqrt(1 / a**2 - 1) / sqrt(D - 1), a = |r| / F

A query q (q / |q| under cosine), less the centre where the codes have terms, is rotated and rounded: to
unit * level, level -127..127, for Int8 and Int4, and to least + unit * u, u 0..15, in bit planes for Binary.
With S the sum of least + unit * u over the set bits of a code, <y, q> = (2 * S - sum of all) / sqrt(D).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core.types import boolean, float32, float64, int64, none, uint8, void

from vecstore.kernels._ir import f32, i64, instruction, int_const, load, loop, store, vector, zeros
from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.floats import dot_f32
from vecstore.kernels.memory import address_of
from vecstore.kernels.rotate import dot_f64, rotate_row
from vecstore.kernels.rows import COSINE, L2
from vecstore.kernels.scans import BINARY, INT4
from vecstore.kernels.twins import view

LONGEST = 1e18
"""Rows and queries longer than this, after scaling, count as this long: float32 holds the products."""
LEAST = 1e-37
"""Lengths and steps below this count as 0: their inverses would leave float32."""


def _sign_bits_twin(values: int, bits: int, count: int) -> None:
    """Bit j = `count` float32 at `values` are at least 0, low bit of each byte first; 64 at a time."""
    signs = view(values, np.float32, count) >= 0
    view(bits, np.uint8, count // 8)[:] = np.packbits(signs, bitorder="little")


@instruction(none(int64, int64, int64), _sign_bits_twin)
def sign_bits(builder: ir.IRBuilder, values: ir.Value, bits: ir.Value, count: ir.Value) -> None:
    many = vector(f32, 64)

    def word(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        part = load(builder, many, builder.add(values, builder.mul(index, int_const(4))))
        flags = builder.fcmp_ordered(">=", part, zeros(many))
        where = builder.add(bits, builder.lshr(index, int_const(3)))
        store(builder, builder.bitcast(flags, i64), where)
        return []

    loop(builder, int_const(0), count, 64, [], word)


@inlined
def inverse(value):
    """1 / value for a float32 above LEAST, else 0."""
    if value > np.float32(LEAST):
        return np.float32(1) / value
    return np.float32(0)


@inlined
def scale_of(norm, metric, unit):
    """What a row or query of L2 norm `norm` is multiplied by. float64."""
    if metric == COSINE:
        return np.float64(1 / norm if norm > 0 else 0)
    return np.float64(unit if norm * unit <= LONGEST else LONGEST / norm)


@inlined
def bit_code(i, dims, scratch, codes):
    """The code of the rotated row scratch[0] into codes[i]; returns <r, y>. float32."""
    row = address_of(scratch)
    sign_bits(row, address_of(codes) + i * codes.shape[1], dims)
    for j in range(dims):
        scratch[1, j] = np.float32(1) if scratch[0, j] >= np.float32(0) else np.float32(-1)
    return dot_f32(row, row + 4 * dims, dims) / np.float32(np.sqrt(np.float64(dims)))


@inlined
def level_code(i, dims, half, per_step, scratch, levels, codes):
    """The code of the rotated row scratch[0] into codes[i]; returns <r, y> / step. float32.

    `half` says that levels have 4 bits.
    """
    zero, top = np.float32(8 if half else 128), np.float32(15 if half else 255)
    for j in range(dims):
        value = scratch[0, j] * per_step + (zero + np.float32(0.5))
        value = value if value > np.float32(0) else np.float32(0)
        value = value if value < top else top
        level = np.int32(value)
        levels[j] = level
        scratch[1, j] = np.float32(level) - zero
    if half:
        for start in range(0, codes.shape[1], 64):
            for j in range(64):
                codes[i, start + j] = levels[2 * start + j] | (levels[2 * start + 64 + j] << 4)
    else:
        for j in range(dims):
            codes[i, j] = levels[j]
    row = address_of(scratch)
    return dot_f32(row, row + 4 * dims, dims)


@kernel(
    void(
        int64, int64, const(float32[:, ::1]), const(float32[::1]), const(float32[:, ::1]),
        const(float32[:, ::1]), float64, float32, uint8[:, ::1], float32[:, ::1], float32[:, ::1],
        uint8[::1],
    )
)  # fmt: skip
def encode_rows(kind, metric, rows, norms, centres, signs, unit, step, codes, terms, scratch, levels):
    """Codes and terms of rows (n, dim), whose L2 norms are `norms` (n,).

    kind is scans.INT8, INT4 or BINARY. centres (2, D): the centre, filled up with zeros, and it rotated.
    signs (rounds, D): the rotation. unit: what rows are multiplied by under dot and l2, as the centre was.
    codes (n, code_bytes), terms (n, 0), (n, 2) or, for Binary, (n, 3).
    scratch (2, D); levels (D,): room for those of one row. D is 64, 128 or 512 dims times a whole number for
    Int8, Int4 and Binary, so that codes have no bytes to spare.
    """
    count, dim = rows.shape
    dims = signs.shape[1]
    with_terms = terms.shape[1] != 0
    row, rotated_centre = address_of(scratch), address_of(centres) + 4 * dims
    spread = np.float32(1 / np.sqrt(np.float64(dims - 1)))
    for i in range(count):
        scale = scale_of(np.float64(norms[i]), metric, unit)
        for j in range(dim):
            scratch[0, j] = rows[i, j] * scale - centres[0, j]
        for j in range(dim, dims):
            scratch[0, j] = np.float32(0)
        rotate_row(row, address_of(signs), signs.shape[0], dims)
        square = dot_f32(row, row, dims)
        if kind == BINARY:
            along = bit_code(i, dims, scratch, codes)
        else:
            per_step = inverse(step * np.sqrt(square) if with_terms else step)
            along = level_code(i, dims, kind == INT4, per_step, scratch, levels, codes) * step
        if with_terms:
            both = np.float32(2) if metric == L2 else np.float32(1)
            factor = square / along if along > np.float32(0) else np.float32(0)
            terms[i, 0] = both * factor
            terms[i, 1] = -square if metric == L2 else dot_f32(row, rotated_centre, dims)
            if kind == BINARY:
                rest = max(factor * factor - square, np.float32(0))
                terms[i, 2] = both * spread * np.sqrt(rest)


@inlined
def per_unit_of(unit):
    """1 / unit, or 0 if a rounded query of so small a step counts as 0. float32."""
    return np.float32(1 / unit if unit > LEAST else 0)


@inlined
def query_planes(i, dims, scratch, levels, codes, factors):
    """The planes of the rotated query scratch[0] into codes[i], its factors. Returns the unit, float64."""
    least, most = scratch[0, 0], scratch[0, 0]
    for j in range(dims):
        least, most = min(least, scratch[0, j]), max(most, scratch[0, j])
    unit = (np.float64(most) - least) / 15
    per_unit = per_unit_of(unit)
    total = np.int64(0)
    for j in range(dims):
        level = np.int32((scratch[0, j] - least) * per_unit + np.float32(0.5))
        levels[j] = level
        total += level
    plane_bytes = codes.shape[1] >> 2
    for plane in range(4):
        for j in range(dims):
            scratch[1, j] = np.float32((levels[j] >> plane) & 1) - np.float32(0.5)
        where = address_of(codes) + i * codes.shape[1] + plane * plane_bytes
        sign_bits(address_of(scratch) + 4 * dims, where, dims)
    root = np.sqrt(np.float64(dims))
    factors[i, 0] = 2 * unit / root
    factors[i, 1] = -(unit * total + least * np.float64(dims)) / root
    factors[i, 2] = 2 * np.float64(least) / root
    return unit


@inlined
def query_levels(i, dims, zero, step, scratch, codes, factors):
    """The levels of the rotated query scratch[0] into codes[i], its factors. Returns the unit, float64."""
    most = np.float32(0)
    for j in range(dims):
        most = max(most, abs(scratch[0, j]))
    unit = np.float64(most) / 127
    per_unit = per_unit_of(unit)
    total = np.int64(0)
    for j in range(dims):
        shifted = np.int32(scratch[0, j] * per_unit + np.float32(128.5))
        codes[i, j] = shifted - 128
        total += shifted - 128
    factors[i, 0] = unit * step
    factors[i, 1] = -zero * unit * step * total
    return unit


@inlined
def encode_query(
    kind, metric, with_terms, i, queries, at, centres, signs, unit, step, codes, factors, tails, scratch, levels
):
    """Row `i` of queries into row `at` of codes, factors and tails; the arguments are those of `encode_queries`."""
    dim = queries.shape[1]
    dims = signs.shape[1]
    row = address_of(scratch)
    query = address_of(queries) + 4 * i * dim
    scale = scale_of(np.sqrt(dot_f64(query, query, dim)), metric, unit)
    for j in range(dim):
        scratch[0, j] = queries[i, j] * scale
    for j in range(dim, dims):
        scratch[0, j] = np.float32(0)
    tails[at, 0] = dot_f64(row, address_of(centres), dims)
    if with_terms:
        for j in range(dim):
            scratch[0, j] -= centres[0, j]
    square = dot_f64(row, row, dims)
    if metric == L2:
        tails[at, 0] = -square
    tails[at, 1] = np.sqrt(square)
    rotate_row(row, address_of(signs), signs.shape[0], dims)
    if kind == BINARY:
        tails[at, 2] = query_planes(at, dims, scratch, levels, codes, factors)
    else:
        zero = 8 if kind == INT4 else 128
        tails[at, 2] = query_levels(at, dims, zero, step, scratch, codes, factors)
    if not with_terms:
        factors[at, 1] += tails[at, 0]
        tails[at, 0] = 0


@kernel(
    void(
        int64, int64, boolean, const(float32[:, ::1]), const(float32[:, ::1]), const(float32[:, ::1]),
        float64, float32, uint8[:, ::1], float32[:, ::1], float64[:, ::1], float32[:, ::1], uint8[::1],
    )
)  # fmt: skip
def encode_queries(
    kind, metric, with_terms, queries, centres, signs, unit, step, codes, factors, tails, scratch, levels
):
    """Queries (n, dim) as the scans take them: codes, in bytes, and factors (n, 2) or, for Binary, (n, 3).

    codes (n, bytes): int8 levels, or for Binary four planes; zeros where nothing is written. tails (n, 3):
    the offset that raw estimates lack; the length of what was coded, q - c; the unit it was rounded in. The
    other arguments are those of `encode_rows`; without terms the centre is not taken off.
    """
    for i in range(queries.shape[0]):
        encode_query(
            kind, metric, with_terms, i, queries, i, centres, signs, unit, step, codes, factors, tails, scratch, levels
        )
