"""Room on the disk: what compact() gives back and takes, and how much a file grows under churn while others read.

Half of the rows are deleted and the collection compacted, beside a collection that never held them. Then rows are
replaced while processes search.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import vecstore
from bench.data import Data, arguments, load

BATCH = 1000
READER = """
import sys
import numpy as np
import vecstore
docs = vecstore.open(sys.argv[1], read_only=True).get_collection("docs")
print("open", flush=True)
while True:
    docs.search(np.ones(docs.dim), 1)
"""


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of churn")
    parser.add_argument("--readers", type=int, default=2)
    options = parser.parse_args()
    data = load(options.data)
    print(f"{len(data.ids):,} rows x {data.vectors.shape[1]} ({data.name})")
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        halved(data, Path(scratch))
        churn(data, Path(scratch), options.seconds, options.readers)


def insert(docs: vecstore.Collection, data: Data, first: int, last: int) -> None:
    """Some rows, a batch at a time."""
    for i in range(first, last, BATCH):
        stop = min(i + BATCH, last)
        docs.upsert(data.ids[i:stop], data.vectors[i:stop], data.payloads[i:stop])


def size_of(docs: vecstore.Collection) -> float:
    """MiB of the file."""
    return docs._store.env.path.stat().st_size / 2**20


def halved(data: Data, folder: Path) -> None:
    """Delete every second row and compact, with searches going on."""
    n, dim = data.vectors.shape
    kept = list(range(0, n, 2))
    half = Data(
        data.name, [data.ids[i] for i in kept], data.vectors[kept], [data.payloads[i] for i in kept], data.queries, None
    )
    with vecstore.open(folder / "db") as db:
        docs, fresh = (db.create_collection(name, dim) for name in ("docs", "fresh"))
        insert(docs, data, 0, n)
        insert(fresh, half, 0, len(kept))
        docs.wait_indexed()
        full = size_of(docs)
        gone = [data.ids[i] for i in range(1, n, 2)]
        for i in range(0, len(gone), BATCH):
            docs.delete(gone[i : i + BATCH])
        docs.wait_indexed()
        deleted = size_of(docs)
        times: list[float] = []
        done = threading.Event()

        def search() -> None:
            i = 0
            while not done.is_set():
                start = time.perf_counter()
                docs.search(data.queries[i % len(data.queries)], 10, with_payload=False)
                times.append(time.perf_counter() - start)
                i += 1

        before = rate(docs, data)
        thread = threading.Thread(target=search)
        thread.start()
        start = time.perf_counter()
        docs.compact()
        took = time.perf_counter() - start
        done.set()
        thread.join()
        waits = np.array(times) * 1e3
        print(f"half deleted      {full:8.1f} -> {deleted:.1f} MiB, compacted {size_of(docs):.1f} MiB in {took:.2f} s")
        share = size_of(docs) / size_of(fresh)
        print(f"                  {share:8.3f} of a fresh build of {size_of(fresh):.1f} MiB (bar 1.15)")
        print(f"searches then     {np.median(waits):8.2f} ms median of {len(waits)}, {waits.max():.1f} ms the longest")
        print(f"searches          {before:8,.0f} a second before, {rate(docs, data):,.0f} after")


def rate(docs: vecstore.Collection, data: Data) -> float:
    """Searches a second of one thread."""
    for query in data.queries[:50]:
        docs.search(query, 10, with_payload=False)
    start = time.perf_counter()
    for query in data.queries[:500]:
        docs.search(query, 10, with_payload=False)
    return min(500, len(data.queries)) / (time.perf_counter() - start)


def churn(data: Data, folder: Path, seconds: float, readers: int) -> None:
    """Replace rows for some seconds while processes search all the time."""
    n, dim = min(20_000, len(data.ids)), data.vectors.shape[1]
    with vecstore.open(folder / "churn") as db:
        docs = db.create_collection("docs", dim, index=vecstore.Flat())
        insert(docs, data, 0, n)
        before = size_of(docs)
        searching = [
            subprocess.Popen([sys.executable, "-c", READER, str(folder / "churn")], stdout=subprocess.PIPE)
            for _ in range(readers)
        ]
        for one in searching:
            assert one.stdout is not None
            one.stdout.readline()
        random, writes, replaced = np.random.default_rng(0), 0, 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            some = random.choice(n, random.integers(1, 50), replace=False)
            docs.upsert([data.ids[i] for i in some], data.vectors[some], [data.payloads[i] for i in some])
            writes, replaced = writes + 1, replaced + len(some)
        for one in searching:
            one.kill()
            one.wait()
            assert one.stdout is not None
            one.stdout.close()
        grown = size_of(docs) / before
        print(f"churn             {writes:8,} writes, {replaced:,} of {n:,} rows replaced, {readers} processes search")
        print(f"                  {grown:8.2f} times the file (bar 2)")


if __name__ == "__main__":
    main()
