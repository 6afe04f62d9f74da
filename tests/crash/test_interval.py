"""durability="interval": what a killed process and a disk that fails leave behind, and what is refused."""

import errno
import threading
from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.crash.machine import DIM, PAGE, Disk, another_boot, crashed, folder_of, found, synced, vector
from vecstore import StorageError
from vecstore.storage import environment, interval, recovery
from vecstore.testing.faults import Fail, storage_calls, unavailable

calls_seen = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


@pytest.fixture
def opened(tmp_path):
    """A collection that is synced only when the test says so."""
    with vecstore.open(tmp_path / "db", durability="interval", sync_interval=60) as db:
        yield db.create_collection("docs", DIM, index=vecstore.Flat())


# -- the process ends --------------------------------------------------------------------------------------------


def test_the_record_is_there_while_commits_may_not_be_synced_and_gone_after_a_close(tmp_path):
    with vecstore.open(tmp_path, durability="interval", sync_interval=60) as db:
        docs = db.create_collection("docs", DIM)
        assert not synced(tmp_path).exists()
        docs.insert(1, vector(1))
        assert recovery.read_record(folder_of(tmp_path) / "data.mdb").open
    assert not synced(tmp_path).exists()
    with vecstore.open(tmp_path) as db:
        assert len(db.get_collection("docs")) == 1


KILLED = """
import json, sys
import numpy as np
import vecstore
db = vecstore.open(sys.argv[1], durability="interval", sync_interval=float(sys.argv[2]))
docs = db.create_collection("docs", 16, exist_ok=True)
n = len(docs)
while True:
    docs.upsert(n, np.full(16, n + 1))
    n += 1
    print(json.dumps(n), flush=True)
"""


def test_a_killed_process_loses_nothing(tmp_path, process):
    count = 0
    for _ in range(3):
        child = process(KILLED, tmp_path, 60)
        while child.read() < count + 20:
            pass
        child.popen.kill()
        count = max(map(int, child.popen.stdout.read().splitlines()), default=count + 20)
        with vecstore.open(tmp_path, read_only=True) as db:
            assert len(db.get_collection("docs")) >= count
            assert db.get_collection("docs").check() == []
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        assert docs.get(count - 1, with_vectors=True).vector[0] == count
        assert docs.check() == []
    assert not synced(tmp_path).exists()


@pytest.mark.parametrize("failpoint", ["interval.synced", "interval.recorded"])
def test_a_process_that_is_killed_in_a_sync_loses_nothing(tmp_path, process, monkeypatch, failpoint):
    monkeypatch.setenv("VECSTORE_FAILPOINT", f"{failpoint}:3")
    told = process(KILLED, tmp_path, 0.005).popen.stdout.read().split()
    assert told
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        assert docs.get(int(told[-1]) - 1, with_vectors=True).vector[0] == int(told[-1])
        assert docs.check() == []


def test_what_a_killed_process_left_of_a_record_is_removed(tmp_path):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", DIM)
    left = synced(tmp_path).with_name(".data.mdb-synced")
    left.write_bytes(bytes(100))
    vecstore.open(tmp_path).close()
    assert not left.exists()


def test_the_thread_syncs_settles_when_idle_and_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(interval, "IDLE_SECONDS", 0.02)
    with vecstore.open(tmp_path, durability="interval", sync_interval=0.005) as db:
        docs = db.create_collection("docs", DIM)
        for n in range(3):
            docs.insert(n, vector(n))
            thread = docs._store.env._syncer._thread
            thread.join(10)
            assert not thread.is_alive()
            assert not recovery.read_record(folder_of(tmp_path) / "data.mdb").open
    assert not any(thread.name.startswith("vecstore-sync") for thread in threading.enumerate())


def test_growth_brings_a_sync_forward(opened, monkeypatch):
    monkeypatch.setattr(interval, "GROWTH", 1 << 20)
    syncer = opened._store.env._syncer
    opened.insert(0, vector(0))
    before = syncer._last.number
    for n in range(40):
        opened.upsert(range(n * 500, n * 500 + 500), np.ones((500, DIM)))
    waited = threading.Event()
    for _ in range(1000):
        if syncer._last.number > before:
            break
        waited.wait(0.01)
    assert syncer._last.number > before


# -- the disk fails ----------------------------------------------------------------------------------------------


@calls_seen
def test_where_a_sync_fails_nothing_more_is_written_and_the_next_opening_is_at_the_last_sync(tmp_path):
    db = vecstore.open(tmp_path, durability="interval", sync_interval=60)
    docs = db.create_collection("docs", DIM)
    docs.insert(1, vector(1))
    syncer = docs._store.env._syncer
    syncer._step()
    docs.insert(2, vector(2))
    with storage_calls(lambda call: Fail(errno.EIO) if call.kind == "sync" else None):
        syncer._seconds = 0
        syncer._wake.set()
        syncer._thread.join(10)
    assert len(docs) == 2
    with pytest.raises(StorageError, match=r"could not be synced .*; nothing can be written until it is closed"):
        docs.insert(3, vector(3))
    with pytest.raises(StorageError, match="could not be synced"):
        db.close()
    db.close()
    with vecstore.open(tmp_path) as db:  # the first close has let go of the folder
        assert [record.id for record in db.get_collection("docs").scroll().records] == [1]
        assert db.get_collection("docs").check() == []


