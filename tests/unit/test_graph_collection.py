"""Collections whose searches walk a graph: fresh, complete and exact where they are asked to be, at every size."""

import threading
import time

import numpy as np
import pytest

import vecstore
from vecstore import indexing
from vecstore.index import following, graph, hnsw
from vecstore.storage import log

METRICS = ["cosine", "dot", "l2"]
KINDS = [vecstore.Int8(), vecstore.Int4(), vecstore.Binary(), None]
DIM = 24
SIZES = [50, 99, 100, 250, 299, 300, 1200]  # around FIT_FROM and LINK_FROM of `small_graphs`
name_of = {"ids": lambda value: value if isinstance(value, str) else str(getattr(type(value), "__name__", value))}


@pytest.fixture(autouse=True)
def small(small_graphs):
    pass


def ids_of(hits):
    return [hit.id for hit in hits]


def right(hits, k, true_scores, query, vectors, metric="l2"):
    """k different rows, best first, with the scores of the vectors by id."""
    assert len(set(ids_of(hits))) == len(hits) == k
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    if hits:
        expected = true_scores(metric, query, np.array([vectors[one] for one in ids_of(hits)]))
        np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)


def recall(found, truth):
    return sum(len(set(ids_of(a)) & set(ids_of(b))) for a, b in zip(found, truth, strict=True)) / sum(map(len, truth))


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
@pytest.mark.parametrize("kind", KINDS, **name_of)
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


@pytest.mark.parametrize("kind", KINDS, **name_of)
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


@pytest.mark.parametrize("kind", KINDS, **name_of)
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


def wait(ready, seconds=30):
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_codes_are_fitted_anew_at_ten_times_the_rows(db, rows):
    docs = db.create_collection("docs", DIM, "l2", quantization=vecstore.Int4())
    docs.insert(range(100), rows(100, DIM))
    docs.search(np.ones(DIM))
    assert docs._index.graph.fitted_on == 100
    docs.insert(range(100, 900), rows(800, DIM, 1) * 30)  # which the first fit has not seen
    docs.wait_indexed(60)
    assert docs._index.graph.fitted_on == 100
    docs.insert(range(900, 1100), rows(200, DIM, 2) * 30)
    docs.wait_indexed(60)
    wait(lambda: docs._index.graph.fitted_on == 1100)
    queries = rows(20, DIM, 3) * 30
    truth = docs.search(queries, 10, exact=True)
    assert recall(docs.search(queries, 10, ef=200), truth) > 0.9
    assert docs.stats().linked == 1100


# -- building anew -------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_links(db, rows, monkeypatch):
    docs = db.create_collection("docs", DIM)
    docs.insert(range(1500), rows(1500, DIM))
    docs.delete(range(0, 1500, 5))
    docs.upsert(range(1, 1500, 5), rows(300, DIM, 1))

    def drawn():
        arrays = docs._index.graph.arrays
        return docs._index.graph.links_by_slot(), set(arrays.slots[arrays.pilots.nodes].tolist())

    made = []
    for seed, threads in ((3, 2), (3, 2), (3, 1), (3, 3), (4, 2), (None, 2)):
        for module in (following, hnsw):
            monkeypatch.setattr(module, "cpus", lambda threads=threads: threads)
        docs.rebuild(seed=seed)
        made.append(drawn())
        stats = docs.stats()
        assert (stats.linked, stats.tail, stats.tombstones) == (1200, 0, 0)
    assert [one == made[0] for one in made] == [True] * 4 + [False] * 2
    docs.rebuild(seed=docs.info.index.seed)
    assert drawn() == made[5], "the seed of the collection, not of the last rebuild"


def test_searches_and_writes_go_on_during_a_rebuild(db, rows, monkeypatch):
    docs = db.create_collection("docs", DIM, "l2")
    docs.insert(range(2000), rows(2000, DIM))
    docs.wait_indexed(60)
    begun, go_on = threading.Event(), threading.Event()
    link = graph.Graph.link

    def held(self, threads):
        if threading.current_thread().name == "rebuild":
            begun.set()
            assert go_on.wait(30)
        return link(self, threads)

    monkeypatch.setattr(graph.Graph, "link", held)
    before = docs._index.graph
    thread = threading.Thread(target=docs.rebuild, name="rebuild")
    thread.start()
    assert begun.wait(30)
    assert len(docs.search(np.ones(DIM), 20)) == 20
    fresh = rows(3, DIM, 1)
    docs.insert("meanwhile", fresh[0])
    docs.delete(range(100))
    assert docs.search(fresh[0], 1)[0].id == "meanwhile"
    # No reader stands in the way of a map that has to grow.
    docs._store.env._alone(lambda: None)
    assert docs._index.graph is before
    go_on.set()
    thread.join()
    assert docs._index.graph is not before
    assert docs.search(fresh[0], 1)[0].id == "meanwhile"
    assert len(docs.search(np.ones(DIM), 3000)) == 1901
    docs.wait_indexed(60)
    stats = docs.stats()
    assert stats.linked + stats.tail == stats.count == 1901


