"""Processes that read a folder which another one writes: how soon they see a commit, and how much its file grows.

A reader searches for the row that comes next until it finds it; printed is the time from the return of the write to
that of the search, by the clock that all processes share. Then an hour of churn is run as fast as it goes, with readers
that search on: ten writes of one row a second, of which a quarter deletes a row and inserts another.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import vecstore
from bench.compaction import insert, size_of
from bench.data import Data, arguments, load

READER = """
import sys, time
import numpy as np
import vecstore
docs = vecstore.open(sys.argv[1], read_only=True).get_collection(sys.argv[2])
query = np.ones(docs.dim)
docs.search(query, 1)
print("open", flush=True)
if sys.argv[2] == "flat":
    while True:
        docs.search(query, 10)
        time.sleep(0.02)
for line in sys.stdin:
    wanted, query = line.rstrip(), np.random.default_rng(int(line)).standard_normal(docs.dim)
    print("ready", flush=True)
    while docs.search(query, 1)[0].id != "row " + wanted:
        pass
    print(time.monotonic_ns(), flush=True)
"""


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--commits", type=int, default=300, help="that readers look for")
    parser.add_argument("--writes", type=int, default=36_000, help="of churn: ten a second for an hour")
    parser.add_argument("--seconds", type=float, default=45, help="that the churn takes at most")
    parser.add_argument("--readers", type=int, default=2)
    options = parser.parse_args()
    data = load(options.data)
    n = min(options.rows, len(data.ids))
    print(f"{n:,} rows x {data.vectors.shape[1]} ({data.name}), {options.readers} readers")
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        folder = Path(scratch) / "db"
        with vecstore.open(folder) as db:
            docs = db.create_collection("docs", data.vectors.shape[1])
            insert(docs, data, 0, n)
            docs.wait_indexed()
            seen(docs, folder, options.commits)
            # Without a graph, which each of the readers would link too: it is the file that counts here.
            docs = db.create_collection("flat", data.vectors.shape[1], index=vecstore.Flat())
            insert(docs, data, 0, n)
            churn(docs, data, n, folder, options)


def reader(folder: Path, name: str) -> subprocess.Popen[str]:
    """A process that has the collection open, and has searched."""
    command = [sys.executable, "-c", READER, str(folder), name]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def seen(docs: vecstore.Collection, folder: Path, commits: int) -> None:
    """From the return of a write until a process that searches on has found the row."""
    times = []
    with reader(folder, "docs") as child:
        assert child.stdin is not None and child.stdout is not None
        for n in range(commits):
            child.stdin.write(f"{n}\n")
            child.stdout.readline()
            docs.insert(f"row {n}", np.random.default_rng(n).standard_normal(docs.dim))
            written = time.monotonic_ns()
            times.append((int(child.stdout.readline()) - written) / 1e6)
        child.kill()
    p50, p99 = np.percentile(times, [50, 99])
    print(f"commit seen       median {p50:.2f} ms, p99 {p99:.2f} ms, longest {max(times):.1f} ms of {commits} (bar 50)")
    docs.delete([f"row {n}" for n in range(commits)])


def churn(docs: vecstore.Collection, data: Data, n: int, folder: Path, options: argparse.Namespace) -> None:
    """How much the file has grown at most, against what it was."""
    children = [reader(folder, "flat") for _ in range(options.readers)]
    random, before, largest, began = np.random.default_rng(0), size_of(docs), 0.0, time.perf_counter()
    live, spare = list(range(n)), list(range(n, len(data.ids))) or [0]
    writes = 0
    while writes < options.writes and time.perf_counter() < began + options.seconds:
        writes += 1
        at = int(random.integers(len(live)))
        row = live[at]
        if writes % 4 == 0 and len(spare) > 1:
            docs.delete(data.ids[row])
            other = int(random.integers(len(spare)))
            live[at], spare[other] = spare[other], row
            row = live[at]
        docs.upsert(data.ids[row], data.vectors[int(random.integers(len(data.ids)))], data.payloads[row])
        if writes % 100 == 0:
            largest = max(largest, size_of(docs))
    took = time.perf_counter() - began
    for child in children:
        child.kill()
        child.wait()
    stats = docs.stats()
    print(
        f"churn             {writes:,} writes ({writes / 36_000:.2f} h at ten a second) in {took:.0f} s: "
        f"{before:.0f} MiB -> {size_of(docs):.0f}, at most {max(largest, size_of(docs)) / before:.2f}x (bar 2); "
        f"log {stats.log_bytes / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    main()
