"""A writer is killed at any moment: what it acknowledged is there bit by bit, and no call is ever there in part."""

import copy
import os
import random
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vecstore
from vecstore.testing import ModelDatabase

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
WORKER = Path(__file__).with_name("worker.py")
ACTS = runpy.run_path(os.fspath(WORKER))["ACTS"]


def state(database):
    """All that a database holds, in a form in which equal means equal bits."""
    found = {}
    for name in database.list_collections():
        collection = database.get_collection(name)
        page = collection.scroll(limit=10_000, with_vectors=True)
        assert page.cursor is None
        assert len(page.records) == len(collection) == collection.stats().count
        rows = [(record.id, record.payload, record.vector.tobytes()) for record in page.records]
        found[name] = collection.info, collection.stats().lsn, rows
    return found


def acts_until_killed(folder, acts, seed, first, rng):
    """Let a child act from number `first` on and kill it; how many acts it acknowledged."""
    command = [sys.executable, WORKER, folder, acts, str(seed), str(first)]
    environment = {**os.environ, "PYTHONPATH": os.fspath(Path(vecstore.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, bufsize=0) as child:
        wanted = rng.choice([1, 1, 2, 3, rng.randrange(4, 40)])
        seen = b""
        while len(seen) < wanted:  # the first byte only tells that all is imported
            more = child.stdout.read(wanted - len(seen))
            assert more, "the child ended by itself"
            seen += more
        time.sleep(rng.choice([0, rng.random() * 1e-3, rng.random() * 8e-3]))  # to meet it anywhere in a call
        child.kill()
        return len(seen + child.stdout.read()) - 1


@pytest.mark.parametrize("seed", range(1, 6 if MANY else 2))
@pytest.mark.parametrize(("acts", "kills"), [("rows", 100 if MANY else 6), ("collections", 60 if MANY else 4)])
def test_a_killed_writer_loses_no_acknowledged_call_and_leaves_none_in_part(tmp_path, acts, kills, seed):
    rng = random.Random(seed)
    folder = {}
    number = 0
    met = set()  # whether the call that was under way took place
    for kill in range(kills):
        acknowledged = acts_until_killed(tmp_path / "db", acts, seed, number, rng)
        for _ in range(acknowledged):
            ACTS[acts](ModelDatabase(folder), seed, number)
            number += 1
        with_one_more = copy.deepcopy(folder)
        ACTS[acts](ModelDatabase(with_one_more), seed, number)
        states = [state(ModelDatabase(folder)), state(ModelDatabase(with_one_more))]
        laid_out = (tmp_path / "db" / "VECSTORE").exists()
        assert laid_out or not acknowledged
        # Readers must not need a writer to tidy up first.
        for read_only in [True, False] if laid_out and kill % 2 else [False]:
            with vecstore.open(tmp_path / "db", read_only=read_only) as database:
                found = state(database)
                assert found in states, f"after kill {kill}, in act {number}"
                assert [database.get_collection(name).check() for name in found] == [[]] * len(found)
        assert {entry.name for entry in (tmp_path / "db" / "collections").iterdir()} == set(found)
        if states[0] != states[1]:
            met.add(found == states[1])
        if found == states[1]:
            folder = with_one_more
            number += 1
    assert met == {True, False} or not MANY
