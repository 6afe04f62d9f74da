# ruff: noqa: PLW0108 (an instruction becomes callable only inside a function)
"""k-means against the obvious way to do it: kernels, training and assigning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from vecstore.index import kmeans
from vecstore.kernels import kmeans as kernels
from vecstore.kernels import tiles, twins
from vecstore.kernels._jit import JIT

PROFILE = settings(max_examples=40 if JIT else 10, deadline=None, derandomize=True)
METRICS = ["cosine", "dot", "l2"]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_rows(seed, n, dim, metric):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return unit(rows) if metric == "cosine" else rows


def clusters(seed, n, k, dim, noise):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((k, dim))
    return (centres[rng.integers(0, k, n)] + noise * rng.standard_normal((n, dim))).astype(np.float32)


def closeness(rows, centroids, metric):
    """What the nearest centroid has most of, in float64 `(n, k)`."""
    rows, centroids = rows.astype(np.float64), centroids.astype(np.float64)
    if metric == "cosine":
        return rows @ centroids.T
    return -np.linalg.norm(rows[:, None] - centroids[None], axis=2)


def lloyd(rows, k, metric, seed, iterations):
    """The textbook: random rows to begin with, every row against every centroid, means."""
    rng = np.random.default_rng(seed)
    centroids = rows[rng.choice(len(rows), k, replace=False)].astype(np.float64)
    for _ in range(iterations):
        labels = closeness(rows, centroids, metric).argmax(axis=1)
        for label in np.unique(labels):
            centroids[label] = rows[labels == label].mean(axis=0)
        if metric == "cosine":
            centroids = unit(centroids)
    return centroids


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("dim", [1, 3, 16, 100])
def test_a_tile_keeps_the_best_of_each_lane(places, dim):
    rng = np.random.default_rng(dim)
    name = "tile_nearest" if places == 1 else "tile_nearest_two"
    function = getattr(tiles, name)
    run = njit(lambda a, b, c, d, e, f: function(a, b, c, d, e, f))
    rows = rng.integers(-4, 5, (12, dim)).astype(np.float32)
    panels = rng.integers(-4, 5, (3, dim, 16)).astype(np.float32)
    biases = rng.integers(-4, 5, (3, 16)).astype(np.float32)
    results = []
    for tile in (run, getattr(twins, name)):
        kept = np.full((12, places, 2, 16), -np.inf, np.float32)
        for number in range(3):
            args = (rows.ctypes.data, panels[number].ctypes.data, dim, biases[number].ctypes.data)
            tile(*args, number, kept.ctypes.data)
        results.append((kept[:, :, 0], kept[:, :, 1].view(np.int32)))
    scores = np.stack([rows @ panels[number] + biases[number] for number in range(3)])
    order = np.argsort(-scores, axis=0, kind="stable")[:places]
    for kept_scores, numbers in results:
        assert np.array_equal(kept_scores.transpose(1, 0, 2), np.take_along_axis(scores, order, 0))
        assert np.array_equal(numbers.transpose(1, 0, 2), order)


@pytest.mark.parametrize("metric", METRICS)
@PROFILE
@given(
    n=st.integers(1, 150), k=st.integers(1, 70), dim=st.sampled_from([1, 5, 16, 33, 200]), seed=st.integers(0, 10**6)
)
def test_rows_are_assigned_to_the_nearest_centroids(metric, n, k, dim, seed):
    rows, centroids = random_rows(seed, n, dim, metric), random_rows(seed + 1, k, dim, metric)
    true = closeness(rows, centroids, metric)
    labels, scores = kmeans.assign(rows, centroids, metric)
    two, two_scores = kmeans.assign_two(rows, centroids, metric, threads=1)
    best = np.sort(true, axis=1)[:, ::-1]
    everyone = np.arange(n)
    assert labels.dtype == np.int32
    assert scores.dtype == np.float32
    assert np.allclose(true[everyone, labels], best[:, 0], atol=1e-4)
    assert np.array_equal(two[:, 0], labels)
    if k > 1:
        assert np.allclose(true[everyone, two[:, 1]], best[:, 1], atol=1e-4)
        assert (two[:, 0] != two[:, 1]).all()
    else:
        assert (two[:, 1] == -1).all()
    products = np.einsum("ij,ij->i", rows.astype(np.float64), centroids[labels])
    assert np.allclose(scores, products if metric != "l2" else best[:, 0], atol=1e-4)
    assert np.array_equal(two_scores[:, 0], scores)


def test_of_equal_centroids_the_first_is_taken():
    centroids = np.tile(unit(np.ones((1, 7), np.float32)), (40, 1))
    assert kmeans.assign(-centroids[:3], centroids, "cosine")[0].tolist() == [0, 0, 0]
    two, _ = kmeans.assign_two(centroids[:5], centroids, "cosine")
    assert two.tolist() == [[0, 1]] * 5


def test_distances_far_from_the_origin_tell_near_centroids_apart():
    rows = random_rows(0, 50, 8, "l2") + np.float32(10_000)
    labels, scores = kmeans.assign(rows, rows[::-1].copy(), "l2")
    assert labels.tolist() == list(range(49, -1, -1))
    assert not scores.any()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_in_groups_are_held_against_their_own_candidates(metric):
    """Groups may be cut anywhere; a row's result is the same."""
    rows, centroids = random_rows(0, 300, 20, metric), random_rows(1, 90, 20, metric)
    rng = np.random.default_rng(2)
    order = rng.permutation(300).astype(np.int32)
    bounds = np.array([0, 17, 17, 200, 300], np.int64)
    candidates = np.full((4, 40), -1, np.int32)
    for group, count in enumerate([1, 5, 40, 33]):
        candidates[group, :count] = np.sort(rng.choice(90, count, replace=False))
    true = closeness(rows, centroids, metric)
    results = []
    for threads in (1, 2, 3):
        labels, scores = np.empty((300, 2), np.int32), np.empty((300, 2), np.float32)
        groups = kmeans.Candidates(order, bounds, candidates)
        kmeans._hold(rows, groups, centroids, metric, threads, labels, scores)
        results.append((labels, scores))
    for labels, scores in results:
        assert np.array_equal(labels, results[0][0])
        assert np.array_equal(scores, results[0][1])
    for group in range(4):
        some = candidates[group][candidates[group] >= 0]
        for row in order[bounds[group] : bounds[group + 1]]:
            wanted = some[np.argsort(-true[row, some])][:2]
            assert labels[row].tolist() == ([*wanted, -1] if len(some) == 1 else [*wanted])


