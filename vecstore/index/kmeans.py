"""k-means over rows in memory: centroids are trained on a sample, and rows are assigned to the nearest of them.

Each iteration of Lloyd's method holds every row against every centroid, n * k products. Here a row is held against the
centroids nearest to the one it belongs to, since its next one is nearly always among them: "cluster closures" (Wang,
Wang, Ke, Zeng and Li, "Fast approximate k-means via cluster closures", CVPR 2012). Where each row begins is found on
two levels: about sqrt(k) groups, each of which has its share of the centroids.

Cosine is spherical k-means: rows and centroids have unit norm, and the nearest centroid is the one of the greatest
product. Dot and l2 cluster by Euclidean distance: by the inner product one centroid with a large norm would take rows
from all sides, and the mean of a cluster would not be the best centroid for its rows.

All of it is deterministic: the same rows and seed give the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vecstore.index.flat import METRICS
from vecstore.index.parallel import over_ranges
from vecstore.kernels import kmeans as kernels
from vecstore.types import Metric

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Bounds = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]

# More rows a centroid move it by less than the next rows would.
MAX_SAMPLES: Final = 256
# Up to so many centroids every row is held against all of them.
DIRECT: Final = 192
# Candidates of a row: the centroids nearest to the one it belongs to.
CLOSURE: Final = 48
# Groups of the first level see their rows fewer times: they only say where to begin.
GROUP_ITERATIONS: Final = 4
GROUP_SAMPLES: Final = 64
# Rows that one call takes: a thread begins another when it is done.
STEP: Final = 64


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows in groups, each with the centroids that its rows are held against.

    Group g is `order[bounds[g]:bounds[g + 1]]`, row numbers; `centroids[g]` numbers of centroids, -1 behind the last.
    """

    order: Ints
    bounds: Bounds
    centroids: Ints


def train(
    sample: Floats,
    n_centroids: int,
    metric: Metric,
    seed: int,
    *,
    iterations: int = 10,
    threads: int = 2,
    progress: Progress | None = None,
) -> Floats:
    """Centroids `(n_centroids, dim)` of the rows `sample` `(n, dim)`, with unit norm under cosine, as rows must have.

    At most 256 rows a centroid are used, drawn with `seed`. With fewer rows than centroids, rows are taken more than
    once. `progress(done, total)` counts iterations.
    """
    rng = np.random.default_rng(seed)
    if len(sample) > MAX_SAMPLES * n_centroids:
        chosen = rng.choice(len(sample), MAX_SAMPLES * n_centroids, replace=False, shuffle=False)
        sample = sample[np.sort(chosen)]
    centroids, candidates = _begin(sample, n_centroids, metric, rng, threads)
    labels = np.empty((len(sample), 1), np.int32)
    scores = np.empty((len(sample), 1), np.float32)
    for iteration in range(iterations):
        if progress is not None:
            progress(iteration, iterations)
        if iteration > 0:
            candidates = _closure(labels[:, 0], centroids, metric, threads)
        _hold(sample, candidates, centroids, metric, threads, labels, scores)
        order, bounds = _sorted(labels[:, 0], n_centroids)
        _means(sample, order, bounds, metric, threads, centroids)
        _fill_empty(sample, order, bounds, metric, rng, centroids)
    if progress is not None:
        progress(iterations, iterations)
    return centroids


def assign(
    rows: Floats, centroids: Floats, metric: Metric, *, threads: int = 2, exact: bool = False
) -> tuple[Ints, Floats]:
    """The nearest centroid of each of the rows `(n, dim)`: labels `(n,)` int32, and scores `(n,)` in terms of `metric`.

    Where there are many centroids a row is held against those near where it falls, unless `exact`: a few in a thousand
    rows get the second nearest.
    """
    labels, scores = _assigned(rows, centroids, metric, 1, threads, exact)
    return labels[:, 0], scores[:, 0]


