"""durability="interval": what is there after the machine went down."""

import logging
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.crash.machine import DIM, PAGE, Machine, another_boot, crashed, folder_of, found, stored, synced, vector
from vecstore import CorruptionError, DatabaseLockedError
from vecstore.storage import environment, recovery
from vecstore.storage.lock import WriterLock
from vecstore.testing.faults import storage_calls, unavailable

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
calls_seen = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


@pytest.fixture
def opened(tmp_path):
    """A collection that is synced only when the test says so."""
    with vecstore.open(tmp_path / "db", durability="interval", sync_interval=60) as db:
        yield db.create_collection("docs", DIM, index=vecstore.Flat())


@calls_seen
@pytest.mark.parametrize("seed", range(4 if MANY else 2))
def test_whatever_pages_of_the_last_commits_arrived_the_last_sync_is_whole(tmp_path, monkeypatch, caplog, seed):
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(environment, "FIRST_MAP_SIZE", 2**19)
    with vecstore.open(tmp_path / "db", durability="interval", sync_interval=60) as db:
        docs = db.create_collection("docs", DIM, index=vecstore.Flat())
        machine = Machine(tmp_path / "db", docs, seed, monkeypatch)
        with storage_calls(machine.on_call, record=False):
            machine.run(60)
        monkeypatch.undo()
    another_boot(monkeypatch)
    assert len(machine.losses) > 10
    lost = 0
    for n, (image, record, certain) in enumerate(machine.losses):
        path = found(tmp_path / str(n), image, record)
        with vecstore.open(path, read_only=n % 2 == 0) as db:
            docs = db.get_collection("docs")
            assert docs.check() == []
            lsn = docs.stats().lsn
            assert lsn >= certain
            assert stored(docs) == machine.history[lsn]
            lost += lsn < max(machine.history)
        with vecstore.open(path) as db:  # and goes on from there
            docs = db.get_collection("docs")
            for first in range(0, 600, 100):
                docs.upsert(range(first, first + 100), np.ones((100, DIM)))
            assert docs.check() == []
    assert lost


