"""Collections whose searches walk a graph: fresh, complete and exact where they are asked to be, at every size."""

import numpy as np
import pytest

import vecstore
from tests.graphs import DIM, NAME_OF, ids_of, recall, wait
from vecstore.index import answering, graph, hnsw

METRICS = ["cosine", "dot", "l2"]
KINDS = [vecstore.Int8(), vecstore.Int4(), vecstore.Binary(), None]
SIZES = [50, 99, 100, 250, 299, 300, 1200]  # around FIT_FROM and LINK_FROM of `small_graphs`


@pytest.fixture(autouse=True)
def small(small_graphs):
    pass


def right(hits, k, true_scores, query, vectors, metric="l2"):
    """k different rows, best first, with the scores of the vectors by id."""
    assert len(set(ids_of(hits))) == len(hits) == k
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    if hits:
        expected = true_scores(metric, query, np.array([vectors[one] for one in ids_of(hits)]))
        np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_next_search_sees_every_write(db, rows, size, linked):
    docs = db.create_collection("docs", DIM, "l2")
    vectors = dict(enumerate(rows(size, DIM)))
    docs.insert(list(vectors), np.array(list(vectors.values())), [{"n": one} for one in vectors])
    for step in range(12):
        if linked:
            docs.wait_indexed(60)
        fresh = rows(4, DIM, 1000 + step)
        docs.insert(size + step, fresh[0])
        assert docs.search(fresh[0], 1)[0].id == size + step
        docs.upsert([step, f"new {step}"], fresh[1:3], [{"n": -1}, None])
        assert docs.search(fresh[1], 1)[0] == vecstore.Hit(step, 0.0, {"n": -1})
        assert docs.search(fresh[2], 1)[0].id == f"new {step}"
        assert docs.search(vectors[step], 1)[0].score < 0  # what it was is gone
        docs.update(step + 20, fresh[3])
        assert docs.search(fresh[3], 1)[0] == vecstore.Hit(step + 20, 0.0, {"n": step + 20})
        docs.update(step + 20, payloads={"n": -2})
        assert docs.search(fresh[3], 1)[0].payload == {"n": -2}
        assert docs.search(fresh[3], 1, filter={"n": -2})[0].score == 0
        docs.delete(step + 20)
        assert docs.search(fresh[3], 1)[0].id != step + 20
        assert step + 20 not in ids_of(docs.search(fresh[3], size))
    assert len(docs.search(np.ones(DIM), 5000)) == len(docs) == size + 12
    docs.delete(filter={})
    assert docs.search(np.ones(DIM), 10) == []
    docs.insert(7, fresh[0])
    assert ids_of(docs.search(np.ones(DIM), 10)) == [7]


def test_a_deleted_row_never_comes_back(db, rows):
    """Through slots that are used again, sweeps, numbering anew, rebuilds, and back."""
    docs = db.create_collection("docs", DIM, "l2")
    vectors = rows(1500, DIM)
    docs.insert(range(1500), vectors)
    gone = set()
    for step in range(8):
        some = range(step * 150, step * 150 + 120)
        docs.delete(some)
        gone |= set(some)
        if step % 2:
            docs.wait_indexed(60)
        docs.insert(range(10_000 + step * 120, 10_000 + step * 120 + 120), rows(120, DIM, 50 + step))
        if step == 5:
            docs.rebuild(seed=step)
        for hits in docs.search(vectors[list(gone)[::7]], 30, with_payload=False):
            assert len(hits) == 30 and not set(ids_of(hits)) & gone
        assert not set(ids_of(docs.search(np.zeros(DIM), 5000))) & gone
    stats = docs.stats()
    assert stats.count == 1500 and stats.dead < 1500 and docs.check() == []


def test_ids_are_those_of_the_rows_after_a_rebuild_that_met_writes_first(db, rows):
    """Slots that were used again before any search knew of it."""
    docs = db.create_collection("docs", DIM, "l2")
    docs.insert(range(1000), rows(1000, DIM))
    docs.wait_indexed(60)
    assert docs.search(np.zeros(DIM), 1, with_payload=False)
    for n in range(1, 9):
        with docs._index._following:  # nobody follows yet
            docs.delete(range(n * 100, n * 100 + 100))
            fresh = rows(100, DIM, n)
            docs.insert(range(n * 10_000, n * 10_000 + 100), fresh)
        docs.rebuild()
        docs.insert(f"one more {n}", np.full(DIM, 50))
        found = docs.search(fresh, 1, with_payload=False)
        assert [hits[0].id for hits in found] == list(range(n * 10_000, n * 10_000 + 100))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS, **NAME_OF)
def test_every_metric_and_kind_of_codes(db, rows, true_scores, metric, kind):
    docs = db.create_collection("docs", DIM, metric, quantization=kind)
    n = 1000
    vectors, queries = rows(n, DIM), rows(20, DIM, 1)
    docs.insert(range(n), vectors)
    docs.delete(range(0, n, 9))
    docs.upsert(range(1, n, 9), vectors[1:n:9])
    for linked in (False, True):
        if linked:
            docs.wait_indexed(60)
            assert docs.stats().linked == docs.count() and docs.stats().tail == 0
        truth = docs.search(queries, 10, exact=True)
        live = np.array([one for one in range(n) if one % 9])
        for query, hits in zip(queries, truth, strict=True):
            best = np.sort(true_scores(metric, query, vectors[live]))[::-1][:10]
            np.testing.assert_allclose([hit.score for hit in hits], best, rtol=2e-5, atol=2e-5)
        found = docs.search(queries, 10, ef=200)
        for query, hits in zip(queries, found, strict=True):
            right(hits, 10, true_scores, query, vectors, metric)
        least = 0.6 if isinstance(kind, vecstore.Binary) else 0.95
        assert recall(found, truth) >= least
        assert docs.search(queries, 10, ef=200) == [docs.search(query, 10, ef=200) for query in queries]
        if kind is not None:
            assert docs.search(queries, 10, oversampling=400, ef=5000) == truth
        assert docs.search(queries[:4], 3000, ef=3000) == docs.search(queries[:4], 3000, exact=True)


