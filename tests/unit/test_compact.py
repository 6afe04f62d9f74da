"""compact(): the same rows in a smaller file, whoever reads meanwhile and whenever it is killed."""

import threading
import time

import numpy as np
import pytest

import vecstore
from tests.compactions import KINDS, contents, files, files_of, filled
from vecstore import CollectionNotFoundError, CorruptionError, ReadOnlyError, StorageError
from vecstore.index import flat
from vecstore.storage import compaction, store


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
    slots = docs._index.structure.arrays.slots
    linked = slots[: docs._index.structure.arrays.linked]
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


@pytest.mark.parametrize("point", ["compact.renamed", "compact.synced", "compact.opened"])
def test_an_interruption_behind_the_rename_lets_nobody_write_to_the_old_file(db, rows, monkeypatch, point):
    docs = filled(db, rows)
    before = contents(docs)

    def interrupt(name):
        if name == point:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        for module in (compaction, store):
            patched.setattr(module, "reach", interrupt)
        with pytest.raises(KeyboardInterrupt):
            docs.compact()
    with pytest.raises(StorageError, match="could not be opened again after compact"):
        docs.upsert("x", np.ones(24))
    again = db.get_collection("docs")
    again.upsert("x", np.ones(24))
    db.close()
    with vecstore.open(db.path) as db:
        assert len(contents(db.get_collection("docs"))) == len(before) + 1


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


def test_codes_are_fitted_anew_to_what_has_grown_much(db, rows, small_graphs):
    docs = db.create_collection("docs", 24, "l2")
    docs.insert(range(2000), rows(2000, 24))
    docs.wait_indexed()
    for before, after in ((501, 501), (500, 2000)):
        docs._index.structure.fitted_on = before
        docs.compact()
        assert docs._index.structure.fitted_on == after
        assert docs.check() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_that_it_comes_into_begins_anew_and_scans_nothing(db, rows, small_graphs, monkeypatch, kind):
    docs = filled(db, rows, kind, 1500, 16)
    docs.wait_indexed()
    query = rows(1, 16, 9)[0]
    expected = [hit.id for hit in docs.search(query, 5)]
    found, views = docs._searching.found, []

    def compacted_first(view, *args, **options):
        views.append(view)
        if len(views) == 1:
            other = threading.Thread(target=docs.compact)
            other.start()
            other.join()
        return found(view, *args, **options)

    monkeypatch.setattr(docs._searching, "found", compacted_first)
    scans, search = [], flat.search
    monkeypatch.setattr(flat, "search", lambda *args: scans.append(len(views)) or search(*args))
    assert [hit.id for hit in docs.search(query, 5, score_threshold=-1e9)] == expected
    if kind == "flat":
        assert len(views) == 1  # it scans rows in any case
    else:
        assert (len(views), scans) == (2, [])


def test_a_search_does_not_wait_until_the_pages_of_the_old_file_are_free(db, rows):
    docs = filled(db, rows)
    old, closed_by = docs._store.env, []

    class Closing:
        def __init__(self, env):
            self.begin = env.begin
            self.close = lambda: (closed_by.append(threading.current_thread().name), env.close())

    old._env = Closing(old._env)
    with docs._store.view():
        other = threading.Thread(target=docs.compact)
        other.start()
        other.join()
        assert not closed_by
    assert old.closed
    while not closed_by:
        time.sleep(0.001)
    assert closed_by == ["vecstore-close"]
