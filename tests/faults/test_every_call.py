"""Each storage call of a workload fails once, in every way there is: the caller learns of it, and nothing is lost."""

import errno
import itertools
import os
import shutil
import threading

import pytest

import vecstore
from tests.faults.workload import STEPS, assert_sound, state, vectors
from vecstore.testing import ModelDatabase, faults
from vecstore.testing.faults import Fail, Short, storage_calls

pytestmark = pytest.mark.skipif(faults.unavailable() is not None, reason=str(faults.unavailable()))

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"

WAYS = {
    "no room": lambda call: Fail(errno.ENOSPC),
    "input/output error": lambda call: Fail(errno.EIO),
    "an error after the fact": lambda call: Fail(errno.EIO, done=len(call.data) or 1),
    "cut short": lambda call: Short(len(call.data) // 2) if call.kind == "write" else Fail(errno.EIO),
}


def run(path, fault, *, lasting=False):
    """Open, go through all steps and close, with `fault(call)` for the answers; how many calls there were and failed.

    A step that fails is repeated, with the fault gone.
    """
    folder = {}
    failures = []
    on = True

    def on_call(call):
        return fault(call) if on else None

    def attempt(action):
        nonlocal on
        try:
            return action()
        except vecstore.StorageError as error:
            failures.append(error)
            if lasting:
                with pytest.raises(vecstore.StorageError):
                    action()
            on = False
            return None

    with storage_calls(on_call, record=False):
        db = attempt(lambda: vecstore.open(path)) or vecstore.open(path)
        for step in STEPS:
            before = len(failures)
            attempt(lambda step=step: step(db))
            if len(failures) > before:
                assert state(db) == state(ModelDatabase(folder)), f"{step.__name__} failed, and something changed"
                assert_sound(db)
                step(db)
            step(ModelDatabase(folder))
            if len(failures) > before:
                assert state(db) == state(ModelDatabase(folder))
        assert state(db) == state(ModelDatabase(folder))
        attempt(db.close)
    with vecstore.open(path) as db:
        assert state(db) == state(ModelDatabase(folder))
        assert_sound(db)
        STEPS[-1](db)
    return failures


def calls_of_all(path):
    with storage_calls(lambda call: None) as calls, vecstore.open(path) as db:
        for step in STEPS:
            step(db)
    return len(calls.made)


@pytest.mark.parametrize("lasting", [False, True])
def test_any_call_that_fails_is_told_and_loses_nothing(tmp_path, lasting):
    n_calls = calls_of_all(tmp_path / "counted")
    assert n_calls > 50
    ways = list(WAYS.values())
    told = 0
    # With little effort each call fails in one way, and only some last.
    for number, turn in itertools.product(range(0, n_calls, 1 if MANY or not lasting else 5), range(4 if MANY else 1)):
        count = itertools.count()
        way = ways[(number + turn) % 4]

        def fault(call, number=number, way=way, count=count):
            at = next(count)
            return way(call) if at == number or (lasting and at > number) else None

        told += len(run(tmp_path / "db", fault, lasting=lasting))
        shutil.rmtree(tmp_path / "db")
    assert told >= n_calls // 5


# -- the last step of a commit, after which LMDB takes no more transactions ------------------------------------------


def is_meta(call):
    return call.kind == "write" and len(call.data) < 512


def test_a_commit_that_fails_in_its_last_step_leaves_a_collection_that_goes_on(tmp_path):
    with vecstore.open(tmp_path) as db:
        create, insert, *more = STEPS
        create(db)
        insert(db)
        before = state(db)
        count = itertools.count()
        with storage_calls(lambda call: Fail(errno.EIO) if is_meta(call) and next(count) == 0 else None) as calls:
            with pytest.raises(vecstore.StorageError, match="in the last step of a commit"):
                more[0](db)
            failed = len(calls.made)
            assert state(db) == before
            assert_sound(db)
            assert len(calls.made) == failed
            for step in more:
                step(db)
            # What LMDB wrote back is synced before anything else is written.
            assert [(call.kind, call.synced) for call in calls.made[failed - 1 : failed + 1]] == [
                ("write", False),
                ("sync", True),
            ]


def test_a_commit_whose_last_step_can_be_neither_done_nor_undone_is_there_or_not(tmp_path):
    for done in (0, 120):
        with vecstore.open(tmp_path / str(done)) as db:
            create, insert, *more = STEPS
            create(db)
            insert(db)
            model = ModelDatabase()
            create(model)
            insert(model)
            seen = []

            def fault(call, seen=seen, done=done):
                if is_meta(call):
                    seen.append(call)
                    return Fail(errno.EIO, done=done if len(seen) == 1 else 0) if len(seen) <= 2 else None
                return None

            with storage_calls(fault):
                with pytest.raises(vecstore.StorageError, match="read it back, or repeat it"):
                    more[0](db)
                if done:
                    more[0](model)
                assert state(db) == state(model)
                assert_sound(db)
                for step in more:
                    step(db)
                    step(model)
                assert state(db) == state(model)
                assert_sound(db)


@pytest.mark.parametrize("done", [0, 120])
def test_a_change_of_the_index_that_can_be_neither_done_nor_undone_is_there_or_not(tmp_path, done):
    before, after = vecstore.HNSW(), vecstore.IVF(nlist=9)
    with vecstore.open(tmp_path) as db:
        create, insert, *_ = STEPS
        create(db)
        insert(db)
        docs, seen = db.get_collection("docs"), []

        def fault(call):
            if is_meta(call):
                seen.append(call)
                return Fail(errno.EIO, done=done if len(seen) == 1 else 0) if len(seen) <= 2 else None
            return None

        with storage_calls(fault), pytest.raises(vecstore.StorageError, match="read it back, or repeat it"):
            docs.set_index(after)
        with vecstore.open(tmp_path, read_only=True) as reader:
            assert docs.info == reader.get_collection("docs").info
        assert docs.info.index == (after if done else before)
        assert_sound(db)
        docs.set_index(before)
    with vecstore.open(tmp_path) as db:
        assert db.get_collection("docs").info.index == before
        assert_sound(db)


def test_while_the_disk_refuses_each_call_says_so_and_none_hangs(tmp_path):
    with vecstore.open(tmp_path) as db:
        create, insert, *more = STEPS
        create(db)
        insert(db)
        before = state(db)
        failing = True
        with storage_calls(lambda call: Fail(errno.EIO) if failing and (is_meta(call) or call.synced) else None):
            with pytest.raises(vecstore.StorageError):
                more[0](db)
            failing = False
            assert state(db) == before


def test_readers_go_on_through_a_commit_that_fails_in_its_last_step(tmp_path):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 8)
        docs.insert(range(100), vectors(1, 100))
        wrong, over = [], threading.Event()

        def read():
            try:
                while not over.is_set():
                    assert [hit.id for hit in docs.search(vectors(1, 100)[7], 1)] == [7]
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        fail = itertools.cycle([True, False, False])
        failures = 0
        with storage_calls(lambda call: Fail(errno.EIO) if is_meta(call) and next(fail) else None):
            for n in range(30):
                try:
                    docs.upsert(n, vectors(1, 100)[n], {"n": n})
                except vecstore.StorageError:
                    failures += 1
        over.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert failures >= 10
        assert docs.check() == []
