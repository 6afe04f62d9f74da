"""compact(): the same rows in a smaller file, whoever reads meanwhile and whenever it is killed."""

import shutil
import signal
import threading

import numpy as np
import pytest

import vecstore
from vecstore import CollectionNotFoundError, CorruptionError, ReadOnlyError, StorageError, indexing
from vecstore.storage import compaction, failpoints, recovery, sharing, store
from vecstore.storage.environment import Environment

KINDS = {
    "flat": {"index": vecstore.Flat()},
    "codes": {"index": vecstore.Flat(), "quantization": vecstore.Int8()},
    "graph": {"index": vecstore.HNSW(m=16)},
}


def contents(docs):
    records = docs.scroll(limit=10_000, with_vectors=True).records
    return [(one.id, one.payload, one.vector.tobytes()) for one in records]


def filled(db, rows, kind="flat", n=2000, dim=24):
    """A collection of n rows, half of them written twice, and a third deleted."""
    docs = db.create_collection("docs", dim, "l2", **KINDS[kind])
    docs.insert(range(n), rows(n, dim), [{"n": i} for i in range(n)])
    docs.upsert(range(0, n, 2), rows(n // 2, dim, 1))
    docs.delete(range(0, n, 3))
    docs.upsert(["a", "b"], rows(2, dim, 2), [{"s": "x"}, None])
    docs.wait_indexed()
    return docs


def files(docs):
    return sorted(entry.name for entry in docs._store.env.path.parent.iterdir())


def files_of(kind):
    index = ["index.mdb", "index.mdb-lock"] if kind == "graph" else []
    return ["data.mdb", "data.mdb-lock", *index]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_as_before_but_the_size(db, rows, small_graphs, kind):
    docs = filled(db, rows, kind)
    queries = rows(20, 24, 3)
    docs.search(queries, 1)
    before, stats = contents(docs), docs.stats()
    hits = docs.search(queries, 10, exact=kind != "flat")
    docs.compact()
    after = docs.stats()
    assert contents(docs) == before
    assert docs.search(queries, 10, exact=kind != "flat") == hits
    assert docs.check() == []
    assert (after.count, after.dead, after.lsn) == (stats.count, 0, stats.lsn + 2)
    assert after.file_bytes < stats.file_bytes
    assert after.free_bytes < 2**17
    assert files(docs) == files_of(kind)
    # What is derived went along: nothing was coded or linked anew.
    assert (after.linked, after.tail, after.code_bytes > 0) == (stats.linked, stats.tail, kind != "flat")
    assert [hit.id for one in docs.search(queries, 1) for hit in one] == [one[0].id for one in hits]
    docs.delete(range(1, 2000, 7))
    docs.upsert(range(3000, 4000), rows(1000, 24, 4))
    assert docs.check() == []
    now = contents(docs)
    docs.compact()
    assert contents(docs) == now
    linked = docs.stats().linked
    db.close()
    with vecstore.open(db.path) as again:
        docs = again.get_collection("docs")
        assert contents(docs) == now and docs.check() == []
        assert docs.stats().linked >= linked  # the checkpoint is of the new slots


def test_slots_follow_the_order_of_the_graph(db, rows, small_graphs):
    docs = filled(db, rows, "graph")
    docs.upsert(range(5000, 5020), rows(20, 24, 5))
    docs.compact()
    slots = docs._index.graph.arrays.slots
    linked = slots[: docs._index.graph.arrays.linked]
    linked = linked[linked >= 0]
    assert linked.tolist() == list(range(len(linked)))
    ids = [docs.search(docs.get(one, with_vectors=True).vector, 1, with_payload=False)[0].id for one in (5000, 5019, 1)]
    assert ids == [5000, 5019, 1]


@pytest.mark.parametrize("n", [0, 1, 8192, 8193])
def test_collections_of_all_sizes(db, rows, n):
    docs = db.create_collection("docs", 4, index=vecstore.Flat())
    docs.insert(range(n), rows(n, 4))
    before = contents(docs) if n < 10_000 else None
    docs.compact()
    assert (len(docs), docs.check(), contents(docs)) == (n, [], before)
    assert docs.insert("new", np.ones(4)).inserted == 1


def test_a_file_that_was_only_appended_to_shrinks_little_and_half_of_it_to_half(db, rows):
    docs = db.create_collection("docs", 96, index=vecstore.Flat())
    docs.insert(range(8000), rows(8000, 96))
    docs.compact()
    fresh = docs.stats().file_bytes
    docs.upsert(range(8000, 16000), rows(8000, 96))
    docs.delete(range(8000, 16000))
    assert docs.stats().file_bytes > 1.8 * fresh
    docs.compact()
    assert docs.stats().file_bytes <= 1.02 * fresh


@pytest.mark.parametrize("kind", KINDS)
def test_searches_and_writes_of_other_threads(db, rows, small_graphs, kind):
    docs = filled(db, rows, kind, 1500, 16)
    docs.upsert(range(10_000, 10_100), np.full((100, 16), 50.0), [{"v": 0}] * 100)
    done, wrong, rounds = threading.Event(), [], [0] * 4

    def run(n, step):
        try:
            while not done.is_set():
                step()
                rounds[n] += 1
        except BaseException as error:
            wrong.append(error)

    def search():
        hits = docs.search(np.full((2, 16), 50.0), 100)
        for some in hits:
            assert {hit.id for hit in some} == set(range(10_000, 10_100))
            assert len({hit.payload["v"] for hit in some}) == 1
        assert docs.get(10_050, with_vectors=True).vector[0] == 50
        assert docs.search(np.full(16, 50.0), 1, with_payload=False)[0].id >= 10_000

    versions = iter(range(1, 10**9))

    def write():
        docs.upsert(range(10_000, 10_100), np.full((100, 16), 50.0), [{"v": next(versions)}] * 100)

    def other_write():
        docs.upsert(range(200), rows(200, 16, next(versions)))

    steps = [search, search, write, other_write]
    threads = [threading.Thread(target=run, args=(n, step)) for n, step in enumerate(steps)]
    for thread in threads:
        thread.start()
    for _ in range(12):
        docs.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(rounds)
    assert docs.check() == []


def test_a_search_that_began_before_ends_in_the_old_file(db, rows):
    docs = filled(db, rows)
    old = docs._store.env
    with docs._store.view() as view:
        slot = int(view.slots([b"\x02a"])[0])
        done = threading.Thread(target=docs.compact)
        done.start()
        done.join()
        assert docs._store.env is not old and not old.closed
        assert view.row(slot)[0] == b"\x02a"
        assert view.vectors([slot]).tobytes() == rows(2, 24, 2)[0].tobytes()
        assert docs.get("b").id == "b"
    assert old.closed


def test_writers_wait_for_it(db, rows, monkeypatch):
    docs = filled(db, rows)
    inside, go_on = threading.Event(), threading.Event()
    write = compaction.write

    def slow(*args):
        inside.set()
        assert go_on.wait(30)
        return write(*args)

    monkeypatch.setattr(compaction, "write", slow)
    threads = [threading.Thread(target=docs.compact)]
    threads[0].start()
    inside.wait()
    threads.append(threading.Thread(target=lambda: docs.upsert("late", np.ones(24))))
    threads[1].start()
    threads[1].join(0.1)
    assert threads[1].is_alive() and docs.get("late") is None
    go_on.set()
    for thread in threads:
        thread.join()
    assert docs.get("late", with_vectors=True).vector.tolist() == [1] * 24
    db.close()
    with vecstore.open(db.path) as again:
        assert again.get_collection("docs").get("late") is not None


def test_what_fails_leaves_the_old_file_in_use(db, rows, monkeypatch):
    docs = filled(db, rows)
    before = contents(docs)
    for module, name in ((compaction, "_block"), (compaction, "seal_rows"), (compaction, "_rename")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                docs.compact()
        assert files(docs) == ["data.mdb", "data.mdb-lock"]
        assert contents(docs) == before
        docs.upsert("x", np.ones(24))
        docs.delete("x")
    with monkeypatch.context() as patched:  # damage is not carried over under a new checksum
        patched.setattr(store.View, "verify", lambda *_: (_ for _ in ()).throw(CorruptionError("damaged")))
        with pytest.raises(CorruptionError):
            docs.compact()
    docs.compact()
    assert contents(docs) == before


@pytest.mark.parametrize("name", ["Environment", "sync_folder"])
def test_a_file_that_cannot_be_opened_again_takes_no_writes(db, rows, monkeypatch, name):
    docs = filled(db, rows)
    before = contents(docs)
    with monkeypatch.context() as patched:
        patched.setattr(store, name, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            docs.compact()
    for call in (lambda: docs.upsert("x", np.ones(24)), docs.count):
        with pytest.raises(StorageError, match="could not be opened again after compact"):
            call()
    db.close()
    with vecstore.open(db.path) as again:
        assert contents(again.get_collection("docs")) == before


FULL = """
import json, resource, sys
import vecstore
with vecstore.open(sys.argv[1]) as db:
    docs = db.get_collection("docs")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        docs.compact()
    except vecstore.DiskFullError as error:
        print(json.dumps([str(error), len(docs), docs.check()]))
"""


def test_a_full_disk(db, rows, process):
    docs = filled(db, rows)
    count, there = len(docs), files(docs)
    db.close()
    error, found, findings = process(FULL, db.path).read()
    assert "no room on the disk" in error and (found, findings) == (count, [])
    assert files(docs) == there


def test_it_is_refused_read_only_and_after_a_drop(db, rows):
    docs = filled(db, rows)
    with vecstore.open(db.path, read_only=True) as reader, pytest.raises(ReadOnlyError):
        reader.get_collection("docs").compact()
    db.drop_collection("docs")
    with pytest.raises(CollectionNotFoundError):
        docs.compact()


def test_a_drop_meanwhile(db, rows, monkeypatch):
    docs = filled(db, rows)
    write = compaction.write

    def dropped_first(*args):
        (db.path / "collections" / "docs").rename(db.path / "collections" / ".docs-1234")
        return write(*args)

    monkeypatch.setattr(compaction, "write", dropped_first)
    with pytest.raises(CollectionNotFoundError):
        docs.compact()


KILLED = """
import sys
import numpy as np
import vecstore
from vecstore.storage import failpoints
with vecstore.open(sys.argv[1]) as db:
    docs = db.get_collection("docs")
    failpoints.arm(sys.argv[2], int(sys.argv[3]))
    docs.compact()
"""
PLACES = [("compact.part", 1), ("compact.part", 3)] + [
    (name, 1) for name in failpoints.POINTS if name.startswith("compact.") and name != "compact.part"
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}-{place[1]}")
def test_killed_anywhere(db, rows, process, place):
    docs = filled(db, rows)
    before, lsn, path = contents(docs), docs.stats().lsn, docs._store.env.path
    db.close()
    follower = process(READER, db.path)
    assert follower.read() == len(before)
    assert process(KILLED, db.path, *place).popen.wait() == -signal.SIGKILL
    assert follower.ask() == [len(before), 0]
    with vecstore.open(db.path, read_only=True) as reader:
        assert contents(reader.get_collection("docs")) == before
    with vecstore.open(db.path) as again:
        docs = again.get_collection("docs")
        assert files(docs) == ["data.mdb", "data.mdb-lock"]
        assert (contents(docs), docs.check()) == (before, [])
        decided = place[0] not in ("compact.part", "compact.written")
        assert docs.stats().lsn == lsn + 2 * decided
        docs.upsert("x", np.ones(24))
        assert follower.ask() == [len(before) + 1, 0]
        assert path.exists()


READER = """
import json, sys
import vecstore
db = vecstore.open(sys.argv[1], read_only=True)
docs = db.get_collection("docs")
print(json.dumps(len(docs)), flush=True)
for line in sys.stdin:
    try:
        answer = [len(docs), len(docs.check())]
    except vecstore.VecstoreError as error:
        answer = type(error).__name__
    print(json.dumps(answer), flush=True)
"""


def test_what_a_stopped_compaction_decided_on_is_dropped_if_data_went_on(db, rows):
    docs = filled(db, rows)
    before, folder = contents(docs), docs._store.env.path.parent
    with docs._store.view() as view:
        source = compaction.Source(
            view.txn, view.env, view.layout, view.table.live_slots(), view.table.rows, view.row, view.ids
        )
        compaction.write(source, view.state.lsn + 2).rename(folder / "data.mdb.next")
    docs.upsert("x", np.ones(24))
    (folder / "data.mdb.new").write_bytes(b"half")
    db.close()
    with vecstore.open(db.path) as again:
        docs = again.get_collection("docs")
        assert files(docs) == ["data.mdb", "data.mdb-lock"]
        assert len(contents(docs)) == len(before) + 1


def test_an_opener_waits_while_files_change_their_names(db, rows, monkeypatch):
    docs = filled(db, rows)
    path = docs._store.env.path
    db.close()
    opened = []

    def open_it():
        env = Environment(path, read_only=True)
        opened.append(env.inode)
        env.close()

    threads = [threading.Thread(target=open_it)]
    with compaction.not_replaced(path.parent, replacing=True):
        threads[0].start()
        threads[0].join(0.1)
        assert opened == []
    threads[0].join()
    assert opened == [path.stat().st_ino]


FOLLOWER = """
import json, sys
import vecstore
from tests.conftest import make_graphs_small
make_graphs_small(setattr)
db = vecstore.open(sys.argv[1], read_only=True)
docs = db.get_collection("docs")
for line in sys.stdin:
    query = json.loads(line)
    hits = docs.search(query, 5, with_payload=False)
    again = db.get_collection("docs") is docs
    print(json.dumps([[hit.id for hit in hits], len(docs), docs.stats().linked, again]), flush=True)
"""


def test_a_reader_of_a_graph_goes_on_with_the_checkpoint_of_the_compaction(db, rows, small_graphs, process):
    docs = filled(db, rows, "graph")
    query = rows(1, 24, 9)[0]
    docs.close()
    docs = db.get_collection("docs")
    follower = process(FOLLOWER, db.path)
    for _ in range(3):
        hits, linked = docs.search(query, 5, with_payload=False), docs.stats().linked
        assert linked > 1000
        assert follower.ask(query.tolist()) == [[hit.id for hit in hits], len(docs), linked, True]
        docs.compact()
        hits = docs.search(query, 5, with_payload=False)
        assert follower.ask(query.tolist()) == [[hit.id for hit in hits], len(docs), linked, True]
        docs.upsert("late", np.ones(24))
        docs.delete("late")
        docs.wait_indexed()


def test_a_compaction_is_followed_over_the_wire_and_by_other_databases_of_the_process(db, rows):
    docs = filled(db, rows)
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        docs.compact()
        assert contents(followed) == contents(docs)
        assert reader.get_collection("docs") is followed
        docs.upsert("x", np.ones(24))
        assert followed.get("x") is not None
    assert docs.get("x") is not None


def test_with_commits_that_are_synced_at_an_interval(tmp_path, rows, monkeypatch):
    with vecstore.open(tmp_path / "db", durability="interval") as db:
        docs = filled(db, rows)
        with monkeypatch.context() as patched:
            patched.setattr(compaction, "_rename", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                docs.compact()
        docs.upsert("before", np.ones(24))
        docs.compact()
        docs.upsert("after", np.ones(24))
        docs._store.env.settle()
        docs.upsert("behind the last sync", np.ones(24))
        before = contents(docs)
        shutil.copytree(tmp_path / "db", tmp_path / "copy")
    with vecstore.open(tmp_path / "db") as db:
        docs = db.get_collection("docs")
        assert contents(docs) == before and docs.check() == []
        assert files(docs) == ["data.mdb", "data.mdb-lock"]
    # The machine went down: what the record of syncs leads to is a commit of the new file.
    monkeypatch.setattr(recovery, "boot_id", lambda: "another")
    with vecstore.open(tmp_path / "copy") as db:
        docs = db.get_collection("docs")
        assert docs.check() == [] and docs.get("before") is not None and docs.get("after") is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", ["compact.renamed", "compact.synced"])
def test_a_collection_that_is_dropped_while_its_files_change_their_names(db, rows, monkeypatch, kind, point):
    """The file may get the inode number of the next collection's: the store must not be found under it."""
    docs = filled(db, rows, kind)
    path = docs._store.env.path
    before = set(sharing._shared)
    dropping = threading.Thread(target=db.drop_collection, args=("docs",))

    def dropped(name):
        if name == point:
            dropping.start()
            while path.exists():
                pass

    for module in (compaction, store):
        monkeypatch.setattr(module, "reach", dropped)
    with pytest.raises(CollectionNotFoundError, match='"docs" was dropped'):
        docs.compact()
        len(docs)
    dropping.join()
    assert docs._store not in sharing._shared.values() and not before & set(sharing._shared)
    for call in (lambda: len(docs), docs.compact, lambda: docs.upsert(1, np.ones(24))):
        with pytest.raises(CollectionNotFoundError):
            call()
    again = db.create_collection("docs", 3)
    again.insert(1, [1, 2, 3])
    assert len(again) == 1


COMPACTING = """
import sys
import vecstore
with vecstore.open(sys.argv[1]) as db:
    db.get_collection("docs").compact()
"""


def test_a_reader_whose_collection_is_dropped_while_it_opens_the_new_file(db, rows, process, monkeypatch):
    filled(db, rows)
    db.close()
    with vecstore.open(db.path, read_only=True) as reader:
        docs = reader.get_collection("docs")
        assert len(docs) > 0
        assert process(COMPACTING, db.path).popen.wait() == 0
        continues = store.Store._continues

        def dropped_then(self, fresh):
            found = continues(self, fresh)
            fresh.path.parent.rename(db.path / "collections" / ".docs")
            return found

        monkeypatch.setattr(store.Store, "_continues", dropped_then)
        with pytest.raises(CollectionNotFoundError, match='"docs" was dropped'):
            len(docs)
    assert not sharing._shared


def test_a_reader_scans_until_the_checkpoint_of_a_compaction_is_there(db, rows, small_graphs, monkeypatch):
    docs, query = filled(db, rows, "graph"), rows(1, 24, 9)[0]
    docs.wait_indexed()
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        followed.wait_indexed()
        with monkeypatch.context() as patched:
            patched.setattr(docs._indexing, "_try_checkpoint", lambda: None)
            docs.compact()
        with monkeypatch.context() as patched:
            patched.setattr(followed._index, "_new_graph", lambda *_: 1 / 0)
            for _ in range(2):
                assert followed.search(query, 5) == docs.search(query, 5, exact=True)
                docs.upsert("late", np.ones(24))
            assert followed._indexing._awaited is not None
            docs._indexing._checkpoint()
            followed.wait_indexed(30)
            assert followed._index.lsn == docs.stats().lsn and followed._indexing._awaited is None
        assert followed.stats().linked == docs.stats().linked and followed.check() == []


def test_a_reader_does_not_wait_for_ever_for_that_checkpoint(db, rows, small_graphs, monkeypatch):
    monkeypatch.setattr(indexing, "AWAIT_SECONDS", 0.1)
    docs = filled(db, rows, "graph")
    docs.wait_indexed()
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        followed.wait_indexed()
        monkeypatch.setattr(docs._indexing, "_try_checkpoint", lambda: None)
        docs.compact()
        followed.wait_indexed(30)
        assert followed.stats().linked == len(docs) and followed.check() == []


def test_codes_are_fitted_anew_to_what_has_grown_much(db, rows, small_graphs):
    docs = db.create_collection("docs", 24, "l2")
    docs.insert(range(2000), rows(2000, 24))
    docs.wait_indexed()
    for before, after in ((501, 501), (500, 2000)):
        docs._index.graph.fitted_on = before
        docs.compact()
        assert docs._index.graph.fitted_on == after
        assert docs.check() == []
