# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Random rotations of rows: rounds of sign flips and fast Hadamard transforms (FHT) of float32.

One round multiplies a row by its line of the `table`, transforms the first 2**k dims (even rounds) or the
last 2**k (odd rounds) with 2**k the largest power of two up to the row's size, and, where that is not the
whole row, replaces its halves x, y by x + y, x - y between one pair of rounds and the next. (After every
round they would be too many: a dim that the first round leaves alone would lose half of itself to a dim that
the second leaves alone, and so on to the end.) The table (rounds, size) holds the signs times whatever keeps
the round orthonormal, so nothing grows on the way. Sums are added in a fixed order and never fused, so every
CPU computes the same bits. Sizes are multiples of 64.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core.types import boolean, float32, float64, int64, none

from vecstore.kernels import twins
from vecstore.kernels._ir import f32 as f32_type
from vecstore.kernels._ir import i32, instruction, int_const, load, loop, store, vector, zeros
from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.memory import address_of, copy_bytes

LANES = 16
FLOATS = vector(f32_type, LANES)
INTS = vector(i32, LANES)
f64_type = ir.DoubleType()
DOUBLES = vector(f64_type, LANES)


def _hadamard(values, smallest, largest):
    """Butterflies of distance smallest, 2 * smallest, ... up to `largest`, along a flat float32 array."""
    h = smallest
    while h <= largest:
        pairs = values.reshape(-1, 2, h)
        x, y = pairs[:, 0].copy(), pairs[:, 1].copy()
        pairs[:, 0], pairs[:, 1] = x + y, x - y
        h *= 2


def _fht64_twin(address: int) -> None:
    """The Hadamard transform, not scaled, of 64 float32 in place."""
    _hadamard(twins.view(address, np.float32, 64), 1, 32)


def _butterflies2_twin(address: int, h: int) -> None:
    """(x + y, x - y) of the first and the second `h` float32, a multiple of 16, in place."""
    _hadamard(twins.view(address, np.float32, 2 * h), h, h)


def _butterflies4_twin(address: int, h: int) -> None:
    """Butterflies of distance h, then 2 * h, of 4 * h float32 in place; h is a multiple of 16."""
    _hadamard(twins.view(address, np.float32, 4 * h), h, 2 * h)


def _multiply_twin(address: int, factors: int, size: int) -> None:
    """x[i] *= factors[i] over `size` float32, a multiple of 16."""
    values = twins.view(address, np.float32, size)
    values *= twins.view(factors, np.float32, size)


def _dot_f64_twin(a: int, b: int, dim: int) -> float:
    """Sum of a[i] * b[i] over `dim` float32, in double precision."""
    left, right = (twins.view(x, np.float32, dim).astype(np.float64) for x in (a, b))
    return float(np.dot(left, right))


def _within(builder, value, h):
    """The butterflies of distance h = 1, 2, 4, 8 inside a vector: lane i becomes x[i ^ h] +- x[i]."""
    other = ir.Constant(vector(i32, LANES), [lane ^ h for lane in range(LANES)])
    swapped = builder.shuffle_vector(value, zeros(FLOATS), other)
    signs = ir.Constant(INTS, [-(2**31) if lane & h else 0 for lane in range(LANES)])
    signed = builder.bitcast(builder.xor(builder.bitcast(value, INTS), signs), FLOATS)
    return builder.fadd(swapped, signed)


def _pairs(builder, values, h):
    out = list(values)
    for i in range(len(values)):
        if not i & h:
            out[i], out[i | h] = (
                builder.fadd(values[i], values[i | h]),
                builder.fsub(values[i], values[i | h]),
            )
    return out


def _bytes(builder, count):
    return builder.mul(count, int_const(4))


@instruction(none(int64), _fht64_twin)
def fht64(builder: ir.IRBuilder, address: ir.Value) -> None:
    values = [load(builder, FLOATS, address, 64 * i) for i in range(4)]
    for h in (1, 2, 4, 8):
        values = [_within(builder, value, h) for value in values]
    values = _pairs(builder, _pairs(builder, values, 1), 2)
    for i, value in enumerate(values):
        store(builder, value, address, 64 * i)


