"""Each call to the file system fails once, also those that are not LMDB's: a step took place or did not, nobody is told
of a success that is lost, and what failed can be done again."""

import copy
import errno
import itertools
import os
import shutil

import pytest

import vecstore
from tests.faults.files import FileCall, file_calls
from tests.faults.workload import DIM, assert_sound, state, vectors, write
from vecstore import AlreadyExistsError, CollectionNotFoundError, StorageError, VecstoreError
from vecstore.testing import ModelDatabase, faults
from vecstore.testing.faults import Fail, storage_calls

pytestmark = pytest.mark.skipif(faults.unavailable() is not None, reason=str(faults.unavailable()))

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
WAYS = (Fail(errno.ENOSPC), Fail(errno.EIO), Fail(errno.EIO, done=1))


def is_real(db):
    return isinstance(db, vecstore.Database)


def create(name, index):
    def step(db):
        db.create_collection(name, DIM, "cosine", index=index)

    return step


def drop(db):
    db.drop_collection("other")


def keep(db):
    """A checkpoint."""
    if is_real(db) and db.get_collection("docs")._indexing is not None:
        db.get_collection("docs").wait_indexed(60)
        db.get_collection("docs")._indexing.checkpoints.write()


def back_up(db):
    if is_real(db):
        db.backup(db.path.parent / "copies" / "copy")


def repair(db):
    if is_real(db):
        assert db.repair_collection("other") == []
    else:
        db.get_collection("other").compact()


STEPS = [
    write("insert", range(330), vectors(1, 330)),
    keep,
    create("other", vecstore.Flat()),
    lambda db: db.get_collection("other").insert(range(50), vectors(2, 50)),
    write("delete", range(100)),
    write("compact"),
    keep,
    back_up,
    repair,
    write("upsert", range(50, 150), vectors(3, 100)),
    drop,
    create("other", vecstore.Flat()),
    write("set_index", vecstore.Flat()),
    write("upsert", ["a", "b"], vectors(4, 2)),
]
DONE_ALREADY = (AlreadyExistsError, CollectionNotFoundError)


class Run:
    """The steps, with one fault, which `fault(call, number)` answers; how many errors were `told`."""

    def __init__(self, path, index, options, fault, patch):
        self.path, self.options, self.told = path, options, 0
        self.seen, self.on = itertools.count(), True
        self.failing = lambda call: fault(call, next(self.seen)) if self.on else None

        with storage_calls(self.call_of_lmdb, record=False), file_calls(self.failing, patch):
            self.db = self.opened()
            folder = {}
            for step in [create("docs", index), *STEPS]:
                folder = self.take(step, folder)
            try:
                self.db.close()
            except StorageError:
                self.told += 1
                self.db.close()
        with vecstore.open(path, **options) as db:
            assert state(db) == state(ModelDatabase(folder))
            assert_sound(db)

    def call_of_lmdb(self, call):
        if call.path.endswith("-lock") or call.kind == "truncate":
            return None
        answer = self.failing(call)
        return Fail(answer.errno, len(call.data) or 1) if answer is not None and answer.done else answer

    def opened(self):
        try:
            return vecstore.open(self.path, **self.options)
        except StorageError:
            self.told += 1
            self.on = False
            return vecstore.open(self.path, **self.options)

    def take(self, step, folder):
        """Take a step, and once more if it fails and has not taken place; the folder of the model after it."""
        after = copy.deepcopy(folder)
        step(ModelDatabase(after))
        try:
            step(self.db)
        except VecstoreError as error:
            assert isinstance(error, StorageError) or "index.mdb" in str(error), error
            self.told += 1
            self.on = False
            found = self.found()
            assert found in [state(ModelDatabase(folder)), state(ModelDatabase(after))]
            assert_sound(self.db)
            if found == state(ModelDatabase(folder)):
                try:
                    step(self.db)
                except DONE_ALREADY:  # nothing is in it that would tell one state from the other
                    assert found == state(ModelDatabase(after))
        assert state(self.db) == state(ModelDatabase(after))
        return after

    def found(self):
        """What is there now; behind some errors only once the database is opened anew."""
        try:
            return state(self.db)
        except StorageError as error:
            assert "anew" in str(error) or "again" in str(error), error
            with pytest.raises(StorageError):
                self.db.get_collection("docs").upsert("x", [1.0] * DIM)
            self.db.close()
            self.db = vecstore.open(self.path, **self.options)
            return state(self.db)


# With little effort few of the calls of the graph fail, whose run takes long.
@pytest.mark.parametrize(("index", "some"), [(vecstore.Flat(), 7), (vecstore.HNSW(m=8), 25)], ids=["flat", "graph"])
def test_any_call_that_fails_is_told_or_does_not_matter(tmp_path, small_graphs, monkeypatch, index, some):
    kinds = []
    Run(tmp_path / "counted" / "db", index, {}, lambda call, number: kinds.append(call), monkeypatch)
    files = [number for number, call in enumerate(kinds) if isinstance(call, FileCall)]
    assert len(files) > 80 and {"fsync", "rename", "open", "mkdir"} <= {kinds[number].kind for number in files}
    files = files if MANY else files[1::some]
    told, ways = 0, itertools.cycle(WAYS)
    # Those of LMDB alone are in test_every_call.
    for turn, number in itertools.product(range(3 if MANY else 1), files):
        way = next(ways)
        try:
            run = Run(
                tmp_path / f"{turn}-{number}" / "db", index, {},
                lambda call, at, n=number, way=way: way if at == n else None, monkeypatch,
            )  # fmt: skip
        except BaseException as error:
            error.add_note(f"call {number}, {kinds[number]} fails with {way}")
            raise
        told += run.told
        shutil.rmtree(tmp_path / f"{turn}-{number}")
    assert told > len(files) // 6
