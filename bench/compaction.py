"""Room on the disk: what compact() gives back and takes, and what searches see of it.

Half of the rows are deleted and the collection compacted, beside a collection that never held them. How much a file
grows while rows are replaced and others read: `bench.readers`.
"""

from __future__ import annotations

import gc
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

import vecstore
from bench.data import Data, arguments, load

Floats = npt.NDArray[np.float64]

BATCH = 1000


def main() -> None:
    """Print every figure."""
    options = arguments(__doc__).parse_args()
    data = load(options.data)
    print(f"{len(data.ids):,} rows x {data.vectors.shape[1]} ({data.name})")
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        halved(data, Path(scratch))


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
        before = rate(docs, data)
        # A full collection of Python's garbage would look at all rows of the bench.
        gc.collect()
        gc.freeze()
        took, waits = searched_meanwhile(docs, data, docs.compact)
        print(f"half deleted      {full:8.1f} -> {deleted:.1f} MiB, compacted {size_of(docs):.1f} MiB in {took:.2f} s")
        share = size_of(docs) / size_of(fresh)
        print(f"                  {share:8.3f} of a fresh build of {size_of(fresh):.1f} MiB (bar 1.15)")
        print(f"                  {told(waits)}")
        print(f"searches          {before:8,.0f} a second before, {rate(docs, data):,.0f} after")
        for name, work in {"check": docs.check, "backup": lambda: docs.backup(folder / "backup")}.items():
            took, waits = searched_meanwhile(docs, data, work)
            print(f"{name:10}        {took:8.2f} s; {told(waits)}")


def searched_meanwhile(docs: vecstore.Collection, data: Data, work: Callable[[], object]) -> tuple[float, Floats]:
    """Seconds that some work took, and milliseconds that each search of another thread took meanwhile."""
    times: list[float] = []
    done = threading.Event()

    def search() -> None:
        i = 0
        while not done.is_set():
            start = time.perf_counter()
            docs.search(data.queries[i % len(data.queries)], 10, with_payload=False)
            times.append(time.perf_counter() - start)
            i += 1

    thread = threading.Thread(target=search)
    thread.start()
    start = time.perf_counter()
    work()
    took = time.perf_counter() - start
    done.set()
    thread.join()
    return took, np.array(times) * 1e3


def told(waits: Floats) -> str:
    """Median, 99th percentile and longest."""
    p50, p99 = np.percentile(waits, [50, 99])
    return f"searches then {p50:.2f} ms in the median of {len(waits):,}, {p99:.1f} p99, {waits.max():.1f} longest"


def rate(docs: vecstore.Collection, data: Data) -> float:
    """Searches a second of one thread."""
    for query in data.queries[:50]:
        docs.search(query, 10, with_payload=False)
    start = time.perf_counter()
    for query in data.queries[:500]:
        docs.search(query, 10, with_payload=False)
    return min(500, len(data.queries)) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
