"""Opening again after a kill, and what a checkpoint costs writers.

A child inserts all rows in batches and is killed when half or all of them are acknowledged. Printed: the time from
`open` to the first correct answer, in a process where everything is imported and compiled; until all rows are linked
again; size, time and loading of a checkpoint; how long one-row upserts take meanwhile and otherwise.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import vecstore
from bench.data import Data, arguments, load
from bench.storage import seconds

BATCH = 1000
WRITER = """
import os, sys
import vecstore
from bench.data import load
data, size = load(sys.argv[1]), int(sys.argv[3])
docs = vecstore.open(sys.argv[2]).create_collection("docs", data.vectors.shape[1])
for i in range(0, len(data.ids), size):
    docs.insert(range(i, i + size), data.vectors[i : i + size])
    os.write(1, str(i + size).encode() + b"\\n")
sys.stdin.read()
"""


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    options = parser.parse_args()
    data = load(options.data)
    n = len(data.ids) // BATCH * BATCH
    print(f"{n:,} rows x {data.vectors.shape[1]} ({data.name})")
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        warm(data, Path(scratch) / "warm")
        for share in (0.5, 1.0):
            killed(data, Path(scratch) / "db", options.data, int(n * share))
        stalls(data, Path(scratch) / "db", n)


def warm(data: Data, folder: Path) -> None:
    """Have everything imported and compiled."""
    with vecstore.open(folder) as db:
        docs = db.create_collection("docs", data.vectors.shape[1])
        docs.insert(range(5000), data.vectors[:5000])
        docs.wait_indexed()
    with vecstore.open(folder) as db:
        db.get_collection("docs").search(data.queries[0])


def killed(data: Data, folder: Path, source: Path, wanted: int) -> None:
    """Kill a child that inserts, when `wanted` rows are acknowledged; open, search, link."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-c", WRITER, str(source), str(folder), str(BATCH)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= wanted:
                break
        child.kill()
    start = time.perf_counter()
    with vecstore.open(folder) as db:
        docs = db.get_collection("docs")
        row = wanted - 1
        assert docs.search(data.vectors[row], 1)[0].id == row
        answered = time.perf_counter() - start
        stats = docs.stats()
        docs.wait_indexed()
        linked = time.perf_counter() - start
    print(
        f"killed at {wanted:7,}   first answer {answered * 1e3:6.0f} ms (bar 1000); {stats.linked:,} of "
        f"{stats.count:,} rows were linked (checkpoint of write {stats.checkpoint_lsn} of {stats.lsn}), "
        f"all after {linked:.1f} s"
    )


def stalls(data: Data, folder: Path, n: int) -> None:
    """One-row upserts by a thread while checkpoints of all rows are written, and while there are none."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("vecstore")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    with vecstore.open(folder) as db:
        docs = db.get_collection("docs")
        docs.wait_indexed()
        times: dict[bool, list[float]] = {False: [], True: []}
        writing, stopping = threading.Event(), threading.Event()

        def upserts() -> None:
            random = np.random.default_rng(0)
            while not stopping.is_set():
                row, during = int(random.integers(n)), writing.is_set()
                took = seconds(lambda row=row: docs.upsert(row, data.vectors[row]))
                times[during or writing.is_set()].append(took)

        index = docs._indexing
        thread = threading.Thread(target=upserts)
        thread.start()
        time.sleep(3)
        for _ in range(10):
            index._store.checkpoint._damaged = True  # so that all of it is written, not what has changed
            lines.clear()
            writing.set()
            index.checkpoints.write()
            writing.clear()
            time.sleep(0.2)
        whole = lines[-1]
        index.checkpoints.write()
        stopping.set()
        thread.join()
    print(f"all of it         {whole}")
    print(f"what changed      {lines[-1]}")
    for during, some in times.items():
        p50, p99 = np.percentile(some, [50, 99]) * 1e3
        name = "during checkpoints" if during else "otherwise"
        longest = max(some) * 1e3
        print(
            f"one-row upsert    {name:18} median {p50:.2f} ms, p99 {p99:.1f} ms, longest {longest:.0f} of {len(some)}"
        )
    log.setLevel(logging.WARNING)

    def reopen() -> None:
        with vecstore.open(folder) as db:
            db.get_collection("docs").search(data.queries[0])

    print(f"open and answer   {statistics.median(seconds(reopen) for _ in range(7)) * 1e3:.0f} ms, closed in order")
    with vecstore.open(folder) as db:
        checkpoint = db.get_collection("docs")._store.checkpoint
        took = statistics.median(seconds(checkpoint.load) for _ in range(7))
    print(f"load              {took * 1e3:.0f} ms for {checkpoint.path.stat().st_size / 1e6:.0f} MB of file (bar 100)")


if __name__ == "__main__":
    main()
