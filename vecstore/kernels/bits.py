"""Distances of 1-bit codes by address: Hamming, and the dot product with a query in four bit planes.

Sizes are in bytes and multiples of 64. Vectors of <8 x i64> with `ctpop`: vpopcntq where the CPU has it, a
table of nibbles in a shuffle elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core.types import int32, int64

from vecstore.kernels import twins
from vecstore.kernels._ir import (
    declare,
    i32,
    i64,
    instruction,
    int_const,
    load,
    loop,
    reduce_add,
    splat,
    vector,
    zeros,
)

WORDS = vector(i64, 8)


def _count_bits(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return builder.call(declare(builder, "llvm.ctpop.v8i64", WORDS, [WORDS]), [value])


def _over_words(builder: ir.IRBuilder, size: ir.Value, counts: Callable[[ir.Value], ir.Value]) -> ir.Value:
    (total,) = loop(builder, int_const(0), size, 64, [zeros(WORDS)], lambda i, s: [builder.add(s[0], counts(i))])
    return builder.trunc(reduce_add(builder, total), i32)


@instruction(int32(int64, int64, int64), twins.hamming)
def hamming(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, size: ir.Value) -> ir.Value:
    def counts(offset: ir.Value) -> ir.Value:
        left, right = (load(builder, WORDS, builder.add(x, offset)) for x in (a, b))
        return _count_bits(builder, builder.xor(left, right))

    return _over_words(builder, size, counts)


@instruction(int32(int64, int64), twins.popcount)
def popcount(builder: ir.IRBuilder, a: ir.Value, size: ir.Value) -> ir.Value:
    return _over_words(builder, size, lambda i: _count_bits(builder, load(builder, WORDS, builder.add(a, i))))


@instruction(int32(int64, int64, int64), twins.dot_planes)
def dot_planes(builder: ir.IRBuilder, code: ir.Value, planes: ir.Value, size: ir.Value) -> ir.Value:
    def counts(offset: ir.Value) -> ir.Value:
        bits = load(builder, WORDS, builder.add(code, offset))
        total = zeros(WORDS)
        plane = builder.add(planes, offset)
        for j in range(4):
            count = _count_bits(builder, builder.and_(bits, load(builder, WORDS, plane)))
            total = builder.add(total, builder.shl(count, splat(WORDS, j)))
            plane = builder.add(plane, size)
        return total

    return _over_words(builder, size, counts)
