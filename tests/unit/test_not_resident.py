"""Codes in files without a name: they grow in place and leave nothing behind, and a full disk costs no row."""

import errno
import os
import tempfile
import time

import numpy as np
import pytest

import vecstore
from vecstore.errors import StorageError
from vecstore.index.arrays import aligned
from vecstore.storage import scratch
from vecstore.storage.scratch import Scratch

DIM, N = 32, 1500
KIND = {"index": vecstore.IVF(resident=False), "quantization": vecstore.Binary()}
MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
NAMES = {"data.mdb", "data.mdb-lock", "index.mdb", "index.mdb-lock"}


@pytest.fixture
def in_files(small_lists, monkeypatch):
    """Arrays of a page and more are in files."""
    monkeypatch.setattr(scratch, "LEAST", 4096)


@pytest.fixture
def vectors(rows):
    return rows(N, DIM)


def in_file(array):
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return isinstance(array, scratch._Mapping)


def names(path):
    return {one.name for one in (path / "collections" / "docs").iterdir()}


def assert_whole(docs, vectors):
    docs.wait_indexed(60)
    hits = docs.search(vectors, 1, nprobe=1000)
    assert [one[0].id for one in hits] == list(range(len(vectors)))
    assert docs.check() == [] and docs.stats().index_error is None
    assert docs.stats().linked == len(vectors)


# -- the arrays ----------------------------------------------------------------------------------------------


