"""Children that write until they are killed: `python -m tests.crash.children ACKNOWLEDGEMENTS`, a server that forks.

It imports everything and loads all kernels once, so that a child costs a fork. A line of JSON on standard input starts
a child, which the server answers with its process id; another line kills it if it still lives. The end of a child, by
whatever, is told with its exit status. Acknowledgements go to a pipe of their own, in records of RECORD and a text.
"""

import contextlib
import json
import os
import pickle
import select
import shutil
import signal
import struct
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np

import vecstore
from tests.conftest import make_small
from tests.crash.plans import DIM, applied, carry_out, plan
from vecstore import checkpoints
from vecstore.kernels._jit import warmup
from vecstore.storage import checkpoint, environment, failpoints, log, scratch

RECORD = struct.Struct("<cBIH")  # kind, writer, number, length of the text that follows
NAME = "docs"
PIECE_BYTES = 4096
# One after another, as they take the place of each other.
INDEXES = (
    vecstore.IVF(), vecstore.IVF(nlist=9), vecstore.HNSW(), vecstore.IVF(resident=False), vecstore.Flat(),
    vecstore.HNSW(m=8),
)  # fmt: skip


def make_all_small():
    """Let this process do all upkeep within some hundred rows."""
    make_small("graphs")
    make_small("lists")
    scratch.LEAST = 1024
    # So that each child grows its map, trims its log and writes checkpoints, often.
    environment.FIRST_MAP_SIZE = 1 << 20
    log.KEEP, log.TRIM_AT_ONCE = 32, 8
    checkpoints.BUSY_ROWS, checkpoints.IDLE_ROWS, checkpoints.MAX_WRITES = 100, 20, 20
    checkpoints.BUSY_SHARE = checkpoints.IDLE_SHARE = checkpoints.REST = 0
    checkpoint.PIECE_BYTES, checkpoint.AT_ONCE = PIECE_BYTES, 1 << 14  # some in one transaction, some in a new file


def main():
    out = int(sys.argv[1])
    make_all_small()
    warmup()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            live(out, json.loads(line))
        print(json.dumps(pid), flush=True)
        child = os.pidfd_open(pid)
        ended = child in select.select([child, sys.stdin], [], [])[0]
        if not ended:
            sys.stdin.readline()
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
        print(json.dumps(os.waitpid(pid, 0)[1]), flush=True)
        if ended:
            sys.stdin.readline()


def live(out, order):
    """What a child does; it does not return."""
    try:
        if order["failpoint"]:
            failpoints.arm(order["failpoint"], order["count"])
        child = Child(out, order)
        child.run()
    except BaseException:
        complain(out)
    finally:
        os._exit(1)


def tell(out, kind, writer=0, number=0, text=""):
    body = text.encode()[-3000:]
    os.write(out, RECORD.pack(kind, writer, number, len(body)) + body)


def complain(out):
    tell(out, b"!", text=traceback.format_exc())


class Child:
    def __init__(self, out, order):
        self.out, self.order = out, order
        self.models = pickle.loads(Path(order["models"]).read_bytes())
        self.db = vecstore.open(order["folder"], **order["options"])
        if NAME in self.db.list_collections():
            self.docs = self.db.get_collection(NAME)
        else:
            self.docs = self.db.create_collection(NAME, DIM, index=INDEXES[order["seed"] % len(INDEXES)])

    def run(self):
        tell(self.out, b"o")
        works = [lambda writer=writer: self.write(writer) for writer in self.models]
        works += [self.search, self.keep_house]
        for work in works:
            threading.Thread(target=self.guarded, args=(work,), daemon=True).start()
        time.sleep(60)

    def guarded(self, work):
        try:
            work()
        except BaseException:
            complain(self.out)

    def write(self, writer):
        """Write, acknowledge, and now and then look whether what was acknowledged is found."""
        mine, number = self.models[writer]
        while True:
            call = plan(self.order["seed"], writer, number, mine)
            carry_out(self.docs, *call)
            tell(self.out, b".", writer, number)
            mine = applied(mine, *call)
            if number % 3 == 0 and mine:
                one = sorted(mine, key=str)[number % len(mine)]
                hits = self.docs.search(np.frombuffer(mine[one][0], np.float32), 1)
                assert [hit.id for hit in hits] == [one], f"searched {one!r} after its write, found {hits}"
            number += 1

    def search(self):
        """Any answer is right that has no row twice."""
        rng = np.random.default_rng(self.order["seed"])
        while True:
            for hits in self.docs.search(rng.standard_normal((3, DIM)).astype(np.float32), 10, with_payload=True):
                assert len({hit.id for hit in hits}) == len(hits)
            time.sleep(0.002)

    def keep_house(self):
        """What happens now and then: another collection is made, filled and dropped, and this one is compacted, copied,
        and given another index."""
        changes = str(self.order["failpoint"]).startswith("index.")
        turn = sum(number for _, number in self.models.values())  # each child begins elsewhere
        while True:
            with contextlib.suppress(vecstore.CollectionNotFoundError):
                self.db.drop_collection("other")
            other = self.db.create_collection("other", 3, "l2", index=vecstore.Flat())
            other.insert(range(10), np.eye(10, 3) + 1)
            turn += 1
            if turn % 3 == 0 or changes:
                now = INDEXES.index(self.docs.info.index)
                self.docs.set_index(INDEXES[(now + 1) % len(INDEXES)], quantization="auto")
            if turn % 2:
                self.docs.compact()
            if turn % 3 == 1:
                copy = Path(f"{self.order['folder']}-copy")
                shutil.rmtree(copy, ignore_errors=True)
                self.docs.backup(copy)
                with vecstore.open(copy, read_only=True) as db:
                    assert db.get_collection(NAME).check() == []


if __name__ == "__main__":
    main()
