"""Distances of eight rows to one query at once: `dots_f32` and `dots_u8s8`.

One row at a time loads row and query for each product; eight rows share the loads of the query and have a chain of
adds each, which hides their latency, and their sums are added up across lanes together. Rows stand `stride` bytes
apart from address `rows` on; the eight results are stored at address `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core.types import int64, void

from vecstore.kernels import twins
from vecstore.kernels._ir import FAST, f32, i32, instruction, int_const, load, loop, store, vector, zeros
from vecstore.kernels.codes import BYTES, SUMS, multiply_bytes

ROWS = 8
WIDE = vector(f32, 16)
Add = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


def _fadd(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.fadd(a, b, flags=FAST)


def _add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.add(a, b)


def _row_sums(builder: ir.IRBuilder, sums: Sequence[ir.Value], add: Add) -> ir.Value:
    """The sum of the lanes of each of eight vectors of 16: a vector of 8.

    Two vectors of groups of w lanes become one of groups of w / 2, by adding the lower half of each group to its upper
    half: three such rounds and a last one within the vector.
    """
    parts, width = list(sums), 16
    while len(parts) > 1:
        half = width // 2
        groups = range(0, 32, width)
        low = [g + lane for g in groups for lane in range(half)]
        high = [g + half + lane for g in groups for lane in range(half)]
        parts = [
            add(builder, _lanes(builder, a, b, low), _lanes(builder, a, b, high))
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        width = half
    [whole] = parts
    return add(
        builder,
        _lanes(builder, whole, whole, list(range(0, 16, 2))),
        _lanes(builder, whole, whole, list(range(1, 16, 2))),
    )


def _lanes(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
    return builder.shuffle_vector(a, b, ir.Constant(vector(i32, len(lanes)), lanes))


def _addresses(builder: ir.IRBuilder, rows: ir.Value, stride: ir.Value) -> list[ir.Value]:
    return [builder.add(rows, builder.mul(stride, int_const(j))) for j in range(ROWS)]


@instruction(void(int64, int64, int64, int64, int64), twins.dots_f32)
def dots_f32(
    builder: ir.IRBuilder, rows: ir.Value, stride: ir.Value, query: ir.Value, dim: ir.Value, out: ir.Value
) -> None:
    each = _addresses(builder, rows, stride)

    def add_products(kind: ir.Type) -> Callable[[ir.Value, list[ir.Value]], list[ir.Value]]:
        def body(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            offset = builder.mul(index, int_const(4))
            right = load(builder, kind, builder.add(query, offset))
            products = [builder.fmul(load(builder, kind, builder.add(row, offset)), right, flags=FAST) for row in each]
            return [_fadd(builder, total, product) for total, product in zip(sums, products, strict=True)]

        return body

    down_to_16 = builder.and_(dim, int_const(-16))
    sums = loop(builder, int_const(0), down_to_16, 16, [zeros(WIDE)] * ROWS, add_products(WIDE))
    store(builder, _row_sums(builder, sums, _fadd), out)
    with builder.if_then(builder.icmp_signed("<", down_to_16, dim)):
        rest = loop(builder, down_to_16, dim, 1, [zeros(f32)] * ROWS, add_products(f32))
        for j, value in enumerate(rest):
            store(builder, _fadd(builder, load(builder, f32, out, 4 * j), value), out, 4 * j)


@instruction(void(int64, int64, int64, int64, int64), twins.dots_u8s8)
def dots_u8s8(
    builder: ir.IRBuilder, rows: ir.Value, stride: ir.Value, query: ir.Value, size: ir.Value, out: ir.Value
) -> None:
    each = _addresses(builder, rows, stride)

    def body(offset: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        signed = load(builder, BYTES, builder.add(query, offset))
        unsigned = [load(builder, BYTES, builder.add(row, offset)) for row in each]
        return [multiply_bytes(builder, total, code, signed) for total, code in zip(sums, unsigned, strict=True)]

    sums = loop(builder, int_const(0), size, 64, [zeros(SUMS)] * ROWS, body)
    store(builder, _row_sums(builder, sums, _add), out)