def test_arrays_are_in_files_without_a_name(tmp_path):
    allocate = Scratch(tmp_path, aligned)
    made = allocate((600, 512), np.float32, -1)
    assert in_file(made) and (made == -1).all() and made.ctypes.data % 64 == 0
    assert not in_file(allocate((10, 512), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_one_that_grows_is_the_same_memory(tmp_path):
    allocate = Scratch(tmp_path, aligned)
    old = allocate((600, 512), np.int32)
    old[:] = np.arange(600)[:, None]
    new = allocate.extended(old[:500], 900, -1)
    assert np.array_equal(new[:500], old[:500]) and (new[500:] == -1).all()
    new[3], old[4] = 7, 8
    assert (old[3] == 7).all() and (new[4] == 8).all()
    del old
    assert (new[4] == 8).all() and in_file(allocate.extended(new, 1000))
    assert allocate.extended(np.zeros((9, 9), np.int32), 20) is None


@pytest.mark.parametrize("refusal", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch, refusal):
    make = tempfile.TemporaryFile

    def refusing(dir=None, **options):
        if dir is not None:
            raise OSError(refusal, os.strerror(refusal))
        return make(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", refusing)
    assert in_file(Scratch(tmp_path, aligned)((600, 512), np.float32))


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    allocate = Scratch(tmp_path, aligned)
    made = allocate((600, 512), np.float32)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    for work in (lambda: allocate((600, 512), np.float32), lambda: allocate.extended(made, 700)):
        with pytest.raises(StorageError, match="no room on the disk"):
            work()


# -- collections ---------------------------------------------------------------------------------------------


def test_codes_stay_in_files_through_growth_compaction_and_reopening(tmp_path, in_files, vectors):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, **KIND)
        for first in range(0, N, 100):
            docs.insert(range(first, first + 100), vectors[first : first + 100])
            docs.wait_indexed(60)
        assert_whole(docs, vectors)
        docs.compact()
        pool = docs._index.structure.arrays.pool
        assert all(in_file(array) for array in (pool.codes, pool.terms, pool.slots))
        assert_whole(docs, vectors)
        assert names(tmp_path) == NAMES
    for read_only in (False, True):
        with vecstore.open(tmp_path, read_only=read_only) as db:
            docs = db.get_collection("docs")
            pool = docs._index.structure.arrays.pool
            assert all(in_file(array) for array in (pool.codes, pool.terms, pool.slots))
            assert_whole(docs, vectors)
            assert names(tmp_path) == NAMES


def test_searches_go_on_in_lists_whose_files_have_grown_since(tmp_path, in_files, vectors):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, **KIND)
        docs.insert(range(700), vectors[:700])
        docs.wait_indexed(60)
        held = docs._index.structure.arrays
        filed = np.concatenate([held.places(one) for one in range(len(held.heads))])
        before = held.pool.taken(held.coder, filed)
        docs.insert(range(700, N), vectors[700:])
        assert_whole(docs, vectors)
        assert len(docs._index.structure.arrays.pool) > len(held.pool)
        assert np.array_equal(filed, np.concatenate([held.places(one) for one in range(len(held.heads))]))
        for now, then in zip(held.pool.taken(held.coder, filed), before, strict=True):
            assert np.array_equal(now, then)


CHILD = """
import json, sys
import numpy as np
import vecstore
from vecstore.index import ivf
from vecstore.storage import scratch
scratch.LEAST, ivf.FIT_FROM, ivf.TRAIN_FROM, ivf.LEAST_LONGEST, ivf.BATCH = 4096, 100, 300, 24, 64
vectors = np.load(sys.argv[2])
db = vecstore.open(sys.argv[1], read_only=sys.argv[3] == "read")
if sys.argv[3] == "read":
    docs = db.get_collection("docs")
else:
    docs = db.create_collection("docs", vectors.shape[1], index=vecstore.IVF(resident=False),
                                quantization=vecstore.Binary(), exist_ok=True)
    docs.upsert(range(len(vectors)), vectors)
print(json.dumps("written"), flush=True)
for line in sys.stdin:
    print(json.dumps([hits[0].id for hits in docs.search(vectors, 1, nprobe=1000)]), flush=True)
"""


def test_a_killed_process_leaves_no_files(tmp_path, in_files, vectors, process):
    np.save(tmp_path / "vectors.npy", vectors)
    child = process(CHILD, tmp_path / "db", tmp_path / "vectors.npy", "write")
    assert child.read() == "written"
    child.ask()
    child.end()
    assert names(tmp_path / "db") <= {*NAMES, "index.mdb-new", "index.mdb-new-lock"}
    with vecstore.open(tmp_path / "db") as db:
        assert_whole(db.get_collection("docs"), vectors)
    assert names(tmp_path / "db") == NAMES


def test_another_process_reads_while_lists_grow(tmp_path, in_files, vectors, process):
    np.save(tmp_path / "vectors.npy", vectors)
    with vecstore.open(tmp_path / "db") as db:
        docs = db.create_collection("docs", DIM, **KIND)
        docs.insert(range(400), vectors[:400])
        docs.wait_indexed(60)
        reader = process(CHILD, tmp_path / "db", tmp_path / "vectors.npy", "read")
        assert reader.read() == "written"
        for first in range(400, N, 550):
            assert reader.ask()[:first] == list(range(first))
            docs.insert(range(first, first + 550), vectors[first : first + 550])
        assert reader.ask() == list(range(N))
        docs.compact()
        assert reader.ask() == list(range(N))
        assert names(tmp_path / "db") == NAMES


def test_any_file_of_codes_that_the_disk_has_no_room_for(tmp_path, in_files, vectors, monkeypatch):
    fallocate, failing, seen = os.posix_fallocate, set(), []

    def full(*arguments):
        seen.append(arguments)
        if len(seen) - 1 in failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fallocate(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", full)

    def run(path):
        """How many files there were, and how often a call was refused."""
        refused, seen[:] = 0, []

        def until_done(call):
            nonlocal refused
            for _ in range(50):
                try:
                    return call()
                except (StorageError, vecstore.StateError) as error:
                    assert "no room on the disk" in str(error)
                    refused += 1
            raise AssertionError("it goes on to be refused")

        with vecstore.open(path) as db:
            docs = db.create_collection("docs", DIM, **KIND)
            for first in range(0, N, 500):
                some = slice(first, first + 500)
                until_done(lambda some=some: docs.upsert(range(N)[some], vectors[some]))
                until_done(lambda: docs.wait_indexed(60))
                hits = until_done(lambda some=some: docs.search(vectors[some], 1, nprobe=1000))
                assert [one[0].id for one in hits] == list(range(N)[some])
            while docs.stats().index_error is not None:  # what failed is tried again after the next write
                until_done(lambda: docs.upsert(0, vectors[0]))
                time.sleep(0.02)
            assert_whole(docs, vectors)
        return len(seen), refused

    calls, refused = run(tmp_path / "whole")
    assert calls > 8 and refused == 0
    told = 0
    for number in range(0, calls, 2 if MANY else 9):
        failing.clear()
        failing.update(range(number, number + 2))
        told += run(tmp_path / str(number))[1]
    assert told > 0
