"""Durable one-row upserts from several threads at once, beside the same from one thread.

Each ratio comes from interleaved rounds of both in one process; medians are printed.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import vecstore
from bench.data import Data, arguments, load


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side of a round")
    parser.add_argument("--writers", type=int, default=8)
    options = parser.parse_args()
    data = load(options.data)
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        for name, index in (("flat", vecstore.Flat()), ("graph", vecstore.HNSW())):
            with vecstore.open(Path(scratch) / name) as db:
                docs = db.create_collection("docs", data.vectors.shape[1], index=index)
                docs.insert(data.ids[:2000], data.vectors[:2000], data.payloads[:2000])
                many, one = [], []
                for _ in range(options.rounds):
                    one.append(rate(docs.upsert, data, 1, options.seconds))
                    many.append(rate(docs.upsert, data, options.writers, options.seconds))
                ratio = statistics.median(a / b for a, b in zip(many, one, strict=True))
            print(
                f"{name:6} one writer {statistics.median(one):8,.0f} rows/s   "
                f"{options.writers} writers {statistics.median(many):8,.0f} rows/s   {ratio:5.2f} times"
            )


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