@pytest.mark.parametrize("kind", KINDS, **NAME_OF)
def test_k_hits_for_filters_of_any_selectivity(db, rows, true_scores, kind):
    docs = db.create_collection("docs", DIM, "l2", quantization=kind)
    n = 1600
    vectors = rows(n, DIM)
    # Half of the rows lie in a corner of their own, where walks that look for the others may end.
    vectors[: n // 2] += 20
    docs.insert(range(n), vectors, [{"n": one, "half": one * 2 < n} for one in range(n)])
    docs.wait_indexed(60)
    queries = np.concatenate([rows(2, DIM, 1), rows(2, DIM, 2) + 20])
    filters = [{"n": {"$lt": m}} for m in (0, 1, 10, 99, 700, 1550)]
    filters += [None, {}, {"half": True}, {"half": False}, {"n": {"$gte": 1599}}]
    for one in filters:
        matches = docs.count(one) if one is not None else n
        for k, how in [(1, {}), (10, {}), (10, {"ef": 1}), (10, {"ef": 5000}), (100, {})]:
            wanted = min(k, matches)
            for query, hits in zip(queries, docs.search(queries, k, filter=one, **how), strict=True):
                right(hits, wanted, true_scores, query, vectors)
                if one and "half" in one:
                    assert all(hit.payload["half"] == one["half"] for hit in hits)
        options = {"filter": one, "with_payload": False}
        assert docs.search(queries[1:3], 5000, **options) == docs.search(queries[1:3], 5000, **options, exact=True)


@pytest.mark.parametrize("metric", METRICS)
def test_a_threshold_cuts_what_a_search_finds(db, rows, metric):
    docs = db.create_collection("docs", DIM, metric)
    docs.insert(range(1500), rows(1500, DIM))
    docs.wait_indexed(60)
    for query in rows(8, DIM, 1):
        hits = docs.search(query, 20)
        for place in (0, 5, 19):
            least = hits[place].score
            assert docs.search(query, 20, score_threshold=least) == [hit for hit in hits if hit.score >= least]
        assert docs.search(query, 20, score_threshold=float("inf")) == []
        assert docs.search(query, 20, score_threshold=-1e30) == hits
    batch = docs.search(rows(8, DIM, 1), 20, score_threshold=least)
    assert batch[-1] == hits


def test_more_candidates_find_more(db, rows):
    docs = db.create_collection("docs", DIM, "l2", quantization=vecstore.Binary())
    docs.insert(range(5000), rows(5000, DIM))
    docs.wait_indexed(60)
    queries = rows(50, DIM, 1)
    truth = docs.search(queries, 10, exact=True)
    found = [recall(docs.search(queries, 10, oversampling=more), truth) for more in (1, 5, 50)]
    assert found[0] < found[1] <= found[2]
    assert recall(docs.search(queries, 10, ef=10_000, oversampling=500), truth) == 1
    with pytest.raises(vecstore.InvalidArgumentError):
        docs.search(queries, 10, ef=20, exact=True)


@pytest.mark.parametrize("kind", KINDS, **NAME_OF)
def test_stats_add_up(db, rows, kind):
    docs = db.create_collection("docs", DIM, quantization=kind)
    docs.insert(range(99), rows(99, DIM))
    docs.search(np.ones(DIM))
    stats = docs.stats()
    assert (stats.linked, stats.tail, stats.tombstones, stats.index_bytes) == (0, 0, 0, 0)
    docs.insert(range(99, 299), rows(200, DIM, 1))
    docs.search(np.ones(DIM))
    docs.wait_indexed(60)
    stats = docs.stats()
    assert (stats.linked, stats.tail, stats.degree) == (0, 299, 0)
    assert stats.code_bytes > 0
    docs.insert(range(299, 1500), rows(1201, DIM, 2))
    docs.wait_indexed(60)
    stats = docs.stats()
    assert (stats.linked, stats.tail, stats.count, stats.index_error) == (1500, 0, 1500, None)
    assert 4 < stats.degree <= 2 * docs.info.index.m and 0 < stats.pilots <= 1500
    assert stats.link_bytes >= 1500 * 2 * docs.info.index.m * 4
    assert stats.index_bytes > stats.link_bytes + stats.code_bytes > stats.link_bytes
    docs.delete(range(10))
    docs.upsert(range(100, 105), rows(5, DIM, 3))
    docs.search(np.ones(DIM))
    stats = docs.stats()
    assert stats.linked + stats.tail == stats.count == 1490
    docs.delete(range(10, 700))
    docs.wait_indexed(60)
    wait(lambda: docs.stats().tombstones == 0)
    stats = docs.stats()
    assert stats.linked + stats.tail == stats.count == 800


def test_a_search_takes_the_cpus_that_there_are_by_now(db, monkeypatch):
    docs = db.create_collection("docs", 16)
    rows = np.random.default_rng(5).standard_normal((1200, 16))
    docs.insert(range(1200), rows)
    docs.wait_indexed(60)
    taken, ranges = [], graph.over_ranges

    def watched(stop, step, threads, work):
        if stop == 200:
            taken.append(threads)
        return ranges(stop, step, threads, work)

    monkeypatch.setattr(graph, "over_ranges", watched)
    for available in (1, 2):
        for module in (answering, hnsw):
            monkeypatch.setattr(module, "cpus", lambda available=available: available)
        docs.search(rows[:200], 10)
    assert taken == [1, 2]
