"""k-means over rows in memory: centroids are trained on a sample, and rows are assigned to the nearest of them.

Each iteration of Lloyd's method holds every row against every centroid, n * k products. Two things save most of it
here. A pass that does so keeps the best few centroids of each row, and the iterations after it hold the row against
those alone: centroids move little, so that its next one is nearly always among them. And the first iterations, which
move centroids most and need not be right, see a part of the rows only.

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
# Candidates of a row between two passes. On 100,000 x 384 with 1,264 centroids 32 gained nothing over 16.
LIST: Final = 16
# Iterations for each pass, where a pass sees the last part of the sample.
PERIOD: Final = 4
# The parts of the sample that the thirds of the iterations see. Against ten passes over all of 100,000 x 384 with 1,264
# centroids this takes a quarter of the time, and the mean cosine is 0.3 % lower.
PARTS: Final = (0.25, 0.5, 1.0)
# But never fewer rows a centroid than this, if there are as many.
MIN_SAMPLES: Final = 16
# Threads share rows by multiples of this.
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
        sample = sample[np.sort(rng.choice(len(sample), MAX_SAMPLES * n_centroids, replace=False, shuffle=False))]
    drawn = rng.permutation(len(sample)).astype(np.int32)
    centroids = sample[np.resize(drawn, n_centroids)]
    lists = np.full((len(sample), LIST if n_centroids > LIST else 1), -1, np.int32)
    labels = np.full((len(sample), 1), -1, np.int32)
    for iteration, (part, fresh) in enumerate(_schedule(iterations)):
        if progress is not None:
            progress(iteration, iterations)
        order = np.sort(drawn[: max(int(len(drawn) * part), MIN_SAMPLES * n_centroids)])
        if fresh or lists.shape[1] == 1:
            _hold(sample, _everything(order, n_centroids), centroids, metric, threads, lists, None)
            labels[order] = lists[order, :1]
        else:
            _choose(sample, order, lists, centroids, metric, threads, labels)
        order, bounds = _sorted(labels[:, 0], n_centroids)
        _means(sample, order, bounds, metric, threads, centroids)
        _fill_empty(sample, order, bounds, metric, rng, centroids)
    if progress is not None:
        progress(iterations, iterations)
    return centroids


def _schedule(iterations: int) -> list[tuple[float, bool]]:
    """For each iteration the part of the sample that it sees, and whether rows are held against all centroids."""
    steps = []
    for number in range(iterations):
        part = min(len(PARTS) - 1, number * len(PARTS) // iterations)
        first = -(-part * iterations // len(PARTS))
        steps.append((PARTS[part], (number - first) % PERIOD == 0))
    return steps


def _choose(
    rows: Floats, order: Ints, lists: Ints, centroids: Floats, metric: Metric, threads: int, labels: Ints
) -> None:
    """The nearest of the centroids in its list for each of the rows `order`."""

    def work(first: int, last: int) -> None:
        kernels.nearest_of_lists(rows, order, lists, centroids, METRICS[metric], first, last, labels)

    over_ranges(len(order), STEP, threads, work)


def assign(rows: Floats, centroids: Floats, metric: Metric, *, threads: int = 2) -> tuple[Ints, Floats]:
    """The nearest centroid of each of the rows `(n, dim)`: labels `(n,)` int32, and scores `(n,)` in terms of `metric`.

    Of equally near ones it is the first.
    """
    labels, scores = _assigned(rows, centroids, metric, 1, threads)
    return labels[:, 0], scores[:, 0]


def assign_two(rows: Floats, centroids: Floats, metric: Metric, *, threads: int = 2) -> tuple[Ints, Floats]:
    """`assign` to the two nearest, the nearest first: labels and scores `(n, 2)`; -1 where there is but one."""
    return _assigned(rows, centroids, metric, 2, threads)


def _assigned(rows: Floats, centroids: Floats, metric: Metric, places: int, threads: int) -> tuple[Ints, Floats]:
    labels = np.empty((len(rows), places), np.int32)
    scores = np.empty((len(rows), places), np.float32)
    everything = _everything(np.arange(len(rows), dtype=np.int32), len(centroids))
    _hold(rows, everything, centroids, metric, threads, labels, scores)
    return labels, scores


def _everything(order: Ints, centroids: int) -> Candidates:
    """All of the rows `order` as one group, to be held against every centroid."""
    return Candidates(order, np.array([0, len(order)], np.int64), np.arange(centroids, dtype=np.int32)[None])


def _centre(centroids: Floats, metric: Metric) -> Floats:
    """What is taken off rows and centroids: distances are differences of products, which are as exact as those are
    small."""
    if metric == "cosine":
        return np.zeros(centroids.shape[1], np.float32)
    centre: Floats = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
    return centre


def _biases(centroids: Floats, metric: Metric) -> Floats:
    if metric == "cosine":
        return np.zeros(len(centroids), np.float32)
    biases: Floats = np.einsum("ij,ij->i", centroids, centroids) * np.float32(-0.5)
    return biases


def _hold(
    rows: Floats,
    candidates: Candidates,
    centroids: Floats,
    metric: Metric,
    threads: int,
    labels: Ints,
    scores: Floats | None,
) -> None:
    """Labels and, if asked for, scores `(n, places)` of the rows, each among the candidates of its group."""
    scores = np.empty((len(rows), 0), np.float32) if scores is None else scores
    centre = _centre(centroids, metric)
    biases = _biases(centroids - centre, metric)
    block = kernels.block_rows(rows.shape[1])
    size = kernels.scratch_size(rows.shape[1], candidates.centroids.shape[1])

    def work(first: int, last: int) -> None:
        kernels.nearest_centroids(
            rows, candidates.order, candidates.bounds, candidates.centroids, centroids, biases, centre,
            METRICS[metric], first, last, block, np.empty(size, np.float32), labels, scores,
        )  # fmt: skip

    over_ranges(len(candidates.order), STEP, threads, work)


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


def means(rows: Floats, labels: Ints, n: int, *, threads: int = 2) -> tuple[Floats, Bounds]:
    """The means `(n, dim)` of the rows of each label, zeros where there are none, and how many those are."""
    made, (order, bounds) = np.zeros((n, rows.shape[1]), np.float32), _sorted(labels, n)
    _means(rows, order, bounds, "dot", threads, made)
    return made, np.diff(bounds)


def _fill_empty(
    rows: Floats, order: Ints, bounds: Bounds, metric: Metric, rng: np.random.Generator, centroids: Floats
) -> None:
    """Split the largest clusters, one for each that is empty: two centroids take the place of one, on both sides of it
    along the line to a member."""
    sizes, source = np.diff(bounds), np.arange(len(centroids))
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            return
        source[empty] = source[largest]
        member = order[rng.integers(bounds[source[empty]], bounds[source[empty] + 1])]
        step = (rows[member] - centroids[largest]) * np.float32(0.125)
        for number, side in ((empty, centroids[largest] + step), (largest, centroids[largest] - step)):
            norm = np.float32(np.linalg.norm(side)) if metric == "cosine" else np.float32(1)
            centroids[number] = side / (norm or np.float32(1))
        sizes[empty] = sizes[largest] // 2
        sizes[largest] -= sizes[empty]
