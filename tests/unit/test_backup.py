"""A backup is a database of its own: whole, of one commit for each collection, or not there."""

import threading

import numpy as np
import pytest

import vecstore
from vecstore import AlreadyExistsError, ClosedError, InvalidArgumentError, NotADatabaseError, StorageError
from vecstore.storage import backup, sharing
from vecstore.storage.checkpoint import CheckpointFile
from vecstore.storage.environment import Environment


def contents(docs):
    records = docs.scroll(limit=10_000, with_vectors=True).records
    return docs.info, docs.stats().lsn, [(one.id, one.payload, one.vector.tobytes()) for one in records]


@pytest.fixture
def filled(db, rows):
    for name, index in (("flat", vecstore.Flat()), ("graph", vecstore.HNSW(m=16))):
        docs = db.create_collection(name, 24, "l2", index=index)
        docs.insert(range(3000), rows(3000, 24), [{"n": n} for n in range(3000)])
        docs.delete(range(0, 3000, 3))
        docs.upsert("new", np.ones(24))
    db.create_collection("empty", 3)
    return db


@pytest.mark.parametrize("read_only", [False, True])
def test_a_backup_opens_as_the_database_it_was_made_of(filled, tmp_path, read_only):
    with vecstore.open(filled.path, read_only=read_only) if read_only else filled as db:
        db.backup(tmp_path / "some" / "where" / "copy")
        expected = {name: contents(db.get_collection(name)) for name in db.list_collections()}
        hits = db.get_collection("graph").search(np.ones(24), 5)
    checkpoint = (tmp_path / "some" / "where" / "copy" / "collections" / "graph" / "index.mdb").exists()
    with vecstore.open(tmp_path / "some" / "where" / "copy") as copy:
        assert {name: contents(copy.get_collection(name)) for name in copy.list_collections()} == expected
        for name in copy.list_collections():
            assert copy.get_collection(name).check() == []
        graph = copy.get_collection("graph")
        assert graph.search(np.ones(24), 5) == hits
        assert (graph.stats().checkpoint_lsn > 0) == checkpoint
        assert graph.upsert(range(3000), np.zeros((3000, 24))).inserted == 1000


def test_a_backup_of_one_collection_holds_just_it_and_no_free_pages(filled, tmp_path):
    docs = filled.get_collection("flat")
    docs.backup(str(tmp_path / "copy"))
    with vecstore.open(tmp_path / "copy") as copy:
        assert copy.list_collections() == ["flat"]
        assert contents(copy.get_collection("flat")) == contents(docs)
        assert copy.get_collection("flat").stats().free_bytes == 0


def test_a_target_that_holds_something_is_left_as_it_is(filled, tmp_path):
    target = tmp_path / "copy"
    target.mkdir()
    filled.backup(target)
    before = sorted(target.rglob("*"))
    (tmp_path / "file").write_text("mine")
    for there in (target, filled.path, tmp_path / "file"):
        with pytest.raises(AlreadyExistsError, match=r"is there already; a backup needs a new name or an empty folder"):
            filled.backup(there)
    assert sorted(target.rglob("*")) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy", "db", "file"]
    with pytest.raises(InvalidArgumentError, match="path: expected a folder"):
        filled.backup(7)
    docs = filled.get_collection("flat")
    filled.close()
    for closed in (filled, docs):
        with pytest.raises(ClosedError):
            closed.backup(tmp_path / "late")
    assert not (tmp_path / "late").exists()


def test_a_backup_is_not_laid_among_the_collections_of_a_database(db, tmp_path):
    db.create_collection("docs", 3)
    (tmp_path / "link").symlink_to(db.path / "collections")
    for target in (db.path / "collections" / "copy", db.path / "collections" / "docs" / "a" / "b", tmp_path / "link/x"):
        with pytest.raises(InvalidArgumentError, match="is among the collections of a database; name another folder"):
            db.backup(target)
    assert db.list_collections() == ["docs"]
    assert not list(db.path.rglob("copy")) and not list(db.path.rglob("a"))


