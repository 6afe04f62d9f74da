# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Estimates from 1-bit codes of 32 rows at once, by tables that stay in registers.

The codes of 32 rows stand in a block, four dims at a time: for each group of four dims 16 bytes, whose byte r holds
the bits of row r in its lower half and those of row r + 16 in its upper half. The table of a query has 16 uint8 for
each group: the sum of its coordinates where a bit is set, for each of the 16 patterns of bits. So a byte shuffle looks
up 16 rows at a time, and nothing is multiplied (Andre et al., Cache locality is not enough, VLDB 2015; with codes of
one bit: Gao and Long, RaBitQ, SIGMOD 2024). Where the CPU has no such shuffle, each entry is loaded by itself.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba.core.types import float32, int64, none

from vecstore.kernels import twins
from vecstore.kernels._ir import (
    FAST,
    assembles_to,
    declare,
    f32,
    i8,
    i16,
    i32,
    i64,
    instruction,
    int_const,
    load,
    loop,
    register_bits,
    splat,
    store,
    target,
    vector,
    zeros,
)
from vecstore.kernels._jit import inlined
from vecstore.kernels.encode import per_unit_of
from vecstore.kernels.memory import load_f32
from vecstore.kernels.twins import BLOCK_ROWS

MOST_ENTRY = 63
"""What an entry of a table may be at most: four of them are added up in a byte."""
_X86 = {512: "llvm.x86.avx512.pshuf.b.512", 256: "llvm.x86.avx2.pshuf.b", 128: "llvm.x86.ssse3.pshuf.b.128"}
_ARM = "llvm.aarch64.neon.tbl1.v16i8"
_UNROLLED = 4


@cache
def shuffle_form() -> tuple[str, int]:
    """The intrinsic by which this target looks up bytes, or nothing, and the bytes it takes at once."""
    host = target()
    if host.is_x86:
        bits = register_bits("i8")
        # The 128 bits of the oldest x86 have no shuffle, and LLVM ends the process over an intrinsic that is missing.
        if bits > 128 or "ssse3" in host.features:
            name = _X86[bits]
            kind = f"<{bits // 8} x i8>"
            source = (
                f"declare {kind} @{name}({kind}, {kind})\n"
                f"define {kind} @f({kind} %a, {kind} %b) {{\n  %r = call {kind} @{name}({kind} %a, {kind} %b)\n"
                f"  ret {kind} %r\n}}\n"
            )
            if assembles_to("pshufb", source):
                return name, bits // 8
    elif host.triple.startswith(("aarch64", "arm64")):
        return _ARM, 16
    return "", 16


def _looked_up(builder: ir.IRBuilder, name: str, kind: ir.Type, table: ir.Value, places: ir.Value) -> ir.Value:
    """Of the entries at address `table` those at `places`, each among its own 16 bytes."""
    if name:
        return builder.call(declare(builder, name, kind, [kind, kind]), [load(builder, kind, table), places])
    found = zeros(kind)
    for lane in range(kind.count):
        place = builder.zext(builder.extract_element(places, ir.Constant(i32, lane)), i64)
        found = builder.insert_element(found, load(builder, i8, builder.add(table, place)), ir.Constant(i32, lane))
    return found


