"""Rotation and quantizers: what codes look like, how good estimates are, and how they are kept."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest

from vecstore.errors import CorruptionError, FormatVersionError, InvalidArgumentError
from vecstore.kernels import scans
from vecstore.kernels._jit import JIT
from vecstore.kernels.pools import new_pools, unpack_pools
from vecstore.quantization import KINDS, METRICS, Binary, Int4, Int8, Quantizer, Rotation

DIMS = [1, 2, 3, 64, 65, 100, 128, 192, 320, 384, 960, 1024, *([8192] if JIT else [])]
COUNT = 1500 if JIT else 60


def rotation(dim, seed=3):
    return Rotation(dim, -(-dim // 64) * 64, seed)


def norms_of(rows):
    return np.sqrt(np.einsum("ij,ij->i", rows.astype(np.float64), rows)).astype(np.float32)


def data(dim, count=COUNT, seed=1, offset=0.1):
    """Rows of unequal norms off the origin, and queries."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim)) * rng.uniform(0.5, 2, (count, 1)) + offset
    return rows.astype(np.float32), (rng.standard_normal((20, dim)) + offset).astype(np.float32)


def exact(rows, queries, metric):
    """Exact scores (queries, rows) float64."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return -np.sqrt(((queries[:, None] - rows) ** 2).sum(axis=2))
    scores = queries @ rows.T
    if metric == "cosine":
        scores /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    return scores


def encoded(quantizer, rows, norms=None):
    codes, terms = quantizer.new_codes(len(rows))
    codes[:], terms[:] = 255, np.nan  # slots are used again: every byte must be written
    quantizer.encode(rows, norms_of(rows) if norms is None else norms, codes, terms)
    return codes, terms


@pytest.mark.parametrize("dim", DIMS)
def test_a_rotation_keeps_norms_and_inner_products(dim):
    rng = np.random.default_rng(dim)
    rows = rng.standard_normal((12, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    turned = rotation(dim).apply(rows)
    assert turned.shape == (12, -(-dim // 64) * 64)
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, atol=1e-5)
    np.testing.assert_allclose(rotation(dim).apply_inverse(turned), rows, atol=1e-5)


@pytest.mark.parametrize("dim", [64, 100, 192, 384, 960, 1024])
def test_a_rotation_spreads_single_coordinates(dim):
    turned = rotation(dim).apply(np.eye(dim, dtype=np.float32)) * np.sqrt(-(-dim // 64) * 64)
    assert np.abs(turned).max() < 6.5
    kurtosis = (turned**4).mean(axis=1) / (turned**2).mean(axis=1) ** 2
    assert np.median(kurtosis) == pytest.approx(3, abs=0.5)


def test_a_rotation_is_the_same_everywhere_and_another_for_another_seed():
    row = np.arange(1, 101, dtype=np.float32)[None]
    first = rotation(100, seed=7).apply(row)
    np.testing.assert_array_equal(first, rotation(100, seed=7).apply(row))
    assert np.abs(first - rotation(100, seed=8).apply(row)).max() > 1
    # SplitMix64 of seed 7 gives these signs; they may never change, since collections keep the seed only.
    assert "".join("-+"[int(x > 0)] for x in rotation(100, seed=7).table[0, :16]) == SIGNS_OF_7


SIGNS_OF_7 = "---+-+---+--++++"


def test_a_rotation_has_the_same_bits_on_every_cpu():
    digest = hashlib.sha256()
    for dim in (1, 70, 384, 1536):
        rows = (np.arange(3 * dim) * 37 % 101 - 50).astype("<f4").reshape(3, dim)
        digest.update(rotation(dim, seed=5).apply(rows).astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == DIGEST


DIGEST = "dd5ca9e129b42ed8"


@pytest.mark.parametrize("dim", [0, 8193])
def test_dims_out_of_range(dim):
    with pytest.raises(InvalidArgumentError):
        rotation(dim)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [3, 64, 200, 384])
@pytest.mark.parametrize(("kind", "error"), [("int8", 0.015), ("int4", 0.12), ("binary", 0.9)])
def test_estimates_are_near_the_scores(kind, error, metric, dim):
    rows, queries = data(dim)
    quantizer = KINDS[kind].fit(rows, metric, 5)
    codes, terms = encoded(quantizer, rows)
    asked = quantizer.encode_queries(queries)
    scores = quantizer.scores(asked, quantizer.estimate(asked, codes, terms))
    true = exact(rows, queries, metric)
    assert scores.dtype == np.float32
    # Small dims are filled up to 64, and have more bits than they need: the bars are those of 384 dims.
    spread = true.std() if metric != "l2" else np.linalg.norm(rows - rows.mean(axis=0), axis=1).mean() / dim**0.5
    assert np.sqrt(((scores - true) ** 2).mean()) < error * spread


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_data_far_from_the_origin_lose_nothing(kind, metric):
    rows, queries = data(128)
    quantizer = KINDS[kind].fit(rows + np.float32(40), metric, 5)
    assert quantizer.terms_count >= 2
    codes, terms = encoded(quantizer, rows + np.float32(40))
    asked = quantizer.encode_queries(queries + np.float32(40))
    scores = quantizer.scores(asked, quantizer.estimate(asked, codes, terms))
    true = exact(rows + np.float32(40), queries + np.float32(40), metric)
    near = exact(rows, queries, "l2" if metric == "l2" else "dot").std()
    scale = {"cosine": 128 * 1600, "dot": 1, "l2": 1}[metric]
    error = {"int8": 0.02, "int4": 0.13, "binary": 1.0}[kind]
    assert np.sqrt(((scores - true) ** 2).mean()) * scale < error * near


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["int4", "binary"])
def test_estimates_are_unbiased_over_rotations(kind, metric):
    rows, queries = data(64, count=8)
    queries[:4] += rows[0]  # related ones, where shrinkage would show
    true = exact(rows, queries, metric)
    if metric == "l2":
        true = -(true**2)
    errors = []
    for seed in range(150 if JIT else 5):
        quantizer = KINDS[kind].fit(rows, metric, seed, terms=True)
        codes, terms = encoded(quantizer, rows)
        asked = quantizer.encode_queries(queries)
        errors.append(quantizer.estimate(asked, codes, terms) + asked.offsets[:, None] - true)
    mean, deviation = np.mean(errors, axis=0), np.std(errors, axis=0) / np.sqrt(len(errors))
    assert np.abs(mean / (deviation + 1e-6)).mean() < 1.3  # 0.8 for a Gaussian mean of 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [64, 100, 384])
def test_the_bound_holds_for_95_percent(metric, dim):
    rows, queries = data(dim)
    true = exact(rows, queries, metric)
    if metric == "l2":
        true = -(true**2)
    quantizer = Binary.fit(rows, metric, 9)
    codes, terms = encoded(quantizer, rows)
    asked = quantizer.encode_queries(queries)
    error = np.abs(quantizer.estimate(asked, codes, terms) + asked.offsets[:, None] - true)
    held = (error <= quantizer.bound(asked, terms)).mean()
    assert 0.95 <= held < 0.995
    assert (error <= quantizer.bound(asked, terms, eps=2.5)).mean() > max(held, 0.98)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [40, 192, 384])
@pytest.mark.parametrize("kind", KINDS)
def test_the_scans_rank_by_the_same_estimates(kind, metric, dim):
    rows, queries = data(dim, count=min(COUNT, 300))
    quantizer = KINDS[kind].fit(rows, metric, 2)
    codes, terms = encoded(quantizer, rows)
    asked = quantizer.encode_queries(queries)
    estimates = quantizer.estimate(asked, codes, terms)
    live = np.full((len(rows) + 7) // 8, 255, np.uint8)
    pools = new_pools(len(queries), len(rows))
    getattr(scans, f"scan_{kind}")(codes, terms, live, 0, len(rows), asked.queries, asked.factors, pools)
    scores, slots = np.empty(pools.shape, np.float32), np.empty(pools.shape, np.int32)
    unpack_pools(pools, scores, slots, np.empty(len(queries), np.int64))
    assert (np.sort(slots, axis=1) == np.arange(len(rows))).all()
    # Equal but for the rounding of a fused multiply and add.
    parts = np.abs(asked.factors).max() * 400 if kind == "int8" else np.abs(estimates).max()
    np.testing.assert_allclose(scores, np.take_along_axis(estimates, slots, 1), rtol=1e-5, atol=1e-4 * parts)
    one = quantizer.encode_query(queries[3])
    np.testing.assert_array_equal(one.queries[0], asked.queries[3])
    np.testing.assert_allclose(one.factors[0], asked.factors[3], rtol=1e-6)


@pytest.mark.parametrize("dim", [70, 384, 640])
def test_the_layout_of_codes(dim):
    rows, _ = data(dim, count=64)

    def turned_and_lengths(dims):
        centred = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        turned = Rotation(dim, dims, 4).apply(centred)
        return turned, np.linalg.norm(turned, axis=1)[:, None]

    dims = -(-dim // 64) * 64
    turned, lengths = turned_and_lengths(dims)
    int8 = Int8.fit(rows, "l2", 4)
    codes, terms = encoded(int8, rows)
    assert codes.shape == (64, dims)
    assert codes.ctypes.data % 64 == 0
    levels = np.clip(np.rint(turned / lengths / int8.step) + 128, 0, 255)
    assert np.abs(codes - levels).max() <= 1
    assert (codes == levels).mean() > 0.999

    blocks = -(-dim // 128)
    turned, lengths = turned_and_lengths(128 * blocks)
    int4 = Int4.fit(rows, "l2", 4)
    codes, terms = encoded(int4, rows)
    assert codes.shape == (64, 64 * blocks)
    expected = np.clip(np.rint(turned / lengths / int4.step) + 8, 0, 15).reshape(64, blocks, 2, 64)
    assert ((codes.reshape(64, blocks, 64) & 15) == expected[:, :, 0]).mean() > 0.999
    assert ((codes.reshape(64, blocks, 64) >> 4) == expected[:, :, 1]).mean() > 0.999

    dims = -(-dim // 512) * 512
    turned, lengths = turned_and_lengths(dims)
    binary = Binary.fit(rows, "l2", 4)
    codes, terms = encoded(binary, rows)
    assert codes.shape == (64, dims // 8)
    assert terms.shape == (64, 3)
    bits = np.unpackbits(codes, axis=1, bitorder="little")
    assert (bits == (turned >= 0)).mean() > 0.9999
    np.testing.assert_allclose(terms[:, 1], -(lengths[:, 0] ** 2), rtol=1e-5)
    alike = np.abs(turned).sum(axis=1) / np.sqrt(dims) / lengths[:, 0]
    np.testing.assert_allclose(terms[:, 0], 2 * lengths[:, 0] / alike, rtol=1e-5)
    bound = 2 * lengths[:, 0] * np.sqrt(1 / alike**2 - 1) / np.sqrt(dims - 1)
    np.testing.assert_allclose(terms[:, 2], bound, rtol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("kind", "error"), [("int8", 0.02), ("int4", 0.15)])
def test_decoding(kind, error, metric):
    rows, _ = data(100)
    quantizer = KINDS[kind].fit(rows, metric, 1)
    decoded = quantizer.decode(*encoded(quantizer, rows))
    expected = rows / norms_of(rows)[:, None] if metric == "cosine" else rows
    lost = np.linalg.norm(decoded - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert decoded.dtype == np.float32
    assert lost.mean() < error


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_ranges_of_rows_are_coded_alike(kind, metric):
    rows, _ = data(90, count=101)
    norms = norms_of(rows)
    quantizer = KINDS[kind].fit(rows, metric, 1)
    whole, whole_terms = encoded(quantizer, rows, norms)
    codes, terms = quantizer.new_codes(len(rows))
    parts = [slice(37, 101), slice(0, 37)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda p: quantizer.encode(rows[p], norms[p], codes[p], terms[p]), parts))
    np.testing.assert_array_equal(codes, whole)
    np.testing.assert_array_equal(terms, whole_terms)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_and_back(kind, metric):
    rows, queries = data(90, count=101)
    quantizer = KINDS[kind].fit(rows, metric, 2**63)
    again = Quantizer.from_bytes(quantizer.to_bytes())
    assert type(again) is type(quantizer)
    assert again == quantizer
    for a, b in zip(encoded(quantizer, rows), encoded(again, rows), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(quantizer.encode_query(queries[0]).queries, again.encode_query(queries[0]).queries)


def test_bytes_of_a_newer_format_and_broken_ones():
    fields = msgpack.unpackb(Int8.fit(np.ones((2, 3), np.float32), "dot", 1).to_bytes())
    with pytest.raises(FormatVersionError) as raised:
        Quantizer.from_bytes(msgpack.packb({**fields, "version": 99}))
    assert (raised.value.found, raised.value.supported) == (99, 1)
    broken = [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({}), msgpack.packb({**fields, "kind": "int3"})]
    broken += [msgpack.packb({**fields, "metric": "l1"}), msgpack.packb({**fields, "centre": b"abc"})]
    broken += [msgpack.packb({**fields, "terms": 7}), msgpack.packb({**fields, "step": -1.0})]
    broken += [msgpack.packb({**fields, "unit": 0.0})]
    for data_ in broken:
        with pytest.raises(CorruptionError):
            Quantizer.from_bytes(data_)


def test_arguments_of_fit():
    for sample in (np.zeros((0, 4), np.float32), np.zeros(4, np.float32)):
        with pytest.raises(InvalidArgumentError):
            Int8.fit(sample, "dot", 1)
    with pytest.raises(InvalidArgumentError):
        Int8.fit(np.zeros((1, 4), np.float32), "l1", 1)


def test_shapes_are_checked_before_anything_is_written():
    rows, queries = data(70, count=5)
    quantizer = Int8.fit(rows, "dot", 1)
    codes, terms = quantizer.new_codes(5)
    for args in (
        (rows, norms_of(rows), codes[:4], terms),
        (rows, norms_of(rows), codes, terms[:4]),
        (rows, norms_of(rows), codes, terms[:, :0]),
        (rows, norms_of(rows)[:4], codes, terms),
        (rows[:, :64], norms_of(rows), codes, terms),
    ):
        with pytest.raises(InvalidArgumentError):
            quantizer.encode(*args)
    assert not codes.any()
    with pytest.raises(InvalidArgumentError):
        quantizer.encode_queries(queries[:, :64])


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_too_small_for_float32_counts_as_zero(kind):
    rows, _ = data(64, count=9, offset=0.0)
    quantizer = KINDS[kind].fit(np.concatenate((rows, -rows)), "dot", 1)
    asked = quantizer.encode_query(np.full(64, 1e-42, np.float32))
    estimates = quantizer.estimate(asked, *encoded(quantizer, rows))
    np.testing.assert_allclose(estimates + asked.offsets[:, None], 0, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize(("kind", "least"), [("int8", 0.999), ("int4", 0.99), ("binary", 0.9)])
def test_tiny_and_huge_rows_rank_like_others(kind, least, scale, metric):
    rows, queries = data(96)
    true = exact(rows, queries, metric)
    rows, queries = ((x * scale).astype(np.float32) for x in (rows, queries))
    quantizer = KINDS[kind].fit(rows, metric, 5)
    asked = quantizer.encode_queries(queries)
    raw = quantizer.estimate(asked, *encoded(quantizer, rows))
    assert np.corrcoef(raw[0], -(true[0] ** 2) if metric == "l2" else true[0])[0, 1] > least
    if metric == "l2":
        scores = quantizer.scores(asked, raw)
        assert np.median(np.abs(scores / (true * scale) - 1)) < 0.05


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_queries_far_out_of_the_sample_are_finite(kind, metric):
    rows, queries = data(64, count=50)
    quantizer = KINDS[kind].fit(rows, metric, 5)
    scales = np.array([[1e-30], [1.0], [1e12], [1e30]], np.float32)
    codes, terms = encoded(quantizer, rows[:4] * scales)
    asked = quantizer.encode_queries(queries[:4] * scales)
    raw = quantizer.estimate(asked, codes, terms)
    for array in (terms, asked.factors, asked.offsets, raw, quantizer.scores(asked, raw)):
        assert np.isfinite(array).all()
    if metric == "l2":  # to an ordinary query, the farther the row the worse
        assert (np.diff(raw[1, 1:]) < 0).all()


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_outlier_in_the_sample_does_not_spoil_the_others(kind, metric):
    rows, queries = data(96, offset=0.3)
    unspoilt = KINDS[kind].fit(rows, metric, 5)
    sample = rows.copy()
    sample[7] *= 1e5
    quantizer = KINDS[kind].fit(sample, metric, 5)

    def error(one):
        asked = one.encode_queries(queries)
        scores = one.scores(asked, one.estimate(asked, *encoded(one, rows)))
        return np.sqrt(((scores - exact(rows, queries, metric)) ** 2).mean())

    assert error(quantizer) < 1.1 * error(unspoilt)


def test_seeds_are_taken_modulo_2_to_the_64():
    rows, _ = data(5, count=9)
    assert Int8.fit(rows, "dot", 2**64 + 5) == Int8.fit(rows, "dot", 5)
    assert Int8.fit(rows, "dot", -1).seed == 2**64 - 1


def test_cosine_takes_terms_where_they_help():
    rows, _ = data(100, offset=0.0)
    for cls in (Int8, Int4):
        assert cls.fit(rows, "cosine", 1).terms_count == 0
        assert cls.fit(rows, "cosine", 1, terms=True).terms_count == 2
        assert cls.fit(rows + np.float32(2), "cosine", 1).terms_count == 2
        assert cls.fit(rows, "l2", 1, terms=False).terms_count == 2


def test_codes_without_terms_compare_with_each_other():
    rows, _ = data(200, count=50)
    unit = rows / norms_of(rows)[:, None]
    quantizer = Int4.fit(rows, "cosine", 1, terms=False)
    assert quantizer.terms_count == 0
    assert not quantizer.encode_queries(rows).offsets.any()
    levels = quantizer.levels(encoded(quantizer, rows)[0])
    squares = ((levels[:, None] - levels) ** 2).sum(axis=2) * quantizer.step**2
    true = ((unit[:, None] - unit) ** 2).sum(axis=2)
    assert np.corrcoef(squares.ravel(), true.ravel())[0, 1] > 0.99
