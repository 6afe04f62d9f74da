"""A collection that is opened again begins with the graph of its last checkpoint, if that is one of its rows."""

import contextlib
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest

import vecstore
from vecstore import StorageError, indexing
from vecstore.index import following, hnsw
from vecstore.storage import log

DIM = 16
pytestmark = pytest.mark.usefixtures("small_graphs")


@pytest.fixture
def folder(tmp_path, rows):
    """`folder(n)`: a closed database with a linked collection of n rows."""

    def make(n=600, **options):
        with vecstore.open(tmp_path / "db") as db:
            docs = db.create_collection("docs", DIM, "l2", **options)
            docs.insert(range(n), rows(n, DIM))
            docs.wait_indexed(60)
        return tmp_path / "db"

    return make


def files(folder, name="docs"):
    return folder / "collections" / name / "data.mdb", folder / "collections" / name / "index.mdb"


@pytest.fixture
def warnings(caplog):
    """What was logged at WARNING since it was last called."""

    def since():
        found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        caplog.clear()
        return found

    return since


def links(docs):
    return docs._index.graph.links_by_slot()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "kind", [None, vecstore.Int8(), vecstore.Int4(), vecstore.Binary()], ids=["none", "int8", "int4", "binary"]
)
def test_the_graph_is_the_same_again(folder, rows, warnings, kind, read_only, monkeypatch):
    path, query = folder(quantization=kind), rows(9, DIM, seed=3)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        before, hits, stats = links(docs), docs.search(query), docs.stats()
    monkeypatch.setattr(hnsw.HnswIndex, "_new_graph", lambda *_: pytest.fail("it is not made anew"))
    monkeypatch.setattr(hnsw.HnswIndex, "_remember", lambda *_: pytest.fail("ids are not read again"))
    with vecstore.open(path, read_only=read_only) as db:
        docs = db.get_collection("docs")
        assert links(docs) == before
        assert docs.search(query) == hits
        assert replace(docs.stats(), durability="commit", synced_lsn=stats.synced_lsn) == stats
        assert docs._index.ids(np.arange(9), docs.stats().lsn) == list(range(9))
    assert warnings() == []


def test_only_what_came_after_the_checkpoint_is_linked(folder, rows, monkeypatch):
    path = folder(600)
    with monkeypatch.context() as patch, vecstore.open(path) as db:
        patch.setattr(indexing.Indexing, "_checkpoint", lambda _: None)  # as if the process were killed
        docs = db.get_collection("docs")
        docs.upsert(range(590, 640), rows(50, DIM, seed=2))
        docs.delete(range(5))
        docs.wait_indexed(60)
        db.close()
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        added = []
        apply = following._apply
        monkeypatch.setattr(following, "_apply", lambda change, *_: (added.append(change), apply(change, *_)))
        assert [hit.id for hit in docs.search(rows(50, DIM, seed=2)[7], 1)] == [597]
        assert sum(len(change.added) for change in added) == 50
        docs.wait_indexed(60)
        assert docs.stats().linked == len(docs) == 635
        assert not {hit.id for hit in docs.search(rows(1, DIM)[0], 635)} & set(range(5))


def test_string_ids_are_found_again(tmp_path, rows):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2")
        docs.insert([f"{n}" for n in range(400)], rows(400, DIM))
        docs.insert(range(10), rows(10, DIM, seed=9))
        docs.wait_indexed(60)
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        found = docs.search(np.concatenate([rows(400, DIM), rows(10, DIM, seed=9)]), 1, with_payload=False)
        assert [hits[0].id for hits in found] == [*(f"{n}" for n in range(400)), *range(10)]


def test_what_changed_after_a_rebuild_with_another_seed_is_kept(folder, rows):
    path = folder(400)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        docs.rebuild(seed=7)
        before = links(docs)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert links(docs) == before
        assert docs._index.graph.config.seed == 7


# -- a checkpoint that is not one of the rows ------------------------------------------------------------------------


def test_a_missing_one_is_no_warning_in_a_small_collection(tmp_path, rows, warnings, monkeypatch):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", DIM).insert(range(10), rows(10, DIM))
    with vecstore.open(tmp_path) as db:
        assert len(db.get_collection("docs").search(rows(1, DIM)[0], 20)) == 10
    assert warnings() == []


def older_index(path, rows):
    """The checkpoint of an earlier write, which the log does not tell of any more."""
    shutil.copy(files(path)[1], path / "kept")
    for seed in (4, 5):  # the second time, the log need not reach back to the first checkpoint
        with vecstore.open(path) as db:
            docs = db.get_collection("docs")
            for n in range(20):
                docs.upsert(n, rows(20, DIM, seed=seed)[n])
    (path / "kept").replace(files(path)[1])