def _rows_in_order(builder: ir.IRBuilder, even: ir.Value, odd: ir.Value) -> ir.Value:
    """Sums of even and of odd rows, eight of each for every 16 bytes of a register, as <16 x i16>."""
    while even.type.count > 8:
        half = even.type.count // 2
        low, high = (ir.Constant(vector(i32, half), list(range(start, start + half))) for start in (0, half))
        even, odd = (
            builder.add(builder.shuffle_vector(x, x, low), builder.shuffle_vector(x, x, high)) for x in (even, odd)
        )
    order = [i // 2 + 8 * (i % 2) for i in range(16)]
    return builder.shuffle_vector(even, odd, ir.Constant(vector(i32, 16), order))


@instruction(none(int64, int64, int64, int64), twins.table_sums, inline=False)
def table_sums(builder: ir.IRBuilder, block: ir.Value, table: ir.Value, size: ir.Value, out: ir.Value) -> None:
    name, width = shuffle_form()
    bytes_, words = vector(i8, width), vector(i16, width // 2)
    fifteen, lower = splat(bytes_, 15), splat(words, 255)

    def some(offset: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        parts = [zeros(bytes_), zeros(bytes_)]
        for step in range(_UNROLLED):
            at = builder.add(offset, int_const(step * width))
            codes = load(builder, bytes_, builder.add(block, at))
            entries = builder.add(table, at)
            shifted = builder.bitcast(builder.lshr(builder.bitcast(codes, words), splat(words, 4)), bytes_)
            for i, places in enumerate((codes, shifted)):
                found = _looked_up(builder, name, bytes_, entries, builder.and_(places, fifteen))
                parts[i] = builder.add(parts[i], found)
        results = []
        for i, part in enumerate(parts):
            wide = builder.bitcast(part, words)
            results.append(builder.add(sums[2 * i], builder.and_(wide, lower)))
            results.append(builder.add(sums[2 * i + 1], builder.lshr(wide, splat(words, 8))))
        return results

    sums = loop(builder, int_const(0), size, _UNROLLED * width, [zeros(words)] * 4, some)
    for i in range(2):
        rows = _rows_in_order(builder, sums[2 * i], sums[2 * i + 1])
        store(builder, rows, out, 32 * i)


@instruction(
    int64(int64, int64, float32, float32, float32, float32, float32, int64), twins.block_estimates, inline=False
)
def block_estimates(
    builder: ir.IRBuilder,
    sums: ir.Value,
    terms: ir.Value,
    scale: ir.Value,
    shift: ir.Value,
    base: ir.Value,
    reach: ir.Value,
    bound: ir.Value,
    out: ir.Value,
) -> ir.Value:
    lanes = 16
    kind, words = vector(f32, lanes), vector(i16, lanes)

    def spread(value: ir.Value) -> ir.Value:
        first = builder.insert_element(zeros(kind), value, ir.Constant(i32, 0))
        return builder.shuffle_vector(first, first, zeros(vector(i32, lanes)))

    scales, shifts, bases, reaches, bounds = (spread(x) for x in (scale, shift, base, reach, bound))
    mask = ir.Constant(i64, 0)
    for part in range(BLOCK_ROWS // lanes):
        whole = builder.uitofp(builder.zext(load(builder, words, sums, 2 * lanes * part), vector(i32, lanes)), kind)
        product = builder.fadd(builder.fmul(whole, scales, flags=FAST), shifts, flags=FAST)
        times = load(builder, kind, terms, 4 * lanes * part)
        plus = load(builder, kind, terms, 4 * (BLOCK_ROWS + lanes * part))
        score = builder.fadd(builder.fmul(product, times, flags=FAST), builder.fadd(plus, bases), flags=FAST)
        store(builder, score, out, 4 * lanes * part)
        deviations = load(builder, kind, terms, 4 * (2 * BLOCK_ROWS + lanes * part))
        most = builder.fadd(builder.fmul(deviations, reaches, flags=FAST), score, flags=FAST)
        reached = builder.bitcast(builder.fcmp_ordered(">=", most, bounds), ir.IntType(lanes))
        mask = builder.or_(mask, builder.shl(builder.zext(reached, i64), int_const(lanes * part)))
    return mask


@inlined
def query_table(row, dims, table, facts, sums):
    """The table of the rotated query at address `row`, (D / 4 * 16,) uint8; facts: scale and shift, float32. `sums` is
    room for 16 float32."""
    groups = dims >> 2
    least_sum, total, widest = np.float64(0), np.float64(0), np.float32(0)
    for g in range(groups):
        low, high = np.float32(0), np.float32(0)
        for j in range(4):
            value = load_f32(row + 16 * g + 4 * j)
            low += min(value, np.float32(0))
            high += max(value, np.float32(0))
        widest = max(widest, high - low)
        least_sum += low
        total += low + high
    most = np.float64(min(np.int64(MOST_ENTRY), np.int64(65535) // groups))
    unit = np.float64(widest) / most
    per_unit = per_unit_of(unit)
    for g in range(groups):
        low = np.float32(0)
        for j in range(4):
            low += min(load_f32(row + 16 * g + 4 * j), np.float32(0))
        # Patterns of more bits are those of fewer, and one bit more.
        sums[0] = np.float32(0.5) - low * per_unit
        for j in range(4):
            value = load_f32(row + 16 * g + 4 * j) * per_unit
            for pattern in range(1 << j):
                sums[pattern + (1 << j)] = sums[pattern] + value
        for pattern in range(16):
            table[16 * g + pattern] = np.uint8(sums[pattern])
    root = np.sqrt(np.float64(dims))
    facts[0] = np.float32(2 * unit / root) if per_unit > np.float32(0) else np.float32(0)
    facts[1] = np.float32((2 * least_sum - total) / root)
