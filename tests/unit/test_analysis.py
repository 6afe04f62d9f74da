"""Clusters, near duplicates and outliers against brute force, and while rows change under them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vecstore
from vecstore import analysis
from vecstore.testing.model import ModelDatabase

METRICS = ["cosine", "dot", "l2"]
numbers = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with vecstore.open(tmp_path_factory.mktemp("analysis") / "db") as opened:
        yield opened


@pytest.fixture
def small_parts(monkeypatch):
    """Rows are read in many parts."""
    monkeypatch.setattr(analysis, "BATCH", 7)
    monkeypatch.setattr(analysis, "PART_FLOATS", 64)


def both(db, dim, metric, vectors, payloads=None):
    """The rows in a collection and in a model."""
    made = [one.create_collection(f"c{next(numbers)}", dim, metric) for one in (db, ModelDatabase())]
    for rows in made:
        rows.insert(list(range(len(vectors))), vectors, payloads)
    return made


def blobs(n, k, dim, seed=0):
    """Rows in k clear clusters around unit vectors, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    return 4 * np.eye(k, dim)[labels] + 0.05 * rng.standard_normal((n, dim)), labels


def gap_near(scores, wanted):
    """A threshold in the widest gap between scores that are near to the wanted one."""
    steps = np.unique(np.round(np.append(scores, [scores.min() - 1, scores.max()]), 5))
    nearest = np.argsort(np.abs(steps - wanted))[:6]
    widest = max((int(i) for i in nearest if i > 0), key=lambda i: steps[i] - steps[i - 1])
    return float((steps[widest] + steps[widest - 1]) / 2)


lattices = st.integers(0, 10**6).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(1, 40), st.integers(1, 4), st.sampled_from([1, 2, 5]))
)


def lattice(seed, n, dim, size):
    """Points with whole coordinates, none of them 0: many are equal."""
    points = np.random.default_rng(seed).integers(-size, size + 1, (n, dim))
    points[~points.any(axis=1)] = 1
    return points.astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(shape=lattices, wanted=st.floats(-3, 3), exact=st.booleans(), odd=st.booleans())
def test_near_duplicates_are_those_of_the_model(shared, metric, shape, wanted, exact, odd):
    vectors = lattice(*shape)
    payloads = [{"odd": bool(i % 2)} for i in range(len(vectors))]
    rows, model = both(shared, vectors.shape[1], metric, vectors, payloads)
    _, scores = model._all_scores(None)
    threshold = min(gap_near(scores, wanted), {"cosine": 1.0, "l2": 0.0}.get(metric, np.inf))
    only = {"odd": True} if odd else None
    found = rows.near_duplicates(threshold, filter=only, exact=exact)
    true = model.near_duplicates(threshold, filter=only)
    assert {frozenset(group.ids) for group in found} == {frozenset(group.ids) for group in true}
    assert [len(group.ids) for group in found] == [len(group.ids) for group in true]
    for group in found:
        assert group.ids == [group.representative, *group.duplicates]
        assert np.allclose(group.scores, scores[group.representative, group.ids], atol=1e-5, rtol=1e-5)
        assert sorted(group.scores[1:], reverse=True) == group.scores[1:]
        near = (scores[:, group.ids] >= threshold).sum(axis=0) - (np.diag(scores)[group.ids] >= threshold)
        if not odd:
            assert near[0] == near.max()


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(shape=lattices, n=st.integers(1, 12), k=st.integers(1, 12), odd=st.booleans())
def test_outliers_are_those_of_the_model(shared, metric, shape, n, k, odd):
    vectors = lattice(*shape)
    payloads = [{"odd": bool(i % 2)} for i in range(len(vectors))]
    rows, model = both(shared, vectors.shape[1], metric, vectors, payloads)
    named = {"k": k, "filter": {"odd": True} if odd else None, "with_vectors": True}
    found, true = rows.outliers(n, **named), model.outliers(n, **named)
    everyone = {hit.id: hit for hit in model.outliers(len(vectors), **named)}
    assert np.allclose([hit.score for hit in found], [hit.score for hit in true], atol=1e-5, rtol=1e-5)
    for hit in found:
        assert hit.score == pytest.approx(everyone[hit.id].score, abs=1e-5, rel=1e-5)
        assert hit.payload == everyone[hit.id].payload
        assert np.array_equal(hit.vector, vectors[hit.id])


