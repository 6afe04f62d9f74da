"""Searches of an embedded collection against brute force in float64."""

import numpy as np
import pytest

import vecstore

METRICS = ["cosine", "dot", "l2"]


@pytest.fixture
def docs(db):
    return db.create_collection("docs", 3)


def ids_of(hits):
    return [hit.id for hit in hits]


def test_filters_narrow_search_count_and_threshold(docs):
    docs.insert(range(4), [[1, 0, 0], [1, 1, 0], [0, 1, 0], [-1, 0, 0]], [{"n": n} for n in range(3)] + [None])
    assert ids_of(docs.search([1, 0, 0], filter={"n": {"$gte": 1}})) == [1, 2]
    assert ids_of(docs.search([1, 0, 0], filter={"n": None})) == [3]
    assert ids_of(docs.search([1, 0, 0], score_threshold=0.5)) == [0, 1]
    assert ids_of(docs.search([1, 0, 0], score_threshold=0, filter={"n": 2})) == [2]
    assert (docs.count(), docs.count({"n": {"$lt": 2}}), docs.count({})) == (4, 2, 4)
    bare = docs.search([1, 0, 0], 1, with_payload=False)[0]
    assert (bare.payload, bare.vector) == (None, None)


@pytest.mark.parametrize("metric", METRICS)
def test_a_threshold_that_is_a_score_keeps_that_row(db, rows, metric):
    docs = db.create_collection("docs", 8, metric)
    docs.insert(range(100), rows(100))
    for query in rows(8, seed=1):
        hits = docs.search(query, 20)
        assert docs.search(query, 100, score_threshold=hits[-1].score) == hits
    batch = docs.search(rows(8, seed=1), 100, score_threshold=hits[-1].score)
    assert batch[-1] == hits


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 3, 64, 100, 384])
def test_searches_agree_with_brute_force_in_float64(db, rows, true_scores, metric, dim):
    docs = db.create_collection("docs", dim, metric)
    vectors, queries = rows(500, dim), rows(6, dim, 1)
    docs.insert(range(500), vectors)
    docs.delete(range(0, 500, 7))
    live = np.array([n for n in range(500) if n % 7])
    for query, hits in zip(queries, docs.search(queries, 20), strict=True):
        expected = true_scores(metric, query, vectors)
        got = np.array([hit.score for hit in hits])
        np.testing.assert_allclose(got, expected[ids_of(hits)], rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(got, np.sort(expected[live])[::-1][:20], rtol=2e-5, atol=2e-5)
        assert list(got) == sorted(got, reverse=True)
        assert not {n for n in ids_of(hits) if n % 7 == 0}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("norm", [1e-10, 1e-5, 1, 1e5, 1e10])
def test_scores_hold_at_any_norm(db, rows, true_scores, metric, norm):
    docs = db.create_collection("docs", 32, metric)
    vectors = rows(200, 32) * np.float32(norm)
    docs.insert(range(200), vectors)
    for query in (rows(1, 32, 1)[0] * np.float32(norm), vectors[3]):
        expected = true_scores(metric, query, vectors)
        hits = docs.search(query, 10)
        scale = np.abs(expected).max()
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1][:10], atol=scale * 1e-5)
        assert metric == "dot" or docs.search(vectors[3], 1)[0].id == 3


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("batch", [False, True])
def test_neighbours_are_right_where_data_lies_far_from_the_origin(db, rows, true_scores, metric, batch):
    docs = db.create_collection("docs", 32, metric)
    vectors, queries = rows(300, 32) + np.float32(1000), rows(5, 32, 1) + np.float32(1000)
    docs.insert(range(300), vectors)
    found = docs.search(queries, 10) if batch else [docs.search(query, 10) for query in queries]
    for query, hits in zip(queries, found, strict=True):
        expected = true_scores(metric, query, vectors)
        tolerance = 1e-3 if metric == "l2" else 1e-6
        np.testing.assert_allclose([hit.score for hit in hits], expected[ids_of(hits)], atol=tolerance)
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1][:10], atol=tolerance)


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_of_queries_gives_what_each_alone_gives(db, rows, metric):
    docs = db.create_collection("docs", 24, metric, index=vecstore.Flat())
    docs.insert(range(1000), rows(1000, 24), [{"n": n % 3} for n in range(1000)])
    for n in (1, 2, 3, 4, 33, 300):
        queries = rows(n, 24, n)
        assert docs.search(queries, 5) == [docs.search(query, 5) for query in queries]
    queries, options = rows(9, 24, 1), {"filter": {"n": 1}, "with_payload": False}
    assert docs.search(queries, 5, **options) == [docs.search(query, 5, **options) for query in queries]


def test_fewer_hits_than_k_only_where_fewer_rows_match(docs):
    assert docs.search([1, 0, 0], 10_000) == []
    assert docs.search([[1, 0, 0]] * 5, 3) == [[]] * 5
    docs.insert(range(4), np.eye(4, 3) + 1)
    assert len(docs.search([1, 0, 0], 10_000)) == 4
    assert [len(hits) for hits in docs.search([[1, 0, 0]] * 5, 9)] == [4] * 5
    assert len(docs.search([1, 0, 0], 3)) == 3


@pytest.mark.parametrize("queries", [1, 6])
def test_equal_rows_are_all_found(db, queries):
    docs = db.create_collection("docs", 4, "l2")
    docs.insert(range(100), np.ones((100, 4)))
    for hits in docs.search(np.ones((queries, 4)), 100):
        assert sorted(ids_of(hits)) == list(range(100))
        assert {hit.score for hit in hits} == {0.0}