def test_a_rebuild_may_take_longer_than_the_log_reaches_back(db, rows, monkeypatch):
    monkeypatch.setattr(log, "KEEP", 4)
    monkeypatch.setattr(log, "TRIM_AT_ONCE", 2)
    docs = db.create_collection("docs", DIM, "l2")
    docs.insert(range(500), rows(500, DIM))
    link_all = hnsw.HnswIndex.link_all

    def slow(self, *args, **kwargs):
        for n in range(20):
            docs.upsert(n, np.full(DIM, 10 + n))
        return link_all(self, *args, **kwargs)

    monkeypatch.setattr(hnsw.HnswIndex, "link_all", slow)
    docs.rebuild()
    assert docs.search(np.full(DIM, 29), 1)[0].id == 19
    assert docs.search(np.ones(DIM), 900) == docs.search(np.ones(DIM), 900, exact=True)
    docs.wait_indexed(60)
    assert docs.stats().linked == 500


# -- the thread in the background ----------------------------------------------------------------------------


@pytest.fixture
def held(monkeypatch):
    """Linking waits for the second event; the first tells that it began."""
    begun, go_on = threading.Event(), threading.Event()
    link = graph.Graph.link

    def wait_first(self, threads):
        begun.set()
        assert go_on.wait(30)
        return link(self, threads)

    monkeypatch.setattr(graph.Graph, "link", wait_first)
    yield begun, go_on
    go_on.set()


def test_wait_indexed_gives_up_in_time_and_searches_do_not_wait(db, rows, held):
    docs = db.create_collection("docs", DIM, "l2")
    vectors = rows(600, DIM)
    docs.insert(range(600), vectors)
    assert docs.search(vectors[5], 1)[0].id == 5
    assert held[0].wait(30)
    with pytest.raises(vecstore.DeadlineExceededError, match=r"0\.05 s"):
        docs.wait_indexed(0.05)
    with pytest.raises(vecstore.DeadlineExceededError):
        docs.wait_indexed(0)
    assert (docs.stats().linked, docs.stats().tail) == (0, 600)
    held[1].set()
    docs.wait_indexed()
    assert (docs.stats().linked, docs.stats().tail) == (600, 0)


@pytest.mark.parametrize("what", ["collection", "database", "drop"])
def test_closing_while_rows_are_linked(tmp_path, rows, monkeypatch, what):
    """It waits for one batch, not for all of them; and a waiting call learns of it."""
    monkeypatch.setattr(graph, "MIN_BATCH", 1)
    steps = []
    link = graph.Graph.link

    def counted(self, threads):
        steps.append(1)
        time.sleep(0.01)
        return link(self, threads)

    monkeypatch.setattr(graph.Graph, "link", counted)
    outcome = []

    def waits(docs):
        try:
            docs.wait_indexed()
        except vecstore.VecstoreError as error:
            outcome.append(type(error))

    with vecstore.open(tmp_path / "db") as db:
        docs = db.create_collection("docs", DIM, "l2")
        docs.insert(range(3000), rows(3000, DIM))
        thread = threading.Thread(target=waits, args=(docs,))
        thread.start()
        wait(lambda: len(steps) > 3)
        indexer = docs._indexing.indexer._thread
        {"collection": docs.close, "database": db.close, "drop": lambda: db.drop_collection("docs")}[what]()
        thread.join(30)
        assert outcome == [vecstore.CollectionNotFoundError if what == "drop" else vecstore.ClosedError]
        indexer.join(30)
        assert not indexer.is_alive() and len(steps) < 1000
    if what == "drop":
        return
    monkeypatch.setattr(graph, "MIN_BATCH", 512)
    with vecstore.open(tmp_path / "db") as db:
        docs = db.get_collection("docs")
        assert docs.search(rows(3000, DIM)[77], 1)[0].id == 77
        docs.wait_indexed(60)
        assert docs.stats().linked == docs.count() == 3000


def test_closing_ends_a_rebuild(db, rows, held):
    docs = db.create_collection("docs", DIM, "l2")
    docs.insert(range(2000), rows(2000, DIM))
    outcome = []

    def rebuild():
        try:
            docs.rebuild()
        except vecstore.VecstoreError as error:
            outcome.append(type(error))

    thread = threading.Thread(target=rebuild)
    thread.start()
    assert held[0].wait(30)
    closing = threading.Thread(target=docs.close)
    closing.start()
    wait(lambda: docs.closed)
    held[1].set()
    thread.join(30)
    closing.join(30)
    assert outcome == [vecstore.ClosedError]