def assign_two(
    rows: Floats, centroids: Floats, metric: Metric, *, threads: int = 2, exact: bool = False
) -> tuple[Ints, Floats]:
    """`assign` to the two nearest, the nearest first: labels and scores `(n, 2)`; -1 where there is but one."""
    return _assigned(rows, centroids, metric, 2, threads, exact)


def _assigned(
    rows: Floats, centroids: Floats, metric: Metric, places: int, threads: int, exact: bool
) -> tuple[Ints, Floats]:
    labels = np.empty((len(rows), places), np.int32)
    scores = np.empty((len(rows), places), np.float32)
    if exact or len(centroids) <= DIRECT or len(rows) < len(centroids) // 4:
        _hold(rows, _everything(len(rows), len(centroids)), centroids, metric, threads, labels, scores)
        return labels, scores
    groups = train(centroids, round(len(centroids) ** 0.5), metric, 0, iterations=GROUP_ITERATIONS, threads=threads)
    first = np.empty((len(rows), 1), np.int32)
    _hold(rows, _everything(len(rows), len(groups)), groups, metric, threads, first, np.empty(first.shape, np.float32))
    order, bounds = _sorted(first[:, 0], len(groups))
    near = _near(groups, centroids, metric, max(4 * CLOSURE, len(centroids) // 8), threads)
    _hold(rows, Candidates(order, bounds, near), centroids, metric, threads, first, np.empty(first.shape, np.float32))
    _hold(rows, _closure(first[:, 0], centroids, metric, threads), centroids, metric, threads, labels, scores)
    return labels, scores


# -- where to begin ------------------------------------------------------------------------------------------


def _begin(
    sample: Floats, n_centroids: int, metric: Metric, rng: np.random.Generator, threads: int
) -> tuple[Floats, Candidates]:
    """Rows as first centroids, and which of them each row is held against."""
    if n_centroids <= DIRECT or len(sample) < 2 * n_centroids:
        few = len(sample) < n_centroids
        seeds = np.sort(rng.choice(len(sample), n_centroids, replace=few, shuffle=False))
        return sample[seeds].copy(), _everything(len(sample), n_centroids)
    count = round(n_centroids**0.5)
    some = sample
    if len(sample) > GROUP_SAMPLES * count:
        some = sample[np.sort(rng.choice(len(sample), GROUP_SAMPLES * count, replace=False, shuffle=False))]
    groups = train(some, count, metric, int(rng.integers(1 << 31)), iterations=GROUP_ITERATIONS, threads=threads)
    labels, _ = assign(sample, groups, metric, threads=threads)
    order, bounds = _sorted(labels, count)
    shares = _shares(np.diff(bounds), n_centroids)
    candidates = np.full((count, int(shares.max())), -1, np.int32)
    seeds = np.empty(n_centroids, np.int64)
    placed = 0
    for group, share in enumerate(shares):
        members = order[bounds[group] : bounds[group + 1]]
        seeds[placed : placed + share] = members[np.sort(rng.choice(len(members), share, replace=False, shuffle=False))]
        candidates[group, :share] = np.arange(placed, placed + share)
        placed += share
    return sample[seeds].copy(), Candidates(order, bounds, candidates)


def _shares(sizes: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """`total` split in proportion to `sizes`, at least one and at most its size for each that is not empty."""
    wanted = sizes * (total / sizes.sum())
    shares = np.clip(np.floor(wanted).astype(np.int64), np.minimum(1, sizes), sizes)
    while shares.sum() != total:
        step = 1 if shares.sum() < total else -1
        may = shares < sizes if step > 0 else shares > np.minimum(1, sizes)
        order = np.argsort(np.where(may, -step * (wanted - shares), np.inf), kind="stable")
        shares[order[: min(int(may.sum()), abs(int(total - shares.sum())))]] += step
    return shares


def _everything(rows: int, centroids: int) -> Candidates:
    return Candidates(
        np.arange(rows, dtype=np.int32),
        np.array([0, rows], np.int64),
        np.arange(centroids, dtype=np.int32)[None],
    )


# -- one iteration -------------------------------------------------------------------------------------------


def _closure(labels: Ints, centroids: Floats, metric: Metric, threads: int) -> Candidates:
    order, bounds = _sorted(labels, len(centroids))
    return Candidates(order, bounds, _near(centroids, centroids, metric, CLOSURE, threads))


def _near(of: Floats, centroids: Floats, metric: Metric, count: int, threads: int) -> Ints:
    """The numbers of the `count` nearest centroids of each point `(n, dim)`, ascending: `(n, count)`."""
    count = min(count, len(centroids))
    if count == len(centroids):
        return np.tile(np.arange(count, dtype=np.int32), (len(of), 1))
    centre = _centre(centroids, metric)
    points, columns = of - centre, (centroids - centre).T
    biases = _biases(centroids - centre, metric)
    found = np.empty((len(of), count), np.int32)

    def work(first: int, last: int) -> None:
        for start in range(first, last, STEP):
            some = slice(start, min(start + STEP, last))
            scores = points[some] @ columns + biases
            found[some] = np.sort(np.argpartition(scores, -count, axis=1)[:, -count:], axis=1)

    over_ranges(len(of), STEP, threads, work)
    return found


def _centre(centroids: Floats, metric: Metric) -> Floats:
    """What is taken off rows and centroids: distances are differences of products, which are as exact as those are
    small."""
    if metric == "cosine":
        return np.zeros(centroids.shape[1], np.float32)
    return centroids.mean(axis=0, dtype=np.float64).astype(np.float32)


def _biases(centroids: Floats, metric: Metric) -> Floats:
    if metric == "cosine":
        return np.zeros(len(centroids), np.float32)
    return np.einsum("ij,ij->i", centroids, centroids) * np.float32(-0.5)


def _hold(
    rows: Floats,
    candidates: Candidates,
    centroids: Floats,
    metric: Metric,
    threads: int,
    labels: Ints,
    scores: Floats,
) -> None:
    """Labels and scores `(n, places)` of the rows, each among the candidates of its group."""
    centre = _centre(centroids, metric)
    biases = _biases(centroids - centre, metric)
    block = kernels.block_rows(rows.shape[1])
    size = kernels.scratch_size(rows.shape[1], candidates.centroids.shape[1], labels.shape[1])

    def work(first: int, last: int) -> None:
        kernels.nearest_centroids(
            rows, candidates.order, candidates.bounds, candidates.centroids, centroids, biases, centre,
            METRICS[metric], first, last, block, np.empty(size, np.float32), labels, scores,
        )  # fmt: skip

    over_ranges(len(rows), STEP, threads, work)


def _sorted(labels: Ints, count: int) -> tuple[Ints, Bounds]:
    order, bounds = np.empty(len(labels), np.int32), np.empty(count + 1, np.int64)
    kernels.sort_by_label(np.ascontiguousarray(labels), order, bounds)
    return order, bounds


def _means(rows: Floats, order: Ints, bounds: Bounds, metric: Metric, threads: int, centroids: Floats) -> None:
    def work(first: int, last: int) -> None:
        kernels.means_of_groups(
            rows, order, bounds, METRICS[metric], first, last, np.empty(rows.shape[1], np.float64), centroids
        )

    over_ranges(len(centroids), 1, threads, work)


def _fill_empty(
    rows: Floats, order: Ints, bounds: Bounds, metric: Metric, rng: np.random.Generator, centroids: Floats
) -> None:
    """Split the largest clusters, one for each that is empty: two centroids take the place of one, on both sides of it
    along the line to a member."""
    sizes = np.diff(bounds)
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            return
        members = order[bounds[largest] : bounds[largest + 1]]
        step = (rows[members[rng.integers(len(members))]] - centroids[largest]) * np.float32(0.125)
        for number, side in ((empty, centroids[largest] + step), (largest, centroids[largest] - step)):
            norm = np.float32(np.linalg.norm(side)) if metric == "cosine" else np.float32(1)
            centroids[number] = side / (norm or np.float32(1))
        sizes[empty] = sizes[largest] // 2
        sizes[largest] -= sizes[empty]
