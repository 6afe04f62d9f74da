"""Storage beside bare LMDB: bulk insert, one-row commits, disk, opening, memory of a search.

Each ratio comes from interleaved runs of both sides in one process; medians are printed.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgpack

import vecstore
from bench.data import Data, arguments, load

BATCH = 1000
ROWS_PER_VALUE = 64


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = load(options.data)
    print(f"{len(data.ids):,} rows x {data.vectors.shape[1]} ({data.name})")
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        folder = Path(scratch)
        bulk(data, folder, options.rounds)
        disk(data, folder / "db")
        opening(data, folder / "db")
        memory(folder / "db", options.data)
        single(data, folder, options.rounds)


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def bulk(data: Data, folder: Path, rounds: int) -> None:
    """Insert all rows in batches; bare LMDB puts the same vectors, 64 rows a value, and payloads under their ids."""
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(seconds(lambda: bare_bulk(data, fresh(folder / "bare"))))
        ours.append(seconds(lambda: insert(data, fresh(folder / "db"))))
    n = len(data.ids)
    pairs = [bare / own for bare, own in zip(theirs, ours, strict=True)]
    own, bare = n / statistics.median(ours), n / statistics.median(theirs)
    print(f"bulk insert       {own:10,.0f} rows/s   bare lmdb {bare:,.0f}")
    print(f"                  {statistics.median(pairs):10.2f} of bare lmdb (bar 0.5)")


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def insert(data: Data, folder: Path) -> None:
    """All rows into a new collection."""
    with vecstore.open(folder) as db:
        docs = db.create_collection("docs", dim=data.vectors.shape[1], index=vecstore.Flat())
        for i in range(0, len(data.ids), BATCH):
            docs.insert(data.ids[i : i + BATCH], data.vectors[i : i + BATCH], data.payloads[i : i + BATCH])


def bare_bulk(data: Data, folder: Path) -> None:
    """The same bytes, put by hand."""
    env = lmdb.open(str(folder), map_size=1 << 36, lib_version=0)
    for i in range(0, len(data.ids), BATCH):
        with env.begin(write=True) as txn:
            for row in range(i, i + BATCH, ROWS_PER_VALUE):
                txn.put(b"v%08d" % row, data.vectors[row : min(row + ROWS_PER_VALUE, i + BATCH)].tobytes())
            for row in range(i, i + BATCH):
                txn.put(data.ids[row].encode(), msgpack.packb(data.payloads[row]))
    env.close()


def disk(data: Data, folder: Path) -> None:
    """All files of the folder against the bytes that were given."""
    given = data.vectors.nbytes + sum(len(msgpack.packb(p)) for p in data.payloads) + sum(len(i) for i in data.ids)
    used = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    print(f"disk              {used / 1e6:10.1f} MB for {given / 1e6:.1f} MB given: {used / given:.3f} (bar 1.15)")


def opening(data: Data, folder: Path) -> None:
    """Open the folder and answer one query, in a process where everything is imported and cached."""

    def once() -> None:
        with vecstore.open(folder) as db:
            db.get_collection("docs").search(data.queries[0])

    once()
    times = [seconds(once) for _ in range(7)]
    print(f"open and answer   {statistics.median(times) * 1e3:10.1f} ms (bar 1000)")
    with vecstore.open(folder) as db:
        docs = db.get_collection("docs")
        docs.search(data.queries[0])
        one = statistics.median(seconds(lambda i=i: docs.search(data.queries[i])) for i in range(50))
        batch = seconds(lambda: docs.search(data.queries[:100]))
        print(f"search            {one * 1e3:10.2f} ms a query, {batch * 10:.2f} ms a query in a batch of 100")


def memory(folder: Path, source: Path) -> None:
    """Anonymous and file-backed resident memory of a process before and after it searched everything."""
    code = f"""
import numpy as np, vecstore
from bench.storage import resident
queries = np.load({str(Path(source) / "queries.f16.npy")!r}).astype(np.float32)
with vecstore.open({str(folder)!r}, read_only=True) as db:
    docs = db.get_collection("docs")
    docs.count()
    before = resident()
    for query in queries[:20]:
        docs.search(query)
    docs.search(queries[:20])
    after = resident()
print(*before, *after)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    anonymous, mapped, anonymous_after, mapped_after = map(int, out.split())
    print(
        f"memory of search  {(anonymous_after - anonymous) / 1e6:+10.1f} MB anonymous, "
        f"{(mapped_after - mapped) / 1e6:+.1f} MB mapped file pages ({anonymous_after / 1e6:.1f} MB anonymous in all)"
    )


def resident() -> tuple[int, int]:
    """Bytes of anonymous and of file-backed resident memory of this process (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anonymous, mapped = (int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return anonymous, mapped


def single(data: Data, folder: Path, rounds: int, n: int = 500) -> None:
    """One-row upserts, of new rows and of rows that are there, against bare commits of one value of the same size."""
    with vecstore.open(folder / "db") as db:
        docs = db.get_collection("docs")
        env = lmdb.open(str(fresh(folder / "bare")), map_size=1 << 36, lib_version=0)

        def bare(row: int) -> None:
            with env.begin(write=True) as txn:
                txn.put(data.ids[row].encode(), data.vectors[row].tobytes() + msgpack.packb(data.payloads[row]))

        def new(row: int) -> None:
            docs.upsert(f"new-{data.ids[row]}", data.vectors[row], data.payloads[row])

        def there(row: int) -> None:
            docs.upsert(data.ids[row], data.vectors[row], data.payloads[row])

        times: dict[str, list[float]] = {"bare lmdb": [], "of new rows": [], "of rows there": []}
        for row in range(n * rounds):
            for name, commit in zip(times, (bare, new, there), strict=True):
                times[name].append(seconds(lambda row=row, commit=commit: commit(row)))
        env.close()
    rates = {name: len(taken) / sum(taken) for name, taken in times.items()}
    print(f"one-row upsert    {'':10} bare lmdb {rates.pop('bare lmdb'):,.0f} commits/s")
    for name, rate in rates.items():
        ratio = sum(times["bare lmdb"]) / sum(times[name])
        print(f"  {name:15} {rate:10,.0f} commits/s, {ratio:.2f} of bare lmdb (bar 0.5)")


if __name__ == "__main__":
    main()
