"""Writers and searchers of one process are killed together, at every failpoint and at random; then on with the folder.

After each kill: what was acknowledged is there bit by bit, of each writer's call under way all or nothing, nothing is
damaged, and each row is found; also for a process that reads all the time and is never killed. VECSTORE_KILLS=N says
how many random kills; `make crash` makes thousands.
"""

import contextlib
import json
import os
import pickle
import random
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import vecstore
from tests.conftest import ROOT
from tests.crash.children import NAME, PIECE_BYTES, RECORD
from tests.crash.plans import applied, plan
from vecstore.storage import checkpoint
from vecstore.storage.failpoints import CHECKPOINT, INTERVAL, POINTS

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="children are watched by pidfd, on Linux")

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
KILLS = int(os.environ.get("VECSTORE_KILLS", "24"))
SEED = int(os.environ.get("VECSTORE_SEED", "1"))
PARTS = -(-KILLS // 200)  # of one database each, which take a minute or two
WRITERS = 4
SELDOM = ("open.", "map.", "compact.", "interval.", "index.")  # what a child does once, if at all, or which takes long
INTERVAL_OPTIONS = {"durability": "interval", "sync_interval": 0.01}
# But for what happens only after the machine went down, or where index.mdb is damaged.
REACHED = sorted({*POINTS, *CHECKPOINT, *INTERVAL} - {"interval.put_back", "checkpoint.deleted"})


@pytest.fixture(autouse=True)
def pieces(monkeypatch):
    """What a child has kept of its index is read, and not made anew."""
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", PIECE_BYTES)


class Server:
    """A process that forks children; see tests/crash/children.py."""

    def __init__(self):
        self.acknowledged, other_end = os.pipe()
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.children", str(other_end)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, pass_fds=[other_end], cwd=ROOT,
        )  # fmt: skip
        os.close(other_end)
        os.set_blocking(self.acknowledged, False)
        assert self.read() == "ready"

    def read(self):
        line = self.popen.stdout.readline()
        assert line, f"the server ended with {self.popen.wait()}"
        return json.loads(line)

    def tell(self, value):
        self.popen.stdin.write(json.dumps(value) + "\n")

    def end(self):
        self.popen.stdin.close()
        self.popen.wait()
        self.popen.stdout.close()
        os.close(self.acknowledged)

    def child(self, order, calls, seconds):
        """Run a child until it has acknowledged that many `calls` (-1: from its start) and `seconds` have passed since.

        Returns the records that it has written, and how it ended: by itself at the latest after a minute.
        """
        self.tell(order)
        self.read()
        seen, ended = b"", False
        while not ended and len(seen) < (calls + 1) * RECORD.size:  # the first tells that it has opened
            ended = self.popen.stdout in select.select([self.popen.stdout, self.acknowledged], [], [], 60)[0]
            seen += self.drain()
        deadline = time.monotonic() + seconds
        while not ended and (left := deadline - time.monotonic()) > 0:
            ended = self.popen.stdout in select.select([self.popen.stdout, self.acknowledged], [], [], left)[0]
            seen += self.drain()
        if ended:
            status = self.read()
            self.tell("end")
        else:
            self.tell("end")
            status = self.read()
        return list(records(seen + self.drain())), status

    def drain(self):
        seen = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self.acknowledged, 1 << 16):
                seen += more
        return seen


def records(seen):
    at = 0
    while at < len(seen):
        kind, writer, number, length = RECORD.unpack_from(seen, at)
        at += RECORD.size
        yield kind, writer, number, seen[at : at + length].decode()
        at += length


@pytest.fixture(scope="module")
def server():
    started = Server()
    yield started
    started.end()


class Follower:
    """A process that reads; see tests/crash/follower.py."""

    def __init__(self):
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.follower"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT,
        )  # fmt: skip
        self.folder, self.looks = None, 0
        assert json.loads(self.popen.stdout.readline()) == "ready"

    def ask(self, do, **order):
        self.popen.stdin.write(json.dumps({"do": do, **order}) + "\n")
        line = self.popen.stdout.readline()
        assert line, f"the follower ended with {self.popen.wait()}"
        answer = json.loads(line)
        assert not isinstance(answer, str), answer
        return answer

    def verify(self, folder, *, check):
        """What it sees of a folder, from now on until it is asked for another one."""
        if self.folder is not folder:
            self.ask("open", path=str(folder.path), seed=folder.seed, writers=WRITERS)
            self.folder = folder
        self.looks = self.ask("verify", rows=[len(mine) for mine, _ in folder.models.values()], check=check)

    def end(self):
        self.popen.stdin.close()
        self.popen.wait()
        self.popen.stdout.close()


@pytest.fixture(scope="module")
def follower():
    started = Follower()
    yield started
    started.end()


