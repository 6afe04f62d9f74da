"""The graph index as users meet it, raw and in a durable collection: `python -m bench.graph --data DIR`.

Ratios within one run, the best of several interleaved rounds. Bars: a collection's single query at least 0.6 of the raw
index's rate, a batch of 100 on one thread 0.9, two threads 1.8 of one; insert to fully linked at most 1.4 of the raw
build; anonymous memory of the index in bytes a row; p99 of searches by 8 threads while rows are linked under 5 times
the p99 of the same searches at rest.
"""

from __future__ import annotations

import gc
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import vecstore
from bench.data import Data, arguments, load
from bench.flat import true_top

EFS = (32, 48, 96, 160)
QUERIES = 500


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data = load(options.data)
    vecstore.warmup()
    print(f"{len(data.ids):,} rows x {data.vectors.shape[1]} ({data.name})")
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as folder, vecstore.open(folder) as db:
        index, docs = build(data, db)
        searches(data, index, docs, options.rounds)
        latency(data, docs)


def build(data: Data, db: vecstore.Database) -> tuple[vecstore.Index, Any]:
    """Both indexes, and what building them took."""
    n, dim = data.vectors.shape
    index = vecstore.Index(dim)
    start = time.perf_counter()
    index.add(data.vectors)
    raw = time.perf_counter() - start
    gc.collect()
    before = anonymous()
    docs = db.create_collection("docs", dim)
    start = time.perf_counter()
    for first in range(0, n, 1000):
        some = data.vectors[first : first + 1000]
        docs.insert(list(range(first, first + len(some))), some)
    inserted = time.perf_counter() - start
    docs.wait_indexed()
    durable = time.perf_counter() - start
    print(f"build raw {raw:.1f} s; durable, fully linked {durable:.1f} s: {durable / raw:.2f} of it (bar 1.4)")
    print(f"inserted after {inserted:.1f} s")
    if before is not None:
        figures = docs.stats()
        while figures.checkpoint_lsn < figures.lsn:  # it takes copies, which are given back
            time.sleep(0.5)
            figures = docs.stats()
        grown = ((anonymous() or 0) - before) / n
        print(f"memory of the collection {grown:.0f} bytes a row anonymous, {figures.index_bytes / n:.0f} by its parts")
    return index, docs


def searches(data: Data, index: vecstore.Index, docs: Any, rounds: int) -> None:
    """Raw and durable, one query a call and a hundred, one thread and two."""
    queries = np.ascontiguousarray(data.queries[:QUERIES])
    truth = data.truth[: len(queries), :10] if data.truth is not None else true_top(data, queries)
    hundreds = [queries[i : i + 100] for i in range(0, len(queries), 100)]
    for ef in EFS:
        actions: list[Callable[[], Any]] = [
            lambda ef=ef: [index.search(q, 10, ef=ef) for q in queries],
            lambda ef=ef: [docs.search(q, 10, ef=ef, with_payload=False) for q in queries],
            lambda ef=ef: [index.search(some, 10, ef=ef) for some in hundreds],
            lambda ef=ef: one_cpu(lambda: [docs.search(some, 10, ef=ef, with_payload=False) for some in hundreds]),
            lambda ef=ef: [docs.search(some, 10, ef=ef, with_payload=False) for some in hundreds],
        ]
        times = [min(taken) for taken in zip(*(timed(actions) for _ in range(rounds)), strict=True)]
        rates = [len(queries) / taken for taken in times]
        found = index.search(queries, 10, ef=ef)[0]
        recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, truth, strict=True)])
        print(
            f"ef {ef:4} recall@10 {recall:.4f}   raw {rates[0]:,.0f}/s, collection {rates[1]:,.0f}/s: "
            f"{rates[1] / rates[0]:.2f} (bar 0.6)   by hundreds {rates[2]:,.0f}/s, {rates[3]:,.0f}/s: "
            f"{rates[3] / rates[2]:.2f} (bar 0.9)   all threads {rates[4] / rates[3]:.2f} of one (bar 1.8 on two)"
        )


def timed(actions: list[Callable[[], Any]]) -> list[float]:
    """What each action takes, in seconds."""
    taken = []
    for action in actions:
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return taken


def one_cpu(action: Callable[[], Any]) -> Any:
    """Run an action where a collection sees a single CPU."""
    from bench.durable import cpus

    with cpus(1):
        return action()


def latency(data: Data, docs: Any) -> None:
    """p99 of one-query searches by 8 threads, at rest and while a twentieth of the rows is written and linked."""
    rest = p99(data.queries, docs, lambda: time.sleep(3))
    extra = data.vectors[: len(data.vectors) // 20]

    def write() -> None:
        for first in range(0, len(extra), 500):
            some = extra[first : first + 500]
            docs.upsert([10**9 + first + i for i in range(len(some))], some)
        docs.wait_indexed()

    busy = p99(data.queries, docs, write)
    print(
        f"p99 of 8 searching threads {rest * 1e3:.1f} ms, while linking {busy * 1e3:.1f} ms: {busy / rest:.1f} (bar 5)"
    )


def p99(queries: npt.NDArray[np.float32], docs: Any, meanwhile: Callable[[], None]) -> float:
    """The 99th percentile of search times in seconds, while something else goes on."""
    done = threading.Event()
    times: list[list[float]] = [[] for _ in range(8)]

    def search(mine: list[float], first: int) -> None:
        i = first
        while not done.is_set():
            start = time.perf_counter()
            docs.search(queries[i % len(queries)], 10, with_payload=False)
            mine.append(time.perf_counter() - start)
            i += 1

    threads = [threading.Thread(target=search, args=(mine, 100 * i)) for i, mine in enumerate(times)]
    for thread in threads:
        thread.start()
    meanwhile()
    done.set()
    for thread in threads:
        thread.join()
    return float(np.quantile(np.concatenate(times), 0.99))


def anonymous() -> int | None:
    """Anonymous resident memory of this process in bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


if __name__ == "__main__":
    main()
