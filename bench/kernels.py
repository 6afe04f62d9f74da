"""Distance kernels against the same dot as a plain loop, in cache: `python -m bench.kernels`.

The loops are what one would write first: `for` in `@njit(fastmath=True)`, compiled for the same CPU. Times
on a shared machine swing; only the ratios within one run mean anything. The second table takes the VNNI
extension away, as a CPU of before 2019 would. The bars: float32 4x; int8 20x, 5x without VNNI; int4 25x.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import njit

from vecstore.kernels import _ir
from vecstore.kernels.bits import dot_planes, hamming
from vecstore.kernels.codes import dot_u4s8, dot_u4u4, dot_u8s8, dot_u8u8, l2sq_u4u4, l2sq_u8u8, step_form
from vecstore.kernels.eights import dots_f32, dots_u8s8
from vecstore.kernels.floats import dot_f32, l2sq_f32

DIM = 384
ROWS = 8
REPEAT = 2000
TELLING = ("vfmadd213ps", "vfmadd231ps", "vpdpbusd", "vpmaddwd", "vpmaddubsw", "vpopcntq", "sdot", "usdot")
emitted: dict[str, list[str]] = {}
WITHOUT_VNNI = "-avxvnni,-avxvnniint8,-avx512vnni"


@njit(fastmath=True)
def loop_dot(a, b):
    total = a[0] * b[0]
    for i in range(1, b.size):
        total += a[i] * b[i]
    return total


@njit(fastmath=True)
def loop_dot_double(a, b):
    total = 0.0
    for i in range(b.size):
        total += a[i] * b[i]
    return total


@njit(fastmath=True)
def loop_l2sq(a, b):
    total = np.float32(0)
    for i in range(b.size):
        total += (a[i] - b[i]) * (a[i] - b[i])
    return total


@njit(fastmath=True)
def loop_dot_int(a, b):
    total = np.int32(0)
    for i in range(b.size):
        total += np.int32(a[i]) * np.int32(b[i])
    return total


@njit(fastmath=True)
def loop_dot_nibbles(a, b):
    total = np.int32(0)
    for i in range(a.size):
        j = 2 * i - i % 64
        total += np.int32(a[i] & 15) * np.int32(b[j]) + np.int32(a[i] >> 4) * np.int32(b[j + 64])
    return total


def time_loop(function: Any, rows: Any, query: Any) -> Callable[[], float]:
    @njit
    def run(rows, query):
        total = function(rows[0], query)
        for i in range(REPEAT):
            total += function(rows[i & 7], query)
        return total

    return timer(run, rows, query)


def time_kernel(function: Any, rows: Any, query: Any, size: int) -> Callable[[], float]:
    @njit
    def run(rows, stride, query, size):
        total = function(rows, query, size)
        for i in range(REPEAT):
            total += function(rows + (i & 7) * stride, query, size)
        return total

    keep = (rows, query)  # the kernel sees addresses only
    timed = timer(run, keep[0].ctypes.data, rows.strides[0], keep[1].ctypes.data, size)
    assembly = "".join(run.inspect_asm().values())
    emitted[function.__name__] = [word for word in TELLING if f"\t{word}" in assembly]
    return timed


def time_eights(function: Any, rows: Any, query: Any, size: int) -> Callable[[], float]:
    """The time of one of eight rows that are scored together."""

    @njit
    def run(rows, stride, query, size, out):
        for _ in range(REPEAT // 8):
            function(rows, stride, query, size, out)

    keep = (rows, query, np.zeros(8, np.int32))
    timed = timer(run, rows.ctypes.data, rows.strides[0], query.ctypes.data, size, keep[2].ctypes.data)
    emitted[function.__name__] = [w for w in TELLING if f"\t{w}" in "".join(run.inspect_asm().values())]
    return lambda: (timed(), keep)[0]


def timer(run: Any, *args: Any) -> Callable[[], float]:
    run(*args)

    def once() -> float:
        start = time.perf_counter()
        run(*args)
        return (time.perf_counter() - start) / REPEAT * 1e9

    return once


def aligned(values: Any) -> Any:
    """A copy that begins at a multiple of 64 bytes, as rows and codes do."""
    space = np.zeros(values.nbytes + 64, np.uint8)
    start = -space.ctypes.data % 64
    copy = space[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def best(timers: list[Callable[[], float]], rounds: int = 60) -> list[float]:
    """The least time of each in ns; the rounds alternate, so that all of them meet the same noise."""
    return [min(times) for times in zip(*([t() for t in timers] for _ in range(rounds)), strict=True)]


def measure() -> None:
    rng = np.random.default_rng(7)
    floats = aligned(rng.standard_normal((ROWS, DIM), np.float32))
    query = aligned(rng.standard_normal(DIM).astype(np.float32))
    codes = aligned(rng.integers(0, 256, (ROWS, DIM), np.uint8))
    nibbles = aligned(rng.integers(0, 256, (ROWS, DIM // 2), np.uint8))
    bits = aligned(rng.integers(0, 256, (ROWS, 64), np.uint8))
    signed = aligned(rng.integers(-127, 128, DIM).astype(np.int8))
    planes = aligned(rng.integers(0, 256, 256).astype(np.uint8))
    pairs: list[tuple[str, Any, Any, Any, Any, int, str]] = [
        ("float32 dot", loop_dot, dot_f32, floats, query, DIM, ""),
        ("  of eight rows", loop_dot, dots_f32, floats, query, DIM, "4x"),
        ("(sum in double)", loop_dot_double, dot_f32, floats, query, DIM, ""),
        ("float32 l2", loop_l2sq, l2sq_f32, floats, query, DIM, ""),
        ("int8 dot", loop_dot_int, dot_u8s8, codes, signed, DIM, ""),
        ("  of eight rows", loop_dot_int, dots_u8s8, codes, signed, DIM, "20x" if step_form()[0] == "vnni" else "5x"),
        ("int4 dot", loop_dot_nibbles, dot_u4s8, nibbles, signed, DIM // 2, "25x"),
    ]
    for name, loop, kernel, rows, q, size, bar in pairs:
        timed = time_eights if kernel in (dots_f32, dots_u8s8) else time_kernel
        a, b = best([time_loop(loop, rows, q), timed(kernel, rows, q, size)])
        print(f"  {name:16} loop {a:7.1f} ns   kernel {b:6.1f} ns   {a / b:5.1f}x   {bar and 'bar ' + bar}")
    for kernel, rows, q, size in (
        (dot_u8u8, codes, codes[1], DIM),
        (l2sq_u8u8, codes, codes[1], DIM),
        (dot_u4u4, nibbles, nibbles[1], DIM // 2),
        (l2sq_u4u4, nibbles, nibbles[1], DIM // 2),
        (hamming, bits, bits[1], 64),
        (dot_planes, bits, planes, 64),
    ):
        (b,) = best([time_kernel(kernel, rows, q, size)])
        print(f"  {kernel.__name__:16}                   kernel {b:6.1f} ns")

    for name, words in emitted.items():
        print(f"  {name:16} {', '.join(words) or 'none of the telling instructions'}")


def main() -> None:
    host = _ir.target()
    print(f"{host.name}, d={DIM}, bytes multiplied by: {step_form()[0]}, {step_form()[1]} bits")
    measure()
    if "VECSTORE_BENCH_CHILD" not in os.environ and step_form()[0] == "vnni":
        features = f"{llvm.get_host_cpu_features().flatten()},{WITHOUT_VNNI}"
        child = {**os.environ, "VECSTORE_BENCH_CHILD": "1", "NUMBA_CPU_FEATURES": features}
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "bench.kernels"], env=child, check=True)


if __name__ == "__main__":
    main()
