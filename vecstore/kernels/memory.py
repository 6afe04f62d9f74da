# mypy: disable-error-code="no-untyped-call"
"""Loads, stores, prefetches and packed keys: what kernels that work on addresses and pools are made of."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.imputils import impl_ret_untracked
from numba.core.types import float32, int32, int64, none
from numba.extending import intrinsic

from vecstore.kernels import twins
from vecstore.kernels._cache import config
from vecstore.kernels._ir import (
    declare,
    f32,
    i1,
    i8,
    i16,
    i32,
    i64,
    instruction,
    int_const,
    load,
    loop,
    ptr,
    reduce_add,
    store,
    vector,
    zeros,
)

if config.DISABLE_JIT:
    address_of = twins.address_of
else:

    @intrinsic
    def address_of(_context: Any, array: Any) -> Any:
        """Address of the first element of a C-contiguous array: int64."""
        if not (isinstance(array, types.Array) and array.layout == "C"):
            return None

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            data = context.make_array(sig.args[0])(context, builder, args[0]).data
            return impl_ret_untracked(context, builder, int64, builder.ptrtoint(data, i64))

        return int64(array), codegen


@instruction(none(int64, int64), twins.prefetch)
def prefetch(builder: ir.IRBuilder, address: ir.Value, size: ir.Value) -> None:
    function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [ptr, i32, i32, i32])
    read, keep_in_all_caches, data = (ir.Constant(i32, x) for x in (0, 3, 1))

    def line(offset: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        where = builder.inttoptr(builder.add(address, offset), ptr)
        builder.call(function, [where, read, keep_in_all_caches, data])
        return []

    loop(builder, int_const(0), size, 64, [], line)


@instruction(float32(int64), twins.load_f32)
def load_f32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return load(builder, f32, address)


@instruction(int64(int64), twins.load_i64)
def load_i64(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return load(builder, i64, address)


@instruction(int32(int64), twins.load_i32)
def load_i32(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return load(builder, i32, address)


@instruction(int64(int64), twins.load_u8)
def load_u8(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.zext(load(builder, i8, address), i64)


@instruction(int64(int64), twins.load_u16)
def load_u16(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.zext(load(builder, i16, address), i64)


@instruction(none(int64, int64), twins.store_u16)
def store_u16(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    store(builder, builder.trunc(value, i16), address)


@instruction(none(int64, int64), twins.store_i64)
def store_i64(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    store(builder, value, address)


@instruction(none(int64, int64), twins.store_i32)
def store_i32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    store(builder, builder.trunc(value, i32), address)


@instruction(none(int64, int64), twins.store_u8)
def store_u8(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    store(builder, builder.trunc(value, i8), address)


@instruction(none(int64, float32), twins.store_f32)
def store_f32(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    store(builder, value, address)


@instruction(none(int64, int64, int64), twins.copy_bytes)
def copy_bytes(builder: ir.IRBuilder, target: ir.Value, source: ir.Value, size: ir.Value) -> None:
    function = declare(builder, "llvm.memmove.p0.p0.i64", ir.VoidType(), [ptr, ptr, i64, i1])
    where = [builder.inttoptr(x, ptr) for x in (target, source)]
    builder.call(function, [*where, size, ir.Constant(i1, 0)])


def _in_order(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Between the bits of a float32 and the int32 that sorts alike; its own inverse."""
    sign = builder.ashr(bits, ir.Constant(i32, 31))
    return builder.xor(bits, builder.and_(sign, ir.Constant(i32, 0x7FFFFFFF)))


@instruction(int64(float32, int64), twins.pack_key)
def pack_key(builder: ir.IRBuilder, score: ir.Value, slot: ir.Value) -> ir.Value:
    bits = builder.bitcast(builder.fadd(score, ir.Constant(f32, 0.0)), i32)
    upper = builder.shl(builder.sext(_in_order(builder, bits), i64), int_const(32))
    return builder.or_(upper, builder.xor(slot, int_const(0xFFFFFFFF)))


@instruction(int32(int64), twins.key_slot)
def key_slot(builder: ir.IRBuilder, key: ir.Value) -> ir.Value:
    return builder.xor(builder.trunc(key, i32), ir.Constant(i32, -1))


@instruction(float32(int64), twins.key_score)
def key_score(builder: ir.IRBuilder, key: ir.Value) -> ir.Value:
    order = builder.trunc(builder.ashr(key, int_const(32)), i32)
    return builder.bitcast(_in_order(builder, order), f32)


@instruction(int64(int64, int64, int64), twins.count_greater)
def count_greater(builder: ir.IRBuilder, keys: ir.Value, size: ir.Value, key: ir.Value) -> ir.Value:
    eight = vector(i64, 8)
    first = builder.insert_element(zeros(eight), key, ir.Constant(i32, 0))
    bound = builder.shuffle_vector(first, zeros(eight), zeros(vector(i32, 8)))

    def count_eight(index: ir.Value, counts: list[ir.Value]) -> list[ir.Value]:
        some = load(builder, eight, builder.add(keys, builder.mul(index, int_const(8))))
        # A lane of all ones is minus one.
        return [builder.sub(counts[0], builder.sext(builder.icmp_signed(">", some, bound), eight))]

    def count_one(index: ir.Value, counts: list[ir.Value]) -> list[ir.Value]:
        one = load(builder, i64, builder.add(keys, builder.mul(index, int_const(8))))
        return [builder.add(counts[0], builder.zext(builder.icmp_signed(">", one, key), i64))]

    down_to_8 = builder.and_(size, int_const(-8))
    (counts,) = loop(builder, int_const(0), down_to_8, 8, [zeros(eight)], count_eight)
    (count,) = loop(builder, down_to_8, size, 1, [reduce_add(builder, counts)], count_one)
    return count


@instruction(int64(int64), twins.trailing_zeros)
def trailing_zeros(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return builder.call(declare(builder, "llvm.cttz.i64", i64, [i64, i1]), [value, ir.Constant(i1, 1)])


# Not inlined, so that its few values stay in registers, and without branches: a walk calls it once for each node.
@instruction(int64(int64, int64, int64, int64, int64, int64), twins.gather, inline=False)
def gather(
    builder: ir.IRBuilder,
    row: ir.Value,
    row_bytes: ir.Value,
    limit: ir.Value,
    visited: ir.Value,
    places: ir.Value,
    out: ir.Value,
) -> ir.Value:
    mask = builder.sub(places, int_const(1))
    bits = builder.trunc(builder.call(declare(builder, "llvm.cttz.i64", i64, [i64, i1]), [places, i1(1)]), i32)

    def one(where: ir.Value, counts: list[ir.Value]) -> list[ir.Value]:
        node = load(builder, i32, where)
        wide = builder.sext(node, i64)
        place = builder.add(visited, builder.shl(builder.and_(wide, mask), int_const(1)))
        tag = builder.trunc(builder.lshr(node, bits), i16)
        new = builder.icmp_unsigned("!=", load(builder, i16, place), tag)
        new = builder.and_(new, builder.icmp_unsigned("<", wide, limit))
        store(builder, tag, place)
        store(builder, node, builder.add(out, builder.shl(counts[0], int_const(2))))
        return [builder.add(counts[0], builder.zext(new, i64))]

    (count,) = loop(builder, row, builder.add(row, row_bytes), 4, [int_const(0)], one)
    return count
