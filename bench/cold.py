"""A collection that the page cache does not hold: opened for the first time, and larger than the memory there is.

Files are put out of the page cache before each open; printed is what the process reads from the disk, and how long it
takes. Then searches run with so little memory (a cgroup, which takes root) that most rows must be read again for each:
fetched singly, as a large file is, and as a file is that fits.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import vecstore
from bench.compaction import insert
from bench.data import Data, arguments, load
from vecstore.storage import advice

GROUPS = Path("/sys/fs/cgroup")
INDEXES: dict[str, vecstore.HNSW | vecstore.IVF] = {"graph": vecstore.HNSW(), "lists": vecstore.IVF()}


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--cache", type=int, default=70, help="MB for the index and the page cache")
    parser.add_argument("--queries", type=int, default=400)
    options = parser.parse_args()
    if not hasattr(os, "posix_fadvise"):
        print("the page cache cannot be emptied here")
        return
    data = load(options.data)
    print(f"{len(data.ids):,} rows x {data.vectors.shape[1]} ({data.name}), {data.vectors.nbytes / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        folder = Path(scratch) / "db"
        sizes = {}
        with vecstore.open(folder) as db:
            for name, index in INDEXES.items():
                docs = db.create_collection(name, data.vectors.shape[1], index=index)
                insert(docs, data, 0, len(data.ids))
                docs.wait_indexed()
                sizes[name] = docs.stats().index_bytes
        for name in INDEXES:
            opened(folder, name, data)
        for name, size in sizes.items():
            for large in (False, True):
                try:
                    with memory_of(size + (options.cache << 20)):
                        searched(folder, name, data, options.queries, large=large)
                except OSError as error:
                    print(f"with little memory: no cgroup can be made here ({error})")
                    return


def opened(folder: Path, name: str, data: Data) -> None:
    """Open with nothing in the page cache, and search once."""
    evict(folder)
    start, before = time.perf_counter(), read_bytes()
    with vecstore.open(folder, read_only=True) as db:
        docs = db.get_collection(name)
        docs.count()
        counted, read = time.perf_counter(), read_bytes()
        docs.search(data.queries[0])
        print(
            f"{name:6} opened     {(counted - start) * 1e3:6.0f} ms, {(read - before) / 1e6:.1f} MB read; "
            f"first answer {(time.perf_counter() - counted) * 1e3:.0f} ms more, {(read_bytes() - read) / 1e6:.0f} MB"
        )


def searched(folder: Path, name: str, data: Data, count: int, *, large: bool) -> None:
    """Searches, the first half of them to fill the page cache, and one exact scan."""
    evict(folder)
    is_large = advice.is_large
    advice.is_large = lambda _size: large
    try:
        with vecstore.open(folder, read_only=True) as db:
            docs = db.get_collection(name)
            queries = data.queries[np.random.default_rng(0).permutation(len(data.queries))][: 2 * count]
            times = []
            for query in queries:
                start = time.perf_counter()
                docs.search(query, 10, with_payload=False)
                times.append(time.perf_counter() - start)
            start = time.perf_counter()
            docs.search(queries[0], 10, exact=True)
            exact = time.perf_counter() - start
    finally:
        advice.is_large = is_large
    p50, p99 = np.percentile(times[len(times) // 2 :], [50, 99]) * 1e3
    how = "fetched singly" if large else "as it fits"
    print(f"{name:6} little memory, {how:15} median {p50:.2f} ms, p99 {p99:.1f} ms; exact {exact * 1e3:.0f} ms")


def evict(folder: Path) -> None:
    """Put files out of the page cache."""
    for path in folder.rglob("*.mdb"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes() -> int:
    """What this process has had read from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


@contextlib.contextmanager
def memory_of(size: int) -> Iterator[None]:
    """Let this process take so many bytes more than it has, page cache included."""
    old = (GROUPS / "memory").is_dir()
    root = GROUPS / "memory" if old else GROUPS
    group = root / f"vecstore-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(size))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (root / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
