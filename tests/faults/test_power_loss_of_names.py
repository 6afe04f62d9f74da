"""The power fails while collections come and go, files take the place of others, and checkpoints are written."""

import os
import random
import shutil

import pytest

import vecstore
from tests.faults.names import Names, Recorder
from tests.faults.workload import DIM, assert_sound, vectors
from vecstore import checkpoints
from vecstore.storage import checkpoint, recovery
from vecstore.testing import ModelDatabase, faults

pytestmark = pytest.mark.skipif(faults.unavailable() is not None, reason=str(faults.unavailable()))

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
SEED = int(os.environ.get("VECSTORE_SEED", "1"))
NAMES = ("docs", "other")


def write(verb, *arguments, name="docs"):
    def step(db):
        getattr(db.get_collection(name), verb)(*arguments)

    return step


def index(db):
    """Link everything, and keep it."""
    docs = db.get_collection("docs")
    docs.wait_indexed(60)
    if isinstance(db, vecstore.Database):
        docs._indexing.checkpoints.write()


COMPACT = write("compact")
STEPS = [
    write("upsert", range(300, 420), vectors(1, 120)),
    index,
    lambda db: db.create_collection("other", DIM, "l2", index=vecstore.Flat()),
    write("insert", range(100), vectors(2, 100), name="other"),
    write("delete", range(200)),
    COMPACT,
    write("upsert", range(150, 250), vectors(3, 100)),
    index,
    write("upsert", ["a", "b"], vectors(4, 2), name="other"),
    COMPACT,
    lambda db: db.drop_collection("other"),
    write("upsert", range(400, 450), vectors(5, 50)),
    lambda db: db.create_collection("other", DIM, "cosine", index=vecstore.Flat()),
    write("insert", range(10), vectors(6, 10), name="other"),
    COMPACT,
]


def state(db):
    """What each collection holds, in a form in which equal means equal bits; None for one that is not there."""
    found = {}
    for name in db.list_collections():
        docs = db.get_collection(name)
        records = docs.scroll(limit=10_000, with_vectors=True).records
        rows = [(one.id, one.payload, one.vector.tobytes()) for one in records]
        found[name] = docs.info, docs.stats().lsn, rows
    return [found.get(name) for name in NAMES]


def recorded(path, durability, patch):
    """Events, the states after each step with the number of events before it was acknowledged, and for each of them
    the step before which nothing can be lost."""
    model = ModelDatabase()
    with vecstore.open(path) as db:
        for one in (db, model):
            one.create_collection("docs", DIM, "cosine", index=vecstore.HNSW(m=8)).insert(range(330), vectors(9, 330))
        index(db)
    names, states, ends, certain = Names(path), [state(model)], [0], [0]
    with Recorder(path, patch) as recorder, vecstore.open(path, durability=durability, sync_interval=None) as db:
        for number, step in enumerate(STEPS, 1):
            step(db)
            step(model)
            certain.append(certain[-1] if durability == "interval" and number % 3 else number)
            if certain[-1] == number:
                for docs in map(db.get_collection, db.list_collections()):
                    docs._store.env.sync_commits(docs.stats().lsn)
            states.append(state(model))
            ends.append(len(recorder.events))
    return names, recorder.events, states, ends, certain


@pytest.mark.parametrize("durability", ["commit", "interval"])
def test_what_was_acknowledged_is_there_under_its_name(tmp_path, small_graphs, monkeypatch, caplog, durability):
    monkeypatch.setattr(checkpoints, "MAX_WRITES", 10**9)
    if durability == "commit":  # each checkpoint in a new file; else in place
        for name in ("AT_ONCE", "AT_ONCE_SHARE"):
            monkeypatch.setattr(checkpoint, name, 0)
    with monkeypatch.context() as patch:
        names, events, states, ends, certain = recorded(tmp_path / "db", durability, patch)
    monkeypatch.setattr(recovery, "boot_id", lambda: "another")
    rng, images = random.Random(SEED), 0
    wanted = 1500 if MANY else 14
    for number, event in enumerate(events):
        begun = names.begun(event, number)
        step = sum(end <= number for end in ends) - 1
        just_synced = number in ends  # and nothing else, behind each step
        if just_synced or rng.random() < wanted / len(events):
            images += 1
            contents = names.disk.image([]) if just_synced else rng.choice([*names.disk.images(begun, rng, 4)])
            last = -1 if just_synced else rng.choice([-1, number, rng.randrange(number + 1)])
            shutil.rmtree(tmp_path / "found", ignore_errors=True)
            names.write(tmp_path / "found", contents, last)
            try:
                verify(tmp_path / "found", states[certain[step] : step + 2])
                # The index was kept anew before a compaction was acknowledged.
                if durability == "commit" and STEPS[step : step + 1] != [COMPACT]:
                    assert "index is made anew" not in caplog.text
                caplog.clear()
            except BaseException as error:
                error.add_note(f"at event {number} of {len(events)}, {event!r:.200}, step {step}, VECSTORE_SEED={SEED}")
                raise
        names.ended(event, number)
    print(f"{durability}: {len(events)} events, {images} images")
    assert images > wanted // 2


def verify(path, allowed):
    with vecstore.open(path) as db:
        for found, some in zip(state(db), zip(*allowed, strict=True), strict=True):
            assert found in some
        assert_sound(db)
        db.get_collection("docs").upsert("after", [1.0] * DIM)
        assert_sound(db)
