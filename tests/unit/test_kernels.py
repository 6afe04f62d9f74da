# ruff: noqa: PLW0108 (an instruction becomes callable only inside a function)
"""Each instruction against NumPy, compiled and as its Python twin, at any dimension and alignment."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from vecstore.kernels import _ir, bits, codes, eights, floats, memory, tiles, twins
from vecstore.kernels._jit import JIT

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
PROFILE = settings(max_examples=100 if JIT else 25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
blocks = st.one_of(st.integers(1, 9), st.sampled_from([24, 64]))
offsets = st.tuples(st.integers(0, 63), st.integers(0, 63))


@cache
def compiled(function, arguments):
    """The instruction as something that can be called from Python."""
    if arguments == 1:
        return njit(lambda a: function(a))
    if arguments == 2:
        return njit(lambda a, b: function(a, b))
    return njit(lambda a, b, n: function(a, b, n))


def both(function, *args):
    """The results of the compiled instruction and of its twin."""
    return compiled(function, len(args))(*args), getattr(twins, function.__name__)(*args)


def place(values, offset):
    """A copy of the values that begins `offset` bytes after a multiple of 64: (address, owner)."""
    space = np.zeros(values.nbytes + 192, np.uint8)
    start = -space.ctypes.data % 64 + offset
    space[start : start + values.nbytes] = values.view(np.uint8).ravel()
    return space.ctypes.data + start, space


def random_bytes(seed, *sizes):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size).astype(np.uint8) for size in sizes]


def nibbles(code):
    parts = code.reshape(-1, 64)
    return np.stack((parts & 15, parts >> 4), axis=1).astype(np.int64).ravel()


@pytest.mark.parametrize("function", [floats.dot_f32, floats.l2sq_f32], ids=lambda f: f.__name__)
@PROFILE
@given(dim=st.one_of(st.integers(1, 300), st.sampled_from([384, 768, 1000, 1536, 4097])), seed=seeds, at=offsets)
def test_distances_of_floats(function, dim, seed, at):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, dim)).astype(np.float32)
    exact = np.float64(a) @ np.float64(b) if function is floats.dot_f32 else np.sum((np.float64(a) - b) ** 2)
    (x, _keep_a), (y, _keep_b) = place(a, at[0]), place(b, at[1])
    tolerance = 1e-6 * (np.linalg.norm(a) * np.linalg.norm(b) + abs(exact))
    for result in both(function, x, y, dim):
        assert abs(result - exact) <= tolerance


def test_distances_of_floats_at_every_dimension():
    rng = np.random.default_rng(3)
    a, b = rng.integers(-8, 9, (2, 300)).astype(np.float32)
    for dim in range(1, 301):
        assert both(floats.dot_f32, a.ctypes.data, b.ctypes.data, dim) == (a[:dim] @ b[:dim],) * 2
        assert both(floats.l2sq_f32, a.ctypes.data, b.ctypes.data, dim) == (((a - b)[:dim] ** 2).sum(),) * 2


@cache
def compiled_eights(function):
    return njit(lambda rows, stride, query, size, out: function(rows, stride, query, size, out))


@pytest.mark.parametrize("dim", [1, 5, 15, 16, 17, 33, 64, 100, 384, 1000])
@pytest.mark.parametrize("gap", [0, 3])
def test_eight_rows_at_once_are_eight_single_ones(dim, gap):
    rng = np.random.default_rng(dim)
    rows, query = rng.integers(-8, 9, (8, dim + gap)).astype(np.float32), rng.integers(-8, 9, dim).astype(np.float32)
    for function in (compiled_eights(eights.dots_f32), twins.dots_f32):
        out = np.full(9, 7, np.float32)
        function(rows.ctypes.data, rows.strides[0], query.ctypes.data, dim, out.ctypes.data)
        assert out.tolist() == [*(rows[:, :dim] @ query), 7]


@pytest.mark.parametrize("count", [1, 2, 6, 24])
def test_eight_rows_of_codes_at_once_are_eight_single_ones(count):
    rng = np.random.default_rng(count)
    rows, query = rng.integers(0, 256, (8, 64 * count)).astype(np.uint8), rng.integers(-128, 128, 64 * count)
    query = query.astype(np.int8)
    for function in (compiled_eights(eights.dots_u8s8), twins.dots_u8s8):
        out = np.full(9, 7, np.int32)
        function(rows.ctypes.data, rows.strides[0], query.ctypes.data, 64 * count, out.ctypes.data)
        assert out.tolist() == [*(rows.astype(np.int64) @ query), 7]


def test_nan_and_infinity_stay_what_they_are():
    for value in (np.nan, np.inf):
        a = np.ones(70, np.float32)
        a[69] = value
        one = np.ones(70, np.float32)
        for result in both(floats.dot_f32, a.ctypes.data, one.ctypes.data, 70):
            assert not np.isfinite(result)


CODE_SUMS = {
    codes.dot_u8s8: lambda a, b: a.astype(np.int64) @ b[: a.size].view(np.int8),
    codes.dot_u4s8: lambda a, b: nibbles(a) @ b.view(np.int8),
    codes.dot_u8u8: lambda a, b: (a.astype(np.int64) - 128) @ (b[: a.size].astype(np.int64) - 128),
    codes.l2sq_u8u8: lambda a, b: ((a.astype(np.int64) - b[: a.size]) ** 2).sum(),
    codes.dot_u4u4: lambda a, b: (nibbles(a) - 8) @ (nibbles(b[: a.size]) - 8),
    codes.l2sq_u4u4: lambda a, b: ((nibbles(a) - nibbles(b[: a.size])) ** 2).sum(),
    bits.hamming: lambda a, b: np.unpackbits(a ^ b[: a.size]).sum(),
}


def check_sum_of_codes(function, a, b, at=(0, 0)):
    (x, _keep_a), (y, _keep_b) = place(a, at[0]), place(b, at[1])
    assert both(function, x, y, a.size) == (CODE_SUMS[function](a, b),) * 2


@pytest.mark.parametrize("function", CODE_SUMS, ids=lambda f: f.__name__)
@PROFILE
@given(count=blocks, seed=seeds, at=offsets)
def test_sums_over_codes(function, count, seed, at):
    a, b = random_bytes(seed, 64 * count, 128 * count)
    check_sum_of_codes(function, a, b, at)


@pytest.mark.parametrize("function", CODE_SUMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("left", [0, 127, 128, 255])
@pytest.mark.parametrize("right", [0, 127, 128, 255])
def test_sums_over_codes_hold_the_extremes(function, left, right):
    check_sum_of_codes(function, np.full(1536, left, np.uint8), np.full(3072, right, np.uint8))


@pytest.mark.skipif(not JIT, reason="the forms are of the compiled code")
@pytest.mark.parametrize("form", ["partial", "plain"])
@pytest.mark.parametrize("function", list(CODE_SUMS)[:6], ids=lambda f: f.__name__)
def test_the_portable_forms_mean_the_same(form, function, monkeypatch):
    if form == "partial" and not _ir.assembles_to(
        "", codes._calls(codes._PARTIAL, "<16 x i32>", ["<16 x i32>", "<64 x i32>"])
    ):
        pytest.skip("this LLVM has no partial reduction")
    monkeypatch.setattr(codes, "step_form", lambda: (form, 512, codes.BYTES))
    fresh = njit(lambda a, b, n: function(a, b, n))
    for count in (1, 2, 5):
        a, b = random_bytes(count, 64 * count, 128 * count)
        assert fresh(a.ctypes.data, b.ctypes.data, a.size) == CODE_SUMS[function](a, b)


@PROFILE
@given(count=blocks, seed=seeds, at=offsets)
def test_bits_against_planes(count, seed, at):
    code, planes = random_bytes(seed, 64 * count, 256 * count)
    rows = planes.reshape(4, -1)
    expected = sum(int(np.unpackbits(code & rows[j]).sum()) << j for j in range(4))
    (x, _keep_a), (y, _keep_b) = place(code, at[0]), place(planes, at[1])
    assert both(bits.dot_planes, x, y, code.size) == (expected,) * 2
    assert both(bits.popcount, x, code.size) == (np.unpackbits(code).sum(),) * 2


finite = st.floats(width=32, allow_nan=False)


@PROFILE
@given(one=finite, other=finite, slots=st.tuples(*[st.integers(0, 2**31 - 1)] * 2))
def test_keys_sort_by_score_then_by_lower_slot(one, other, slots):
    keys = []
    for score, slot in zip((one, other), slots, strict=True):
        key, same = both(memory.pack_key, np.float32(score), slot)
        assert key == same
        assert both(memory.key_slot, key) == (slot, slot)
        assert both(memory.key_score, key) == (np.float32(score),) * 2
        keys.append(key)
    assert (keys[0] > keys[1]) == ((one, -slots[0]) > (other, -slots[1]))


@PROFILE
@given(size=st.integers(0, 70), seed=seeds)
def test_rank_in_a_pool(size, seed):
    rng = np.random.default_rng(seed)
    keys = rng.integers(-50, 50, size + 1)
    assert both(memory.count_greater, keys.ctypes.data, size, keys[-1]) == ((keys[:-1] > keys[-1]).sum(),) * 2


def test_loads_and_stores_at_odd_addresses():
    for offset in (0, 1, 3):
        address, space = place(np.array([-5, 7], np.int64), offset)
        assert both(memory.load_i64, address + 8) == (7, 7)
        assert both(memory.load_i32, address) == (-5, -5)
        assert both(memory.load_u8, address) == (251, 251)
        for store in (compiled(memory.store_i64, 2), twins.store_i64):
            store(address, 1 << 40)
            assert twins.load_i64(address) == 1 << 40
        for store in (compiled(memory.store_f32, 2), twins.store_f32):
            store(address, np.float32(1.5))
            assert both(memory.load_f32, address) == (1.5, 1.5)
        compiled(memory.copy_bytes, 3)(address + 8, address, 8)
        assert twins.load_i64(address + 8) == twins.load_i64(address)
        compiled(memory.prefetch, 2)(address, 200)
        assert space.size


@pytest.mark.parametrize("function", [tiles.tile_dot, tiles.tile_l2sq], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dim", [1, 3, 16, 100])
def test_a_tile_of_rows_and_queries(function, dim):
    rng = np.random.default_rng(dim)
    rows = rng.standard_normal((8, dim)).astype(np.float32)
    panel = rng.standard_normal((dim, 32)).astype(np.float32)
    expected = rows @ panel
    if function is tiles.tile_l2sq:
        expected = ((rows[:, :, None] - panel) ** 2).sum(axis=1)
    run = njit(lambda a, b, c, d, e: function(a, b, c, d, e))
    for tile in (run, getattr(twins, function.__name__)):
        out = np.zeros((8, 32), np.float32)
        tile(rows.ctypes.data, rows.strides[0], panel.ctypes.data, dim, out.ctypes.data)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_scores_that_reach_their_bounds():
    run = njit(lambda a, b, c: tiles.scale_and_compare(a, b, c))
    for compare in (run, twins.scale_and_compare):
        scores = np.arange(32, dtype=np.float32)
        bounds = np.full(32, 40, np.float32)
        bounds[[3, 31]] = 6, np.nan
        scores[5] = np.nan
        reached = compare(scores.ctypes.data, np.float32(2), bounds.ctypes.data)
        assert reached == (1 << 3) | sum(1 << j for j in range(20, 31))
        assert scores[10] == 20
    for value in (1, 8, 1 << 31, 3 << 20):
        assert both(memory.trailing_zeros, value) == ((value & -value).bit_length() - 1,) * 2


def run_suites(**environment):
    names = ("test_kernels", "test_kernels_scans", "test_list_kernels")
    suites = [__file__.replace("test_kernels", name) for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *suites]
    child = {**os.environ, "VECSTORE_TEST_CHILD": "1", **environment}
    done = subprocess.run(command, env=child, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


nested = pytest.mark.skipif("VECSTORE_TEST_CHILD" in os.environ, reason="runs the suite in a child process")
x86 = pytest.mark.skipif(not _ir.target().is_x86, reason="names x86 CPUs")


@nested
@x86
@pytest.mark.parametrize("cpu", ["generic", "haswell"] if MANY else ["haswell"])
def test_the_suite_on_an_older_cpu(cpu, tmp_path):
    run_suites(NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))


@nested
def test_the_suite_without_compiling():
    run_suites(NUMBA_DISABLE_JIT="1")


@nested
@pytest.mark.skipif("avxvnni" not in _ir.target().features, reason="the CPU has no AVX-VNNI")
def test_the_suite_on_a_laptop_cpu_with_vnni(tmp_path):
    run_suites(NUMBA_CPU_NAME="alderlake", NUMBA_CPU_FEATURES="+avxvnni", NUMBA_CACHE_DIR=str(tmp_path))
