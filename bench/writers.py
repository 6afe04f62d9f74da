"""Durable one-row upserts from several threads at once, beside the same from one thread.

As the disk is, with every sync 5 ms slower, and with durability="interval".

Each ratio comes from interleaved rounds of both in one process; medians are printed.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

import vecstore
from bench.data import Data, arguments, load
from vecstore.testing.faults import Call, storage_calls, unavailable

SLOW_SECONDS = 0.005


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side of a round")
    parser.add_argument("--writers", type=int, default=8)
    options = parser.parse_args()
    data = load(options.data)
    print(f"one-row upserts, {data.vectors.shape[1]} dimensions, one writer and {options.writers}")
    for name, index, slow, durability in (
        ("flat", vecstore.Flat(), False, "commit"),
        ("graph", vecstore.HNSW(), False, "commit"),
        ("flat, slow sync", vecstore.Flat(), True, "commit"),
        ("graph, slow sync", vecstore.HNSW(), True, "commit"),
        ("flat, interval", vecstore.Flat(), False, "interval"),
        ("graph, interval", vecstore.HNSW(), False, "interval"),
    ):
        if slow and unavailable() is not None:
            print(f"{name:18} skipped: {unavailable()}")
            continue
        with (
            tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as folder,
            vecstore.open(folder, durability=durability) as db,
            storage_calls(sleep, record=False) if slow else contextlib.nullcontext(),
        ):
            docs = db.create_collection("docs", data.vectors.shape[1], index=index)
            docs.insert(data.ids[:2000], data.vectors[:2000], data.payloads[:2000])
            one, many = [], []
            for _ in range(options.rounds):
                one.append(rate(docs.upsert, data, 1, options.seconds))
                many.append(rate(docs.upsert, data, options.writers, options.seconds))
        ratio = statistics.median(a / b for a, b in zip(many, one, strict=True))
        bar = "" if durability == "interval" else f" (bar {5 if slow else 2})"
        rates = f"{statistics.median(one):8,.0f} rows/s {statistics.median(many):8,.0f} rows/s"
        print(f"{name:18}{rates} {ratio:6.2f} times{bar}", flush=True)


def sleep(call: Call) -> None:
    """Make a sync slow."""
    if call.synced:
        time.sleep(SLOW_SECONDS)


def rate(upsert: Callable[..., object], data: Data, threads: int, seconds: float) -> float:
    """Rows a second of `threads` threads that upsert one row after another."""
    done = [0] * threads
    stop = threading.Event()

    def write(number: int) -> None:
        n, row = len(data.ids), number
        while not stop.is_set():
            row = (row + threads) % n
            upsert(data.ids[row], data.vectors[row], data.payloads[row])
            done[number] += 1

    workers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    stop.wait(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
