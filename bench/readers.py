"""Processes that read a folder which another one writes: how soon they see a commit, what it costs them, and how much
the files grow.

Churn of an hour, or of a part of it, is run as fast as it goes: ten writes of one row a second, of which a quarter
deletes a row and inserts another, with processes that search on. Now and then one of them looks for the row that comes
next until it finds it: printed is the time from the return of that write to that of the search, by the clock that all
processes share. Before the churn the same is done with nothing else to do. At the end the answers of the readers are
held against the writer's.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import vecstore
from bench.compaction import insert
from bench.data import Data, arguments, load

KINDS: Final = {"hnsw": vecstore.HNSW, "ivf": vecstore.IVF, "flat": vecstore.Flat}
HOUR: Final = 36_000
SEARCH_SECONDS: Final = 0.02  # between two searches of a reader
ASKED: Final = 200  # queries, and rows that look for themselves, at the end


@dataclass(frozen=True)
class Report:
    """What a reader has taken since it was open, and what it answers: ids and scores of the exact best for each query,
    the share of them that its index finds, and that of rows which find themselves or an equal."""

    searches: int
    cpu: float
    anonymous: float
    most_anonymous: float
    exact: list[list[tuple[Any, float]]]
    recall: float
    self_recall: float


class Reader:
    """A process that has the collection open and searches on, until it is closed."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_read, args=(theirs, folder), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def look_for(self, number: int) -> None:
        """Have it look for a row of `probe(number)`; it has begun."""
        self._connection.send(number)
        self._connection.recv()

    def found(self) -> int:
        """When it had found it, in nanoseconds."""
        seen: int = self._connection.recv()
        return seen

    def report(self, ids: list[Any], queries: npt.NDArray[np.float32]) -> Report:
        """See the class."""
        self._connection.send((ids, queries))
        report: Report = self._connection.recv()
        return report

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()


def probe(number: int, dim: int) -> npt.NDArray[np.float32]:
    """A vector that is like no other."""
    return np.random.default_rng(number).standard_normal(dim).astype(np.float32)


def _read(connection: Connection, folder: Path) -> None:
    with contextlib.suppress(EOFError), vecstore.open(folder, read_only=True) as db:
        docs = db.get_collection("docs")
        query, searches = probe(0, docs.dim), 0
        docs.search(query, 10)
        docs.search([query], 10, exact=True)
        before, began = _anonymous(), time.process_time()
        most = before
        connection.send("open")
        while True:
            if not connection.poll(SEARCH_SECONDS):
                docs.search(query, 10)
                most, searches = max(most, _anonymous()), searches + 1
                continue
            asked = connection.recv()
            if isinstance(asked, int):
                wanted = probe(asked, docs.dim)
                connection.send("begun")
                while docs.search(wanted, 1)[0].score < 0.999:
                    pass
                connection.send(time.monotonic_ns())
            else:
                taken = time.process_time() - began
                connection.send(Report(searches, taken, before, most, *_answers(docs, *asked)))


def _anonymous() -> float:
    """MiB of memory that is in no file; 0 where the system does not tell."""
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024
    return 0.0


def _answers(docs: vecstore.Collection, ids: list[Any], queries: npt.NDArray[np.float32]) -> tuple[Any, float, float]:
    exact = [[(hit.id, hit.score) for hit in hits] for hits in docs.search(queries, 10, exact=True)]
    recalls = [
        np.mean([hit.score >= best[-1][1] - 1e-6 for hit in docs.search(query, 10)])
        for query, best in zip(queries, exact, strict=True)
    ]
    found = [
        docs.search(record.vector, 1)[0].score > 0.9999
        for record in docs.get(ids, with_vectors=True)
        if record is not None
    ]
    return exact, float(np.mean(recalls)), float(np.sum(found) / len(ids))


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--commits", type=int, default=200, help="that a reader looks for, before the churn and in it")
    parser.add_argument("--writes", type=int, default=24_000, help="of churn; an hour has 36,000")
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--index", choices=KINDS, nargs="+", default=list(KINDS))
    options = parser.parse_args()
    data = load(options.data)
    n = min(options.rows, len(data.ids))
    print(f"{n:,} rows x {data.vectors.shape[1]} ({data.name}), {options.readers} readers")
    for kind in options.index:
        with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
            folder = Path(scratch) / "db"
            with vecstore.open(folder) as db:
                docs = db.create_collection("docs", data.vectors.shape[1], index=KINDS[kind]())
                insert(docs, data, 0, n)
                docs.wait_indexed()
            # Opened again, so that there is a checkpoint of all of it.
            with vecstore.open(folder) as db, contextlib.ExitStack() as closing:
                readers = [Reader(folder) for _ in range(options.readers)]
                for one in readers:
                    closing.callback(one.close)
                print(f"\n{kind}")
                docs = db.get_collection("docs")
                times = [seen(docs, readers[i % len(readers)], i) for i in range(options.commits)]
                print(f"a commit is seen    {_told(times)}")
                churn(docs, data, n, folder, readers, options)


