"""The power fails while folders are made, of a database, a collection, a backup; also behind a killed process."""

import os
import random
import shutil

import numpy as np
import pytest

import vecstore
from tests.faults.names import Names, Recorder
from tests.faults.workload import DIM, assert_sound, vectors
from vecstore import CorruptionError, NotADatabaseError, database
from vecstore.storage import store
from vecstore.testing import faults
from vecstore.testing.faults import Call

pytestmark = pytest.mark.skipif(faults.unavailable() is not None, reason=str(faults.unavailable()))

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
SEED = int(os.environ.get("VECSTORE_SEED", "1"))
IMAGES = 1500 if MANY else 12  # beside those of names
HERE, COPY = "db", "backups/of/copy"


def state(path, *, read_only):
    """What a database holds, or None where there is none."""
    try:
        with vecstore.open(path, read_only=read_only) as db:
            assert all(db.get_collection(name).check() == [] for name in db.list_collections())
            return {name: rows(db.get_collection(name)) for name in db.list_collections()}
    except NotADatabaseError:
        assert read_only
        return None


def rows(docs):
    return docs.info, [(one.id, one.vector.tobytes()) for one in docs.scroll(limit=10_000, with_vectors=True).records]


class Recording:
    """Steps on an empty disk: all events, and after each step what is acknowledged and after how many events."""

    def __init__(self, disk, patch):
        self.disk, self.path = disk, disk / HERE
        disk.mkdir()
        self.names, self.states, self.ends, self.copied = Names(disk), [{}], [0], None
        with Recorder(disk, patch) as self.recorder:
            self.path.mkdir()  # by the user, who does not sync
            self.db = vecstore.open(self.path)
            self.run(patch)
            self.db.close()

    def done(self):
        """What was done so far has been acknowledged."""
        names = self.db.list_collections()
        self.states.append({name: rows(self.db.get_collection(name)) for name in names})
        self.ends.append(len(self.recorder.events))

    def killed(self, patch, module, action):
        """The process is killed before the action syncs the folder, and another one goes on."""
        with patch.context() as unsynced:
            unsynced.setattr(module, "sync_folder", lambda path: None)
            action()
        self.db.close()
        self.db = vecstore.open(self.path)
        self.done()

    def insert(self, name, first):
        self.db.get_collection(name).insert(range(first, first + 20), vectors(first, 20))
        self.done()

    def run(self, patch):
        create = {"index": vecstore.Flat(), "quantization": None}
        self.done()
        self.db.create_collection("docs", DIM, **create)
        self.done()
        self.insert("docs", 0)
        self.db.backup(self.disk / COPY)
        self.copied = len(self.recorder.events), self.states[-1]
        self.insert("docs", 20)
        self.killed(patch, database, lambda: self.db.create_collection("other", DIM, "l2", **create))
        self.insert("other", 0)
        self.killed(patch, database, lambda: self.db.drop_collection("other"))
        self.db.create_collection("other", DIM, "cosine", **create)
        self.done()
        self.insert("other", 0)
        self.killed(patch, store, lambda: self.db.get_collection("docs").compact())
        self.insert("docs", 40)

    def moments(self, rng, share=1.0):
        """At events, disks that may be found if the power fails: the step before it, contents, and names. At all of
        names, or a `share`, and some of LMDB; and behind each step, the disk that has nothing but what was synced."""
        lmdb = [isinstance(event, Call) and event.path.endswith(".mdb") for event in self.recorder.events]
        for number, event in enumerate([*self.recorder.events, None]):
            if number in self.ends:
                contents, step = self.names.disk.image([]), max(i for i, end in enumerate(self.ends) if end == number)
                yield number, step, lambda path, contents=contents: self.names.write(path, contents, -1)
            if event is None:
                return
            begun = self.names.begun(event, number)
            if rng.random() < (IMAGES / sum(lmdb) if lmdb[number] else share):
                contents = rng.choice([*self.names.disk.images(begun, rng, 4)])
                upto = rng.choice([-1, number, rng.randrange(number + 1)])
                step = sum(end <= number for end in self.ends) - 1
                yield number, step, lambda path, contents=contents, upto=upto: self.names.write(path, contents, upto)
            self.names.ended(event, number)


def test_what_was_acknowledged_is_there_in_its_folders(tmp_path, monkeypatch):
    recording = Recording(tmp_path / "disk", monkeypatch)
    rng, images, found_copies = random.Random(SEED), 0, 0
    for number, step, lay_out in recording.moments(rng):
        images += 1
        found = tmp_path / "found"
        shutil.rmtree(found, ignore_errors=True)
        lay_out(found)
        try:
            assert state(found / HERE, read_only=False) in recording.states[step : step + 2]
            with vecstore.open(found / HERE) as db:
                docs = db.create_collection(f"new-{number}", DIM, index=vecstore.Flat())
                docs.insert(range(20), vectors(1, 20))
                assert_sound(db)
            copied_at, copied = recording.copied
            if number >= copied_at or (found / COPY).exists():
                found_copies += 1
                assert state(found / COPY, read_only=True) == copied
        except BaseException as error:
            error.add_note(f"at event {number}, after step {step}, VECSTORE_SEED={SEED}")
            raise
    print(f"{len(recording.recorder.events)} events, {images} images, {found_copies} of them with a backup")
    assert images > 60 and found_copies > 20


class Repair(Recording):
    """A block is damaged, and its rows are taken out of the collection."""

    def run(self, patch):
        docs = self.db.create_collection("docs", 1024, index=vecstore.Flat(), quantization=None)
        docs.insert(range(100), np.random.default_rng(1).standard_normal((100, 1024), np.float32))
        data = docs._store.env.path
        at = data.read_bytes().index(docs.get(70, with_vectors=True).vector.tobytes())
        self.db.close()
        fd = os.open(data, os.O_RDWR)
        os.pwrite(fd, bytes(100), at)
        os.fsync(fd)
        os.close(fd)
        self.damaged = len(self.recorder.events)
        self.db = vecstore.open(self.path)
        self.lost = self.db.repair_collection("docs")
        self.done()
        self.db.get_collection("docs").insert("later", np.ones(1024))
        self.done()


def test_rows_that_a_repair_takes_out_are_in_its_file(tmp_path, monkeypatch):
    recording = Repair(tmp_path / "disk", monkeypatch)
    assert len(recording.lost) > 10
    [quarantine] = recording.path.glob("collections/docs/quarantine-*.jsonl")
    rng, repaired = random.Random(SEED), 0
    for number, step, lay_out in recording.moments(rng, 1.0 if MANY else 0.16):
        if number < recording.damaged:
            continue
        found = tmp_path / "found"
        shutil.rmtree(found, ignore_errors=True)
        lay_out(found)
        try:
            now = state(found / HERE, read_only=False)
        except (AssertionError, CorruptionError):
            assert step == 0, number
            with vecstore.open(found / HERE) as db:
                assert db.repair_collection("docs") == recording.lost
            continue
        repaired += 1
        assert now in recording.states[max(step, 1) : step + 2], number
        assert (found / quarantine.relative_to(recording.disk)).read_bytes() == quarantine.read_bytes(), number
    assert repaired > 1