@calls_seen
def test_writers_and_the_thread_that_syncs_leave_a_whole_state_at_any_moment(tmp_path, monkeypatch, caplog):
    """As above, with four writers that share commits; what is found is the result of all writes up to some lsn."""
    caplog.set_level(logging.ERROR)
    done = []
    with vecstore.open(tmp_path / "db", durability="interval", sync_interval=0.003) as db:
        docs = db.create_collection("docs", DIM, index=vecstore.Flat())
        machine = Machine(tmp_path / "db", docs, 7, monkeypatch)
        turn = threading.RLock()

        def on_call(call):
            with turn:
                machine.on_call(call)

        def record_synced(fd):
            with turn:
                machine.record_synced(fd)

        def write(thread):
            rng = np.random.default_rng(thread)
            for _ in range(40):
                ids = (rng.choice(500, rng.choice([1, 1, 20]), replace=False) * 4 + thread).tolist()
                if rng.random() < 0.3:
                    done.append((docs.delete(ids).lsn, ids, None))
                else:
                    vectors = rng.standard_normal((len(ids), DIM)).astype(np.float32)
                    done.append((docs.upsert(ids, vectors).lsn, ids, vectors))

        monkeypatch.setattr(recovery, "sync_file", record_synced)
        with storage_calls(on_call, record=False):
            threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            docs._store.env._syncer._end_thread()
        monkeypatch.undo()
    another_boot(monkeypatch)
    assert len(done) == 160
    lsns = set()
    for n, (image, record, _) in enumerate(machine.losses[:: max(1, len(machine.losses) // 20)]):
        with vecstore.open(found(tmp_path / str(n), image, record)) as db:
            docs = db.get_collection("docs")
            assert docs.check() == []
            lsn = docs.stats().lsn
            lsns.add(lsn)
            rows = {}
            for number, ids, vectors in sorted(done, key=lambda write: write[0]):
                for i, one in enumerate(ids if number <= lsn else ()):
                    if vectors is None:
                        rows.pop(one, None)
                    else:
                        rows[one] = vectors[i].tobytes()
            assert stored(docs) == rows
    assert len(lsns) > 3


def test_after_the_machine_went_down_the_last_sync_is_what_there_is(tmp_path, opened, monkeypatch, caplog):
    for n in range(10):
        opened.insert(n, vector(n))
        if n == 5:
            opened._store.env._syncer._step()
    path = crashed(tmp_path, opened, monkeypatch)
    with vecstore.open(path) as db:
        assert "it is at its last sync again" in caplog.text
        docs = db.get_collection("docs")
        assert [record.id for record in docs.scroll().records] == [0, 1, 2, 3, 4, 5]
        assert docs.check() == []
    assert not synced(path).exists()


def test_a_reader_that_comes_first_finds_the_last_sync_too_but_waits_for_a_writer(tmp_path, opened, monkeypatch):
    opened.insert(1, vector(1))
    opened._store.env._syncer._step()
    opened.insert(2, vector(2))
    path = crashed(tmp_path, opened, monkeypatch)
    monkeypatch.setattr("vecstore.database.RECOVERY_SECONDS", 0.05)
    lock = WriterLock(path / "LOCK")
    with vecstore.open(path, read_only=True) as db:
        with pytest.raises(DatabaseLockedError):
            db.get_collection("docs")
        lock.release()
        assert [record.id for record in db.get_collection("docs").scroll().records] == [1]
    assert not synced(path).exists()


def test_recovery_that_is_cut_short_is_done_again(tmp_path, opened, monkeypatch):
    opened.insert(1, vector(1))
    opened._store.env._syncer._step()
    opened.insert(2, vector(2))
    opened.insert(3, vector(3))
    path = crashed(tmp_path, opened, monkeypatch)
    data = folder_of(path) / "data.mdb"

    class PowerFailedError(Exception):
        pass

    def fail(name):
        raise PowerFailedError

    whole = data.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "reach", fail)
        with pytest.raises(PowerFailedError):
            recovery.recover(data)
    half = data.read_bytes()
    for first, second in ((half, whole), (whole, half)):  # either of the two meta pages has arrived
        data.write_bytes(first[:PAGE] + second[PAGE : 2 * PAGE] + whole[2 * PAGE :])
        assert recovery.is_behind(data)
    with vecstore.open(path) as db:
        assert [record.id for record in db.get_collection("docs").scroll().records] == [1]


def test_what_is_put_back_is_on_the_disk_before_its_record_is_gone(tmp_path, opened, monkeypatch):
    opened.insert(1, vector(1))
    opened._store.env._syncer._step()
    opened.insert(2, vector(2))
    path = crashed(tmp_path, opened, monkeypatch)
    synced_then = []

    def sync_file(fd):
        synced_then.append((Path(f"/proc/self/fd/{fd}").readlink().name, synced(path).exists()))

    monkeypatch.setattr(recovery, "sync_file", sync_file)
    monkeypatch.setattr(
        recovery, "sync_folder", lambda folder: synced_then.append((folder.name, synced(path).exists()))
    )
    recovery.recover(folder_of(path) / "data.mdb")
    assert synced_then == [("data.mdb", True), ("docs", False)]


def test_an_older_file_that_was_put_back_beside_a_record_is_taken_as_it_is(tmp_path, opened, monkeypatch, caplog):
    opened.insert(1, vector(1))
    opened._store.env.settle()
    older = (folder_of(tmp_path / "db") / "data.mdb").read_bytes()
    for n in range(2, 6):
        opened.insert(n, vector(n))
    opened._store.env._syncer._step()
    path = crashed(tmp_path, opened, monkeypatch)
    (folder_of(path) / "data.mdb").write_bytes(older)
    with vecstore.open(path) as db:
        assert "older than its record of syncs" in caplog.text
        assert [record.id for record in db.get_collection("docs").scroll().records] == [1]


def test_a_torn_record_is_the_one_before_and_a_damaged_one_is_told_of_its_collection_alone(
    tmp_path, opened, monkeypatch
):
    opened.insert(1, vector(1))
    opened._store.env._syncer._step()
    opened.insert(2, vector(2))
    opened._store.env._syncer._step()
    path = crashed(tmp_path, opened, monkeypatch)
    data, whole = folder_of(path) / "data.mdb", synced(path).read_bytes()
    last = recovery.read_record(data)
    at = (last.number & 1) * PAGE
    synced(path).write_bytes(whole[:at] + whole[at : at + 50] + bytes(200) + whole[at + 250 :])
    assert recovery.read_record(data).number == last.number - 1
    synced(path).write_bytes(bytes(len(whole)))
    with vecstore.open(path) as db:
        db.create_collection("other", DIM)
        with pytest.raises(CorruptionError, match=r"data\.mdb-synced is damaged"):
            db.get_collection("docs")


def test_a_checkpoint_of_writes_that_were_lost_is_not_believed(tmp_path, monkeypatch, small_graphs, rows):
    vectors = rows(600, DIM)
    with vecstore.open(tmp_path / "db", durability="interval", sync_interval=60) as db:
        docs = db.create_collection("docs", DIM)
        docs.insert(range(400), vectors[:400])
        docs._store.env._syncer._step()
        for n in range(400, 500, 10):
            docs.upsert(range(n, n + 10), vectors[n : n + 10])
        docs.wait_indexed(60)
        monkeypatch.setattr(docs._store.env, "sync_commits", lambda lsn: None)
        docs._indexing.checkpoints.write()
        path = crashed(tmp_path, docs, monkeypatch)
        monkeypatch.undo()
    (folder_of(path) / "index.mdb").write_bytes((folder_of(tmp_path / "db") / "index.mdb").read_bytes())
    another_boot(monkeypatch)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert len(docs) == 400
        for n in range(500, 600, 10):  # as many writes as were lost
            docs.upsert(range(n, n + 10), vectors[n : n + 10])
        docs.wait_indexed(60)
        there = [*range(400), *range(500, 600)]
        assert [hits[0].id for hits in docs.search(vectors[there], 1)] == there
        assert docs.check() == []


def test_a_compaction_is_synced_and_its_record_is_that_of_the_new_file(tmp_path, opened, monkeypatch):
    opened.insert(range(1000), np.ones((1000, DIM)))
    opened._store.env._syncer._step()
    opened.delete(range(500))
    opened.insert(2000, vector(1))
    opened.compact()
    assert not synced(tmp_path / "db").exists()
    opened.insert(2001, vector(2))
    path = crashed(tmp_path, opened, monkeypatch)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert [record.id for record in docs.scroll(limit=2000).records] == [*range(500, 1000), 2000]
        assert docs.check() == []


def test_what_a_checkpoint_names_is_synced_before_it(tmp_path, monkeypatch, small_graphs, rows, caplog):
    vectors = rows(500, DIM)
    with vecstore.open(tmp_path / "db", durability="interval", sync_interval=60) as db:
        docs = db.create_collection("docs", DIM)
        docs.insert(range(400), vectors[:400])
        docs.wait_indexed(60)
        docs.insert(range(400, 500), vectors[400:])
        stats = docs.stats()
        assert (stats.durability, stats.lsn) == ("interval", 2) and stats.synced_lsn < 2
        docs.wait_indexed(60)
        docs._indexing.checkpoints.write()
        assert docs.stats().synced_lsn == docs.stats().checkpoint_lsn == 2
        docs.upsert("late", vectors[0])
        assert docs.stats().synced_lsn == 2
        path = crashed(tmp_path, docs, monkeypatch)
        shutil.copy(folder_of(tmp_path / "db") / "index.mdb", folder_of(path))
    caplog.clear()
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert len(docs) == docs.stats().linked == 500
        assert not any("index.mdb" in record.getMessage() for record in caplog.records)
        assert (docs.stats().durability, docs.stats().synced_lsn) == ("commit", 2)
    with vecstore.open(path, read_only=True) as db:
        stats = db.get_collection("docs").stats()
        assert (stats.durability, stats.synced_lsn) == (None, None)