@calls_seen
@pytest.mark.parametrize("by", ["the thread", "a compaction", "a map that grows"])
def test_a_sync_that_failed_is_not_forgotten_with_a_compaction(tmp_path, by):
    db = vecstore.open(tmp_path, durability="interval", sync_interval=60)
    docs = db.create_collection("docs", DIM)
    docs.insert(1, vector(1))
    env = docs._store.env
    env._syncer._step()
    docs.insert(2, vector(2))
    with storage_calls(lambda call: Fail(errno.EIO) if call.kind == "sync" and "new" not in call.path else None):
        if by == "the thread":
            env._syncer._seconds = 0
            env._syncer._wake.set()
            env._syncer._thread.join(10)
        else:
            with pytest.raises(StorageError):
                docs.compact() if by == "a compaction" else env.grow()
    for write in (docs.compact, lambda: docs.insert(3, vector(3)), docs.compact):
        with pytest.raises(StorageError, match="could not be synced"):
            write()
    with pytest.raises(StorageError, match="could not be synced"):
        db.close()
    with vecstore.open(tmp_path) as db:
        assert [record.id for record in db.get_collection("docs").scroll().records] == [1]


@calls_seen
def test_a_commit_that_fails_in_its_last_step_leaves_a_collection_that_goes_on(tmp_path, opened, monkeypatch):
    opened.insert(1, vector(1))
    failed = []

    def on_call(call):
        if call.kind == "write" and call.offset < 2 * PAGE and not failed:
            failed.append(call)
            return Fail(errno.EIO)
        return None

    with storage_calls(on_call), pytest.raises(StorageError, match="in the last step of a commit"):
        opened.insert(2, vector(2))
    opened.insert(3, vector(3))
    assert [record.id for record in opened.scroll().records] == [1, 3]
    opened._store.env._syncer._step()
    opened.insert(4, vector(4))
    path = crashed(tmp_path, opened, monkeypatch)
    with vecstore.open(path) as db:
        assert [record.id for record in db.get_collection("docs").scroll().records] == [1, 3]
        assert db.get_collection("docs").check() == []


@calls_seen
@pytest.mark.parametrize("fails", [False, True])
def test_behind_a_commit_that_failed_in_its_last_step_those_before_are_synced(tmp_path, opened, monkeypatch, fails):
    opened.insert(1, vector(1))
    opened._store.env._syncer._step()
    disk, failed = Disk(folder_of(tmp_path / "db") / "data.mdb"), []

    def on_call(call):
        if call.path != disk.path:
            return None
        if call.kind == "write" and call.offset < 2 * PAGE and len(opened) == 2 and not failed:
            failed.append(call)
            return Fail(errno.EIO)
        if call.kind == "write":
            disk.write(call.offset, call.data)
        elif call.kind == "sync":
            disk.sync()
        return None

    def sync_file(fd):
        if Path(f"/proc/self/fd/{fd}").readlink() == Path(disk.path):
            if fails:
                raise OSError(errno.EIO, "Input/output error")
            disk.sync()

    monkeypatch.setattr(recovery, "sync_file", sync_file)
    with storage_calls(on_call):
        opened.insert(2, vector(2))
        with pytest.raises(StorageError, match="in the last step of a commit"):
            opened.insert(3, vector(3))
        assert [record.id for record in opened.scroll().records] == [1, 2]
    if fails:
        with pytest.raises(StorageError, match="could not be synced"):
            opened.insert(3, vector(3))
    image = bytearray(disk.durable)
    for at, versions in disk.since.items():  # the meta pages alone arrive
        if at < 2 * PAGE:
            image[at : at + PAGE] = versions[-1]
    record = synced(tmp_path / "db").read_bytes()
    monkeypatch.undo()
    if not fails:
        another_boot(monkeypatch)
    with vecstore.open(found(tmp_path / "found", bytes(image), record)) as db:
        docs = db.get_collection("docs")
        assert [record.id for record in docs.scroll().records] == ([1] if fails else [1, 2])
        assert docs.check() == []
    if fails:
        with pytest.raises(StorageError, match="could not be synced"):
            opened.close()


def test_a_map_that_grows_is_synced_before(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "FIRST_MAP_SIZE", 2**18)
    with vecstore.open(tmp_path, durability="interval", sync_interval=0.001) as db:
        docs = db.create_collection("docs", DIM, index=vecstore.Flat())
        for n in range(0, 20_000, 1000):
            docs.insert(range(n, n + 1000), np.ones((1000, DIM)))
        assert (len(docs), docs.check()) == (20_000, [])


# -- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"durability": "none"}, 'expected "commit" or "interval", got \'none\''),
        ({"durability": True}, 'expected "commit" or "interval"'),
        ({"durability": "interval", "read_only": True}, "durability has no effect with read_only=True"),
        ({"sync_interval": 1}, "sync_interval has no effect without"),
        ({"durability": "interval", "sync_interval": 0}, "expected 0.001 to 60 seconds"),
        ({"durability": "interval", "sync_interval": 61}, "expected a number from 0 to 60"),
        ({"durability": "interval", "sync_interval": "1"}, "expected a number from 0 to 60"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, options, message):
    with pytest.raises(vecstore.InvalidArgumentError, match=message):
        vecstore.open(tmp_path / "db", **options)
    assert not (tmp_path / "db").exists()


def test_where_the_system_does_not_name_its_runs_it_is_refused(tmp_path, monkeypatch):
    another_boot(monkeypatch, None)
    with pytest.raises(vecstore.InvalidArgumentError, match="does not tell whether it was down"):
        vecstore.open(tmp_path, durability="interval")
