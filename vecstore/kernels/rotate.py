# ruff: noqa: PLR0917 (kernels take positional arguments only)
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Random rotations of rows in O(D log D): rounds of sign flips and fast Hadamard transforms.

A rotation of D dims, a multiple of 64, is a table `signs` (rounds, D) float32. With 2**k the largest power of
two in D, one round multiplies by its row of the table, transforms the first 2**k dims (even rounds) or the
last 2**k (odd rounds), and, if D is no power of two and another round follows, adds and subtracts the two
halves. All the scaling that makes each step orthogonal is in the table (quantization.rotation). Every
operation but that multiplication is a sum of two numbers in a fixed order: the result has the same bits on
every CPU.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core.types import float32, int64, none, void

from vecstore.kernels._ir import f32, i32, instruction, int_const, load, loop, store, vector
from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.memory import address_of
from vecstore.kernels.twins import view

LANES = 16
_FLOATS = vector(f32, LANES)


def _multiply_twin(values: int, factors: int, count: int) -> None:
    """Multiply `count` float32 by as many factors, in place; `count` is a multiple of 16."""
    view(values, np.float32, count)[:] *= view(factors, np.float32, count)


def _butterflies_twin(first: int, second: int, count: int) -> None:
    """(x, y) to (x + y, x - y) for `count` pairs of float32, in place; `count` is a multiple of 16."""
    x, y = view(first, np.float32, count), view(second, np.float32, count)
    x[:], y[:] = x + y, x - y


def _butterflies_4_twin(first: int, count: int) -> None:
    """Hadamard transforms of 4 over four runs of `count` float32 in a row; `count` is a multiple of 16."""
    runs = view(first, np.float32, 4 * count).reshape(4, count)
    a, b, c, d = runs[0] + runs[1], runs[0] - runs[1], runs[2] + runs[3], runs[2] - runs[3]
    runs[:] = a + c, b + d, a - c, b - d


def _hadamard_64_twin(values: int, count: int) -> None:
    """The unscaled Hadamard transform of each 64 of `count` float32, in place."""
    part = view(values, np.float32, count)
    for step in (1, 2, 4, 8, 16, 32):
        pairs = part.reshape(-1, 2, step)
        pairs[:] = np.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), axis=1)


def _at(builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    return builder.add(address, builder.mul(index, int_const(4)))


@instruction(none(int64, int64, int64), _multiply_twin)
def multiply(builder: ir.IRBuilder, values: ir.Value, factors: ir.Value, count: ir.Value) -> None:
    def some(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        where = _at(builder, values, index)
        other = load(builder, _FLOATS, _at(builder, factors, index))
        store(builder, builder.fmul(load(builder, _FLOATS, where), other), where)
        return []

    loop(builder, int_const(0), count, LANES, [], some)


@instruction(none(int64, int64, int64), _butterflies_twin)
def butterflies(builder: ir.IRBuilder, first: ir.Value, second: ir.Value, count: ir.Value) -> None:
    def some(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        left, right = _at(builder, first, index), _at(builder, second, index)
        x, y = load(builder, _FLOATS, left), load(builder, _FLOATS, right)
        store(builder, builder.fadd(x, y), left)
        store(builder, builder.fsub(x, y), right)
        return []

    loop(builder, int_const(0), count, LANES, [], some)


@instruction(none(int64, int64), _butterflies_4_twin)
def butterflies_4(builder: ir.IRBuilder, first: ir.Value, count: ir.Value) -> None:
    def some(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        where = [_at(builder, first, index)]
        for _run in range(3):
            where.append(_at(builder, where[-1], count))
        w, x, y, z = (load(builder, _FLOATS, address) for address in where)
        a, b, c, d = builder.fadd(w, x), builder.fsub(w, x), builder.fadd(y, z), builder.fsub(y, z)
        results = builder.fadd(a, c), builder.fadd(b, d), builder.fsub(a, c), builder.fsub(b, d)
        for value, address in zip(results, where, strict=True):
            store(builder, value, address)
        return []

    loop(builder, int_const(0), count, LANES, [], some)


@instruction(none(int64, int64), _hadamard_64_twin)
def hadamard_64(builder: ir.IRBuilder, values: ir.Value, count: ir.Value) -> None:
    def within(value: ir.Value, step: int) -> ir.Value:
        # Lane j becomes v[j ^ step] + v[j] or, in the upper half of each pair, v[j ^ step] - v[j].
        swap = ir.Constant(vector(i32, LANES), [j ^ step for j in range(LANES)])
        sign = ir.Constant(_FLOATS, [-1.0 if j & step else 1.0 for j in range(LANES)])
        return builder.fadd(builder.shuffle_vector(value, value, swap), builder.fmul(value, sign))

    def block(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        where = _at(builder, values, index)
        parts = [load(builder, _FLOATS, where, 64 * j) for j in range(4)]
        for step in (1, 2, 4, 8):
            parts = [within(part, step) for part in parts]
        w, x, y, z = parts
        a, b, c, d = builder.fadd(w, x), builder.fsub(w, x), builder.fadd(y, z), builder.fsub(y, z)
        results = builder.fadd(a, c), builder.fadd(b, d), builder.fsub(a, c), builder.fsub(b, d)
        for j, value in enumerate(results):
            store(builder, value, where, 64 * j)
        return []

    loop(builder, int_const(0), count, 64, [], block)


@inlined
def rotate_row(row, dims, signs, rounds):
    """Rotate `dims` float32 at address `row` in place; `signs` is the address of the table."""
    size = 64
    while 2 * size <= dims:
        size *= 2
    half = dims >> 1
    for i in range(rounds):
        multiply(row, signs + 4 * i * dims, dims)
        part = row + 4 * (dims - size) * (i & 1)
        hadamard_64(part, size)
        step = 64
        while step < size:
            if 4 * step <= size:
                for start in range(0, size, 4 * step):
                    butterflies_4(part + 4 * start, step)
                step *= 4
            else:
                butterflies(part, part + 4 * step, step)
                step *= 2
        if size != dims and i + 1 < rounds:
            butterflies(row, row + 4 * half, half)


@kernel(void(const(float32[:, ::1]), const(float32[:, ::1]), float32[:, ::1]))
def rotate_rows(rows, signs, out):
    """Rotate rows (n, dim), filled up with zeros, by the table `signs` (rounds, D) into `out` (n, D)."""
    dim, dims = rows.shape[1], signs.shape[1]
    for i in range(rows.shape[0]):
        for j in range(dim):
            out[i, j] = rows[i, j]
        for j in range(dim, dims):
            out[i, j] = np.float32(0)
        rotate_row(address_of(out) + 4 * i * dims, dims, address_of(signs), signs.shape[0])
