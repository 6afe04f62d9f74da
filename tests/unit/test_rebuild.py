"""Graphs that are built or coded anew, while searches and writes go on."""

import threading

import numpy as np
import pytest

import vecstore
from tests.graphs import DIM, recall, wait
from vecstore.index import following, graph, hnsw
from vecstore.storage import log


@pytest.fixture(autouse=True)
def small(small_graphs):
    pass


def test_codes_are_fitted_anew_at_ten_times_the_rows(db, rows):
    docs = db.create_collection("docs", DIM, "l2", quantization=vecstore.Int4())
    docs.insert(range(100), rows(100, DIM))
    docs.search(np.ones(DIM))
    assert docs._index.structure.fitted_on == 100
    docs.insert(range(100, 900), rows(800, DIM, 1) * 30)  # which the first fit has not seen
    docs.wait_indexed(60)
    assert docs._index.structure.fitted_on == 100
    docs.insert(range(900, 1100), rows(200, DIM, 2) * 30)
    docs.wait_indexed(60)
    wait(lambda: docs._index.structure.fitted_on == 1100)
    queries = rows(20, DIM, 3) * 30
    truth = docs.search(queries, 10, exact=True)
    assert recall(docs.search(queries, 10, ef=200), truth) > 0.9
    assert docs.stats().linked == 1100


def test_the_same_seed_gives_the_same_links(db, rows, monkeypatch):
    docs = db.create_collection("docs", DIM)
    docs.insert(range(1500), rows(1500, DIM))
    docs.delete(range(0, 1500, 5))
    docs.upsert(range(1, 1500, 5), rows(300, DIM, 1))

    def drawn():
        arrays = docs._index.structure.arrays
        return docs._index.structure.links_by_slot(), set(arrays.slots[arrays.pilots.nodes].tolist())

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
    before = docs._index.structure
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
    assert docs._index.structure is before
    go_on.set()
    thread.join()
    assert docs._index.structure is not before
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
