"""From rows to searchable: `python -m bench.lists --synthetic 1000000x128`, lists of vecstore and of faiss.

Both cluster the same rows with as many lists and iterations, on as many threads, and file every row: vecstore's
`Index(index=IVF(nlist))`, faiss's IVF of rows as they are (no codes to train or make) and of PQ codes of four bits.
Printed are seconds, their ratio, and recall@10 with a sixty-fourth of the lists scanned.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import data, datasets
from bench.datasets import Dataset
from bench.engine import block_of, lists_for


def main() -> None:
    """Build one after the other."""
    parser = data.arguments(__doc__)
    parser.add_argument("--synthetic", metavar="NxD", help="clusters from a seed instead of --data")
    parser.add_argument("--nlist", type=int, help="default: about four times the square root of the rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-faiss", action="store_true")
    options = parser.parse_args()
    if options.synthetic:
        dataset = datasets.synthetic(options.synthetic, "cosine", 200, 10)
    else:
        dataset = datasets.load(Path(options.data), "cosine", 200, 10)
    nlist = options.nlist or lists_for(len(dataset.rows))
    print(f"{len(dataset.rows):,} x {dataset.rows.shape[1]}, {nlist} lists, {options.threads} threads", flush=True)
    ours = vecstore_seconds(dataset, nlist, options.threads)
    if options.without_faiss:
        return
    for codes in ("Flat", f"PQ{dataset.rows.shape[1] // block_of(dataset.rows.shape[1])}x4fs"):
        theirs = faiss_seconds(dataset, nlist, codes, options.threads)
        print(f"vecstore takes {ours / theirs:.2f} of that time", flush=True)


def vecstore_seconds(dataset: Dataset, nlist: int, threads: int) -> float:
    """Seconds of vecstore."""
    import vecstore

    vecstore.warmup()
    index = vecstore.Index(dataset.rows.shape[1], index=vecstore.IVF(nlist=nlist))
    started = time.perf_counter()
    index.add(dataset.rows, threads=threads)
    seconds = time.perf_counter() - started
    bytes_a_row = index.stats()["index_bytes"] / len(dataset.rows)
    told("vecstore", seconds, dataset, lambda q: index.search(q, 10, nprobe=max(1, nlist // 64))[0])
    print(f"{'':22}{index.stats()['lists']} lists, {bytes_a_row:.0f} bytes of index a row")
    return seconds


def faiss_seconds(dataset: Dataset, nlist: int, codes: str, threads: int) -> float:
    """Seconds of faiss, with the iterations of vecstore and its own default of rows."""
    import faiss

    from vecstore.index.steps import ITERATIONS

    faiss.omp_set_num_threads(threads)
    index = faiss.index_factory(dataset.rows.shape[1], f"IVF{nlist},{codes}", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = ITERATIONS
    started = time.perf_counter()
    index.train(dataset.rows)
    index.add(dataset.rows)
    seconds = time.perf_counter() - started
    index.nprobe = max(1, nlist // 64)
    told(f"faiss IVF,{codes}", seconds, dataset, lambda q: index.search(q, 10)[1])
    return seconds


def told(name: str, seconds: float, dataset: Dataset, search: Callable[[Any], Any]) -> None:
    """One line of the table."""
    found = search(np.ascontiguousarray(dataset.queries))
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, dataset.truth[:, :10], strict=True)]
    print(f"{name:20} {seconds:6.1f} s   recall@10 {np.mean(hits) / 10:.4f}", flush=True)


if __name__ == "__main__":
    main()