def test_rows_are_sorted_by_label():
    labels = np.array([3, 0, -1, 3, 1, 0, 3], np.int32)
    order, bounds = kmeans._sorted(labels, 5)
    assert bounds.tolist() == [0, 2, 3, 3, 6, 6]
    assert order[:6].tolist() == [1, 5, 4, 0, 3, 6]


def test_means_keep_what_has_no_rows():
    rows = np.array([[1, 0], [0, 1], [2, 0], [-2, 0]], np.float32)
    order, bounds = np.arange(4, dtype=np.int32), np.array([0, 2, 2, 4], np.int64)
    for metric, first, last in ((0, [0.5**0.5] * 2, [7, 7]), (2, [0.5, 0.5], [0, 0])):
        centroids = np.full((3, 2), 7, np.float32)
        kernels.means_of_groups(rows, order, bounds, metric, 0, 3, np.empty(2), centroids)
        assert np.allclose(centroids, [first, [7, 7], last])


@pytest.mark.parametrize("metric", METRICS)
def test_training_comes_as_near_as_lloyds_method(metric):
    rows = clusters(0, 3_000, 50, 12, 0.4)
    if metric == "cosine":
        rows = unit(rows)
    ours = [closeness(rows, kmeans.train(rows, 40, metric, seed), metric).max(axis=1).mean() for seed in range(3)]
    theirs = [closeness(rows, lloyd(rows, 40, metric, seed, 10), metric).max(axis=1).mean() for seed in range(3)]
    assert np.mean(ours) >= np.mean(theirs) - 0.02 * abs(np.mean(theirs))


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(metric):
    rows = random_rows(0, 2_000, 24, metric)
    first = kmeans.train(rows, 60, metric, 5, threads=1)
    for threads in (2, 3):
        assert np.array_equal(first, kmeans.train(rows, 60, metric, 5, threads=threads))
    assert not np.array_equal(first, kmeans.train(rows, 60, metric, 6))
    if metric == "cosine":
        assert np.allclose(np.linalg.norm(first, axis=1), 1)
    assert np.array_equal(kmeans.assign(rows, first, metric, threads=1), kmeans.assign(rows, first, metric, threads=3))


def test_a_large_sample_is_sampled(monkeypatch):
    monkeypatch.setattr(kmeans, "MAX_SAMPLES", 10)
    rows = random_rows(0, 500, 4, "l2")
    seen = []
    kept = kmeans._hold
    monkeypatch.setattr(kmeans, "_hold", lambda rows, *rest: (seen.append(len(rows)), kept(rows, *rest)))
    assert kmeans.train(rows, 20, "l2", 0).shape == (20, 4)
    assert set(seen) == {200}


def test_no_cluster_stays_empty_while_another_has_rows_to_share():
    rows = clusters(1, 600, 3, 6, 0.05)
    centroids = kmeans.train(rows, 60, "l2", 0)
    labels, _ = kmeans.assign(rows, centroids, "l2")
    assert (np.bincount(labels, minlength=60) > 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1, 5, 30])
def test_equal_rows_and_fewer_rows_than_centroids(metric, n):
    rows = np.tile(unit(np.ones((1, 3), np.float32)), (n, 1))
    centroids = kmeans.train(rows, 8, metric, 0)
    assert np.isfinite(centroids).all()
    assert np.allclose(closeness(rows, centroids, metric).max(axis=1), 1 if metric == "cosine" else 0, atol=1e-6)


def test_rows_that_cancel_out_have_a_centroid():
    rows = np.array([[1, 0], [-1, 0]] * 10, np.float32)
    assert np.allclose(np.linalg.norm(kmeans.train(rows, 1, "cosine", 0), axis=1), 1)


def test_progress_counts_iterations():
    seen = []
    kmeans.train(random_rows(0, 100, 4, "l2"), 3, "l2", 0, iterations=4, progress=lambda *at: seen.append(at))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