@pytest.mark.usefixtures("small_graphs")
@pytest.mark.parametrize("metric", METRICS)
def test_a_graph_finds_what_scanning_finds(db, rows, metric):
    vectors = rows(900, 16)
    vectors[600:750] = vectors[:150] + 1e-4 * rows(150, 16, 1)
    vectors[750:790] = vectors[3]
    docs = db.create_collection("docs", 16, metric, quantization=vecstore.Int8())
    docs.insert(list(range(900)), vectors)
    docs.wait_indexed()
    if metric != "dot":
        threshold = {"cosine": 0.999, "l2": -0.01}[metric]
        found = docs.near_duplicates(threshold)
        assert found == docs.near_duplicates(threshold, exact=True)
        assert len(found) == 150
        assert set(found[0].ids) == {3, 603, *range(750, 790)}
    scores = docs.metric == "cosine"
    far = []
    for i, hits in enumerate(docs.search(vectors, 6, exact=True, with_payload=False)):
        others = [hit.score for hit in hits if hit.id != i][:5]
        far.append(scores - np.mean(others))
    order = np.argsort(-np.array(far), kind="stable")[:8]
    assert [hit.id for hit in docs.outliers(8, k=5)] == order.tolist()


@pytest.mark.usefixtures("small_graphs", "small_parts")
def test_a_row_with_many_near_duplicates_is_searched_for_more(db, rows, monkeypatch):
    monkeypatch.setattr(analysis, "POOL_PLACES", 128)
    vectors = rows(400, 8)
    vectors[100:300] = vectors[0] * (1 + np.arange(200)[:, None] * np.float32(1e-6))
    docs = db.create_collection("docs", 8)
    docs.insert([f"row {i}" for i in range(400)], vectors)
    [group] = docs.near_duplicates(0.99999)
    assert set(group.ids) == {"row 0", *(f"row {i}" for i in range(100, 300))}
    monkeypatch.setattr(analysis, "MOST_K", 20)
    assert sum(len(group.ids) for group in docs.near_duplicates(0.99999)) <= 201


def test_rows_that_hang_together_by_others_are_one_group(db):
    docs = db.create_collection("docs", 1, "l2")
    docs.insert(["a", "b", "c", "d"], [[0], [1], [2.5], [9]])
    [group] = docs.near_duplicates(-1.5)
    assert group.representative == "b"
    assert group.duplicates == ["a", "c"]
    assert group.scores == [0, -1, -1.5]


@pytest.mark.parametrize("metric", METRICS)
def test_clear_clusters_are_found(db, metric):
    vectors, true = blobs(600, 5, 8)
    docs = db.create_collection("docs", 8, metric)
    docs.insert(list(range(600)), vectors)
    seen = []
    made = docs.cluster(5, seed=3, progress=lambda done, total: seen.append((done, total)))
    assert made.ids == list(range(600))
    assert made.labels.dtype == np.int32
    assert made.scores.dtype == made.centroids.dtype == np.float32
    assert made.centroids.shape == (5, 8)
    assert made.sizes.tolist() == np.bincount(made.labels, minlength=5).tolist()
    assert len(set(zip(made.labels.tolist(), true.tolist(), strict=True))) == 5
    rows = vectors.astype(np.float32)
    centroids = made.centroids[made.labels]
    if metric == "l2":
        wanted = -np.linalg.norm(rows - centroids, axis=1)
    else:
        wanted = np.einsum("ij,ij->i", rows, centroids)
        wanted = wanted / np.linalg.norm(rows, axis=1) if metric == "cosine" else wanted
    assert np.allclose(made.scores, wanted, atol=1e-5)
    if metric == "cosine":
        assert np.allclose(np.linalg.norm(made.centroids, axis=1), 1)
    members = made.members(2)
    assert set(members) == set(np.flatnonzero(made.labels == 2).tolist())
    assert made.scores[members[0]] == made.scores[members].max()
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_clusters_depend_on_the_seed_alone(db, rows, monkeypatch):
    docs = db.create_collection("docs", 8)
    docs.insert(list(range(500)), rows(500))
    first = docs.cluster(20, seed=1)
    assert not np.array_equal(first.centroids, docs.cluster(20, seed=2).centroids)
    monkeypatch.setattr(analysis, "PART_FLOATS", 24)
    again = docs.cluster(20, seed=1)
    assert np.array_equal(first.centroids, again.centroids)
    assert np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.scores, again.scores)


