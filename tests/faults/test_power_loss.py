"""The power fails at any moment of a workload: what was acknowledged is on the disk, and no call is there in part."""

import copy
import dataclasses
import errno
import itertools
import os
import random
import shutil
import subprocess
import sys

import pytest

import vecstore
from tests.conftest import ROOT
from tests.faults.power import PAGE, Disk
from tests.faults.workload import STEPS, assert_sound, create_another, drop_another, payloads, state, vectors, write
from vecstore.testing import ModelDatabase, faults
from vecstore.testing.faults import Call, Fail, storage_calls

pytestmark = pytest.mark.skipif(faults.unavailable() is not None, reason=str(faults.unavailable()))

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
SEED = int(os.environ.get("VECSTORE_SEED", "1"))
WRITES = [step for step in STEPS if step not in (STEPS[0], create_another, drop_another)]


ANOTHER = write("upsert", range(1000, 1130), vectors(9, 130), payloads(9, 130))


class Recording:
    """A workload that ran once: its calls, and after how many of them each of its steps was acknowledged."""

    def __init__(self, path, fault, reopen=False):
        self.path = path
        folder = {}
        with vecstore.open(path) as db:
            STEPS[0](db)
            STEPS[0](ModelDatabase(folder))
        self.disk = Disk(sorted(path.glob("collections/docs/*.mdb")))
        self.states = [state(ModelDatabase(folder))]
        self.acknowledged = [0]
        self.failed = {}  # by the number of writes before it: what the disk may hold of one that has failed
        with storage_calls(fault) as calls:
            db = vecstore.open(path)
            writes = [*WRITES]
            while writes:
                try:
                    writes[0](db)
                except vecstore.StorageError:
                    with_it = copy.deepcopy(folder)
                    writes[0](ModelDatabase(with_it))
                    self.failed[len(self.states) - 1] = [state(ModelDatabase(with_it))]
                    writes.insert(0, ANOTHER)  # which takes the same pages
                    if reopen:
                        db.close()
                        db = vecstore.open(path)
                    continue
                writes.pop(0)(ModelDatabase(folder))
                self.states.append(state(ModelDatabase(folder)))
                self.acknowledged.append(len(calls.made))
            db.close()
        self.calls = list(zip(calls.made, calls.results, strict=True))
        with vecstore.open(path) as db:
            assert state(db) == self.states[-1]

    def moments(self):
        """The disk after each number of calls, the pieces of the call under way, and the states that may be found."""
        for number, (call, result) in enumerate([*self.calls, (Call("sync", "", ""), 0)]):
            step = sum(at <= number for at in self.acknowledged) - 1
            allowed = [*self.states[step : step + 2], *self.failed.get(step, [])]
            yield number, self.disk, self.disk.begun(call), allowed
            self.disk.ended(call, result)


def verify(path, base, files, allowed):
    """Open a folder with these contents: the state is one of those `allowed`, sound, and takes writes."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(base, path, ignore=shutil.ignore_patterns("*.mdb", "*-lock"))
    for name, content in files.items():
        target = path / os.path.relpath(name, base)
        target.write_bytes(content)
    with vecstore.open(path) as db:
        found = state(db)
        assert found in allowed
        assert_sound(db)
        db.get_collection("docs").upsert("after", [1.0] * 8)
        assert db.get_collection("docs").check() == []


FAULTS = {
    "none": lambda call: None,
    "a sync": lambda call: Fail(errno.EIO),
    "a sync after the fact": lambda call: Fail(errno.EIO, 1),
    "a meta page": lambda call: Fail(errno.EIO, len(call.data)),
    "a meta page, then closed": lambda call: Fail(errno.EIO, len(call.data)),
}


def is_meta(call):
    return call.synced and call.kind == "write"


@pytest.mark.parametrize("failing", FAULTS if MANY else ["none", "a sync", "a meta page, then closed"])
def test_after_a_power_loss_what_was_acknowledged_is_there_and_nothing_in_part(tmp_path, failing):
    rng = random.Random(SEED)
    count = itertools.count()

    def fault(call):
        if call.kind == "sync" if "sync" in failing else is_meta(call):
            return FAULTS[failing](call) if next(count) % 4 == 1 else None
        return None

    recording = Recording(tmp_path / "db", fault, reopen="closed" in failing)
    images = 0
    share = 1 if MANY else 0.3 if failing == "none" else 0.1
    for number, disk, begun, allowed in recording.moments():
        for files in disk.images(begun, rng, 20 if MANY else 4):
            if rng.random() > share:
                continue
            images += 1
            try:
                verify(tmp_path / "image", recording.path, files, allowed)
            except BaseException as error:
                error.add_note(f"at call {number}, image {images}, of VECSTORE_SEED={SEED}")
                raise
    print(f"{failing} fails: {len(recording.calls)} calls, {images} images")
    assert images > 30


OPEN = """
import sys, vecstore
docs = vecstore.open(sys.argv[1]).get_collection("docs")
sys.exit(bool(docs.check()) or len(docs.scroll(limit=10_000, with_vectors=True).records) != int(sys.argv[2]))
"""


def opens(path, n_rows):
    """Whether another process finds so many rows and nothing damaged: LMDB ends a process on some damage."""
    command = [sys.executable, "-c", OPEN, path, str(n_rows)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_without_syncs_a_power_loss_would_be_noticed(tmp_path):
    """So that the images are worth something: of a disk that syncs nothing, one that has but the meta pages."""
    recording = Recording(tmp_path / "db", lambda call: None)
    n_rows = len(recording.states[-1]["docs"][2])
    assert opens(tmp_path / "db", n_rows)
    recording.calls = [
        (dataclasses.replace(call, synced=False), result) for call, result in recording.calls if call.kind == "write"
    ]
    *_, (_, disk, _, _) = recording.moments()
    metas = [one for one in disk.pending if one.offset < 2 * PAGE]
    assert 0 < len(metas) < len(disk.pending)
    for some, fine in ((metas, False), (disk.pending, True)):
        image = tmp_path / f"image-{fine}"
        shutil.copytree(recording.path, image, ignore=shutil.ignore_patterns("*.mdb", "*-lock"))
        for name, content in disk.image(some).items():
            (image / os.path.relpath(name, recording.path)).write_bytes(content)
        assert opens(image, n_rows) == fine
