"""Scans, rescoring and pools against NumPy on small inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore.kernels import rows, scans
from vecstore.kernels._jit import JIT
from vecstore.kernels.pools import EMPTY, merge_pools, new_pools, unpack_pools

PROFILE = settings(max_examples=60 if JIT else 10, deadline=None, derandomize=True)
METRICS = {"cosine": rows.COSINE, "dot": rows.DOT, "l2": rows.L2}
EVERYTHING = np.float32(-np.inf)


class Rows:
    """Rows in blocks as storage lays them out: 48 bytes of header, rows, norms; some may be missing."""

    def __init__(self, vectors, shift=3, live=None, missing=()):
        self.vectors, self.shift = vectors, shift
        self.count, self.dim = vectors.shape
        size = 1 << shift
        self.live_slots = np.ones(self.count, bool) if live is None else live.copy()
        self.owners, addresses = [], []
        for first in range(0, self.count, size):
            if first // size in missing:
                addresses.append(0)
                self.live_slots[first : first + size] = False
                continue
            block = np.full((size, self.dim), np.nan, np.float32)
            part = vectors[first : first + size]
            block[: len(part)] = part
            norms = np.linalg.norm(block, axis=1).astype(np.float32)
            value = np.concatenate((np.zeros(12, np.float32), block.ravel(), norms))
            self.owners.append(value)
            addresses.append(value.ctypes.data + 48)
        self.blocks = np.array(addresses, np.int64)
        bits = np.ones(self.count, bool) if live is None else live
        self.live = np.packbits(bits, bitorder="little")
        self.live.flags.writeable = False
        self.args = (self.blocks, shift, self.dim)

    def best(self, query, metric, k, threshold=-np.inf, start=0, stop=None):
        """The true best k: (slots, scores), ties by lower slot."""
        wide, q = np.float64(self.vectors), np.float64(query)
        if metric == rows.L2:
            scores = -np.sqrt(((wide - q) ** 2).sum(axis=1))
        else:
            scores = wide @ q
            if metric == rows.COSINE:
                scores /= np.maximum(np.linalg.norm(wide, axis=1) * np.linalg.norm(q), 1e-30)
        scores = scores.astype(np.float32)
        allowed = self.live_slots & (scores >= threshold)
        allowed[:start] = False
        allowed[self.count if stop is None else stop :] = False
        order = np.lexsort((np.arange(self.count), -scores))
        order = order[allowed[order]][:k]
        return order, scores[order]


def unpacked(pools):
    scores = np.empty(pools.shape, np.float32)
    slots = np.empty(pools.shape, np.int32)
    counts = np.empty(len(pools), np.int64)
    unpack_pools(pools, scores, slots, counts)
    return scores, slots, counts


def scan(data, queries, metric, k, threshold=EVERYTHING, start=0, stop=None):
    """Pools of `scan_rows` and `scan_rows_batch`."""
    stop = data.count if stop is None else stop
    single, batch = new_pools(len(queries), k), new_pools(len(queries), k)
    for query, pool in zip(queries, single, strict=True):
        rows.scan_rows(*data.args, metric, data.live, start, stop, query, threshold, pool)
    panels = rows.query_panels(queries, metric)
    scratch = np.empty(32 * (8 + len(panels)), np.float32)
    thresholds = np.full(len(queries), threshold, np.float32)
    scored = rows.scan_rows_batch(*data.args, metric, data.live, start, stop, panels, thresholds, batch, scratch)
    assert scored == data.live_slots[start:stop].sum()
    return single, batch


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@PROFILE
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([1, 2, 5, 16, 30, 67]),
    count=st.integers(1, 70),
    queries=st.sampled_from([1, 2, 33]),
    k=st.sampled_from([1, 3, 9, 100]),
    shift=st.integers(3, 5),
    data=st.data(),
)
def test_exact_scans(metric, seed, dim, count, queries, k, shift, data):
    # Small integers: sums are exact in float32 in any order, and there are many ties.
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, (count, dim)).astype(np.float32)
    if metric == rows.COSINE:
        vectors = np.sign(vectors) + (vectors == 0)
    live = rng.random(count) < data.draw(st.sampled_from([0.2, 0.9, 1.0]))
    missing = {data.draw(st.integers(0, count // 8))} if data.draw(st.booleans()) else set()
    held = Rows(vectors, shift, live, missing)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    asked = rng.integers(-3, 4, (queries, dim)).astype(np.float32)
    threshold = data.draw(st.sampled_from([-np.inf, -2.0, 0.25]))
    for pools in scan(held, asked, metric, k, threshold, start, stop):
        scores, slots, counts = unpacked(pools)
        for j, query in enumerate(asked):
            expected, true_scores = held.best(query, metric, k, threshold, start, stop)
            n = counts[j]
            assert n == len(expected)
            np.testing.assert_allclose(scores[j, :n], true_scores, rtol=1e-5, atol=1e-6)
            if metric != rows.COSINE:  # of ties that rounding can break, only the scores are determined
                assert list(slots[j, :n]) == list(expected)
            assert (slots[j, n:] == -1).all() and (scores[j, n:] == -np.inf).all()


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_the_batch_and_the_single_scan_find_the_same(metric):
    rng = np.random.default_rng(5)
    held = Rows(rng.standard_normal((200, 100)).astype(np.float32), shift=6)
    queries = rng.standard_normal((40, 100)).astype(np.float32)
    single, batch = scan(held, queries, metric, 12)
    (scores, slots, _), (batch_scores, batch_slots, _) = unpacked(single), unpacked(batch)
    np.testing.assert_array_equal(slots, batch_slots)
    np.testing.assert_allclose(scores, batch_scores, rtol=1e-4, atol=1e-6)


def test_equal_rows_rank_by_slot_in_any_order_of_arrival():
    held = Rows(np.ones((50, 4), np.float32))
    query = np.ones((1, 4), np.float32)
    pools = new_pools(1, 5)
    for start, stop in ((30, 50), (0, 30)):
        rows.scan_rows(*held.args, rows.DOT, held.live, start, stop, query[0], EVERYTHING, pools[0])
    assert list(unpacked(pools)[1][0]) == [0, 1, 2, 3, 4]
    parts = [scan(held, query, rows.DOT, 5, start=a, stop=b) for a, b in ((0, 20), (20, 37), (37, 50))]
    for which in (0, 1):
        merged = parts[2][which]
        merge_pools(merged, parts[0][which])
        merge_pools(merged, parts[1][which])
        assert list(unpacked(merged)[1][0]) == [0, 1, 2, 3, 4]


def test_near_duplicates_far_from_the_origin_are_told_apart():
    vectors = np.full((9, 64), 1000, np.float32)
    vectors[:, 0] += np.arange(9, dtype=np.float32) / 8
    held = Rows(vectors)
    for pools in scan(held, vectors[4:5], rows.L2, 9):
        scores, slots, _ = unpacked(pools)
        assert list(slots[0][:3]) == [4, 3, 5]
        np.testing.assert_array_equal(np.sort(scores[0]), np.sort(-abs(np.arange(9) - 4) / np.float32(8)))


def test_a_row_that_is_not_a_number_is_never_a_hit():
    vectors = np.ones((16, 8), np.float32)
    vectors[3, 5] = np.nan
    held = Rows(vectors)
    for metric in METRICS.values():
        for pools in scan(held, np.ones((1, 8), np.float32), metric, 16):
            _, slots, counts = unpacked(pools)
            assert counts[0] == 15
            assert 3 not in slots[0]


def test_a_row_of_zeros_scores_zero_under_cosine():
    vectors = np.ones((8, 4), np.float32)
    vectors[2] = 0
    for pools in scan(Rows(vectors), np.ones((1, 4), np.float32), rows.COSINE, 8):
        scores, slots, _ = unpacked(pools)
        assert slots[0, -1] == 2
        assert scores[0, -1] == 0


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_rescoring_sorts_candidates_by_exact_score(metric):
    rng = np.random.default_rng(8)
    held = Rows(rng.standard_normal((90, 20)).astype(np.float32), shift=4, missing={2})
    query = rng.standard_normal(20).astype(np.float32)
    candidates = rng.permutation(90).astype(np.int32)
    candidates[:3] = -1
    pools = new_pools(1, 10)
    rows.rescore_rows(*held.args, metric, query, candidates, EVERYTHING, pools[0])
    held.live_slots &= np.isin(np.arange(90), candidates)
    expected, true_scores = held.best(query, metric, 10)
    scores, slots, counts = unpacked(pools)
    assert list(slots[0]) == list(expected)
    assert counts[0] == 10
    np.testing.assert_allclose(scores[0], true_scores, rtol=1e-5)


def test_gathering_rows():
    rng = np.random.default_rng(9)
    held = Rows(rng.standard_normal((40, 7)).astype(np.float32), missing={1})
    slots = np.array([39, -1, 0, 9, 16], np.int32)
    out, norms = np.full((5, 7), 5, np.float32), np.full(5, 5, np.float32)
    assert rows.gather_rows(*held.args, slots, out, norms) == 3
    for row, norm, slot in zip(out, norms, slots, strict=True):
        expected = held.vectors[slot] if slot in (39, 0, 16) else np.zeros(7)
        np.testing.assert_array_equal(row, expected)
        np.testing.assert_allclose(norm, np.linalg.norm(expected), rtol=1e-6)


def integer_sums(kind, codes, query):
    if kind == "int8":
        return codes.astype(np.int64) @ query
    if kind == "int4":
        parts = codes.reshape(len(codes), -1, 1, 64)
        values = np.concatenate((parts & 15, parts >> 4), axis=2).reshape(len(codes), -1)
        return values.astype(np.int64) @ query
    planes = query.view(np.uint8).reshape(4, -1)
    return sum(np.bitwise_count(codes & planes[j]).sum(axis=1, dtype=np.int64) << j for j in range(4))


@pytest.mark.parametrize("kind", ["int8", "int4", "binary"])
@pytest.mark.parametrize("term_count", [0, 2, 3])
@pytest.mark.parametrize("queries", [1, 5])
def test_scans_of_codes(kind, term_count, queries):
    rng = np.random.default_rng(11)
    count, size, start, stop = 150, 128, 3, 141
    codes = rng.integers(0, 256, (count, size)).astype(np.uint8)
    terms = rng.standard_normal((count, term_count)).astype(np.float32)
    live = rng.random(count) < 0.8
    factors = rng.standard_normal((queries, 3 if kind == "binary" else 2)).astype(np.float32)
    if kind == "binary":
        asked = rng.integers(0, 1 << 63, (queries, 4, size // 8)).astype(np.uint64)
    else:
        asked = rng.integers(-127, 128, (queries, size if kind == "int8" else 2 * size)).astype(np.int8)
    pools = new_pools(queries, 20)
    run = getattr(scans, f"scan_{kind}")
    bits = np.packbits(live, bitorder="little")
    assert run(codes, terms, bits, start, stop, asked, factors, pools) == queries * live[start:stop].sum()
    scores, slots, counts = unpacked(pools)
    for j in range(queries):
        estimates = factors[j, 0] * integer_sums(kind, codes, asked[j]) + factors[j, 1]
        if kind == "binary":
            estimates = estimates + factors[j, 2] * np.bitwise_count(codes).sum(axis=1)
        if term_count:
            estimates = estimates * terms[:, 0] + terms[:, 1]
        inside = live & (np.arange(count) >= start) & (np.arange(count) < stop)
        order = np.argsort(-np.where(inside, estimates, -np.inf), kind="stable")[:20]
        assert counts[j] == 20
        np.testing.assert_allclose(scores[j], estimates[order], rtol=1e-4, atol=1e-2)
        assert set(slots[j][:15]) <= set(order)


@PROFILE
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 40), other=st.integers(1, 40))
def test_merged_pools_hold_the_best_of_both(seed, k, other):
    rng = np.random.default_rng(seed)
    keys = rng.permutation(200)
    left, right = new_pools(1, k), new_pools(1, other)
    for pool, part in ((left, keys[: min(k, 30)]), (right, keys[100 : 100 + min(other, 35)])):
        pool[0, : len(part)] = np.sort(part)[::-1]
    expected = np.sort(np.concatenate((left[0], right[0])))[::-1][:k]
    merge_pools(left, right)
    np.testing.assert_array_equal(left[0], expected)
    assert np.iinfo(np.int64).min == EMPTY
