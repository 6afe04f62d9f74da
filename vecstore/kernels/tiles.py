"""Many rows against many queries: the register-blocked core of batched exact scans.

An outer product: a vector of queries (of a panel that holds 32 of them dim by dim) times one broadcast
element of a row, so that no sum is reduced across lanes and any dimension works. A tile is 8 rows by 32
queries; it is made of parts that fit the registers, 8 rows by 2 vectors where there are 32 of them, 4 rows
by 2 vectors where there are 16.

`tile_nearest` is of another shape, for finding each row's nearest centroid: 12 rows by 16 centroids, whose products are
not stored but held against the best so far of each lane.
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
from vecstore.kernels.twins import NEAREST_CENTROIDS, NEAREST_ROWS, TILE_QUERIES, TILE_ROWS

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


def _keep_better(
    builder: ir.IRBuilder, values: ir.Value, number: ir.Value, kept: ir.Value, places: int, first: int
) -> None:
    """Hold values against the best of their lanes, from lane `first` on, and what falls out against the next best."""
    row_bytes = 4 * NEAREST_CENTROIDS
    fell = None
    for place in range(places):
        where, where_numbers = 2 * place * row_bytes + 4 * first, (2 * place + 1) * row_bytes + 4 * first
        best, best_number = load(builder, values.type, kept, where), load(builder, number.type, kept, where_numbers)
        better = builder.fcmp_ordered(">", values, best)
        if place > 0:  # what falls out came before what it is held against, so that it stays if they are equal
            better = builder.or_(better, fell)
        fell = better
        store(builder, builder.select(better, values, best), kept, where)
        store(builder, builder.select(better, number, best_number), kept, where_numbers)
        if place + 1 < places:
            values, number = builder.select(better, best, values), builder.select(better, best_number, number)


def _tile_nearest(
    builder: ir.IRBuilder,
    places: int,
    rows: ir.Value,
    panel: ir.Value,
    dim: ir.Value,
    biases: ir.Value,
    number: ir.Value,
    kept: ir.Value,
) -> None:
    """A sum goes over the dimensions in order, whatever rows and centroids stand beside: so only `contract`."""
    lanes = min(16, register_bits("float") // 32)
    width = NEAREST_CENTROIDS // lanes
    many_registers = lanes == 16 or not target().is_x86
    # As many sums as hide the latency of a multiply-add, and as there are registers for.
    height = {1: 12, 2: 6, 4: 6 if many_registers else 3}[width]
    kind = vector(f32, lanes)
    stride = builder.mul(dim, int_const(4))
    starts = [rows]
    for _ in range(NEAREST_ROWS - 1):
        starts.append(builder.add(starts[-1], stride))
    numbers = _broadcast(builder, builder.trunc(number, i32), lanes)
    kept_bytes = 2 * places * 4 * NEAREST_CENTROIDS

    for first_row in range(0, NEAREST_ROWS, height):

        def add_products(index: ir.Value, sums: list[ir.Value], first_row: int = first_row) -> list[ir.Value]:
            column = builder.add(panel, builder.mul(index, int_const(4 * NEAREST_CENTROIDS)))
            centroids = [load(builder, kind, column, 4 * lanes * j) for j in range(width)]
            offset = builder.mul(index, int_const(4))
            results = []
            for i in range(height):
                element = load(builder, f32, builder.add(starts[first_row + i], offset))
                spread = _broadcast(builder, element, lanes)
                for j, centroid in enumerate(centroids):
                    product = builder.fmul(centroid, spread, flags=("contract",))
                    results.append(builder.fadd(sums[i * width + j], product, flags=("contract",)))
            return results

        begin = [load(builder, kind, biases, 4 * lanes * j) for j in range(width)] * height
        sums = loop(builder, int_const(0), dim, 1, begin, add_products)
        for i in range(height):
            row = builder.add(kept, int_const((first_row + i) * kept_bytes))
            for j in range(width):
                _keep_better(builder, sums[i * width + j], numbers, row, places, lanes * j)


@instruction(none(int64, int64, int64, int64, int64, int64), twins.tile_nearest, inline=False)
def tile_nearest(
    builder: ir.IRBuilder,
    rows: ir.Value,
    panel: ir.Value,
    dim: ir.Value,
    biases: ir.Value,
    number: ir.Value,
    kept: ir.Value,
) -> None:
    _tile_nearest(builder, 1, rows, panel, dim, biases, number, kept)


@instruction(none(int64, int64, int64, int64, int64, int64), twins.tile_nearest_two, inline=False)
def tile_nearest_two(
    builder: ir.IRBuilder,
    rows: ir.Value,
    panel: ir.Value,
    dim: ir.Value,
    biases: ir.Value,
    number: ir.Value,
    kept: ir.Value,
) -> None:
    _tile_nearest(builder, 2, rows, panel, dim, biases, number, kept)
