"""Writes of several threads in one commit: each has its own result or its own error, as if it had come alone."""

import errno
import itertools
import threading
import time

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vecstore
from vecstore import AlreadyExistsError, ClosedError, CollectionNotFoundError, DatabaseFullError, StateError
from vecstore.storage import environment
from vecstore.storage.group import Pending
from vecstore.testing import ModelDatabase
from vecstore.testing.faults import Fail, storage_calls, unavailable
from vecstore.testing.strategies import id_lists

DIM = 4


@pytest.fixture
def docs(db):
    return db.create_collection("docs", DIM, index=vecstore.Flat())


def vector(seed):
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


class Call(threading.Thread):
    """A call in a thread of its own; `end()` gives its result, or the error it raised."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args = function, args
        self.start()

    def run(self):
        try:
            self.outcome = self.function(*self.args)
        except Exception as error:
            self.outcome = error

    def end(self):
        self.join(20)
        assert not self.is_alive(), "a call hangs"
        return self.outcome


class Held:
    """Keeps the writer's turn, so that calls queue up in the order in which they are made: they run in one group."""

    def __init__(self, docs):
        self.store = docs._store
        self.leave = threading.Event()
        inside = threading.Event()

        def work(write):
            inside.set()
            self.leave.wait()

        self.first = Call(self.store.write, work)
        inside.wait()
        self.calls = []

    def call(self, function, *args):
        self.calls.append(Call(function, *args))
        deadline = time.monotonic() + 10
        while len(self.store._writer._queue._waiting) < len(self.calls):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def end(self):
        self.leave.set()
        assert self.first.end() is None
        return [call.end() for call in self.calls]


def commits(docs):
    return docs._store.env.last_txn_id()


def test_writes_that_wait_are_committed_together_each_with_its_own_log_record(docs):
    held = Held(docs)
    for n in range(5):
        held.call(docs.upsert, n, vector(n))
    before = commits(docs)
    results = held.end()
    assert commits(docs) == before + 1
    assert [(one.lsn, one.inserted) for one in results] == [(n + 1, 1) for n in range(5)]
    assert [len(docs), docs.stats().lsn, docs.check()] == [5, 5, []]
    assert [docs.get(n, with_vectors=True).vector.tobytes() for n in range(5)] == [
        vector(n).tobytes() for n in range(5)
    ]
    with docs._store.view() as view:
        added, removed = view.changed_since(0)
    assert (added.tolist(), removed.tolist()) == ([0, 1, 2, 3, 4], [])


def test_an_error_is_that_of_its_own_write_alone(docs):
    held = Held(docs)
    held.call(docs.insert, 1, vector(1))
    held.call(docs.insert, 1, vector(2))
    held.call(docs.insert, 2, vector(3))
    held.call(docs.update, 9, vector(3))
    held.call(docs.delete, 1)
    held.call(docs.insert, 1, vector(4))
    before = commits(docs)
    first, again, second, missing, gone, last = held.end()
    assert commits(docs) == before + 1
    assert (first.inserted, second.inserted, gone.deleted, last.inserted) == (1, 1, 1, 1)
    assert type(again) is AlreadyExistsError
    assert again.ids == [1]
    assert type(missing) is vecstore.NotFoundError
    assert (docs.stats().lsn, len(docs), docs.check()) == (4, 2, [])
    assert docs.get(1, with_vectors=True).vector.tobytes() == vector(4).tobytes()


def test_a_write_that_fails_half_way_is_undone_and_the_others_run_again(docs):
    def spoils(write):
        write.add([b"\x02x"], vector(0)[None], np.ones(1, np.float32), [None])
        raise ZeroDivisionError

    held = Held(docs)
    held.call(docs.insert, 1, vector(1))
    held.call(docs._store.write, spoils)
    held.call(docs.insert, 1, vector(2))
    held.call(docs.insert, 2, vector(2))
    first, spoilt, again, second = held.end()
    assert (first.lsn, second.lsn, type(again), type(spoilt)) == (1, 2, AlreadyExistsError, ZeroDivisionError)
    assert (len(docs), docs.get("x"), docs.check()) == (2, None, [])
    docs.insert(3, vector(3))
    assert docs.check() == []