def test_clusters_of_a_sample_and_of_what_matches(db, rows, monkeypatch):
    monkeypatch.setattr(analysis, "SAMPLE_FLOATS", 64)
    monkeypatch.setattr(analysis, "FEWEST_SAMPLES", 10)
    docs = db.create_collection("docs", 8)
    docs.insert(list(range(300)), rows(300), [{"n": i % 3} for i in range(300)])
    made = docs.cluster(4, filter={"n": 1})
    assert made.ids == list(range(1, 300, 3))
    assert made.sizes.sum() == 100
    assert made.sizes.all()


def test_more_clusters_than_rows_are_refused(db, rows):
    docs = db.create_collection("docs", 8)
    with pytest.raises(vecstore.InvalidArgumentError, match="rows, 0, got 1"):
        docs.cluster(1)
    docs.insert([1, 2], rows(2))
    assert docs.cluster(2).sizes.tolist() == [1, 1]
    with pytest.raises(vecstore.InvalidArgumentError, match="rows, 2, got 3"):
        docs.cluster(3)


def test_of_no_rows_and_of_one_there_is_nothing_to_tell(db, rows):
    docs = db.create_collection("docs", 8)
    for _ in range(2):
        assert docs.near_duplicates(0.5) == []
        assert docs.outliers() == []
        docs.upsert(1, rows(1)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda docs: docs.cluster(0), "n: lies between 1 and 65536"),
        (lambda docs: docs.cluster(2, iterations=0), "iterations"),
        (lambda docs: docs.cluster(2, seed=-1), "seed"),
        (lambda docs: docs.cluster(2, progress=3), "progress: expected a function"),
        (lambda docs: docs.cluster(2, filter={"$nope": 1}), "nope"),
        (lambda docs: docs.cluster(n_clusters=3), 'use "n"'),
        (lambda docs: docs.near_duplicates(1.5), "threshold: a score is the cosine here, 1 at the most"),
        (lambda docs: docs.near_duplicates(None), "threshold: expected a number"),
        (lambda docs: docs.near_duplicates("0.9"), "threshold: expected a number"),
        (lambda docs: docs.near_duplicates(score_threshold=0.9), 'use "threshold"'),
        (lambda docs: docs.near_duplicates(0.9, exact=1), "exact"),
        (lambda docs: docs.outliers(3, k=0), "k: lies between 1 and 1000"),
        (lambda docs: docs.outliers(-1), "n: lies between"),
        (lambda docs: docs.outliers(3, n_neighbors=5), 'use "k"'),
    ],
)
def test_odd_arguments_are_refused(shared, call, message):
    docs = shared.create_collection("odd", 3, exist_ok=True)
    with pytest.raises(vecstore.InvalidArgumentError, match=message):
        call(docs)


def test_a_positive_threshold_makes_no_sense_under_l2(db):
    with pytest.raises(vecstore.InvalidArgumentError, match="minus the Euclidean distance here, 0 at the most"):
        db.create_collection("docs", 3, "l2").near_duplicates(0.1)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("compacting", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_rows_that_go_meanwhile_are_left_out_and_new_ones_not_looked_at(db, rows, request, compacting, graph):
    if graph:
        request.getfixturevalue("small_graphs")
    vectors = rows(400, 8)
    vectors[200:] = vectors[:200]
    index = vecstore.HNSW() if graph else vecstore.Flat()

    def filled(name):
        docs = db.create_collection(name, 8, "l2", index=index)
        docs.insert(list(range(400)), vectors)
        docs.wait_indexed()
        return docs

    def change(docs, at):
        calls = itertools.count()

        def progress(_done, _total):
            if next(calls) == at:
                docs.delete(list(range(0, 400, 4)))
                docs.upsert([1, 1000], [vectors[2] + 5, vectors[2]])
                if compacting:
                    docs.compact()

        return progress

    docs = filled("a")
    groups = docs.near_duplicates(0, progress=change(docs, 20))
    found = {frozenset(group.ids) for group in groups}
    if not compacting:
        assert not {1, 1000} & set().union(*found)
    assert {frozenset((i, i + 200)) for i in range(200) if i % 4 and i > 1} <= found
    assert all(1000 not in group and 0 not in group for group in found)
    docs = filled("b")
    made = docs.cluster(3, progress=change(docs, 15))
    assert {2, 3} <= set(made.ids)
    assert not {396, 1000} & set(made.ids)
    assert made.sizes.sum() == len(made.ids) == len(made.labels) == len(made.scores)
    docs = filled("c")
    hits = docs.outliers(300, k=3, progress=change(docs, 30))
    assert len(hits) == 300 - (0 if compacting else 1)
    assert not {0, 1000} & {hit.id for hit in hits}