def _told(times: list[float]) -> str:
    p50, p99 = np.percentile(times, [50, 99])
    return f"median {p50:.2f} ms, p99 {p99:.2f} ms, longest {max(times):.1f} ms of {len(times)} (bar 50)"


def seen(docs: vecstore.Collection, reader: Reader, number: int) -> float:
    """Milliseconds from the return of a write until a process that searches on has found the row."""
    reader.look_for(number)
    docs.upsert("probe", probe(number, docs.dim))
    written = time.monotonic_ns()
    return max(0.0, (reader.found() - written) / 1e6)  # it may be seen before the write returns


class Files:
    """How large data.mdb and index.mdb were at first, and at most."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / "collections" / "docs" / name for name in ("data.mdb", "index.mdb")]
        self.first = self.most = self.last = self._sizes()

    def look(self) -> None:
        """Look again."""
        self.last = self._sizes()
        self.most = [max(pair) for pair in zip(self.most, self.last, strict=True)]

    def _sizes(self) -> list[float]:
        return [path.stat().st_size / 2**20 if path.exists() else 0.0 for path in self._paths]

    def told(self) -> str:
        """All of them."""
        names = zip(("data.mdb", "index.mdb"), self.first, self.last, self.most, strict=True)
        return "; ".join(
            f"{name} {first:.1f} MiB -> {last:.1f}, at most {most / first:.2f}x" if first else f"no {name}"
            for name, first, last, most in names
        )


def churn(
    docs: vecstore.Collection, data: Data, n: int, folder: Path, readers: list[Reader], options: argparse.Namespace
) -> None:
    """Replace rows with others while the readers search; then hold their answers against the writer's."""
    random, files, times = np.random.default_rng(0), Files(folder), []
    live, spare = list(range(n)), list(range(n, len(data.ids))) or [0]
    every, log, own = max(1, options.writes // options.commits), 0, time.process_time()
    began = time.perf_counter()
    for write in range(options.writes):
        if write % every == every - 1:
            times.append(seen(docs, readers[len(times) % len(readers)], options.commits + write))
            continue
        at = int(random.integers(n))
        row = live[at]
        if write % 4 == 0 and len(spare) > 1:
            docs.delete(data.ids[row])
            other = int(random.integers(len(spare)))
            live[at], spare[other] = spare[other], row
            row = live[at]
        docs.upsert(data.ids[row], data.vectors[int(random.integers(len(data.ids)))], data.payloads[row])
        if write % 100 == 0:
            files.look()
            log = max(log, docs.stats().log_bytes)
    took, own = time.perf_counter() - began, time.process_time() - own
    files.look()
    writes = options.writes
    print(
        f"churn               {writes:,} writes ({writes / HOUR:.2f} h at ten a second) in {took:.0f} s, "
        f"{own / writes * 1e3:.2f} ms of CPU each\n"
        f"files               {files.told()} (bar 2); log at most {log / 2**20:.1f} MiB\n"
        f"a commit is seen    {_told(times)}"
    )
    ids = [data.ids[live[i]] for i in random.choice(n, min(ASKED, n), replace=False)]
    queries = data.queries[:ASKED]
    exact = [[(hit.id, hit.score) for hit in hits] for hits in docs.search(queries, 10, exact=True)]
    for one in readers:
        report = one.report(ids, queries)
        print(
            f"a reader            {report.cpu / writes * 1e3:.2f} ms of CPU a write, with {report.searches:,} searches"
            f"; {report.anonymous:.0f} MiB anonymous, at most {report.most_anonymous:.0f}\n"
            f"at the end          exact answers {'are' if report.exact == exact else 'ARE NOT'} the writer's; its index"
            f" finds {report.recall:.4f} of them; {report.self_recall:.4f} of rows find themselves"
        )


if __name__ == "__main__":
    main()
