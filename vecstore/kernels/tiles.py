"""Many rows against many queries: the register-blocked core of batched exact scans.

An outer product: a vector of queries (of a panel that holds 32 of them dim by dim) times one broadcast
element of a row, so that no sum is reduced across lanes and any dimension works. A tile is 8 rows by 32
queries; it is made of parts that fit the registers, 8 rows by 2 vectors where there are 32 of them, 4 rows
by 2 vectors where there are 16.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core.types import float32, int64, none

from vecstore.kernels import twins
from vecstore.kernels._ir import (
    FAST,
    f32,
    i32,
    i64,
    instruction,
    int_const,
    load,
    loop,
    register_bits,
    store,
    target,
    vector,
    zeros,
)
from vecstore.kernels.twins import TILE_QUERIES, TILE_ROWS

Term = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


def _product(builder: ir.IRBuilder, query: ir.Value, element: ir.Value) -> ir.Value:
    return builder.fmul(query, element, flags=FAST)


def _square(builder: ir.IRBuilder, query: ir.Value, element: ir.Value) -> ir.Value:
    difference = builder.fsub(query, element, flags=FAST)
    return builder.fmul(difference, difference, flags=FAST)


def _broadcast(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    kind = vector(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(i32, 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros(vector(i32, lanes)))


def _tile(
    builder: ir.IRBuilder,
    term: Term,
    rows: ir.Value,
    stride: ir.Value,
    panel: ir.Value,
    dim: ir.Value,
    out: ir.Value,
) -> None:
    lanes = register_bits("float") // 32
    many_registers = lanes == 16 or not target().is_x86
    height, width = (8 if many_registers else 4), 2
    kind = vector(f32, lanes)
    starts = [rows]
    for _ in range(TILE_ROWS - 1):
        starts.append(builder.add(starts[-1], stride))

    def part(first_row: int, first_query: int) -> None:
        def add_terms(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            column = builder.add(panel, builder.mul(index, int_const(4 * TILE_QUERIES)))
            queries = [load(builder, kind, column, 4 * (first_query + lanes * j)) for j in range(width)]
            offset = builder.mul(index, int_const(4))
            results = []
            for i in range(height):
                element = load(builder, f32, builder.add(starts[first_row + i], offset))
                spread = _broadcast(builder, element, lanes)
                for j, query in enumerate(queries):
                    total = sums[i * width + j]
                    results.append(builder.fadd(total, term(builder, query, spread), flags=FAST))
            return results

        sums = loop(builder, int_const(0), dim, 1, [zeros(kind)] * (height * width), add_terms)
        for i in range(height):
            for j in range(width):
                where = ((first_row + i) * TILE_QUERIES + first_query + lanes * j) * 4
                store(builder, sums[i * width + j], out, where)

    for first_row in range(0, TILE_ROWS, height):
        for first_query in range(0, TILE_QUERIES, lanes * width):
            part(first_row, first_query)


@instruction(none(int64, int64, int64, int64, int64), twins.tile_dot, inline=False)
def tile_dot(
    builder: ir.IRBuilder, rows: ir.Value, stride: ir.Value, panel: ir.Value, dim: ir.Value, out: ir.Value
) -> None:
    _tile(builder, _product, rows, stride, panel, dim, out)


@instruction(none(int64, int64, int64, int64, int64), twins.tile_l2sq, inline=False)
def tile_l2sq(
    builder: ir.IRBuilder, rows: ir.Value, stride: ir.Value, panel: ir.Value, dim: ir.Value, out: ir.Value
) -> None:
    _tile(builder, _square, rows, stride, panel, dim, out)


@instruction(int64(int64, float32, int64), twins.scale_and_compare)
def scale_and_compare(builder: ir.IRBuilder, scores: ir.Value, scale: ir.Value, bounds: ir.Value) -> ir.Value:
    kind = vector(f32, TILE_QUERIES)
    scaled = builder.fmul(load(builder, kind, scores), _broadcast(builder, scale, TILE_QUERIES))
    store(builder, scaled, scores)
    reached = builder.fcmp_ordered(">=", scaled, load(builder, kind, bounds))
    return builder.zext(builder.bitcast(reached, ir.IntType(TILE_QUERIES)), i64)