class Folder:
    """A database that children write to, and what must be in it."""

    def __init__(self, server, path, seed, follower):
        self.server, self.path, self.seed, self.follower = server, path, seed, follower
        self.models = {writer: ({}, 0) for writer in range(WRITERS)}  # rows, and the number of the next call
        self.acknowledged = self.kept = self.kills = 0

    def kill(self, calls, seconds, failpoint=None, count=1, options=None):
        """Let a child write and kill it; the status with which it ended, and all that it has told."""
        models = self.path.parent / "models"
        models.write_bytes(pickle.dumps(self.models))
        order = {
            "folder": str(self.path), "models": str(models), "seed": self.seed, "failpoint": failpoint, "count": count,
            "options": options or {},
        }  # fmt: skip
        told, status = self.server.child(order, calls, seconds)
        complaints = [text for kind, _, _, text in told if kind == b"!"]
        assert not complaints, complaints[0]
        for kind, writer, number, _ in told:
            if kind == b".":
                mine, expected = self.models[writer]
                assert number == expected
                self.models[writer] = applied(mine, *plan(self.seed, writer, number, mine)), number + 1
                self.acknowledged += 1
        self.kills += 1
        return status, told

    def verify(self, *, read_only=False, linked=False):
        """Hold the folder against what was acknowledged, and follow the calls that took place unacknowledged."""
        with vecstore.open(self.path, read_only=read_only) as db:
            names = set(db.list_collections())
            assert names <= {NAME, "other"}
            if "other" in names:
                other = db.get_collection("other")
                assert (other.check(), len(other)) in [([], 0), ([], 10)]
            if NAME not in names:
                assert all(number == 0 for _, number in self.models.values())
                return
            docs = db.get_collection(NAME)
            assert docs.check() == []
            page = docs.scroll(limit=10_000, with_vectors=True)
            assert page.cursor is None
            found = {writer: {} for writer in self.models}
            for record in page.records:
                found[record.payload["writer"]][record.id] = record.vector.tobytes(), record.payload
            for writer, (mine, number) in self.models.items():
                if found[writer] != mine:
                    with_one_more = applied(mine, *plan(self.seed, writer, number, mine))
                    assert found[writer] == with_one_more, f"writer {writer}, before or in its call {number}"
                    self.models[writer] = with_one_more, number + 1
                    self.kept += 1
            if linked:
                docs.wait_indexed(60)
            if page.records:
                queries = np.array([record.vector for record in page.records])
                best = [[hit.id for hit in hits] for hits in docs.search(queries, 1)]
                assert [ids for one, ids in zip(page.records, best, strict=True) if ids != [one.id]] == []
        if not read_only:
            self.follower.verify(self, check=linked)


@pytest.mark.parametrize("seed", range(SEED, SEED + PARTS))
def test_writers_that_are_killed_at_random_lose_nothing(server, follower, tmp_path, small_graphs, small_lists, seed):
    rng = random.Random(seed)
    folder = Folder(server, tmp_path / "db", seed, follower)
    for kill in range(KILLS // PARTS):
        # While it opens, in its first calls, or after a while; and then anywhere in a call.
        calls = rng.choice([-1, rng.randrange(8), rng.randrange(40), rng.randrange(40)])
        # A kill takes nothing from what was not synced: that is the machine's.
        options = INTERVAL_OPTIONS if rng.random() < 0.25 else None
        status, _ = folder.kill(calls, rng.random() * (0.05 if calls < 0 else 0.008), options=options)
        assert status == signal.SIGKILL
        if not (tmp_path / "db" / "VECSTORE").exists():
            continue
        try:
            if kill % 4 == 1:
                folder.verify(read_only=True)
            # A commit that was killed in its last step may be seen only when the next writer has opened the file.
            folder.verify(linked=kill % 4 == 3)
        except BaseException as error:
            error.add_note(f"after kill {kill} of VECSTORE_SEED={seed}")
            raise
    print(
        f"{folder.kills} kills, {folder.acknowledged} calls acknowledged, {folder.kept} kept unacknowledged, "
        f"{follower.looks} looks of a reader"
    )
    assert folder.acknowledged > folder.kills
    assert folder.kept or folder.kills < 50


@pytest.mark.parametrize("failpoint", REACHED)
def test_writers_that_are_killed_at_a_failpoint_lose_nothing(
    server, follower, tmp_path, small_graphs, small_lists, failpoint
):
    folder = Folder(server, tmp_path / "db", SEED, follower)
    if failpoint == "open.leftovers":
        vecstore.open(folder.path).close()
        (folder.path / "collections" / ".left-0000").mkdir()
    rng = random.Random(failpoint)
    for count in (1, rng.randrange(2, 6)):
        if count > 1 and (not MANY or failpoint.startswith(SELDOM)):
            continue
        options = INTERVAL_OPTIONS if failpoint in INTERVAL else None
        status, told = folder.kill(20_000, 0, failpoint, count, options)
        assert status == signal.SIGKILL
        assert len(told) < 20_000, f"{failpoint} was not reached"
        if (folder.path / "VECSTORE").exists():
            folder.verify()
    folder.kill(20, 0)
    folder.verify(linked=True)