def _butterflies(builder: ir.IRBuilder, address: ir.Value, h: ir.Value, count: int) -> None:
    distance = _bytes(builder, h)

    def step(offset: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        where = [builder.add(address, offset)]
        for _i in range(count - 1):
            where.append(builder.add(where[-1], distance))
        values = [load(builder, FLOATS, x) for x in where]
        level = 1
        while level < count:
            values = _pairs(builder, values, level)
            level *= 2
        for x, value in zip(where, values, strict=True):
            store(builder, value, x)
        return []

    loop(builder, int_const(0), distance, 4 * LANES, [], step)


@instruction(none(int64, int64), _butterflies2_twin)
def butterflies2(builder: ir.IRBuilder, address: ir.Value, h: ir.Value) -> None:
    _butterflies(builder, address, h, 2)


@instruction(none(int64, int64), _butterflies4_twin)
def butterflies4(builder: ir.IRBuilder, address: ir.Value, h: ir.Value) -> None:
    _butterflies(builder, address, h, 4)


@instruction(none(int64, int64, int64), _multiply_twin)
def multiply(builder: ir.IRBuilder, address: ir.Value, factors: ir.Value, size: ir.Value) -> None:
    def step(offset: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        x, y = (load(builder, FLOATS, builder.add(a, offset)) for a in (address, factors))
        store(builder, builder.fmul(x, y), builder.add(address, offset))
        return []

    loop(builder, int_const(0), _bytes(builder, size), 4 * LANES, [], step)


@instruction(float64(int64, int64, int64), _dot_f64_twin)
def dot_f64(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, dim: ir.Value) -> ir.Value:
    def step(index: ir.Value, sums: list[ir.Value], single: ir.Type, double: ir.Type) -> list[ir.Value]:
        offset = _bytes(builder, index)
        x, y = (builder.fpext(load(builder, single, builder.add(p, offset)), double) for p in (a, b))
        return [builder.fadd(sums[0], builder.fmul(x, y))]

    whole = builder.and_(dim, int_const(-LANES))
    (sums,) = loop(builder, int_const(0), whole, LANES, [zeros(DOUBLES)], lambda i, s: step(i, s, FLOATS, DOUBLES))
    total = ir.Constant(f64_type, 0.0)
    for lane in range(LANES):
        total = builder.fadd(total, builder.extract_element(sums, ir.Constant(i32, lane)))
    (total,) = loop(builder, whole, dim, 1, [total], lambda i, s: step(i, s, f32_type, f64_type))
    return total


@inlined
def fht(address, size):
    """The Hadamard transform, not scaled, of `size` float32 in place; a power of two, at least 64."""
    for offset in range(0, size, 64):
        fht64(address + 4 * offset)
    h = 64
    while 4 * h <= size:
        for offset in range(0, size, 4 * h):
            butterflies4(address + 4 * offset, h)
        h *= 4
    if h < size:
        butterflies2(address, h)


@inlined
def rotate_row(address, table, rounds, size):
    """Rotate `size` float32 in place by the table (rounds, size) at address `table`."""
    power = 64
    while 2 * power <= size:
        power *= 2
    for r in range(rounds):
        multiply(address, table + 4 * r * size, size)
        fht(address + 4 * (size - power) * (r & 1), power)
        if power != size and r & 1 and r != rounds - 1:
            butterflies2(address, size >> 1)


@inlined
def rotate_row_back(address, table, rounds, size):
    """The inverse of `rotate_row`: every factor of a round is symmetric, so it runs them backwards."""
    power = 64
    while 2 * power <= size:
        power *= 2
    for back in range(rounds):
        r = rounds - 1 - back
        if power != size and r & 1 and r != rounds - 1:
            butterflies2(address, size >> 1)
        fht(address + 4 * (size - power) * (r & 1), power)
        multiply(address, table + 4 * r * size, size)


@kernel(none(const(float32[:, ::1]), const(float32[:, ::1]), boolean, float32[:, ::1]))
def rotate_rows(rows, table, inverse, out):
    """Rotate rows (n, dim), dim <= size, into out (n, size), or back if `inverse`; table (rounds, size)."""
    count, dim = rows.shape
    rounds, size = table.shape
    source, target, signs = address_of(rows), address_of(out), address_of(table)
    for i in range(count):
        row = target + 4 * i * size
        copy_bytes(row, source + 4 * i * dim, 4 * dim)
        out[i, dim:] = 0
        if inverse:
            rotate_row_back(row, signs, rounds, size)
        else:
            rotate_row(row, signs, rounds, size)
