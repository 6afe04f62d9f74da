"""Recall and speed of the codes: python -m bench.codes --data FOLDER [--queries 500]

The folder holds vectors.f16.npy (n, dim), queries.f16.npy and truth100.npy (the slots of the exact top 100 by
cosine). All codes are scanned, the best candidates rescored from the full rows; encoding is on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from vecstore.kernels import scans
from vecstore.kernels.pools import new_pools, unpack_pools
from vecstore.quantization import KINDS

# Kind: (candidates to rescore, recall@10 that must be met).
BARS = {"int8": (20, 0.999), "int4": (20, 0.998), "binary": (100, 0.985)}
ENCODE_BAR = 500_000
SAMPLE = 10_000


def candidates(quantizer, codes, terms, queries, depth):
    """Slots (n, depth) of the best estimates, and the seconds that the scan took."""
    asked = quantizer.encode_queries(queries)
    live = np.full((len(codes) + 7) // 8, 255, np.uint8)
    pools = new_pools(len(queries), depth)
    scan = getattr(scans, f"scan_{quantizer.kind}")
    scan(codes, terms, live, 0, 8, asked.queries[:1], asked.factors[:1], new_pools(1, 1))
    start = time.perf_counter()
    scan(codes, terms, live, 0, len(codes), asked.queries, asked.factors, pools)
    seconds = time.perf_counter() - start
    scores, slots = np.empty(pools.shape, np.float32), np.empty(pools.shape, np.int32)
    unpack_pools(pools, scores, slots, np.empty(len(queries), np.int64))
    return slots, seconds


def measure(kind, rows, norms, queries, truth):
    depth, bar = BARS[kind]
    start = time.perf_counter()
    quantizer = KINDS[kind].fit(rows[:: max(len(rows) // SAMPLE, 1)], "cosine", 1)
    fitting = time.perf_counter() - start
    codes, terms = quantizer.new_codes(len(rows))
    speed = 0.0
    for _ in range(3):
        start = time.perf_counter()
        quantizer.encode(rows, norms, codes, terms)
        speed = max(speed, len(rows) / (time.perf_counter() - start))
    slots, scanning = candidates(quantizer, codes, terms, queries, depth)
    exact = np.einsum("qjd,qd->qj", rows[slots], queries) / norms[slots]
    best = np.take_along_axis(slots, np.argsort(-exact, axis=1)[:, :10], axis=1)
    recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(best, truth[:, :10], strict=True)]) / 10
    start = time.perf_counter()
    for query in queries[:200]:
        quantizer.encode_query(query)
    per_query = (time.perf_counter() - start) / len(queries[:200])
    met = recall >= bar and speed >= ENCODE_BAR
    print(
        f"  {kind:7} recall@10 {recall:.4f} rescoring {depth:3} (bar {bar}) encode {speed / 1e3:5.0f}k rows/s"
        f" (bar {ENCODE_BAR // 1000}k)   scan {scanning / len(queries) * 1e3:.2f} ms/query"
        f"   query {per_query * 1e6:.0f} us   fit {fitting:.2f} s   {'ok' if met else 'MISSED'}"
    )
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=500)
    arguments = parser.parse_args()
    rows = np.load(arguments.data / "vectors.f16.npy").astype(np.float32)
    queries = np.load(arguments.data / "queries.f16.npy")[: arguments.queries].astype(np.float32)
    truth = np.load(arguments.data / "truth100.npy")[: arguments.queries]
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    print(f"{len(rows)} rows of {rows.shape[1]} dims, {len(queries)} queries")
    met = [measure(kind, rows, norms, queries, truth) for kind in KINDS]
    if not all(met):
        sys.exit(1)


if __name__ == "__main__":
    main()