def test_a_link_to_an_empty_folder_is_a_target_and_a_name_no_disk_takes_is_told(db, tmp_path):
    db.create_collection("docs", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    db.backup(tmp_path / "link")
    with vecstore.open(tmp_path / "link") as copy:
        assert copy.list_collections() == ["docs"]
    with pytest.raises(StorageError, match="name too long"):
        db.backup(tmp_path / ("x" * 300))
    with pytest.raises(InvalidArgumentError, match="path: expected a folder, got a path with a zero byte"):
        db.backup("a\0b")


def test_a_checkpoint_that_cannot_be_read_is_left_out(filled, tmp_path):
    checkpoint = filled.get_collection("graph")._store.checkpoint.path
    checkpoint.unlink(missing_ok=True)
    checkpoint.mkdir()
    filled.backup(tmp_path / "copy")
    with vecstore.open(tmp_path / "copy") as copy:
        assert contents(copy.get_collection("graph")) == contents(filled.get_collection("graph"))


def test_a_backup_that_fails_leaves_nothing(filled, tmp_path, monkeypatch):
    for name in ("_copy", "sync", "sync_folder"):
        with monkeypatch.context() as patched:
            patched.setattr(backup, name, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                filled.backup(tmp_path / "copy")
        assert [entry.name for entry in tmp_path.iterdir()] == ["db"]


def test_the_index_of_a_backup_fits_its_rows_whatever_is_written_meanwhile(
    db, rows, tmp_path, small_graphs, monkeypatch, caplog
):
    docs = db.create_collection("docs", 8, "l2")
    docs.insert(range(400), rows(400))
    docs.wait_indexed(60)
    docs._indexing.checkpoints.write()
    copied = []

    def go_on():
        docs.upsert("late", np.ones(8))
        docs.wait_indexed(60)
        docs._indexing.checkpoints.write()

    def going_on(function):
        def copy(self, *arguments):
            found = function(self, *arguments)
            if self.path.name not in copied and not copied.append(self.path.name) and len(copied) == 1:
                thread = threading.Thread(target=go_on)
                thread.start()
                thread.join()
            return found

        return copy

    monkeypatch.setattr(CheckpointFile, "copy", going_on(CheckpointFile.copy))
    with monkeypatch.context() as patched:
        data_copy, plain = going_on(Environment.copy), Environment.copy
        patched.setattr(
            Environment, "copy", lambda env, *some: (data_copy if env.path.name == "data.mdb" else plain)(env, *some)
        )
        db.backup(tmp_path / "copy")
    assert sorted(copied) == ["data.mdb", "index.mdb"]
    with vecstore.open(tmp_path / "copy") as copy:
        assert copy.get_collection("docs").stats().checkpoint_lsn == 1
        assert "made anew" not in caplog.text
        assert copy.get_collection("docs").check() == []


KILLED = """
import os, signal, sys
import vecstore
from vecstore.storage import backup, folder
module, name = {"backup": backup, "folder": folder}[sys.argv[3]], sys.argv[4]
setattr(module, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
with vecstore.open(sys.argv[1], read_only=True) as db:
    db.backup(sys.argv[2])
"""


@pytest.mark.parametrize("place", [("backup", "_copy"), ("backup", "sync"), ("folder", "lay_out")])
def test_a_backup_that_is_killed_opens_as_nothing(filled, tmp_path, process, place):
    target = tmp_path / "backups" / "copy"
    assert process(KILLED, filled.path, target, *place).popen.wait() == -9
    [left] = (tmp_path / "backups").iterdir()
    assert left.name.startswith(".copy-")
    for read_only in (False, True):
        with pytest.raises(NotADatabaseError):
            vecstore.open(left, read_only=read_only)
    filled.backup(target)
    with vecstore.open(target) as copy:
        assert len(copy.get_collection("flat")) == 2001


FULL = """
import json, resource, sys
import vecstore
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
with vecstore.open(sys.argv[1], read_only=True) as db:
    try:
        db.backup(sys.argv[2])
    except vecstore.DiskFullError as error:
        print(json.dumps(str(error)))
"""


def test_a_full_disk_is_told_and_leaves_nothing(filled, tmp_path, process):
    assert "no room on the disk" in process(FULL, filled.path, tmp_path / "copy").read()
    assert [entry.name for entry in tmp_path.iterdir()] == ["db"]


def test_backups_while_threads_write_are_of_one_commit_each(db, tmp_path):
    docs = db.create_collection("docs", 8, "l2")
    docs.insert(range(300), np.zeros((300, 8)), [{"n": 0}] * 300)
    done = threading.Event()

    def write(first):
        n = 0
        while not done.is_set():
            n += 1
            some = range(first, first + 150)
            docs.upsert(some, np.full((150, 8), n), [{"n": n}] * 150)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 150)]
    for thread in threads:
        thread.start()
    for n in range(10):
        db.backup(tmp_path / str(n))
    done.set()
    for thread in threads:
        thread.join()
    for n in range(10):
        with vecstore.open(tmp_path / str(n), read_only=True) as copy:
            made = copy.get_collection("docs")
            records = made.scroll(limit=1000, with_vectors=True).records
            halves = [{one.payload["n"] for one in half} | {one.vector[3] for one in half}
                      for half in (records[:150], records[150:])]  # fmt: skip
            assert len(records) == 300 and [len(half) for half in halves] == [1, 1]
            assert made.check() == []


@pytest.mark.parametrize("read_only", [False, True])
def test_collections_that_were_not_open_are_not_afterwards(filled, tmp_path, read_only):
    filled.close()
    with vecstore.open(filled.path, read_only=read_only) as db:
        db.get_collection("flat")
        db.backup(tmp_path / "copy")
        assert list(db._open_collections) == ["flat"] and len(sharing._shared) == 1
