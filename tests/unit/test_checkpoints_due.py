"""When checkpoints are written, what the log keeps for them, and what goes wrong meanwhile."""

import contextlib

import pytest

import vecstore
from tests.graphs import wait
from vecstore import StorageError, checkpoints
from vecstore.storage import log

DIM = 16
pytestmark = pytest.mark.usefixtures("small_graphs")


def files(folder, name="docs"):
    return folder / "collections" / name / "data.mdb", folder / "collections" / name / "index.mdb"


@pytest.fixture
def often(monkeypatch):
    """Checkpoints after every hundred rows."""
    for name, value in (("BUSY_ROWS", 100), ("IDLE_ROWS", 100), ("BUSY_SHARE", 0), ("IDLE_SHARE", 0), ("REST", 0)):
        monkeypatch.setattr(checkpoints, name, value)


def idle(docs):
    """Wait until there is nothing left to do."""
    docs.wait_indexed(60)
    indexer = docs._indexing.indexer
    wait(lambda: indexer._done == indexer._wanted)


def test_they_come_by_themselves_and_not_with_every_write(tmp_path, rows, often):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2")
        docs.insert(range(400), rows(400, DIM))
        wait(lambda: docs.stats().checkpoint_lsn == 1)
        idle(docs)
        for n in range(20):
            docs.upsert(n, rows(20, DIM, seed=2)[n])
            docs.wait_indexed(60)
        assert docs.stats().checkpoint_lsn == 1
        docs.upsert(range(150), rows(150, DIM, seed=3))
        wait(lambda: docs.stats().checkpoint_lsn == 22)
    with vecstore.open(tmp_path, read_only=True) as db:
        assert db.get_collection("docs").stats().checkpoint_lsn == 22


def test_the_log_is_kept_for_the_last_one_until_the_next_is_durable(tmp_path, rows, monkeypatch):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2")
        docs.insert(range(400), rows(400, DIM))
        docs.wait_indexed(60)
        docs._indexing.checkpoints.write()
        docs.upsert(range(20), rows(20, DIM, seed=2))
        docs.wait_indexed(60)
        kept = []

        def fail(*_):
            kept.append(docs._store.log_kept_from)
            raise StorageError("no", path="p")

        with monkeypatch.context() as patched:
            patched.setattr(docs._store.checkpoint, "write", fail)
            docs._indexing.checkpoints.try_write()
        assert [*kept, docs._store.log_kept_from] == [1, 1]
        docs._indexing.checkpoints.write()
        assert docs._store.log_kept_from == 2


def test_an_opening_without_writes_writes_none(folder, rows):
    path = folder(400)
    before = files(path)[1].read_bytes()
    for read_only in (False, True):
        with vecstore.open(path, read_only=read_only) as db:
            db.get_collection("docs").search(rows(1, DIM)[0])
            db.get_collection("docs").wait_indexed(60)
    assert files(path)[1].read_bytes() == before


READER = """
import json, sys
import numpy as np
import vecstore
from vecstore import checkpoints
from vecstore.index import graph, hnsw
hnsw.FIT_FROM, hnsw.LINK_FROM, graph.MIN_BATCH = 100, 300, 32
checkpoints.BUSY_ROWS = checkpoints.IDLE_ROWS = 0
checkpoints.BUSY_SHARE = checkpoints.IDLE_SHARE = 0
docs = vecstore.open(sys.argv[1], read_only=True).get_collection("docs")
new = hnsw.HnswIndex._new
def fails(*_):
    raise AssertionError("made anew")
hnsw.HnswIndex._new = fails
for line in sys.stdin:
    query = json.loads(line)
    hits = [hit.id for hit in docs.search(np.array(query, np.float32), 3)]
    docs.wait_indexed(60)
    stats = docs.stats()
    print(json.dumps([hits, stats.linked, stats.tail, stats.checkpoint_lsn]), flush=True)
"""


def test_a_reader_begins_with_the_checkpoint_follows_and_writes_none(folder, rows, process):
    path, some = folder(400), rows(300, DIM, seed=2)
    before = files(path)[1].read_bytes()
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        reader = process(READER, path)
        hits, *counts = reader.ask(rows(400, DIM)[5].tolist())
        assert (hits[0], counts) == (5, [400, 0, 1])
        docs.upsert(range(100, 400), some)
        hits, *counts = reader.ask(some[7].tolist())
        assert (hits[0], counts) == (107, [400, 0, 1])
        idle(docs)
        docs._indexing.close = docs._indexing.end
    assert files(path)[1].read_bytes() == before


def test_the_log_is_kept_from_the_checkpoint_on(folder, rows, monkeypatch):
    for name, value in (("KEEP", 8), ("TRIM_AT_ONCE", 4)):
        monkeypatch.setattr(log, name, value)
    path = folder(400)

    def records(docs):
        with docs._store.view() as view, view.txn.cursor(view.env.db("log")) as cursor:
            return [int.from_bytes(key, "big") for key, _ in cursor]

    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        for n in range(60):
            docs.upsert(n, rows(60, DIM, seed=2)[n])
        assert records(docs) == list(range(1, 62))
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert docs.stats().checkpoint_lsn == 61
        assert docs.stats().linked + docs.stats().tail == 400
        for n in range(4):
            docs.upsert(n, rows(4, DIM, seed=3)[n])
        assert records(docs) == list(range(57, 66))
        monkeypatch.setattr(log, "MOST", 20)  # a checkpoint that is never written does not keep it for ever
        for n in range(40):
            docs.upsert(n, rows(40, DIM, seed=4)[n])
        assert records(docs)[0] == 104 - 20 + 1


