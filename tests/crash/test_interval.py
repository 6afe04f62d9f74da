"""durability="interval": what a killed process, a machine that goes down, and a disk that fails leave behind."""

import errno
import logging
import threading

import numpy as np
import pytest

import vecstore
from vecstore import CorruptionError, DatabaseLockedError, StorageError
from vecstore.storage import environment, interval
from vecstore.storage.lock import WriterLock
from vecstore.testing.faults import Fail, storage_calls, unavailable

DIM = 16
PAGE = 4096

calls_seen = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def folder_of(path):
    return path / "collections" / "docs"


def synced(path):
    return folder_of(path) / "data.mdb-synced"


@pytest.fixture
def opened(tmp_path):
    """A collection that is synced only when the test says so."""
    with vecstore.open(tmp_path / "db", durability="interval", sync_interval=60) as db:
        yield db.create_collection("docs", DIM, index=vecstore.Flat())


def vector(n):
    return np.random.default_rng(n).standard_normal(DIM).astype(np.float32)


def another_boot(monkeypatch, name="another"):
    monkeypatch.setattr(interval, "boot_id", lambda: name)


# -- the process ends --------------------------------------------------------------------------------------------


def test_the_record_is_there_while_commits_may_not_be_synced_and_gone_after_a_close(tmp_path):
    with vecstore.open(tmp_path, durability="interval", sync_interval=60) as db:
        docs = db.create_collection("docs", DIM)
        assert not synced(tmp_path).exists()
        docs.insert(1, vector(1))
        assert interval.read_record(folder_of(tmp_path) / "data.mdb").open
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


def test_the_thread_syncs_settles_when_idle_and_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(interval, "IDLE_SECONDS", 0.02)
    with vecstore.open(tmp_path, durability="interval", sync_interval=0.005) as db:
        docs = db.create_collection("docs", DIM)
        for n in range(3):
            docs.insert(n, vector(n))
            thread = docs._store.env._syncer._thread
            thread.join(10)
            assert not thread.is_alive()
            assert not interval.read_record(folder_of(tmp_path) / "data.mdb").open
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


# -- the machine goes down ---------------------------------------------------------------------------------------


class Disk:
    """What a disk may hold of one file: `durable` from the last sync, and each version of a page written since."""

    def __init__(self, path):
        self.path = str(path)
        self.durable = bytearray(path.read_bytes())
        self.since = {}
        self.in_sync = None

    def write(self, offset, data):
        for at in range(offset - offset % PAGE, offset + len(data), PAGE):
            versions = self.since.setdefault(at, [])
            page = bytearray(versions[-1] if versions else bytes(self.durable[at : at + PAGE]).ljust(PAGE, b"\0"))
            first, last = max(at, offset), min(at + PAGE, offset + len(data))
            page[first - at : last - at] = data[first - offset : last - offset]
            versions.append(bytes(page))

    def sync(self):
        """Everything is durable that was written before; the caller is alone."""
        for at, versions in self.since.items():
            self.durable.extend(bytes(max(0, at + PAGE - len(self.durable))))
            self.durable[at : at + PAGE] = versions[-1]
        self.since.clear()

    def image(self, rng, share):
        """What is found when the power fails now: of each page written since the sync one of its versions or none,
        now and then torn at a sector."""
        image = bytearray(self.durable)
        for at, versions in self.since.items():
            if rng.random() >= share:
                continue
            image.extend(bytes(max(0, at + PAGE - len(image))))
            page = versions[rng.integers(len(versions))]
            size = PAGE if at < 2 * PAGE or rng.random() < 0.8 else 512 * int(rng.integers(1, 8))
            image[at : at + size] = page[:size]
        return bytes(image)