@pytest.fixture
def failing(monkeypatch):
    """Linking raises as long as the list holds something."""
    errors = [RuntimeError("no links today")]
    link = graph.Graph.link

    def fail(self, threads):
        if errors:
            raise errors[0]
        return link(self, threads)

    monkeypatch.setattr(graph.Graph, "link", fail)
    return errors


def test_an_error_of_the_indexer_is_told_once_and_loses_nothing(db, rows, failing):
    docs = db.create_collection("docs", DIM, "l2")
    vectors = rows(800, DIM)
    docs.insert(range(600), vectors[:600])
    for _ in range(2):
        with pytest.raises(vecstore.StateError, match="no links today"):
            docs.wait_indexed(30)
    assert docs.stats().index_error == "RuntimeError: no links today"
    with pytest.raises(vecstore.StateError, match=r"RuntimeError: no links today.*wrote nothing") as told:
        docs.insert(600, vectors[600])
    assert isinstance(told.value.__cause__, RuntimeError)
    assert docs.count() == 600 and docs.get(600) is None
    docs.insert(600, vectors[600])  # it was told
    for one in (5, 599, 600):
        assert docs.search(vectors[one], 1)[0].id == one
    assert len(docs.search(vectors[0], 1000)) == 601
    failing.clear()
    wait(lambda: docs._indexing.indexer._done == docs._indexing.indexer._wanted)
    docs._indexing.indexer.take_error()
    docs.insert(range(601, 800), vectors[601:])
    docs.wait_indexed(60)
    wait(lambda: docs.stats().index_error is None)  # the step that linked the last may not have ended
    stats = docs.stats()
    assert (stats.index_error, stats.linked, stats.tail) == (None, 800, 0)
    assert docs.search(vectors[700], 1)[0].id == 700


def test_waiting_after_an_error_tries_again(db, rows, failing):
    """Also where nobody writes, as with a reader."""
    writer = db.create_collection("docs", DIM, "l2")
    writer.insert(range(50), rows(50, DIM))
    with vecstore.open(db.path, read_only=True) as reader:
        docs = reader.get_collection("docs")
        writer.insert(range(50, 600), rows(550, DIM, 1))
        with pytest.raises(vecstore.StateError):
            docs.wait_indexed(30)
        wait(lambda: writer._indexing.indexer._done == writer._indexing.indexer._wanted)
        failing.clear()
        docs.wait_indexed(30)
        assert docs.stats().linked == 600 and docs.stats().index_error is None
        with pytest.raises(vecstore.StateError, match="no links today"):  # its own indexer failed as well
            writer.upsert(range(1000, 1100), rows(100, DIM, 2))
        writer.upsert(range(1000, 1100), rows(100, DIM, 2))
        docs.wait_indexed()
        assert docs.stats().linked == 700


def test_a_bulk_insert_completes_and_its_tail_is_bounded(db, rows, monkeypatch):
    monkeypatch.setattr(indexing, "MAX_TAIL", 400)
    docs = db.create_collection("docs", DIM, "l2")
    docs.insert(range(300), rows(300, DIM))
    docs.wait_indexed(60)
    for first in range(300, 4300, 100):
        docs.insert(range(first, first + 100), rows(100, DIM, first))
        docs.search(np.ones(DIM), 1)  # the index knows of them
        assert docs._index.to_link <= 400 + 100
    docs.insert(range(10_000, 15_000), rows(5000, DIM, 1))  # a single write may be longer than the tail
    docs.insert(15_000, np.full(DIM, 9))
    assert docs._index.to_link <= 5001
    docs.wait_indexed(60)
    assert docs.stats().linked == docs.count() == 9301
    assert docs.search(np.full(DIM, 9), 1)[0].id == 15_000


def test_an_error_lets_go_of_a_writer_that_waits(db, rows, monkeypatch, failing):
    monkeypatch.setattr(indexing, "MAX_TAIL", 50)
    docs = db.create_collection("docs", DIM, "l2")
    told = 0
    for first in range(0, 2000, 100):
        try:
            docs.insert(range(first, first + 100), rows(100, DIM, first))
        except vecstore.StateError:
            told += 1
            docs.insert(range(first, first + 100), rows(100, DIM, first))
    assert told and docs.count() == 2000


