"""Databases of one process on one folder: a reader that was there before the writer, and is there after it."""

import errno
import threading

import numpy as np
import pytest

import vecstore
from vecstore import ClosedError, StorageError
from vecstore.storage import recovery, sharing
from vecstore.testing.faults import Fail, storage_calls, unavailable

WRITER = """
import json, sys
import numpy as np
import vecstore
db = vecstore.open(sys.argv[1], durability=sys.argv[2])
docs = db.get_collection("docs")
print(json.dumps("open"), flush=True)
for line in sys.stdin:
    what = json.loads(line)
    if what == "compact":
        docs.compact()
    elif what == "close":
        db.close()
    else:
        docs.upsert(what, np.full((len(what), 4), 1 + what[0]))
    print(json.dumps(what), flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", 4, "l2", index=vecstore.Flat()).insert(range(100), np.ones((100, 4)))
    return tmp_path


@pytest.fixture
def reader(folder):
    """A reader that has had a writer beside it in its process."""
    with vecstore.open(folder, read_only=True) as outliving:
        with vecstore.open(folder) as db:
            assert len(db.get_collection("docs")) == 100
            docs = outliving.get_collection("docs")
            assert len(docs) == 100
        yield docs


def synced(folder):
    return folder / "collections" / "docs" / "data.mdb-synced"


def test_the_next_writer_writes_as_it_was_opened(folder, reader):
    with vecstore.open(folder, durability="interval", sync_interval=60) as db:
        docs = db.get_collection("docs")
        docs.insert("a", np.ones(4))
        assert recovery.read_record(synced(folder).with_name("data.mdb")).open
        assert reader.get("a") is not None
    assert not synced(folder).exists() and len(reader) == 101
    with vecstore.open(folder, max_size=1 << 20) as db:
        docs = db.get_collection("docs")
        with pytest.raises(vecstore.DatabaseFullError):
            docs.insert(range(1000, 101_000), np.ones((100_000, 4)))
        assert not synced(folder).exists()
    with vecstore.open(folder) as db:
        docs = db.get_collection("docs")
        docs.insert(range(1000, 21_000), np.ones((20_000, 4)))
        assert len(reader) == 20_101 and docs.check() == reader.check() == []


def test_its_allocator_knows_what_other_processes_wrote(folder, reader, process):
    with vecstore.open(folder) as db:
        db.get_collection("docs").insert("a", np.ones(4))
    other = process(WRITER, folder, "commit")
    other.read()
    other.ask(list(range(100, 300)))
    other.ask("close")
    with vecstore.open(folder) as db:
        docs = db.get_collection("docs")
        docs.insert("b", np.full(4, 9.0))
        assert docs.check() == [] and len(docs) == len(reader) == 302
        assert reader.get(299, with_vectors=True).vector[0] == 101


def test_a_reader_that_is_closed_leaves_the_sync_record_of_another_process(folder, reader, process):
    other = process(WRITER, folder, "interval")
    other.read()
    other.ask([200])
    assert len(reader) == 101
    before = synced(folder).read_bytes()
    reader.close()
    assert synced(folder).exists() and len(synced(folder).read_bytes()) == len(before)
    other.ask("close")
    assert not synced(folder).exists()


@pytest.mark.parametrize("writers", [1, 2])
def test_it_follows_the_compaction_of_another_process(folder, reader, process, writers):
    if writers == 2:
        with vecstore.open(folder) as db:
            db.get_collection("docs").insert("a", np.ones(4))
    count = len(reader)
    other = process(WRITER, folder, "commit")
    other.read()
    other.ask([200])
    assert len(reader) == count + 1
    other.ask("compact")
    other.ask([201])
    assert len(reader) == count + 2 and reader.search(np.full(4, 202.0), 1)[0].id == 201
    assert reader.check() == []
    other.ask("close")
    with vecstore.open(folder) as db:
        docs = db.get_collection("docs")
        docs.compact()
        docs.insert(202, np.ones(4))
        assert len(reader) == len(docs) == count + 3
    assert len(reader) == count + 3 and reader.check() == []


def test_a_reader_that_came_first_is_joined_by_a_writer(folder):
    with vecstore.open(folder, read_only=True) as first:
        docs = first.get_collection("docs")
        with vecstore.open(folder) as db:
            db.get_collection("docs").insert(100, np.ones(4))
            assert len(docs) == 101
            with pytest.raises(vecstore.ReadOnlyError):
                docs.delete(1)
        assert len(docs) == 101 and first.get_collection("docs") is docs
    assert not sharing._shared


def test_what_a_killed_compaction_had_decided_on_is_done_when_a_writer_joins(folder, process, monkeypatch):
    with vecstore.open(folder, read_only=True) as first:
        docs = first.get_collection("docs")
        monkeypatch.setenv("VECSTORE_FAILPOINT", "compact.next")
        other = process(WRITER, folder, "commit")
        other.read()
        other.ask([100])
        other.popen.stdin.write('"compact"\n')
        other.popen.wait()
        assert len(docs) == 101
        before = docs.stats().lsn
        with vecstore.open(folder) as db:
            db.get_collection("docs").insert(101, np.ones(4))
            assert docs.stats().lsn == before + 3
            assert len(docs) == 102 and docs.check() == []
    assert [path.name for path in synced(folder).parent.glob("data.mdb.*")] == []


def test_searches_of_other_threads_go_on_while_writers_come_and_go(folder):
    with vecstore.open(folder, read_only=True) as first:
        docs = first.get_collection("docs")
        done, failed = threading.Event(), []

        def search():
            try:
                while not done.is_set():
                    assert len(docs.search(np.ones(4), 200)) >= 100
                    assert first.get_collection("docs") is docs
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for n in range(10):
            with vecstore.open(folder, durability=("commit", "interval")[n % 2]) as db:
                db.get_collection("docs").upsert(100 + n, np.ones(4))
        done.set()
        for thread in threads:
            thread.join()
        assert failed == [] and len(docs) == 110


def test_a_write_that_comes_after_the_close_is_refused(folder, reader):
    db = vecstore.open(folder)
    docs = db.get_collection("docs")
    store = docs._store
    db.close()
    for write in (lambda: store.write(lambda _: None), store.repair):
        with pytest.raises(ClosedError, match='"docs" is closed'):
            write()


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_where_the_last_sync_of_a_writer_fails_a_reader_goes_on_at_the_one_before(folder):
    with vecstore.open(folder, read_only=True) as first:
        db = vecstore.open(folder, durability="interval", sync_interval=60)
        docs = db.get_collection("docs")
        docs.insert(100, np.ones(4))
        docs._store.env.settle()
        docs.insert(101, np.ones(4))
        outliving = first.get_collection("docs")
        assert len(outliving) == 102
        failing = storage_calls(lambda call: Fail(errno.EIO) if call.kind == "sync" else None)
        with failing, pytest.raises(StorageError):
            db.close()
        assert len(outliving) == 101 and outliving.check() == []
        with vecstore.open(folder) as db:
            db.get_collection("docs").insert(102, np.ones(4))
            assert len(outliving) == 102 and outliving.check() == []


def test_a_file_that_cannot_be_opened_for_a_reader_again_does_not_fail_the_close(folder, reader, monkeypatch):
    with monkeypatch.context() as patched, vecstore.open(folder) as db:
        db.get_collection("docs")
        patched.setattr(sharing, "_opened", lambda *_, **__: (_ for _ in ()).throw(StorageError("no")))
    with pytest.raises(StorageError, match="could not be opened again"):
        len(reader)
    with vecstore.open(folder) as db:
        assert len(db.get_collection("docs")) == 100
