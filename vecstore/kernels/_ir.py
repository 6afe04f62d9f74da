# mypy: disable-error-code="no-untyped-call"

"""How a kernel says LLVM IR: the `instruction` decorator, the target, and loops of vectors.

An instruction becomes one LLVM function per module, always inlined, and has a Python twin (twins.py) that
says the same slowly; with NUMBA_DISABLE_JIT=1 the twin takes its place. Addresses are int64.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from vecstore.kernels._cache import config

i1, i8, i16, i32, i64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
f32 = ir.FloatType()
ptr = ir.PointerType()

# What the sums allow LLVM to do: reorder, and fuse a multiply with an add where the CPU can. NaN and
# infinity keep their meaning. `llvm.fma` is never used: without FMA hardware it is a call of libm, 25 times
# slower.
FAST = ("reassoc", "contract")


@dataclass(frozen=True)
class Target:
    """The CPU that code is made for: the host, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say."""

    name: str
    flags: str
    triple: str

    @cached_property
    def features(self) -> frozenset[str]:
        """What the CPU is said to have, in LLVM's names; a named CPU's own features are not among them."""
        last = {flag[1:]: flag[0] for flag in self.flags.split(",") if flag}
        return frozenset(name for name, sign in last.items() if sign == "+")

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith(("x86_64", "i386", "i686", "amd64"))


@cache
def target() -> Target:
    """The target of this process."""
    flags = config.CPU_FEATURES if config.CPU_FEATURES is not None else get_host_cpu_features()
    return Target(config.CPU_NAME or llvm.get_host_cpu_name(), flags, llvm.get_process_triple())


@cache
def assembly_of(source: str) -> str:
    """What this LLVM makes of the IR `source` for the target; empty if it does not take it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    host = target()
    try:
        module = llvm.parse_assembly(source)
        module.verify()
        machine = llvm.Target.from_triple(host.triple).create_target_machine(cpu=host.name, features=host.flags, opt=2)
        assembly: str = machine.emit_assembly(module)
    except RuntimeError:
        return ""
    return assembly


def assembles_to(wanted: str, source: str) -> bool:
    """Whether the assembly of `source` has the word `wanted`.

    Intrinsics change their signatures from one LLVM to the next, and an unknown one becomes a call of a
    function that does not exist: asking the LLVM at hand is the only reliable test. Ask only for what the CPU
    has, since LLVM ends the process over an intrinsic of a missing extension.
    """
    assembly = assembly_of(source)
    return bool(assembly) and wanted in assembly and "llvm." not in assembly


@cache
def register_bits(element: str) -> int:
    """The width of the vector registers in which the target adds elements such as "float" or "i16".

    Read off the assembly of one add, since a CPU that is given by name only (NUMBA_CPU_NAME=haswell) lists no
    features, and one that has wide registers may prefer not to use them.
    """
    kind = f"<{64 if element == 'i8' else 32 if element == 'i16' else 16} x {element}>"
    add = "fadd" if element == "float" else "add"
    assembly = assembly_of(
        f"define {kind} @f({kind} %a, {kind} %b) {{\n  %r = {add} {kind} %a, %b\n  ret {kind} %r\n}}\n"
    )
    return 512 if "zmm" in assembly else 256 if "ymm" in assembly else 128


Emit = Callable[..., ir.Value]


def instruction(
    signature: Any, twin: Callable[..., Any], *, inline: bool = True
) -> Callable[[Emit], Callable[..., Any]]:
    """Make a function of kernels from `emit(builder, *values)`, which returns the result as an IR value."""

    def decorate(emit: Emit) -> Callable[..., Any]:
        if config.DISABLE_JIT:
            return twin
        name = f"vecstore.{emit.__name__}"

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
            function = builder.module.globals.get(name)
            if function is None:
                result = context.get_value_type(sig.return_type)
                function_type = ir.FunctionType(result, [context.get_value_type(a) for a in sig.args])
                function = ir.Function(builder.module, function_type, name)
                function.linkage = "linkonce_odr"
                function.attributes.add("alwaysinline" if inline else "noinline")
                inner = ir.IRBuilder(function.append_basic_block())
                value = emit(inner, *function.args)
                inner.ret(ir.Constant(result, None) if value is None else value)
            return builder.call(function, args)

        def typed(_context: Any, *_args: Any) -> Any:
            return signature, codegen

        parameters = list(inspect.signature(twin).parameters.values())
        context_parameter = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        typed.__signature__ = inspect.Signature([context_parameter, *parameters])  # type: ignore[attr-defined]
        typed.__name__ = typed.__qualname__ = emit.__name__
        typed.__doc__ = twin.__doc__
        result: Callable[..., Any] = intrinsic(typed)
        return result

    return decorate


def vector(element: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def zeros(kind: ir.Type) -> ir.Constant:
    return ir.Constant(kind, None)


def splat(kind: ir.VectorType, value: int | float) -> ir.Constant:
    """The constant vector that holds `value` in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def int_const(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def declare(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """An LLVM intrinsic, or a function of the C library, declared in the builder's module."""
    found = builder.module.globals.get(name)
    return found or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def load(builder: ir.IRBuilder, kind: ir.Type, address: ir.Value, offset: int = 0) -> ir.Value:
    """Load without any demand on alignment: `address` is an int64, `offset` in bytes."""
    if offset:
        address = builder.add(address, int_const(offset))
    return builder.load(builder.inttoptr(address, ptr), typ=kind, align=1)


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, offset: int = 0) -> None:
    if offset:
        address = builder.add(address, int_const(offset))
    builder.store(value, builder.inttoptr(address, ptr), align=1)


def loop(
    builder: ir.IRBuilder,
    start: ir.Value,
    stop: ir.Value,
    step: int,
    carried: Sequence[ir.Value],
    body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
) -> list[ir.Value]:
    """`for i in range(start, stop, step)`, carrying values from turn to turn; returns them as they end.

    Leaves the builder in the block after the loop.
    """
    before = builder.block
    head = builder.append_basic_block("loop")
    turn = builder.append_basic_block("turn")
    after = builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(i64)
    values = [builder.phi(value.type) for value in carried]
    index.add_incoming(start, before)
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), turn, after)
    builder.position_at_end(turn)
    results = body(index, list(values))
    following = builder.add(index, int_const(step))
    index.add_incoming(following, builder.block)
    for phi, value in zip(values, results, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return list(values)


def reduce_fadd(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    kind = value.type
    name = f"llvm.vector.reduce.fadd.v{kind.count}f32"
    return builder.call(declare(builder, name, f32, [f32, kind]), [zeros(f32), value], fastmath=FAST)


def reduce_add(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    kind = value.type
    name = f"llvm.vector.reduce.add.v{kind.count}i{kind.element.width}"
    return builder.call(declare(builder, name, kind.element, [kind]), [value])
