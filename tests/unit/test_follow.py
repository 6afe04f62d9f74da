"""Readers that follow a live writer: other processes, other databases of the same process, other threads."""

import os
import threading

import numpy as np
import pytest

import vecstore
from vecstore import ClosedError, CollectionNotFoundError
from vecstore.storage import log

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"

FOLLOWER = """
import json, sys
import numpy as np
import vecstore
db = vecstore.open(sys.argv[1], read_only=True)
docs = db.get_collection("docs")
print(json.dumps("open"), flush=True)
for line in sys.stdin:
    try:
        if json.loads(line) == "reopen":
            docs = db.get_collection("docs")
        records = docs.scroll(limit=10_000, with_vectors=True).records
        hits = docs.search(np.ones(docs.dim), 5)
        answer = {
            "count": len(docs),
            "lsn": docs.stats().lsn,
            "rows": [[one.id, one.payload, float(one.vector[0])] for one in records],
            "hits": [[hit.id, hit.score] for hit in hits],
            "findings": len(docs.check()),
        }
    except vecstore.VecstoreError as error:
        answer = type(error).__name__
    print(json.dumps(answer), flush=True)
"""


def seen_by(docs):
    """What a follower must answer."""
    records = docs.scroll(limit=10_000, with_vectors=True).records
    return {
        "count": len(docs),
        "lsn": docs.stats().lsn,
        "rows": [[one.id, one.payload, float(one.vector[0])] for one in records],
        "hits": [[hit.id, hit.score] for hit in docs.search(np.ones(docs.dim), 5)],
        "findings": 0,
    }


def random_write(docs, random):
    """One of the writes, to some of 60 rows."""
    some = random.choice(60, random.integers(1, 12), replace=False).tolist()
    there = [one.id for one in docs.get(some) if one is not None]
    what = random.integers(4)
    if what == 0:
        docs.delete(some)
    elif what == 1 and there:
        docs.update(there, payloads=[{"again": int(random.integers(100))}] * len(there))
    elif what == 2 and there:
        docs.update(there, random.standard_normal((len(there), docs.dim)))
    else:
        docs.upsert(some, random.standard_normal((len(some), docs.dim)), [{"n": one} for one in some])


def test_a_process_follows_a_writer_through_hundreds_of_commits(db, process):
    docs = db.create_collection("docs", 300, "l2")
    follower = process(FOLLOWER, db.path)
    assert follower.read() == "open"
    random = np.random.default_rng(0)
    for step in range(400):
        random_write(docs, random)
        if step % 10 == 0 or step < 20:
            assert follower.ask() == seen_by(docs)
    assert follower.ask() == seen_by(docs)


def test_an_open_reader_sees_drop_and_creation_anew(db, process):
    db.create_collection("docs", 4).insert(1, np.ones(4))
    follower = process(FOLLOWER, db.path)
    follower.read()
    assert follower.ask()["count"] == 1
    db.drop_collection("docs")
    assert follower.ask() == "CollectionNotFoundError"
    assert follower.ask("reopen") == "CollectionNotFoundError"
    docs = db.create_collection("docs", 9, "dot")
    docs.insert([5, 6], np.ones((2, 9)))
    assert follower.ask() == "CollectionNotFoundError"  # the old handle stays the old collection's
    assert follower.ask("reopen") == seen_by(docs)


@pytest.fixture
def short_log(monkeypatch):
    monkeypatch.setattr(log, "KEEP", 8)
    monkeypatch.setattr(log, "TRIM_AT_ONCE", 4)


def test_a_reader_further_behind_than_the_log_loads_everything_anew(db, process, short_log):
    docs = db.create_collection("docs", 300, "l2")
    follower = process(FOLLOWER, db.path)
    follower.read()
    random = np.random.default_rng(1)
    for behind in (1, 7, 8, 9, 11, 12, 13, 30, 100, 3):
        lsn = docs.stats().lsn
        while docs.stats().lsn < lsn + behind:
            random_write(docs, random)
        assert follower.ask() == seen_by(docs)
    with docs._store.view() as view, view.txn.cursor(view.env.db("log")) as cursor:
        kept = [int.from_bytes(key, "big") for key in cursor.iternext(values=False)]
    last = docs.stats().lsn
    assert kept == list(range(kept[0], last + 1))
    assert 8 <= len(kept) < 8 + 4
    assert docs.check() == []


