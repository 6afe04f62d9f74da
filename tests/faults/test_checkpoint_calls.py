"""Each storage call of a checkpoint fails once: the next writer is told, linking goes on, and nothing is lost."""

import errno
import itertools
import os
import shutil

import pytest

import vecstore
from tests.faults.workload import DIM, vectors
from vecstore import StateError, StorageError, checkpoints
from vecstore.testing import faults
from vecstore.testing.faults import Fail, Short, storage_calls

pytestmark = [
    pytest.mark.skipif(faults.unavailable() is not None, reason=str(faults.unavailable())),
    pytest.mark.usefixtures("small_graphs", "small_lists"),
]

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
ROWS = vectors(1, 600)
WAYS = (
    lambda call: Fail(errno.ENOSPC),
    lambda call: Fail(errno.EIO),
    lambda call: Fail(errno.EIO, done=len(call.data) or 1),
    lambda call: Short(len(call.data) // 2) if call.kind == "write" else Fail(errno.EIO),
)


def of_index(call):
    return "index.mdb" in call.path and not call.path.endswith("-lock")


INDEXES = [vecstore.HNSW(m=8), vecstore.IVF(nprobe=100)]


@pytest.fixture
def index():
    """That of most tests."""
    return INDEXES[0]


@pytest.fixture
def base(tmp_path, index):
    with vecstore.open(tmp_path / "base") as db:
        docs = db.create_collection("docs", DIM, index=index)
        docs.insert(range(320), ROWS[:320])
        docs.wait_indexed(60)
    return tmp_path / "base"


def assert_whole(docs, count):
    assert len(docs) == count and docs.check() == []
    assert [hits[0].id for hits in docs.search(ROWS[:count], 1)] == list(range(count))


def run(base, path, fault):
    """Two checkpoints and one of the close, of a folder that has one or none; how many calls there were, and how many
    errors were told."""
    told, seen = 0, itertools.count()
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(base, path, ignore=shutil.ignore_patterns("*-lock"))

    def on_call(call):
        return fault(call, next(seen)) if of_index(call) else None

    with storage_calls(on_call, record=False), vecstore.open(path) as db:
        docs = db.get_collection("docs")
        for first in range(320, 400, 20):
            try:
                docs.insert(range(first, first + 20), ROWS[first : first + 20])
            except StateError as error:
                assert "writing index.mdb in the background failed" in str(error)
                told += 1
                docs.insert(range(first, first + 20), ROWS[first : first + 20])
            docs.wait_indexed(60)
            if first < 360:
                docs._indexing.checkpoints.try_write()
            else:
                docs._indexing._due = False
        assert_whole(docs, 400)
        assert docs.stats().tail == 0
    with vecstore.open(path) as db:
        assert_whole(db.get_collection("docs"), 400)
        db.get_collection("docs").insert(range(400, 420), ROWS[400:420])
    with vecstore.open(path) as db:
        assert db.get_collection("docs").stats().checkpoint_lsn == db.get_collection("docs").stats().lsn
    return next(seen), told


@pytest.mark.parametrize(("index", "first"), [(INDEXES[0], False), (INDEXES[0], True), (INDEXES[1], False)])
def test_any_call_of_a_checkpoint_that_fails(base, tmp_path, first):
    if first:
        (base / "collections" / "docs" / "index.mdb").unlink()
    n_calls, told = run(base, tmp_path / "db", lambda call, number: None)
    assert n_calls >= 10 and told == 0
    ways, errors = itertools.cycle(WAYS[first:] + WAYS[:first]), 0
    for number, _ in itertools.product(range(n_calls), range(4 if MANY else 1)):
        way = next(ways)
        try:
            errors += run(base, tmp_path / "db", lambda call, at, n=number, way=way: way(call) if at == n else None)[1]
        except BaseException as error:
            error.add_note(f"call {number} of {n_calls} fails")
            raise
    assert errors > 0


@pytest.mark.parametrize(("index", "way"), [*((INDEXES[0], way) for way in range(3)), (INDEXES[1], 1)])
def test_a_disk_that_refuses_every_checkpoint_of_the_thread(base, tmp_path, way, monkeypatch):
    for name in ("BUSY_ROWS", "IDLE_ROWS", "BUSY_SHARE", "IDLE_SHARE", "REST"):
        monkeypatch.setattr(checkpoints, name, 0)
    failing, told = True, 0
    refusing = storage_calls(lambda call: WAYS[way](call) if failing and of_index(call) else None, record=False)
    with refusing, vecstore.open(base) as db:
        docs = db.get_collection("docs")
        for n in range(320, 400, 4):
            failing = n < 360
            try:
                docs.insert(range(n, n + 4), ROWS[n : n + 4])
            except StateError:
                told += 1
                docs.insert(range(n, n + 4), ROWS[n : n + 4])
            docs.wait_indexed(60)
        assert told > 0
        assert_whole(docs, 400)
    with vecstore.open(base) as db:
        docs = db.get_collection("docs")
        assert_whole(docs, 400)
        assert docs.stats().checkpoint_lsn == docs.stats().lsn
        assert docs.stats().index_error is None


def test_a_data_file_that_fails_under_the_thread_is_no_obstacle(base):
    """It reads while a commit fails in its last step, after which LMDB has to be opened anew."""
    fail = itertools.cycle([True, False, False])
    with vecstore.open(base) as db:
        docs, failures = db.get_collection("docs"), 0
        is_meta = lambda call: call.kind == "write" and len(call.data) < 512 and call.path.endswith("data.mdb")  # noqa: E731
        with storage_calls(lambda call: Fail(errno.EIO) if is_meta(call) and next(fail) else None, record=False):
            for n in range(320, 400):
                while docs.get(n) is None:
                    try:
                        docs.insert(n, ROWS[n])
                    except StorageError:
                        failures += 1
        docs.wait_indexed(60)
        assert failures > 10
        assert_whole(docs, 400)