def test_an_error_of_lmdb_in_one_write_is_translated_and_does_not_harm_the_others(docs):
    def breaks(write):
        raise lmdb.CorruptedError("a page")

    held = Held(docs)
    held.call(docs.insert, 1, vector(1))
    held.call(docs._store.write, breaks)
    held.call(docs.insert, 2, vector(2))
    first, broken, second = held.end()
    assert (first.inserted, second.inserted, type(broken)) == (1, 1, vecstore.CorruptionError)
    assert (len(docs), docs.check()) == (2, [])


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_a_commit_that_fails_fails_for_each_and_nothing_of_it_remains(docs):
    docs.insert(0, vector(0))
    held = Held(docs)
    for n in range(1, 4):
        held.call(docs.insert, n, vector(n))
    held.call(docs.insert, 0, vector(0))
    with storage_calls(lambda call: Fail(errno.EIO) if call.kind == "sync" else None):
        errors = held.end()
    assert [type(error) for error in errors] == [vecstore.StorageError] * 4
    assert len(set(map(id, errors))) == 4
    assert (len(docs), docs.stats().lsn, docs.check()) == (1, 1, [])
    assert docs.insert(1, vector(1)).lsn == 2
    assert (len(docs), docs.check()) == (2, [])


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_whichever_call_of_a_shared_commit_fails_no_writer_is_told_what_is_not_so(docs):
    certain = set()
    for number in itertools.count(1):
        held = Held(docs)
        ids = [f"{number}-{n}" for n in range(4)]
        for n, one in enumerate(ids):
            held.call(docs.insert, one, vector(n))
        made = []

        def fail(call, made=made, number=number):
            made.append(call)
            return Fail(errno.EIO) if len(made) == number else None

        with storage_calls(fail):
            outcomes = held.end()
        failed = len(made) >= number
        assert [type(one) for one in outcomes] == [vecstore.StorageError if failed else vecstore.WriteResult] * 4
        certain.update(() if failed else ids)
        docs.insert(number, vector(number))
        certain.add(number)
        assert {record.id for record in docs.scroll(limit=1000).records} == certain
        assert docs.check() == []
        if not failed:
            break
    assert number > 3


def test_the_map_grows_for_a_group_as_for_one(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "FIRST_MAP_SIZE", 2**18)
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 64, index=vecstore.Flat())
        held = Held(docs)
        for n in range(0, 2000, 500):
            held.call(docs.insert, range(n, n + 500), np.ones((500, 64)))
        assert [one.lsn for one in held.end()] == [1, 2, 3, 4]
        assert (len(docs), docs.check()) == (2000, [])


def test_a_write_that_does_not_fit_fails_alone(tmp_path):
    with vecstore.open(tmp_path, max_size=2**20) as db:
        docs = db.create_collection("docs", 64, index=vecstore.Flat())
        held = Held(docs)
        held.call(docs.insert, range(100), np.ones((100, 64)))
        held.call(docs.insert, range(1000, 9000), np.ones((8000, 64)))
        held.call(docs.insert, range(100, 200), np.ones((100, 64)))
        first, large, second = held.end()
        assert (first.inserted, second.inserted, type(large)) == (100, 100, DatabaseFullError)
        assert (len(docs), docs.check()) == (200, [])


def test_writes_that_are_queued_when_the_database_closes_end_one_way_or_the_other(tmp_path):
    db = vecstore.open(tmp_path)
    docs = db.create_collection("docs", DIM, index=vecstore.Flat())
    held = Held(docs)
    for n in range(4):
        held.call(docs.insert, n, vector(n))
    closing = Call(db.close)
    time.sleep(0.02)
    outcomes = held.end()
    closing.end()
    with vecstore.open(tmp_path) as db:
        stored = {n for n in range(4) if db.get_collection("docs").get(n) is not None}
    assert stored == {n for n, one in enumerate(outcomes) if not isinstance(one, Exception)}
    assert {type(one) for one in outcomes if isinstance(one, Exception)} <= {ClosedError}


def test_writes_that_are_queued_when_their_collection_is_dropped_end_one_way_or_the_other(db, docs):
    held = Held(docs)
    for n in range(4):
        held.call(docs.insert, n, vector(n))
    dropping = Call(db.drop_collection, "docs")
    time.sleep(0.02)
    outcomes = held.end()
    assert dropping.end() is None
    assert {type(one) for one in outcomes if isinstance(one, Exception)} <= {CollectionNotFoundError}
    assert db.list_collections() == []
    with pytest.raises(CollectionNotFoundError):
        docs.insert(9, vector(9))


def test_a_forked_child_is_refused_at_once_while_its_parent_was_writing(docs, monkeypatch):
    held = Held(docs)
    monkeypatch.setattr(docs._store.env, "_pid", -1)
    with pytest.raises(StateError, match="before this process was forked"):
        docs.insert(1, vector(1))
    monkeypatch.undo()
    held.end()