def older_rows(path, rows):
    """Rows of an earlier time, as from a copy."""
    shutil.copy(files(path)[0], path / "kept")
    with vecstore.open(path) as db:
        db.get_collection("docs").upsert(range(50), rows(50, DIM, seed=4))
    (path / "kept").replace(files(path)[0])


def other_history(path, rows):
    """The same, and then more writes than the checkpoint knows."""
    older_rows(path, rows)
    index = files(path)[1].read_bytes()
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        for n in range(5):
            docs.upsert(n, rows(5, DIM, seed=8)[n])
    files(path)[1].write_bytes(index)


def foreign(path, rows):
    with vecstore.open(path) as db:
        db.create_collection("other", DIM, "l2").insert(range(600), rows(600, DIM))
        db.get_collection("other").wait_indexed(60)
    shutil.copy(files(path, "other")[1], files(path)[1])


def another_kind(path, rows):
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        docs._store.config["quantization"] = "binary"
        docs.upsert(1, rows(1, DIM)[0])


def flipped(path, rows):
    data = bytearray(files(path)[1].read_bytes())
    for at in range(9000, len(data), 4096):
        data[at] ^= 1
    files(path)[1].write_bytes(data)


def cut(path, rows):
    data = files(path)[1].read_bytes()
    files(path)[1].write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path, _: files(path)[1].unlink(), "is missing"),
        (lambda path, _: files(path)[1].write_bytes(b""), "is damaged"),
        (lambda path, _: files(path)[1].write_bytes(b"something else" * 1000), "is damaged"),
        (flipped, "is damaged"),
        (cut, "is damaged"),
        (older_index, "is too old"),
        (older_rows, "is newer than the rows"),
        (other_history, "is of rows that were written otherwise"),
        (foreign, "belongs to another collection"),
        (another_kind, "is of an index of another kind"),
    ],
    ids=["missing", "empty", "text", "flipped", "cut", "too old", "too new", "diverged", "foreign", "kind"],
)
def test_any_other_is_not_used_but_said_and_replaced(folder, rows, warnings, monkeypatch, spoil, reason, read_only):
    for module, name, value in ((log, "KEEP", 8), (log, "TRIM_AT_ONCE", 4)):
        monkeypatch.setattr(module, name, value)
    path = folder(600)
    spoil(path, rows)
    warnings()
    with vecstore.open(path, read_only=read_only) as db:
        docs = db.get_collection("docs")
        [warning] = warnings()
        assert warning.startswith(f"index.mdb of docs {reason}")
        assert docs.stats().linked == 0
        there = {one.id: one.vector for one in docs.scroll(limit=1000, with_vectors=True).records}
        for again in range(2):
            found = docs.search(np.array(list(there.values())), 1)
            assert [hits[0].score for hits in found] == [0] * 600
            if not again:
                docs.wait_indexed(60)
        before = links(docs)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert len(warnings()) == read_only  # nothing is written by a reader
        if not read_only:
            assert links(docs) == before


def test_an_index_file_that_cannot_be_opened_is_no_obstacle(folder, rows, warnings, monkeypatch):
    path = folder(600)
    files(path)[1].unlink()
    files(path)[1].mkdir()
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert "index.mdb of docs cannot be read" in warnings()[0]
        docs.upsert(5, rows(1, DIM, seed=5)[0])
        docs.wait_indexed(60)
        assert [hit.id for hit in docs.search(rows(1, DIM, seed=5)[0], 1)] == [5]
    assert "was not written" in warnings()[-1]


# -- when they are written -------------------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch):
    """Checkpoints after every hundred rows."""
    for name, value in (("BUSY_ROWS", 100), ("IDLE_ROWS", 100), ("BUSY_SHARE", 0), ("IDLE_SHARE", 0), ("REST", 0)):
        monkeypatch.setattr(indexing, name, value)


def wait(ready):
    import time

    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
from vecstore import indexing
from vecstore.index import graph, hnsw
hnsw.FIT_FROM, hnsw.LINK_FROM, graph.MIN_BATCH = 100, 300, 32
indexing.BUSY_ROWS = indexing.IDLE_ROWS = 0
indexing.BUSY_SHARE = indexing.IDLE_SHARE = 0
docs = vecstore.open(sys.argv[1], read_only=True).get_collection("docs")
new = hnsw.HnswIndex._new_graph
def fails(*_):
    raise AssertionError("made anew")
hnsw.HnswIndex._new_graph = fails
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

    monkeypatch.setattr(indexing, "MAX_WRITES", 20)
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
