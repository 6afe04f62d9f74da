"""The rows, queries and exact neighbours that `bench.ann` runs on: folders, files and clusters made up from a seed.

A folder is read as `bench.data` reads it. A `.hdf5` holds `train`, `test` and `neighbors`, as those of ann-benchmarks
do. Beside `X.npy` or `X_base.fvecs` the queries lie in `X_query.npy` or `X_query.fvecs`; where there are none, rows
drawn by a fixed seed are held out. Under cosine everything is brought to unit norm once, for all engines alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from bench import data

OUT = Path(__file__).parent / "out"
METRICS = ("cosine", "l2", "dot")
DISTANCES = {"angular": "cosine", "cosine": "cosine", "euclidean": "l2", "l2": "l2", "dot": "dot", "ip": "dot"}
BLOCK = 16_384

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Dataset:
    """Rows `(n, dim) float32`, queries `(q, dim) float32`, and the row numbers `(q, k)` of each query's nearest."""

    name: str
    metric: str
    rows: Floats
    queries: Floats
    truth: npt.NDArray[np.int64]


def load(source: Path, metric: str | None, queries: int, k: int) -> Dataset:
    """Read a folder or a file and keep the first `queries` queries; without a metric, the one of the file holds."""
    truth: npt.NDArray[np.int64] | None = None
    own = "cosine"
    if source.is_dir():
        folder = data.load(source)
        name, rows, asked = folder.name, folder.vectors, folder.queries
        truth = None if folder.truth is None else folder.truth.astype(np.int64)
    elif source.suffix in {".hdf5", ".h5"}:
        import h5py

        with h5py.File(source) as file:
            name, rows, asked = source.stem, file["train"][:], file["test"][:]
            truth = file["neighbors"][:].astype(np.int64) if "neighbors" in file else None
            own = DISTANCES[str(file.attrs.get("distance", "cosine"))]
    elif source.suffix in {".npy", ".fvecs"}:
        name = source.stem.removesuffix("_base")
        beside = source.with_name(f"{name}_query{source.suffix}")
        rows = _vectors(source)
        rows, asked = (rows, _vectors(beside)) if beside.exists() else _hold_out(rows, queries)
    else:
        raise SystemExit(f"--data takes a folder, .npy, .fvecs or .hdf5, not {source}")
    metric = metric or own
    truth = truth[:queries, :k] if truth is not None and metric == own and truth.shape[1] >= k else None
    return _finished(name, metric, rows, asked[:queries], truth, k)


def synthetic(shape: str, metric: str | None, queries: int, k: int) -> Dataset:
    """Clusters of the shape `NxD`, the same whenever it is asked for."""
    found = re.fullmatch(r"\s*([\d_,]+)\s*x\s*(\d+)\s*", shape)
    if not found:
        raise SystemExit(f"--synthetic takes rows x dimensions, such as 100000x128, not {shape!r}")
    n, dim = int(re.sub("[_,]", "", found[1])), int(found[2])
    rows, asked = clusters(n, queries, dim, seed=(n, dim))
    return _finished(f"synthetic-{n}x{dim}", metric or "cosine", rows, asked, None, k)


def clusters(n: int, queries: int, dim: int, seed: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Rows `(n, dim) float32` of unit norm around n / 100 centres, in random order, and queries of the same mixture.

    The sizes of the clusters fall off as a power law, and so do the deviations of the latent factors, of which there
    are at most 32; in the rest of the dimensions is isotropic noise. Such rows have the low intrinsic dimension and the
    uneven density of embeddings.
    """
    rng = np.random.default_rng(seed)
    factors = min(32, max(2, dim * 3 // 4))
    scales = np.arange(1, factors + 1, dtype=np.float32) ** -0.5
    basis = np.linalg.qr(rng.standard_normal((dim, factors)))[0].T.astype(np.float32)
    count = max(n // 100, 1)
    centres = rng.standard_normal((count, factors), np.float32) * scales
    spreads = rng.uniform(0.3, 0.9, (count, 1)).astype(np.float32) * scales
    sizes = np.arange(1, count + 1) ** -0.7

    def drawn(total: int, rng: np.random.Generator) -> Floats:
        rows = np.empty((total, dim), np.float32)
        for first in range(0, total, BLOCK):
            some = rows[first : first + BLOCK]
            of = rng.choice(count, len(some), p=sizes / sizes.sum())
            latent = centres[of] + spreads[of] * rng.standard_normal((len(some), factors), np.float32)
            some[:] = latent @ basis + rng.standard_normal(some.shape, np.float32) * np.float32(0.5 / np.sqrt(dim))
        return unit(rows)

    ours, theirs = rng.spawn(2)
    return drawn(n, ours), drawn(queries, theirs)


def unit(rows: npt.NDArray[np.floating]) -> Floats:
    """`(n, dim) float32` of norm 1; rows of zeros stay zeros."""
    floats = np.ascontiguousarray(rows, np.float32)
    norms = np.linalg.norm(floats, axis=1, keepdims=True)
    return floats / np.where(norms > 0, norms, 1)


def nearest(rows: Floats, queries: Floats, k: int, metric: str) -> npt.NDArray[np.int64]:
    """Row numbers `(q, k)` of the exact nearest, best first: blocks in float32, the best of them again in float64."""
    depth = min(len(rows), k + 50)
    slots = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for first in range(0, len(rows), BLOCK):
        block = rows[first : first + BLOCK]
        some = queries @ block.T
        if metric == "l2":
            some -= np.einsum("ij,ij->i", block, block) / 2
        scores = np.hstack([scores, some])
        slots = np.hstack([slots, np.broadcast_to(first + np.arange(len(block)), some.shape)])
        kept = np.argpartition(-scores, min(depth, scores.shape[1]) - 1, axis=1)[:, :depth]
        scores, slots = np.take_along_axis(scores, kept, 1), np.take_along_axis(slots, kept, 1)
    best = np.empty((len(queries), k), np.int64)
    for i, query in enumerate(queries.astype(np.float64)):
        near = rows[slots[i]].astype(np.float64)
        exact = -np.square(near - query).sum(axis=1) if metric == "l2" else near @ query
        best[i] = slots[i][np.argsort(-exact, kind="stable")[:k]]
    return best


def _finished(
    name: str, metric: str, rows: Floats, queries: Floats, truth: npt.NDArray[np.int64] | None, k: int
) -> Dataset:
    rows, queries = np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(queries, np.float32)
    if metric == "cosine":
        rows, queries = unit(rows), unit(queries)
    return Dataset(name, metric, rows, queries, _truth(rows, queries, k, metric) if truth is None else truth)


def _truth(rows: Floats, queries: Floats, k: int, metric: str) -> npt.NDArray[np.int64]:
    digest = xxhash.xxh3_64(f"{rows.shape} {queries.shape} {k} {metric}".encode())
    digest.update(rows)
    digest.update(queries)
    kept = OUT / f"truth-{digest.hexdigest()}.npy"
    if not kept.exists():
        OUT.mkdir(exist_ok=True)
        np.save(kept, nearest(rows, queries, k, metric))
    return np.load(kept)


def _vectors(file: Path) -> Floats:
    if file.suffix == ".npy":
        return np.load(file).astype(np.float32)
    words = np.fromfile(file, np.int32)
    return words.reshape(-1, words[0] + 1)[:, 1:].view(np.float32)


def _hold_out(rows: Floats, count: int) -> tuple[Floats, Floats]:
    held = np.zeros(len(rows), bool)
    held[np.random.default_rng(0).choice(len(rows), min(count, len(rows) // 10), replace=False)] = True
    return rows[~held], rows[held]