def test_a_reopened_collection_does_not_link_all_before_its_first_write(tmp_path, rows, monkeypatch):
    with vecstore.open(tmp_path / "db") as db:
        db.create_collection("docs", DIM, "l2").insert(range(2000), rows(2000, DIM))
    monkeypatch.setattr(indexing, "MAX_TAIL", 100)
    begun, go_on = threading.Event(), threading.Event()
    link = graph.Graph.link

    def held(self, threads):
        begun.set()
        assert go_on.wait(30)
        return link(self, threads)

    monkeypatch.setattr(graph.Graph, "link", held)
    with vecstore.open(tmp_path / "db") as db:
        docs = db.get_collection("docs")
        docs.search(np.ones(DIM))
        assert begun.wait(30)
        docs.insert("new", np.full(DIM, 9))
        assert docs._index.to_link >= 2000
        assert docs.search(np.full(DIM, 9), 1)[0].id == "new"
        go_on.set()


def test_dead_nodes_go_while_there_is_always_more_to_link(db, rows, monkeypatch):
    docs = db.create_collection("docs", DIM, "l2")
    docs.insert(range(1000), rows(1000, DIM))
    docs.wait_indexed(60)
    link = hnsw.HnswIndex.link
    monkeypatch.setattr(hnsw.HnswIndex, "link", lambda self, threads=None: link(self, threads) + 1)
    for n in range(8):
        docs.upsert(range(1000), rows(1000, DIM, n))
        docs.search(np.ones(DIM), 1)
        wait(lambda: docs._index.to_link == 0)
    wait(lambda: docs._index.graph.arrays.count < 4000)


def test_a_drop_ends_the_thread_of_the_indexer(db, rows):
    docs = db.create_collection("docs", DIM)
    docs.insert(range(1000), rows(1000, DIM))
    docs.wait_indexed(60)
    with vecstore.open(db.path, read_only=True) as reader:
        other = reader.get_collection("docs")
        other.wait_indexed(60)
        other._indexing.indexer.wake()  # it may have had nothing to do
        started = [docs._indexing.indexer._thread, other._indexing.indexer._thread]
        db.drop_collection("docs")
        db.create_collection("docs", DIM)
        assert reader.get_collection("docs") is not other
        for thread in started:
            thread.join(30)
            assert not thread.is_alive()
        for call in (docs.wait_indexed, docs.rebuild, other.wait_indexed, other.rebuild):
            with pytest.raises(vecstore.CollectionNotFoundError):
                call()


# -- readers -------------------------------------------------------------------------------------------------

FOLLOWER = """
import json, sys
import numpy as np
import vecstore
from vecstore import indexing
from vecstore.index import hnsw
hnsw.FIT_FROM = 100
hnsw.LINK_FROM = 300
docs = vecstore.open(sys.argv[1], read_only=True).get_collection("docs")
print(json.dumps("open"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked is None:
        docs.wait_indexed(60)
        stats = docs.stats()
        answer = [stats.linked, stats.tail, stats.count]
    else:
        answer = [[hit.id, hit.score] for hit in docs.search(np.array(asked, np.float32), 5)]
    print(json.dumps(answer), flush=True)
"""


def test_readers_follow_and_link_by_themselves(db, rows, process):
    docs = db.create_collection("docs", DIM, "l2")
    docs.insert(range(80), rows(80, DIM))
    follower = process(FOLLOWER, db.path)
    assert follower.read() == "open"
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        for step in range(25):
            fresh = rows(60, DIM, 100 + step)
            docs.upsert(range(step * 50, step * 50 + 60), fresh)
            docs.delete(range(step * 50, step * 50 + 5))
            for one in (7, 59):
                best = [step * 50 + one, 0.0]
                assert follower.ask(fresh[one].tolist())[0] == best
                hit = followed.search(fresh[one], 1)[0]
                assert [hit.id, hit.score] == best
            assert follower.ask(fresh[2].tolist())[0][1] < 0 and followed.search(fresh[2], 1)[0].score < 0
        assert follower.ask() == [docs.count(), 0, docs.count()]
        followed.wait_indexed(60)
        assert followed.stats().linked == docs.count()
        assert followed._index is not docs._index
        followed.rebuild(seed=2)
        assert followed.stats().linked == docs.count()
        with pytest.raises(vecstore.ReadOnlyError):
            followed.insert("x", np.ones(DIM))


def test_a_reader_further_behind_than_the_log_begins_anew(db, rows, monkeypatch):
    monkeypatch.setattr(log, "KEEP", 4)
    monkeypatch.setattr(log, "TRIM_AT_ONCE", 2)
    docs = db.create_collection("docs", DIM, "l2")
    docs.insert(range(500), rows(500, DIM))
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        followed.wait_indexed(60)
        for n in range(30):
            docs.upsert(n, np.full(DIM, n + 10))
        docs.delete(range(100, 150))
        assert [hits[0].id for hits in followed.search(np.full((30, DIM), np.arange(10, 40)[:, None]), 1)] == [
            *range(30)
        ]
        assert len(followed.search(np.ones(DIM), 1000)) == 450
        followed.wait_indexed(60)
        assert followed.stats().linked == 450
