"""Integer distances of quantized codes by address: query against code, and code against code.

Sizes are in bytes and multiples of 64, as rows of codes are. The sums are int32, which holds up to 65,000
dims. All of them are built from one step, 64 products of uint8 by int8 added up in groups of four, and the
step has four forms: vpdpbusd where the CPU has VNNI, pmaddwd on other x86 (2.6 times as fast as what LLVM
makes of the next one there), LLVM's partial reduction (sdot on Arm), and plain widening, which every LLVM
takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from llvmlite import ir
from numba.core.types import int32, int64, none

from vecstore.kernels import twins
from vecstore.kernels._ir import (
    assembles_to,
    declare,
    i8,
    i16,
    i32,
    instruction,
    int_const,
    load,
    loop,
    reduce_add,
    register_bits,
    splat,
    store,
    target,
    vector,
    zeros,
)

BYTES = vector(i8, 64)
SUMS = vector(i32, 16)

_MADD = {
    512: "llvm.x86.avx512.pmaddw.d.512",
    256: "llvm.x86.avx2.pmadd.wd",
    128: "llvm.x86.sse2.pmadd.wd",
}
_MADD_BYTES = {512: "llvm.x86.avx512.pmaddubs.w.512", 256: "llvm.x86.avx2.pmadd.ub.sw"}
_PARTIAL = "llvm.vector.partial.reduce.add.v16i32.v64i32"


def _calls(name: str, result: str, arguments: list[str]) -> str:
    values = ", ".join(f"{kind} %a{j}" for j, kind in enumerate(arguments))
    return (
        f"declare {result} @{name}({', '.join(arguments)})\n"
        f"define {result} @f({values}) {{\n  %r = call {result} @{name}({values})\n  ret {result} %r\n}}\n"
    )


Form = tuple[str, int, ir.Type]


@cache
def step_form() -> Form:
    """How this target multiplies bytes: (name of the form, bits of its registers, type of its operands)."""
    host = target()
    if host.is_x86:
        vnni = [512] if {"avx512vnni", "avx512bw"} <= host.features else []
        if "avxvnni" in host.features or {"avx512vnni", "avx512vl"} <= host.features:
            vnni.append(256)
        for bits in vnni:
            sums = f"<{bits // 32} x i32>"
            # The operands were vectors of i32 before LLVM 22.
            for operand, kind in (
                (f"<{bits // 8} x i8>", vector(i8, bits // 8)),
                (sums, vector(i32, bits // 32)),
            ):
                name = f"llvm.x86.avx512.vpdpbusd.{bits}"
                if assembles_to("vpdpbusd", _calls(name, sums, [sums, operand, operand])):
                    return "vnni", bits, kind
        bits = register_bits("i16")
        words = f"<{bits // 16} x i16>"
        if assembles_to("pmaddwd", _calls(_MADD[bits], f"<{bits // 32} x i32>", [words, words])):
            return "madd", bits, vector(i16, bits // 16)
    if assembles_to("", _calls(_PARTIAL, "<16 x i32>", ["<16 x i32>", "<64 x i32>"])):
        return "partial", 512, BYTES
    return "plain", 512, BYTES


def _part(builder: ir.IRBuilder, value: ir.Value, start: int, count: int) -> ir.Value:
    mask = ir.Constant(vector(i32, count), list(range(start, start + count)))
    return builder.shuffle_vector(value, zeros(value.type), mask)


def _joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        mask = ir.Constant(vector(i32, lanes), list(range(lanes)))
        parts = [builder.shuffle_vector(a, b, mask) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _vnni(builder: ir.IRBuilder, form: Form, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    _, bits, kind = form
    step = declare(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", sums.type, [sums.type, kind, kind])
    return builder.call(step, [sums, builder.bitcast(unsigned, kind), builder.bitcast(signed, kind)])


def _madd(builder: ir.IRBuilder, form: Form, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    # Even and odd bytes become words by shifts in place: the widening moves of x86 all wait for one port.
    _, bits, kind = form
    step = declare(builder, _MADD[bits], sums.type, [kind, kind])
    eight = splat(kind, 8)
    u, s = builder.bitcast(unsigned, kind), builder.bitcast(signed, kind)
    even = builder.call(step, [builder.and_(u, splat(kind, 255)), builder.ashr(builder.shl(s, eight), eight)])
    odd = builder.call(step, [builder.lshr(u, eight), builder.ashr(s, eight)])
    return builder.add(sums, builder.add(even, odd))


def _madd_nibbles(builder: ir.IRBuilder, form: Form, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    # vpmaddubsw saturates at int16, which two products of a nibble and an int8 never reach.
    _, bits, words = form
    bytes_ = vector(i8, bits // 8)
    pairs = builder.call(declare(builder, _MADD_BYTES[bits], words, [bytes_, bytes_]), [unsigned, signed])
    fours = builder.call(declare(builder, _MADD[bits], sums.type, [words, words]), [pairs, splat(words, 1)])
    return builder.add(sums, fours)


def multiply_bytes(
    builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value, *, nibbles: bool = False
) -> ir.Value:
    """`sums` <16 x i32> plus 64 products of uint8 by int8, each in one of the lanes (which one is not said).

    `nibbles` says that the unsigned operands are at most 15.
    """
    form = step_form()
    if form[0] in ("vnni", "madd"):
        step = _vnni if form[0] == "vnni" else _madd
        if step is _madd and nibbles and form[1] in _MADD_BYTES:
            step = _madd_nibbles
        lanes = form[1] // 32
        parts = [
            step(
                builder,
                form,
                _part(builder, sums, start, lanes),
                _part(builder, unsigned, 4 * start, 4 * lanes),
                _part(builder, signed, 4 * start, 4 * lanes),
            )
            for start in range(0, 16, lanes)
        ]
        return _joined(builder, parts)
    wide = vector(i32, 64)
    products = builder.mul(builder.zext(unsigned, wide), builder.sext(signed, wide))
    if form[0] == "partial":
        return builder.call(declare(builder, _PARTIAL, SUMS, [SUMS, wide]), [sums, products])
    for start in range(0, 64, 16):
        sums = builder.add(sums, _part(builder, products, start, 16))
    return sums


def over_blocks(builder: ir.IRBuilder, size: ir.Value, add_block: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """Sum up `add_block(offset, sums)` over the 64-byte blocks of `size` bytes: int32.

    One accumulator: the rows that follow hide the latency, and two were no faster at 384 bytes.
    """

    (sums,) = loop(builder, int_const(0), size, 64, [zeros(SUMS)], lambda offset, s: [add_block(offset, s[0])])
    return reduce_add(builder, sums)


def _low(builder: ir.IRBuilder, block: ir.Value) -> ir.Value:
    return builder.and_(block, splat(BYTES, 15))


def _high(builder: ir.IRBuilder, block: ir.Value) -> ir.Value:
    return builder.lshr(block, splat(BYTES, 4))


def _absolute_difference(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """|a - b| of uint8."""
    kind = a.type
    name = f"v{kind.count}i8"
    larger = builder.call(declare(builder, f"llvm.umax.{name}", kind, [kind, kind]), [a, b])
    smaller = builder.call(declare(builder, f"llvm.umin.{name}", kind, [kind, kind]), [a, b])
    return builder.sub(larger, smaller)


@instruction(int32(int64, int64, int64), twins.dot_u8s8)
def dot_u8s8(builder: ir.IRBuilder, codes: ir.Value, query: ir.Value, size: ir.Value) -> ir.Value:
    def add_block(offset: ir.Value, sums: ir.Value) -> ir.Value:
        unsigned = load(builder, BYTES, builder.add(codes, offset))
        return multiply_bytes(builder, sums, unsigned, load(builder, BYTES, builder.add(query, offset)))

    return over_blocks(builder, size, add_block)


@instruction(int32(int64, int64, int64), twins.dot_u4s8)
def dot_u4s8(builder: ir.IRBuilder, codes: ir.Value, query: ir.Value, size: ir.Value) -> ir.Value:
    def add_block(offset: ir.Value, sums: ir.Value) -> ir.Value:
        block = load(builder, BYTES, builder.add(codes, offset))
        signed = builder.add(query, builder.mul(offset, int_const(2)))
        sums = multiply_bytes(builder, sums, _low(builder, block), load(builder, BYTES, signed), nibbles=True)
        return multiply_bytes(builder, sums, _high(builder, block), load(builder, BYTES, signed, 64), nibbles=True)

    return over_blocks(builder, size, add_block)


@instruction(int32(int64, int64, int64), twins.dot_u8u8)
def dot_u8u8(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, size: ir.Value) -> ir.Value:
    # With b' = b - 128 as int8: (a - 128) * b' = a * b' - 128 * b', both of them products of uint8 by int8.
    def add_block(offset: ir.Value, sums: ir.Value) -> ir.Value:
        left = load(builder, BYTES, builder.add(a, offset))
        right = builder.xor(load(builder, BYTES, builder.add(b, offset)), splat(BYTES, 128))
        excess = multiply_bytes(builder, zeros(SUMS), splat(BYTES, 128), right)
        return builder.sub(multiply_bytes(builder, sums, left, right), excess)

    return over_blocks(builder, size, add_block)


@instruction(int32(int64, int64, int64), twins.l2sq_u8u8)
def l2sq_u8u8(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, size: ir.Value) -> ir.Value:
    # With d = |a - b| as uint8 and d' = d - 128 as int8: d * d = d * d' + 2 * (d * 64).
    def add_block(offset: ir.Value, sums: ir.Value) -> ir.Value:
        left, right = (load(builder, BYTES, builder.add(x, offset)) for x in (a, b))
        difference = _absolute_difference(builder, left, right)
        doubled = multiply_bytes(builder, zeros(SUMS), difference, splat(BYTES, 64))
        sums = multiply_bytes(builder, sums, difference, builder.xor(difference, splat(BYTES, 128)))
        return builder.add(sums, builder.add(doubled, doubled))

    return over_blocks(builder, size, add_block)


@instruction(int32(int64, int64, int64), twins.dot_u4u4)
def dot_u4u4(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, size: ir.Value) -> ir.Value:
    # With b' = b - 8: (a - 8) * b' = a * b' - 8 * b'; the b' of both nibbles fit a byte together.
    def add_block(offset: ir.Value, sums: ir.Value) -> ir.Value:
        left, right = (load(builder, BYTES, builder.add(x, offset)) for x in (a, b))
        low = builder.sub(_low(builder, right), splat(BYTES, 8))
        high = builder.sub(_high(builder, right), splat(BYTES, 8))
        excess = multiply_bytes(builder, zeros(SUMS), splat(BYTES, 8), builder.add(low, high), nibbles=True)
        sums = multiply_bytes(builder, sums, _low(builder, left), low, nibbles=True)
        return builder.sub(multiply_bytes(builder, sums, _high(builder, left), high, nibbles=True), excess)

    return over_blocks(builder, size, add_block)


@instruction(int32(int64, int64, int64), twins.l2sq_u4u4)
def l2sq_u4u4(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, size: ir.Value) -> ir.Value:
    def add_block(offset: ir.Value, sums: ir.Value) -> ir.Value:
        left, right = (load(builder, BYTES, builder.add(x, offset)) for x in (a, b))
        for nibble in (_low, _high):
            difference = _absolute_difference(builder, nibble(builder, left), nibble(builder, right))
            sums = multiply_bytes(builder, sums, difference, difference, nibbles=True)
        return sums

    return over_blocks(builder, size, add_block)


@instruction(none(int64, int64, int64), twins.expand_u8)
def expand_u8(builder: ir.IRBuilder, codes: ir.Value, out: ir.Value, size: ir.Value) -> None:
    def block(offset: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        levels = load(builder, BYTES, builder.add(codes, offset))
        store(builder, builder.xor(levels, splat(BYTES, 128)), builder.add(out, offset))
        return []

    loop(builder, int_const(0), size, 64, [], block)


@instruction(none(int64, int64, int64), twins.expand_u4)
def expand_u4(builder: ir.IRBuilder, codes: ir.Value, out: ir.Value, size: ir.Value) -> None:
    def block(offset: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        levels = load(builder, BYTES, builder.add(codes, offset))
        where = builder.add(out, builder.mul(offset, int_const(2)))
        store(builder, builder.sub(_low(builder, levels), splat(BYTES, 8)), where)
        store(builder, builder.sub(_high(builder, levels), splat(BYTES, 8)), where, 64)
        return []

    loop(builder, int_const(0), size, 64, [], block)
