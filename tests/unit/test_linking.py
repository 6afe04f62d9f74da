"""The thread that links: who waits for it, how it ends, what goes wrong in it, and the one of a reader."""

import threading
import time

import numpy as np
import pytest

import vecstore
from tests.graphs import DIM, wait
from vecstore import indexing
from vecstore.index import graph, hnsw
from vecstore.storage import log


@pytest.fixture(autouse=True)
def small(small_graphs):
    pass


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
    to_link = hnsw.HnswIndex.to_link.fget
    monkeypatch.setattr(hnsw.HnswIndex, "to_link", property(lambda self: to_link(self) + 1))
    for n in range(8):
        docs.upsert(range(1000), rows(1000, DIM, n))
        docs.search(np.ones(DIM), 1)
        wait(lambda: docs._index.to_link == 1)
    wait(lambda: docs._index.structure.arrays.count < 4000)


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