def test_two_databases_of_one_folder_in_one_process(db):
    with vecstore.open(db.path, read_only=True) as reader:
        docs = db.create_collection("docs", 4)
        followed = reader.get_collection("docs")
        for n in range(50):
            docs.insert(n, np.ones(4), {"n": n})
            assert followed.get(n).payload == {"n": n}
            assert len(followed.search(np.ones(4), 100)) == n + 1
        with pytest.raises(vecstore.ReadOnlyError):
            followed.delete(1)
        with pytest.raises(vecstore.DatabaseLockedError, match="in this process already"):
            vecstore.open(db.path)
    with pytest.raises(ClosedError):
        followed.count()
    assert docs.delete(1).deleted == 1
    with vecstore.open(db.path, read_only=True) as reader:
        docs.close()
        assert len(reader.get_collection("docs")) == 49


def test_slots_are_used_again(db):
    docs = db.create_collection("docs", 64)
    per_block = docs._store.layout.rows
    docs.insert(range(4 * per_block), np.ones((4 * per_block, 64)))
    docs.delete(range(per_block, 3 * per_block))
    assert docs.stats().dead == 2 * per_block
    docs.insert(range(10_000, 10_000 + per_block), np.ones((per_block, 64)))
    assert docs.stats().dead == per_block
    before = docs.stats().vector_bytes
    for n in range(50):
        docs.upsert(range(100), np.full((100, 64), n + 1))
    stats = docs.stats()
    assert stats.vector_bytes == before
    assert stats.count == 3 * per_block
    assert stats.dead * 3 <= stats.count + 3 * per_block
    assert docs.check() == []


def test_the_file_stays_bounded_under_thousands_of_upserts_with_an_idle_reader(db, process):
    docs = db.create_collection("docs", 16)
    docs.insert(range(200), np.ones((200, 16)))
    follower = process(FOLLOWER, db.path)
    follower.read()
    assert follower.ask()["count"] == 200
    random = np.random.default_rng(2)

    def write(n):
        for _ in range(n):
            docs.upsert(random.choice(200, 5, replace=False), random.standard_normal((5, 16)), [{"n": 1}] * 5)

    write(400)
    settled = docs.stats().file_bytes
    write(2000 if MANY else 500)
    # The log alone still grows, by a record of a few dozen bytes a write, until it is trimmed.
    stats = docs.stats()
    assert stats.file_bytes - stats.log_bytes < settled + 2**19
    assert stats.dead <= 200 + docs._store.layout.rows
    assert follower.ask() == seen_by(docs)


@pytest.mark.parametrize("whole_database", [False, True])
def test_closing_while_other_threads_search(db, rows, whole_database):
    docs = db.create_collection("docs", 32)
    docs.insert(range(2000), rows(2000, 32))
    running = threading.Barrier(5)
    outcomes = []

    def search():
        reported = False
        try:
            while True:
                assert len(docs.search(np.ones((8, 32)), 10)) == 8
                assert docs.get(5, with_vectors=True).id == 5
                if not reported:
                    running.wait()
                    reported = True
        except Exception as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    running.wait()
    (db if whole_database else docs).close()
    for thread in threads:
        thread.join()
    assert outcomes == [ClosedError] * 4


def test_dropping_while_other_threads_search_and_write(db, rows):
    docs = db.create_collection("docs", 32)
    docs.insert(range(2000), rows(2000, 32))
    running = threading.Barrier(4)
    outcomes = []

    def repeat(call):
        try:
            call()
            running.wait()
            while True:
                call()
        except Exception as error:
            outcomes.append(type(error))

    calls = [lambda: docs.search(np.ones(32)), lambda: docs.upsert(7, np.ones(32)), docs.check]
    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    running.wait()
    db.drop_collection("docs")
    for thread in threads:
        thread.join()
    assert outcomes == [CollectionNotFoundError] * 3


def test_searches_of_other_threads_see_each_commit_whole(db):
    docs = db.create_collection("docs", 8, "l2")
    docs.insert(range(30), np.zeros((30, 8)), [{"n": 0}] * 30)
    done = threading.Event()
    seen, wrong = set(), []

    def read():
        while not done.is_set():
            hits = docs.search(np.zeros(8), 100, with_vectors=True)
            versions = {hit.payload["n"] for hit in hits} | {int(hit.vector[0]) for hit in hits}
            if len(hits) != 30 or len(versions) != 1:
                wrong.append(hits)
            seen.update(versions)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(1, 200):
        docs.upsert(range(30), np.full((30, 8), n), [{"n": n}] * 30)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert docs.search(np.zeros(8), 1)[0].payload == {"n": 199}
