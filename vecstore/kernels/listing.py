# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""1-bit codes of rows relative to the centroid of their list, and blocks of 32 of them (tables.py).

With m the centre of all rows, c the centroid of a list, P the rotation, r = P(x - c), y the signs of r over sqrt(D)
and F = |r|**2 / <r, y> (RaBitQ; see encode.py), what a query q tells of a row are

    <x, q>      = <c, q> + <r, P c> + <r, P(q - c)>      with <r, P(q - c)>  ~  F * <y, P(q - m)> - F * <y, P(c - m)>
    -|x - q|**2 = -|q - c|**2 - |r|**2 + 2 * <r, P(q - c)>

of which the terms of a row hold what does not depend on q: what <y, P(q - m)> is multiplied by, what is added, and the
standard deviation of the estimate for a query at distance 1 from the centroid. So a query is coded once for all lists.
"""

from __future__ import annotations

import numpy as np
from numba.core.types import float32, float64, int32, int64, uint8, void

from vecstore.kernels._jit import const, kernel
from vecstore.kernels.encode import bit_code, scale_of
from vecstore.kernels.floats import dot_f32
from vecstore.kernels.memory import address_of
from vecstore.kernels.rotate import rotate_row
from vecstore.kernels.rows import L2
from vecstore.kernels.twins import BLOCK_ROWS

TERMS = 3
"""Float32 terms of a row."""


@kernel(
    void(
        int64, const(float32[:, ::1]), const(float32[::1]), const(int32[::1]), const(float32[:, ::1]),
        const(float32[:, ::1]), const(float32[:, ::1]), float64, uint8[:, ::1], float32[:, ::1], float32[:, ::1],
    )
)  # fmt: skip
def encode_listed(metric, rows, norms, lists, centres, offsets, signs, unit, codes, terms, scratch):
    """Codes (n, D / 8) and terms (n, 3) of rows (n, dim) with L2 norms (n,) in lists (n,).

    centres (2, D), signs and unit are the quantizer's, as encode.encode_rows takes them. offsets (lists, D): P(c - m)
    for each list. scratch (2, D).
    """
    count, dim = rows.shape
    dims = signs.shape[1]
    row, centre = address_of(scratch), address_of(centres) + 4 * dims
    spread = np.float32(1 / np.sqrt(np.float64(dims - 1)))
    root = np.float32(np.sqrt(np.float64(dims)))
    both = np.float32(2) if metric == L2 else np.float32(1)
    for i in range(count):
        scale = scale_of(np.float64(norms[i]), metric, unit)
        for j in range(dim):
            scratch[0, j] = rows[i, j] * scale - centres[0, j]
        for j in range(dim, dims):
            scratch[0, j] = np.float32(0)
        rotate_row(row, address_of(signs), signs.shape[0], dims)
        offset = address_of(offsets) + 4 * dims * np.int64(lists[i])
        for j in range(dims):
            scratch[0, j] -= offsets[lists[i], j]
        square = dot_f32(row, row, dims)
        along = bit_code(i, dims, scratch, codes)
        factor = square / along if along > np.float32(0) else np.float32(0)
        beside = factor * (dot_f32(row + 4 * dims, offset, dims) / root)
        terms[i, 0] = both * factor
        if metric == L2:
            terms[i, 1] = -square - both * beside
        else:
            terms[i, 1] = dot_f32(row, offset, dims) + dot_f32(row, centre, dims) - beside
        terms[i, 2] = both * spread * np.sqrt(max(factor * factor - square, np.float32(0)))


@kernel(void(const(uint8[:, ::1]), const(float32[:, ::1]), const(int64[::1]), uint8[:, ::1], float32[:, :, ::1]))
def place_rows(codes, terms, places, block_codes, block_terms):
    """Codes (n, D / 8) and terms (n, 3) into their places, 32 * block + row, of blocks (b, 4 * D) and (b, 3, 32).

    A reader sees other rows of a block as they were at any moment.
    """
    for i in range(codes.shape[0]):
        block, row = places[i] // BLOCK_ROWS, places[i] % BLOCK_ROWS
        shift = np.uint8(4 * (row >> 4))
        kept = np.uint8(0xF0) if shift == 0 else np.uint8(0x0F)
        column = row & 15
        for j in range(codes.shape[1]):
            pair = codes[i, j]
            at = 32 * j + column
            block_codes[block, at] = (block_codes[block, at] & kept) | ((pair & np.uint8(15)) << shift)
            block_codes[block, at + 16] = (block_codes[block, at + 16] & kept) | ((pair >> np.uint8(4)) << shift)
        for j in range(TERMS):
            block_terms[block, j, row] = terms[i, j]


@kernel(void(const(int64[::1]), const(uint8[:, ::1]), const(float32[:, :, ::1]), uint8[:, ::1], float32[:, ::1]))
def take_rows(places, block_codes, block_terms, codes, terms):
    """What `place_rows` put there."""
    for i in range(codes.shape[0]):
        block, row = places[i] // BLOCK_ROWS, places[i] % BLOCK_ROWS
        shift = np.uint8(4 * (row >> 4))
        column = row & 15
        for j in range(codes.shape[1]):
            at = 32 * j + column
            low = (block_codes[block, at] >> shift) & np.uint8(15)
            high = (block_codes[block, at + 16] >> shift) & np.uint8(15)
            codes[i, j] = low | (high << np.uint8(4))
        for j in range(TERMS):
            terms[i, j] = block_terms[block, j, row]