class Machine:
    """Runs writes and syncs while its disk is watched, and keeps what would be found after power losses."""

    def __init__(self, path, docs, seed, monkeypatch):
        self.rng = np.random.default_rng(seed)
        self.path, self.docs = path, docs
        self.disk = Disk(folder_of(path) / "data.mdb")
        self.rows, self.history = {}, {0: {}}
        self.certain = 0  # the lsn of the last sync that was recorded
        self.record = None  # what of it is surely on the disk
        self.losses = []
        monkeypatch.setattr(interval, "sync_file", self.record_synced)

    def on_call(self, call):
        if call.path != self.disk.path:
            return
        self.lose_power(0.04)
        if call.kind == "write":
            self.disk.write(call.offset, call.data)
        elif call.kind == "sync":
            self.disk.sync()

    def record_synced(self, fd):
        self.lose_power(0.5)
        self.record = self.record_now()
        self.lose_power(0.5)

    def record_now(self):
        return synced(self.path).read_bytes() if synced(self.path).exists() else None

    def lose_power(self, chance):
        if self.rng.random() < chance and len(self.losses) < 60:
            record = self.record if self.record is not None and self.rng.random() < 0.5 else self.record_now()
            share = self.rng.choice([0, 0.3, 0.9, 1])
            self.losses.append((self.disk.image(self.rng, share), record, self.certain))

    def run(self, steps):
        syncer = self.docs._store.env._syncer
        for _ in range(steps):
            kind = self.rng.integers(12)
            if kind < 8:
                ids = self.rng.choice(4000, self.rng.choice([1, 1, 5, 300]), replace=False).tolist()
                vectors = self.rng.standard_normal((len(ids), DIM)).astype(np.float32)
                lsn = self.docs.upsert(ids, vectors).lsn
                self.rows.update(zip(ids, map(bytes, vectors), strict=True))
            elif kind < 10:
                ids = self.rng.choice(4000, 200, replace=False).tolist()
                lsn = self.docs.delete(ids).lsn
                for one in ids:
                    self.rows.pop(one, None)
            elif kind == 10:
                lsn = self.docs.stats().lsn
                syncer._step()
                self.certain = lsn
            else:
                lsn = self.docs.stats().lsn
                with self.docs._store.env.writing():
                    self.docs._store.env.settle()
                self.certain = lsn
            self.history[lsn] = dict(self.rows)


def stored(docs):
    page = docs.scroll(limit=10_000, with_vectors=True)
    return {record.id: record.vector.tobytes() for record in page.records}


@calls_seen
@pytest.mark.parametrize("seed", range(4))
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

        monkeypatch.setattr(interval, "sync_file", record_synced)
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


def found(path, image, record):
    """A database whose collection "docs" consists of these bytes."""
    vecstore.open(path).close()
    folder_of(path).mkdir()
    (folder_of(path) / "data.mdb").write_bytes(image)
    if record is not None:
        synced(path).write_bytes(record)
    return path


def crashed(tmp_path, docs, monkeypatch):
    """A copy of the database as of now, found by the next run of the machine."""
    image, record = ((folder_of(tmp_path / "db") / name).read_bytes() for name in ("data.mdb", "data.mdb-synced"))
    another_boot(monkeypatch)
    return found(tmp_path / "found", image, record)


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
        patch.setattr(interval, "reach", fail)
        with pytest.raises(PowerFailedError):
            interval.recover(data)
    half = data.read_bytes()
    for first, second in ((half, whole), (whole, half)):  # either of the two meta pages has arrived
        data.write_bytes(first[:PAGE] + second[PAGE : 2 * PAGE] + whole[2 * PAGE :])
        assert interval.is_behind(data)
    with vecstore.open(path) as db:
        assert [record.id for record in db.get_collection("docs").scroll().records] == [1]


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
    last = interval.read_record(data)
    at = (last.number & 1) * PAGE
    synced(path).write_bytes(whole[:at] + whole[at : at + 50] + bytes(200) + whole[at + 250 :])
    assert interval.read_record(data).number == last.number - 1
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
        docs._indexing._checkpoint()
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
