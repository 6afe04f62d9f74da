"""The exact scan and the scans of codes, beside faiss: `python -m bench.flat --data DIR`.

Everything runs on vectors in RAM blocks laid out as in the store, k = 10, times are the best of several interleaved
runs. faiss is left out if it is not installed. Bars: one query on one thread at least 0.9 of faiss's IndexFlatIP; a
batch of 256 on two threads at least 0.5 of its BLAS path; recall@10 of Int8 0.999 and Int4 0.998 with 20 rows
rescored, Binary 0.985 with 100; an Int4 scan at least 5 times as fast as the float32 scan.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import vecstore
from bench.data import Data, arguments, load
from vecstore.index import flat
from vecstore.index.codes import CodeScan

SHIFT = 6
KINDS = {"Int8": (vecstore.Int8(), 2.0, 0.999), "Int4": (vecstore.Int4(), 2.0, 0.998)} | {
    "Binary": (vecstore.Binary(), 10.0, 0.985)
}


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    data = load(options.data)
    n, dim = data.vectors.shape
    print(f"{n:,} rows x {dim} ({data.name})")
    rows, live, _kept = blocks(data.vectors)
    exact(data, rows, live, options.rounds)
    coded(data, rows, live, options.rounds)
    cold(options.data)


def blocks(vectors: npt.NDArray[np.float32]) -> tuple[flat.Rows, npt.NDArray[np.uint8], object]:
    """The rows in blocks with their norms behind them, as the kernels read them; hold on to the third value."""
    n, dim = vectors.shape
    count = -(-n // (1 << SHIFT))
    memory = np.zeros((count, (1 << SHIFT) * (dim + 1)), np.float32)
    padded = np.zeros((count << SHIFT, dim), np.float32)
    padded[:n] = vectors
    memory[:, : dim << SHIFT] = padded.reshape(count, -1)
    memory[:, dim << SHIFT :] = np.linalg.norm(padded, axis=1).reshape(count, -1)
    addresses = memory.ctypes.data + np.arange(count) * memory.strides[0]
    live = np.packbits(np.arange(count << SHIFT) < n, bitorder="little")
    return flat.Rows(addresses, SHIFT, dim, n, "cosine"), live, memory


def best(rounds: int, *actions: Callable[[], Any]) -> list[float]:
    """The best time of each action in seconds, the actions in turn."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, taken in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in times]


def exact(data: Data, rows: flat.Rows, live: npt.NDArray[np.uint8], rounds: int) -> None:
    """The scan of full rows, one query and a batch."""
    one, batch = data.queries[:1], data.queries[:256]
    flat.search(rows, live, batch, 10)
    flat.search(rows, live, one, 10)
    actions: list[Callable[[], Any]] = [
        lambda: flat.search(rows, live, one, 10, threads=1),
        lambda: flat.search(rows, live, batch, 10, threads=2),
    ]
    try:
        import faiss
    except ImportError:
        faiss = None
        print("faiss is not installed: left out")
    if faiss is not None:
        index = faiss.IndexFlatIP(data.vectors.shape[1])
        index.add(data.vectors)

        def theirs(queries: Any, threads: int, blas_from: int) -> None:
            faiss.omp_set_num_threads(threads)
            faiss.cvar.distance_compute_blas_threshold = blas_from
            index.search(queries, 10)

        own = faiss.cvar.distance_compute_blas_threshold
        # By default this faiss would scan a batch of 256 one query at a time, which is slower than its BLAS path.
        actions += [lambda: theirs(one, 1, own), lambda: theirs(batch, 2, 20)]
    times = best(rounds, *actions)
    for i, (what, bar) in enumerate([("one query, one thread", 0.9), ("batch of 256, two threads", 0.5)]):
        against = f"faiss {times[i + 2] * 1e3:.1f} ms: {times[i + 2] / times[i]:.2f} of it (bar {bar})" if faiss else ""
        print(f"exact, {what:28} {times[i] * 1e3:8.1f} ms   {against}")


def coded(data: Data, rows: flat.Rows, live: npt.NDArray[np.uint8], rounds: int) -> None:
    """Scans of codes with rescoring: recall over the queries with known truth, and time of one query on one thread."""
    queries = data.queries[:500]
    truth = data.truth[:500, :10] if data.truth is not None else true_top(data, queries)
    [full] = best(3 * rounds, lambda: flat.search(rows, live, queries[:1], 10, threads=1))
    slots = np.arange(len(data.ids))
    for name, (kind, oversampling, bar) in KINDS.items():
        scan = CodeScan(kind)
        start = time.perf_counter()
        scan.follow(rows, 0, len(slots), lambda: slots, lambda lsn: None)  # noqa: ARG005
        made = time.perf_counter() - start
        found = scan.search(rows, live, queries, 10, oversampling=oversampling)
        recall = np.mean([len(np.intersect1d(some, best)) / 10 for (some, _), best in zip(found, truth, strict=True)])
        # Each on its own: what a scan costs depends on who used the cache before it.
        [one] = best(
            3 * rounds,
            lambda scan=scan, o=oversampling: scan.search(rows, live, queries[:1], 10, oversampling=o, threads=1),
        )
        [batch] = best(
            rounds,
            lambda scan=scan, o=oversampling: scan.search(rows, live, queries[:256], 10, oversampling=o, threads=2),
        )
        print(
            f"{name:7} recall@10 {recall:.4f} (bar {bar})   one query {one * 1e3:.2f} ms, {full / one:.1f} times the "
            f"exact scan   batch {batch / 256 * 1e3:.3f} ms a query   made in {made:.2f} s, {scan.bytes / 1e6:.1f} MB"
        )


def true_top(data: Data, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The exact top 10 by brute force."""
    return np.argsort(-(queries @ data.vectors.T), axis=1)[:, :10]


def cold(source: Path) -> None:
    """What a fresh process pays: the import beside NumPy's, and opening and answering with kernels in the cache."""
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        data = load(source)
        with vecstore.open(scratch) as db:
            rows = db.create_collection("docs", data.vectors.shape[1], index=vecstore.Flat())
            rows.insert(data.ids, data.vectors, data.payloads)
        query = f"np.load({str(Path(source) / 'queries.f16.npy')!r})[0]"
        answer = f"db = vecstore.open({scratch!r}); db.get_collection('docs').search({query})"
        codes = ["import numpy", "import numpy, vecstore", f"import numpy as np, vecstore; {answer}"]
        bare, imported, answered = best(5, *(lambda code=code: run(code) for code in codes))
    print(f"import vecstore   {(imported - bare) * 1e3:+.0f} ms beside bare Python and NumPy (bar 100)")
    print(f"open and answer   {(answered - bare) * 1e3:+.0f} ms in a fresh process, kernels in the cache (bar 1000)")
    with tempfile.TemporaryDirectory() as empty:
        [compiled] = best(
            1,
            lambda: run("import vecstore; vecstore.warmup()", NUMBA_CACHE_DIR=empty, XDG_CACHE_HOME=empty, HOME=empty),
        )
    print(f"empty cache       everything compiled in {compiled:.1f} s (bar 25)")


def run(code: str, **environment: str) -> None:
    """Run Python code in a process of its own."""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main()