@pytest.mark.parametrize(
    "options", [{}, {"durability": "interval", "sync_interval": 0.002}], ids=["commit", "interval"]
)
@pytest.mark.parametrize("index", [vecstore.Flat(), vecstore.HNSW()], ids=["flat", "graph"])
def test_many_threads_leave_what_each_of_them_wrote(tmp_path, index, options):
    """Each thread has ids of its own, and all try to insert the same ones: of each of those, one thread succeeds."""
    n_threads, rounds = 8, 40
    with vecstore.open(tmp_path, **options) as db:
        docs = db.create_collection("docs", DIM, index=index)
        models = [ModelDatabase().create_collection("docs", DIM) for _ in range(n_threads)]
        won = [0] * rounds
        lsns = [[] for _ in range(n_threads)]

        def write(thread):
            rng = np.random.default_rng(thread)
            for turn in range(rounds):
                ids = [f"{thread}-{n}" for n in rng.choice(20, rng.integers(1, 4), replace=False)]
                vectors = rng.standard_normal((len(ids), DIM)).astype(np.float32)
                kind = rng.integers(4)
                if kind == 0:
                    both = [one.delete(ids) for one in (docs, models[thread])]
                else:
                    both = [one.upsert(ids, vectors, [{"turn": turn}] * len(ids)) for one in (docs, models[thread])]
                assert (both[0].inserted, both[0].updated, both[0].deleted) == (
                    both[1].inserted,
                    both[1].updated,
                    both[1].deleted,
                )
                if both[0].inserted + both[0].updated + both[0].deleted:
                    lsns[thread].append(both[0].lsn)
                assert docs.get(ids[0]) == models[thread].get(ids[0])
                try:
                    docs.insert(turn, vectors[0])
                    won[turn] += 1
                except AlreadyExistsError:
                    pass

        calls = [Call(write, thread) for thread in range(n_threads)]
        assert [call.end() for call in calls] == [None] * n_threads
        assert won == [1] * rounds
        assert all(some == sorted(some) for some in lsns)
        assert len(set(itertools.chain(*lsns))) == sum(map(len, lsns)) == docs.stats().lsn - rounds
        assert docs.check() == []
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        expected = {record.id: record for model in models for record in model.scroll(limit=1000).records}
        stored = {record.id: record for record in docs.scroll(limit=1000, with_vectors=False).records}
        assert {one for one in stored if isinstance(one, str)} == set(expected)
        assert all(stored[one].payload == expected[one].payload for one in expected)
        assert docs.check() == []


@pytest.mark.parametrize("behind", [True, False])
def test_a_leader_that_is_interrupted_behind_the_commit_knows_that_all_are_done(docs, monkeypatch, behind):
    pendings = [caught(docs, "insert", (n, vector(n)), False) for n in range(3)]
    write_once = docs._store.env.write_once

    def interrupted(work):
        if behind:
            write_once(work)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(docs._store.env, "write_once", interrupted)
        docs._store._writer.commit(pendings)
    assert [one.done for one in pendings] == [behind] * 3
    docs._store._writer.commit([one for one in pendings if not one.done])
    assert [one.result.inserted for one in pendings] == [1] * 3
    assert (len(docs), docs.check()) == (3, [])


writes = st.one_of(
    st.tuples(st.sampled_from(["insert", "upsert", "update"]), id_lists(0, 6), st.integers(0, 9)),
    st.tuples(st.just("delete"), id_lists(0, 6), st.just(0)),
    st.tuples(st.just("fail"), id_lists(1, 3), st.integers(0, 9)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(writes, max_size=6), max_size=5))
def test_a_group_does_what_its_writes_do_one_after_another(tmp_path_factory, groups):
    with vecstore.open(tmp_path_factory.mktemp("db")) as db:
        docs = db.create_collection("docs", 1024, metric="l2", index=vecstore.Flat())  # 32 rows a block
        model = ModelDatabase().create_collection("docs", 1024, metric="l2")
        for group in groups:
            pendings, expected = [], []
            for kind, ids, seed in group:
                arguments = (ids,) if kind == "delete" else (ids, np.full((len(ids), 1024), seed, np.float32))
                verb = "upsert" if kind == "fail" else kind
                pendings.append(caught(docs, verb, arguments, kind == "fail"))
                if kind == "fail":
                    expected.append(ZeroDivisionError)
                    continue
                try:
                    expected.append(getattr(model, kind)(*arguments))
                except vecstore.VecstoreError as error:
                    expected.append(type(error))
            docs._store._writer.commit(pendings)
            assert [one.result if one.error is None else type(one.error) for one in pendings] == expected
            assert all(one.done for one in pendings)
        found = docs.scroll(limit=1000, with_vectors=True)
        wanted = model.scroll(limit=1000, with_vectors=True)
        assert [(one.id, one.vector.tobytes()) for one in found.records] == [
            (one.id, one.vector.tobytes()) for one in wanted.records
        ]
        assert docs.check() == []


def caught(docs, verb, arguments, fails):
    """The work of a call, which fails behind its last change if it `fails`."""
    taken = []

    class Taking:
        def write(self, work, size):
            taken.append(Pending(work, size))

    real, docs._store = docs._store, Taking()
    try:
        getattr(docs, verb)(*arguments)
    finally:
        docs._store = real
    if fails:
        work = taken[0].work

        def failing(write):
            work(write)
            raise ZeroDivisionError

        taken[0].work = failing
    return taken[0]
