# ruff: noqa: PLW0108 (an instruction becomes callable only inside a function)
"""Kernels of lists against NumPy: tables, blocks, keys, and what codes relative to a centroid say of a score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from vecstore.kernels import keys as sorting
from vecstore.kernels import tables, twins
from vecstore.kernels._jit import JIT
from vecstore.kernels.listing import place_rows, take_rows
from vecstore.quantization import ListBinary

PROFILE = settings(max_examples=60 if JIT else 10, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
sums_of = njit(lambda block, table, size, out: tables.table_sums(block, table, size, out))
estimates_of = njit(lambda a, b, c, d, e, f, g, h: tables.block_estimates(a, b, c, d, e, f, g, h))
kept = njit(lambda keys, count, wanted: sorting.keep_best(keys, count, wanted))
ordered = njit(lambda keys, count: sorting.sort_keys(keys, count))


def expected_sums(block, table):
    codes, entries = block.reshape(-1, 16), table.reshape(-1, 16)
    sums = np.zeros(32, np.int64)
    for group in range(len(codes)):
        for row in range(16):
            sums[row] += entries[group, codes[group, row] & 15]
            sums[row + 16] += entries[group, codes[group, row] >> 4]
    return sums.tolist()


@pytest.mark.parametrize("dims", [64, 128, 192, 1088])
@pytest.mark.parametrize("fill", [None, 0, 63])
def test_sums_by_table(dims, fill):
    rng = np.random.default_rng(dims)
    block = rng.integers(0, 256, 4 * dims).astype(np.uint8)
    table = (rng.integers(0, tables.MOST_ENTRY + 1, 4 * dims) if fill is None else np.full(4 * dims, fill)).astype(
        np.uint8
    )
    for function in (sums_of, twins.table_sums):
        out = np.full(33, 7, np.uint16)
        function(block.ctypes.data, table.ctypes.data, block.size, out.ctypes.data)
        assert out.tolist() == [*expected_sums(block, table), 7]


def test_the_largest_sums_fit_into_16_bits():
    dims = 8192
    most = min(tables.MOST_ENTRY, 65535 // (dims // 4))
    block, table = np.full(4 * dims, 255, np.uint8), np.full(4 * dims, most, np.uint8)
    for function in (sums_of, twins.table_sums):
        out = np.zeros(32, np.uint16)
        function(block.ctypes.data, table.ctypes.data, block.size, out.ctypes.data)
        assert out.tolist() == [most * dims // 4] * 32


@PROFILE
@given(seed=seeds, bound=st.sampled_from([-np.inf, 0, 1, np.inf]), reach=st.sampled_from([0, 2]))
def test_estimates_of_a_block(seed, bound, reach):
    rng = np.random.default_rng(seed)
    sums, terms = rng.integers(0, 65536, 32).astype(np.uint16), rng.standard_normal((3, 32)).astype(np.float32)
    scale, shift, base = rng.standard_normal(3).astype(np.float32) / [65536, 1, 1]
    for function in (estimates_of, twins.block_estimates):
        out = np.zeros(32, np.float32)
        reached = function(
            sums.ctypes.data, terms.ctypes.data, np.float32(scale), np.float32(shift), np.float32(base),
            np.float32(reach), np.float32(bound), out.ctypes.data,
        )  # fmt: skip
        exact = (sums * np.float64(scale) + shift) * terms[0] + terms[1] + base
        np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-5)
        for row, most in enumerate((exact + reach * terms[2].astype(np.float64)).tolist()):
            assert (reached >> row) & 1 == (most >= bound) or abs(most - bound) < 1e-4
        assert 0 <= reached < 1 << 32


@PROFILE
@given(
    keys=st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=80),
        st.lists(st.integers(-2, 2), min_size=1, max_size=80),
    ),
    data=st.data(),
)
def test_the_best_keys_and_their_order(keys, data):
    array = np.array(keys, np.int64)
    wanted = data.draw(st.integers(1, len(keys)))
    kept(array, len(keys), wanted)
    assert sorted(array.tolist()) == sorted(keys)
    assert sorted(array[:wanted].tolist(), reverse=True) == sorted(keys, reverse=True)[:wanted]
    ordered(array, wanted)
    assert array[:wanted].tolist() == sorted(keys, reverse=True)[:wanted]
    assert sorted(array.tolist()) == sorted(keys)


@pytest.mark.parametrize("n", [1000, 4000])
@pytest.mark.parametrize("shape", ["rising", "falling", "equal", "organ", "saw"])
def test_many_keys_in_an_unlucky_order(n, shape):
    n = n if JIT else 100
    rising = np.arange(n, dtype=np.int64)
    array = {
        "rising": rising, "falling": -rising, "equal": 0 * rising, "organ": np.minimum(rising, n - rising),
        "saw": rising % 7,
    }[shape].copy()  # fmt: skip
    expected = np.sort(array)[::-1]
    kept(array, n, n // 3)
    ordered(array, n // 3)
    assert (array[: n // 3] == expected[: n // 3]).all()


@PROFILE
@given(dims=st.sampled_from([64, 128, 320]), n=st.integers(1, 90), seed=seeds)
def test_rows_come_out_of_blocks_as_they_went_in(dims, n, seed):
    rng = np.random.default_rng(seed)
    codes, terms = (
        rng.integers(0, 256, (n, dims // 8)).astype(np.uint8),
        rng.standard_normal((n, 3)).astype(np.float32),
    )
    places = rng.permutation(4 * 32)[:n].astype(np.int64)
    block_codes = rng.integers(0, 256, (4, 4 * dims)).astype(np.uint8)
    block_terms = rng.standard_normal((4, 3, 32)).astype(np.float32)
    rest = np.setdiff1d(np.arange(4 * 32), places)
    others = np.empty((len(rest), dims // 8), np.uint8), np.empty((len(rest), 3), np.float32)
    take_rows(rest, block_codes, block_terms, *others)
    place_rows(codes, terms, places, block_codes, block_terms)
    found = np.empty_like(codes), np.empty_like(terms)
    take_rows(places, block_codes, block_terms, *found)
    assert np.array_equal(found[0], codes)
    assert np.array_equal(found[1], terms)
    same = np.empty_like(others[0]), np.empty_like(others[1])
    take_rows(rest, block_codes, block_terms, *same)
    assert np.array_equal(same[0], others[0]), "rows beside them stay"
    assert np.array_equal(same[1], others[1])


def test_the_layout_of_a_block():
    """As tables look it up: of each group the bits of row r in the lower half of byte r, of row r + 16 in the upper."""
    code = np.arange(8, dtype=np.uint8)[None] * 31 + 5
    for row in (0, 5, 16, 31):
        block, terms = np.zeros((1, 256), np.uint8), np.zeros((1, 3, 32), np.float32)
        place_rows(code, np.ones((1, 3), np.float32), np.array([row]), block, terms)
        groups = np.stack([code[0] & 15, code[0] >> 4], axis=1).ravel()
        expected = np.zeros((16, 16), np.uint8)
        expected[:, row % 16] = groups << (4 * (row // 16))
        assert np.array_equal(block.reshape(16, 16), expected)
        assert terms[0, :, row].tolist() == [1, 1, 1]
        assert terms.sum() == 3


@pytest.mark.skipif(not JIT, reason="takes long without compiling")
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("dim", [96, 130])
def test_codes_of_lists_are_unbiased_and_within_their_deviations(metric, dim):
    rng = np.random.default_rng(dim)
    centroids = rng.standard_normal((3, dim)).astype(np.float32) + 1
    labels = rng.integers(0, 3, 300).astype(np.int32)
    rows = centroids[labels] + rng.standard_normal((300, dim)).astype(np.float32) / 2
    query = centroids[0] + rng.standard_normal(dim).astype(np.float32)
    if metric == "cosine":
        centroids /= np.linalg.norm(centroids, axis=1)[:, None]
        query /= np.linalg.norm(query)
    norms = np.linalg.norm(rows, axis=1)
    used = rows / norms[:, None] if metric == "cosine" else rows
    exact = -((used - query) ** 2).sum(axis=1) if metric == "l2" else used @ query
    off = []
    for seed in range(30):
        coder = ListBinary.fit(rows, metric, seed)
        offsets, extra = coder.offsets(centroids)
        codes, terms = coder.encode_listed(rows, norms.astype(np.float32), labels, offsets)
        centre = coder.centre.astype(np.float64)
        turned = coder.rotation.apply((query - coder.centre)[None].astype(np.float32))[0].astype(np.float64)
        signs = 2.0 * np.unpackbits(codes, axis=1, bitorder="little")[:, : coder.dims] - 1
        raw = terms[:, 0] * (signs @ turned) / np.sqrt(coder.dims) + terms[:, 1]
        base = (
            -((query - centroids) ** 2).sum(axis=1)
            if metric == "l2"
            else offsets.astype(np.float64) @ turned + extra[:, 0] + centre @ query
        )
        if metric != "l2":
            np.testing.assert_allclose(base, centroids @ query, rtol=1e-3, atol=1e-3)
        errors = raw + base[labels] - exact
        deviations = terms[:, 2] * np.linalg.norm(query - centroids, axis=1)[labels]
        off.append(errors / deviations)
    off = np.array(off)
    assert np.abs(off.mean(axis=0)).mean() < 0.3, "over rotations the errors of a row are about 0"
    assert abs(off.mean()) < 0.05
    assert 0.8 < np.sqrt((off**2).mean()) < 1.2
    assert (np.abs(off) < 1.96).mean() > 0.93
