"""A writer is killed while a checkpoint is written: the one before it holds, or it does, and no row is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.conftest import ROOT
from vecstore.storage import checkpoint, failpoints, log

DIM = 16
WRITER = """
import os, sys
import numpy as np
import vecstore
from vecstore import checkpoints
from tests.conftest import make_small
from vecstore.storage import checkpoint, log
make_small("graphs")
make_small("lists")
checkpoints.BUSY_ROWS = checkpoints.IDLE_ROWS = 64
checkpoints.BUSY_SHARE = checkpoints.IDLE_SHARE = checkpoints.REST = 0
checkpoint.PIECE_BYTES = 4096
checkpoint.AT_ONCE = 1 << 14 if int(sys.argv[3]) % 2 == 0 else 1 << 24
log.KEEP, log.TRIM_AT_ONCE = 4, 2
index = vecstore.IVF(nprobe=100) if sys.argv[4] == "lists" else vecstore.HNSW()
docs = vecstore.open(sys.argv[1]).create_collection("docs", int(sys.argv[2]), "l2", index=index, exist_ok=True)
seed = int(sys.argv[3])
random = np.random.default_rng(seed)
for n in range(40):
    ids = random.choice(700, 40, replace=False)
    vectors = random.standard_normal((40, docs.dim))
    if n % 3 == 2:
        docs.delete(ids[:10])
    else:
        docs.upsert(ids, vectors)
    os.write(1, b"[%d, %d]\\n" % (n, docs.stats().checkpoint_lsn))
    if n % 8 == 0:
        docs.wait_indexed(60)
docs.close()
"""
KINDS = ["graph", "lists"]
MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
KILLS = 50 if MANY else 2
SEED = int(os.environ.get("VECSTORE_SEED", "1"))


def applied(rows, seed, count):
    """The rows after the first `count` rounds of the writer."""
    rows, generator = dict(rows), np.random.default_rng(seed)
    for n in range(count):
        ids, vectors = generator.choice(700, 40, replace=False).tolist(), generator.standard_normal((40, DIM))
        if n % 3 == 2:
            for one in ids[:10]:
                rows.pop(one, None)
        else:
            rows |= zip(ids, vectors.astype(np.float32), strict=True)
    return rows


def killed(path, kind, seed, failpoint=None, after=None):
    """Run the writer until the failpoint, or until it is killed `after` some rounds; the rounds that it told of."""
    roots = map(os.fspath, (Path(vecstore.__file__).parents[1], ROOT))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    if failpoint is not None:
        environment[failpoints.VARIABLE] = failpoint
    command = [sys.executable, "-c", WRITER, path, str(DIM), str(seed), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as child:
        told = []
        for line in child.stdout:
            told.append(json.loads(line))
            if after is not None and len(told) >= after[0]:
                time.sleep(after[1])
                child.kill()
    return child.returncode, len(told)


def verified(path, rows, seed, told):
    """The rows that are there: those acknowledged, or those of the call that was under way as well."""
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert docs.check() == []
        found = {one.id: one.vector for one in docs.scroll(limit=1000, with_vectors=True).records}
        for linked in (False, True):
            if linked:
                docs.wait_indexed(60)
            effort = {"ef": 200} if docs.info.index == vecstore.HNSW() else {"nprobe": 200}
            hits = docs.search(np.array(list(found.values())), 1, **effort)
            assert [one[0].id for one in hits] == list(found)
        stats = docs.stats()
        assert stats.linked + stats.tail == stats.count
        assert stats.index_error is None
    assert any(
        expected.keys() == found.keys() and all(np.array_equal(found[one], expected[one]) for one in found)
        for expected in (applied(rows, seed, told), applied(rows, seed, told + 1))
    )
    return found


@pytest.fixture
def settings(small_graphs, small_lists, monkeypatch):
    """Those of the writer."""
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 4096)
    monkeypatch.setattr(log, "KEEP", 4)
    monkeypatch.setattr(log, "TRIM_AT_ONCE", 2)


@pytest.mark.parametrize(
    ("kind", "failpoint", "count"),
    [
        *(("graph", point, 1) for point in failpoints.CHECKPOINT),
        ("graph", "checkpoint.piece", 17),
        *(("lists", point, 5) for point in (failpoints.CHECKPOINT if MANY else ["checkpoint.header"])),
    ],
)
def test_at_a_failpoint(tmp_path, settings, kind, failpoint, count, caplog):
    rows = {}
    if failpoint == "checkpoint.deleted":
        _, told = killed(tmp_path, kind, 1, after=(12, 0))
        rows = verified(tmp_path, {}, 1, told)
        index = tmp_path / "collections" / "docs" / "index.mdb"
        index.write_bytes(index.read_bytes()[:-9000])
        caplog.clear()
    code, told = killed(tmp_path, kind, 2, f"{failpoint}:{count}")
    assert code == -signal.SIGKILL
    rows = verified(tmp_path, rows, 2, told)
    if failpoint in ("checkpoint.deleted", "checkpoint.header"):
        code, told = killed(tmp_path, kind, 3)
        assert (code, told) == (0, 40)
        verified(tmp_path, rows, 3, told)
    assert not [one for one in caplog.records if "damaged" in one.getMessage()]


@pytest.mark.parametrize("seed", range(SEED, SEED + (4 if MANY else 1)))
@pytest.mark.parametrize("kind", KINDS)
def test_at_random(tmp_path, settings, kind, seed, caplog):
    generator, rows = random.Random(seed), {}
    for kill in range(KILLS):
        _, told = killed(tmp_path, kind, kill, after=(generator.randrange(1, 38), generator.random() * 0.03))
        rows = verified(tmp_path, rows, kill, told)
    assert not [one for one in caplog.records if "index.mdb" in one.getMessage()]