def test_without_a_graph_the_log_is_trimmed_as_ever(tmp_path, rows, monkeypatch):
    for name, value in (("KEEP", 8), ("TRIM_AT_ONCE", 4)):
        monkeypatch.setattr(log, name, value)
    with vecstore.open(tmp_path) as db:
        for name, index in (("flat", vecstore.Flat()), ("small", vecstore.HNSW())):
            docs = db.create_collection(name, DIM, index=index)
            for n in range(40):
                docs.upsert(n, rows(40, DIM)[n])
            with docs._store.view() as view:
                assert view.txn.stat(view.env.db("log"))["entries"] == 8


# -- what goes wrong while they are written --------------------------------------------------------------------------


def test_an_error_is_reported_once_and_loses_nothing(tmp_path, rows, often, monkeypatch):
    def fails(*_):
        raise StorageError("no room")

    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2")
        monkeypatch.setattr(docs._store.checkpoint, "write", fails)
        docs.insert(range(400), rows(400, DIM))
        wait(lambda: docs.stats().index_error is not None)
        assert "no room" in docs.stats().index_error
        with pytest.raises(vecstore.StateError, match="no room"):
            docs.upsert(1, rows(1, DIM, seed=2)[0])
        docs.upsert(1, rows(1, DIM, seed=2)[0])
        assert docs.search(rows(1, DIM, seed=2)[0], 1)[0].id == 1
        docs.wait_indexed(60)
        assert docs.stats().checkpoint_lsn == 0
        assert docs.stats().linked == 400
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        assert docs.search(rows(1, DIM, seed=2)[0], 1)[0].id == 1
        docs.wait_indexed(60)
    with vecstore.open(tmp_path) as db:
        assert db.get_collection("docs").stats().linked == 400


def test_one_that_fails_is_tried_again_after_as_many_writes_and_not_at_once(tmp_path, rows, monkeypatch):
    tried = []

    def fails(*_):
        tried.append(1)
        raise StorageError("no room")

    monkeypatch.setattr(checkpoints, "MAX_WRITES", 20)
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2")
        docs.insert(range(400), rows(400, DIM))
        idle(docs)
        monkeypatch.setattr(docs._store.checkpoint, "write", fails)
        for n in range(50):
            with contextlib.suppress(vecstore.StateError):
                docs.upsert(n, rows(50, DIM, seed=2)[n])
            idle(docs)
        assert 1 <= len(tried) <= 3
        assert docs.search(rows(50, DIM, seed=2)[49], 1)[0].id == 49


def test_writers_and_searches_go_on_while_one_is_written(tmp_path, rows, often, monkeypatch):
    import threading

    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2")
        began, go_on, seen = threading.Event(), threading.Event(), []
        write = docs._store.checkpoint.write

        def slow(header, columns):
            began.set()
            assert go_on.wait(30)
            seen.append({name: column.copy() for name, column in columns.items()})
            return write(header, columns)

        docs.insert(range(400), rows(400, DIM))
        wait(lambda: docs.stats().checkpoint_lsn == 1)
        idle(docs)
        monkeypatch.setattr(docs._store.checkpoint, "write", slow)
        docs.upsert(range(400, 700), rows(300, DIM, seed=2))
        assert began.wait(30)
        docs.upsert(range(100), rows(100, DIM, seed=3))
        docs.delete(range(100, 200))
        found = docs.search(rows(100, DIM, seed=3), 1)
        assert [hits[0].id for hits in found] == list(range(100))
        assert not {hit.id for hit in docs.search(rows(1, DIM)[0], 700)} & set(range(100, 200))
        go_on.set()
        wait(lambda: seen)
        assert (seen[0]["nodes"] >= 0).sum() == 700
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        found = docs.search(rows(100, DIM, seed=3), 1)
        assert [hits[0].id for hits in found] == list(range(100))
        assert len(docs) == 600


def test_a_drop_while_one_is_written_leaves_nothing(tmp_path, rows, often, monkeypatch, warnings):
    import threading

    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2")
        began, go_on = threading.Event(), threading.Event()
        write = docs._store.checkpoint.write

        def slow(*args):
            began.set()
            assert go_on.wait(30)
            return write(*args)

        monkeypatch.setattr(docs._store.checkpoint, "write", slow)
        docs.insert(range(400), rows(400, DIM))
        assert began.wait(30)
        db.drop_collection("docs")
        again = db.create_collection("docs", DIM, "dot")
        again.insert(range(200), rows(200, DIM))
        go_on.set()
        thread = docs._indexing.indexer._thread
        thread.join(30)
        assert len(again.search(rows(1, DIM)[0], 300)) == 200
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        assert docs.stats().linked + docs.stats().tail == 200
