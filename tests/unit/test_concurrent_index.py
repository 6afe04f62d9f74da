"""Searches of a graph or of lists from many threads while rows come and go, and while nodes are linked, swept and
numbered anew, or lists are filled, split and dissolved."""

import os
import threading
import time

import numpy as np
import pytest

import vecstore
from vecstore.index import graph, ivf

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
GRAPH, LISTS = vecstore.HNSW(), vecstore.IVF()
KINDS = [
    *((GRAPH, kind) for kind in ("auto", vecstore.Int4(), vecstore.Binary(), None)),
    *((LISTS, kind) for kind in (vecstore.Int8(), vecstore.Binary())),
]
names = {"ids": lambda one: one if isinstance(one, str) else getattr(type(one), "__name__", str(one))}
pytestmark = pytest.mark.usefixtures("small_graphs", "small_lists")


class Threads:
    """Threads that repeat calls until `stop()`; it raises what the first one of them raised."""

    def __init__(self):
        self.done = threading.Event()
        self.errors = []
        self.rounds = {}
        self.started = []

    def repeat(self, call, *args):
        number = len(self.started)
        self.rounds[number] = 0

        def run():
            try:
                while not self.done.is_set() and not self.errors:
                    call(*args)
                    self.rounds[number] += 1
            except BaseException as error:
                self.errors.append(error)

        self.started.append(threading.Thread(target=run))
        self.started[-1].start()

    def stop(self):
        self.done.set()
        for thread in self.started:
            thread.join()
        if self.errors:
            raise self.errors[0]
        assert all(self.rounds.values())


@pytest.fixture
def threads():
    made = Threads()
    yield made
    made.done.set()
    for thread in made.started:
        thread.join()


def sound(hits, k, metric="l2"):
    assert len({hit.id for hit in hits}) == len(hits) == k
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


def widened(index, ef, nprobe):
    """How far a search goes, in the terms of the index."""
    return {"ef": ef} if index == GRAPH else {"nprobe": nprobe}


@pytest.mark.parametrize(("index", "kind"), KINDS, **names)
def test_no_row_is_found_twice_while_nodes_are_linked(db, rows, monkeypatch, threads, index, kind):
    """Not by a walk over links that are made meanwhile or in a list that is filled, and once more in the tail."""
    monkeypatch.setattr(graph, "MIN_BATCH", 512)
    monkeypatch.setattr(ivf, "BATCH", 512)
    docs = db.create_collection("docs", 16, "l2", index=index, quantization=kind)
    vectors = rows(12_000, 16)
    docs.insert(range(4000), vectors[:4000])
    docs.wait_indexed(60)
    newest = [0]

    def search(seed):
        near = vectors[newest[0] + seed * 97 : newest[0] + 1000 : 500]
        for hits in docs.search(near, 10, **widened(index, 10, 3), oversampling=None if kind is None else 1):
            sound(hits, 10)

    for seed in range(3):
        threads.repeat(search, seed)
    for first in range(4000, 12_000 if MANY else 8000, 1000):
        docs.insert(range(first, first + 1000), vectors[first : first + 1000])
        newest[0] = first
        docs.wait_indexed(60)
    threads.stop()


@pytest.mark.parametrize(("index", "kind"), KINDS, **names)
def test_no_row_is_missed_while_it_is_replaced(db, rows, threads, index, kind):
    """A search sees the old row or the new one, whichever of the two commits it belongs to."""
    docs = db.create_collection("docs", 16, "l2", index=index, quantization=kind)
    docs.insert(range(1000), rows(1000, 16), [{"n": 0}] * 1000)
    docs.wait_indexed(60)

    def all_of_them():
        hits = docs.search(np.zeros(16), 1000, **widened(index, 2000, 2000), with_vectors=True)
        sound(hits, 1000)
        assert len({hit.payload["n"] for hit in hits if hit.id < 60}) == 1, "a commit is seen whole"
        for hit in hits[::50]:
            assert abs(hit.score + np.linalg.norm(hit.vector)) <= 1e-4 * abs(hit.score)

    for _ in range(3):
        threads.repeat(all_of_them)
    for n in range(150 if MANY else 50):
        docs.upsert(range(60), rows(60, 16, n), [{"n": n}] * 60)
    threads.stop()
    assert docs.check() == []


@pytest.mark.parametrize(
    ("index", "metric", "kind"),
    [
        (GRAPH, "cosine", "auto"), (GRAPH, "l2", vecstore.Int4()), (GRAPH, "dot", None),
        (LISTS, "cosine", vecstore.Int8()), (LISTS, "l2", vecstore.Int4()), (LISTS, "dot", None),
    ],
    **names,
)  # fmt: skip
def test_eight_threads_search_while_rows_come_and_go(db, rows, true_scores, threads, index, metric, kind):
    dim, n = 24, 2000
    docs = db.create_collection("docs", dim, metric, index=index, quantization=kind)
    docs.insert(range(n), rows(n, dim))
    mutex = threading.Lock()
    gone, there = {}, {}  # ids that were deleted for good; the vectors of inserts that have returned
    seeds = iter(range(10**9))

    def search():
        with mutex:
            seed = next(seeds)
            before = set(gone)
            some = list(there.items())[-200:]
        query = rows(1, dim, seed)[0]
        hits = docs.search(query, 20, with_vectors=True)
        sound(hits, 20)
        assert not {hit.id for hit in hits} & before
        expected = true_scores(metric, query, np.array([hit.vector for hit in hits]))
        np.testing.assert_allclose([hit.score for hit in hits], expected, rtol=2e-5, atol=2e-5)
        if some:
            one, vector = some[seed % len(some)]
            best = docs.search(vector, 1)[0]
            with mutex:
                still = one in there
            # Under dot a longer row may well be nearer than the row itself.
            assert best.id == one or not still or metric == "dot"

    for _ in range(8):
        threads.repeat(search)
    random, fresh = np.random.default_rng(5), n
    until = time.monotonic() + (10 if MANY else 1)
    while time.monotonic() < until and not threads.errors:
        matrix = random.standard_normal((10, dim)).astype(np.float32)
        new = range(fresh, fresh + 10)
        fresh += 10
        docs.insert(new, matrix)
        with mutex:
            there.update(zip(new, matrix, strict=True))
        docs.upsert(random.choice(n // 2, 20, replace=False), random.standard_normal((20, dim)))
        if len(there) > 300:
            with mutex:
                old = list(there)[:10]
                for one in old:
                    del there[one]
            docs.delete(old)
            with mutex:
                gone.update(dict.fromkeys(old))
    threads.stop()
    docs.wait_indexed(60)
    stats = docs.stats()
    assert stats.linked + stats.tail == stats.count == n + len(there)
    for one, vector in list(there.items())[-50:]:
        assert one in [hit.id for hit in docs.search(vector, 5 if metric != "dot" else 200)]
    assert docs.check() == []
    assert index == GRAPH or stats.lists > 20
