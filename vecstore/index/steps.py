"""The steps that lists are made and kept up by, once a step has the rows that it needs.

A step holds as many rows as `rows_at_hand` says, and works on them in parts, so that what it takes beside them is less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from vecstore.index import kmeans
from vecstore.index.arrays import Floats, Ints
from vecstore.index.blocks import Longs
from vecstore.index.coding import centroids_of, encoded
from vecstore.index.lists import InvertedFile
from vecstore.index.parallel import over_ranges
from vecstore.types import IVF, Metric

# Bytes of rows that a step holds at least, if it can use as many: also where RAM is scarce.
AT_HAND, SCARCE = 64 << 20, 8 << 20
# Or so large a part of all rows: the lists that a split looks at hold about 25 times the root of their number.
SHARE: Final = 1 / 64
LEAST_ROWS: Final = 512
# Parts in which a step that has filled its room works on its rows.
PARTS: Final = 4
# Rows for each centroid that is trained, and bytes up to which there are as many; at least there are so few.
SAMPLES, FEW_SAMPLES = 64, 16
SAMPLE_BYTES: Final = 256 << 20
# Times that they are held against the centroids.
ITERATIONS: Final = 8
# A split leaves this share of a list at least on either side, or as much less as there are more parts: what it would
# cut off else would be dissolved again.
LEAST_HALF: Final = 0.1
# What a split has left of a list is split again if it is still too long, and so much shorter than the whole was; or
# else when it has grown by so much, so that splitting and dissolving come to an end.
PROGRESS: Final = 0.75
REGROWTH: Final = 1.25
# How often the lists around a split are clustered together with its halves.
LOCAL_ITERATIONS: Final = 1


@dataclass(frozen=True, slots=True)
class Step:
    """What a step on lists has of the rows: those with `slots` at `places`, of the first `of_tail` places of the tail
    or of the lists `around`, of which the first is to be split, dissolved or written anew (which needs no vectors)."""

    do: str
    vectors: Floats
    norms: Floats
    slots: Longs
    places: Longs
    of_tail: int = 0
    around: tuple[int, ...] = ()
    parts: int = 2
    longest: float = 0.0
    """Into how many lists one is split, and how long a list should be at the most."""


def rows_at_hand(config: IVF, count: int, dim: int) -> int:
    """Rows that a step may hold, of a collection of `count`."""
    least = (AT_HAND if config.resident else SCARCE) // (4 * dim)
    return max(LEAST_ROWS, least, int(count * SHARE))


def samples_for(config: IVF, lists: int, dim: int) -> int:
    """Rows that so many centroids are trained on, if there are as many."""
    most = min(SAMPLES * lists, SAMPLE_BYTES // (4 * dim)) if config.resident else 0
    return max(FEW_SAMPLES * lists, most)


def unit_rows(vectors: Floats, norms: Floats, metric: Metric) -> Floats:
    """Rows as k-means takes them: of length 1 under cosine."""
    return vectors / norms[:, None] if metric == "cosine" else vectors


def train(step: Step, lists: InvertedFile, count: int, threads: int) -> None:
    """Begin so many lists. The vectors of the step have changed then."""
    points = step.vectors
    if lists.metric == "cosine":
        points /= step.norms[:, None]
    seed = lists.config.seed
    lists.begin_lists(kmeans.train(points, count, lists.metric, seed, iterations=ITERATIONS, threads=threads))


def do(step: Step, lists: InvertedFile, numbering: int, threads: int) -> None:
    """Any step but the first."""
    arrays = lists.arrays
    coder, centroids = arrays.coder, arrays.centroids
    emptied: list[int] = []
    dropped = kept = None
    if step.do == "rewrite":
        one = step.around[0]
        codes, terms = arrays.pool.taken(coder, step.places)
        labels = np.full(len(step.slots), one, np.int32)
        lists.put(step.slots, step.places, numbering, labels, codes, terms, emptied=[one])
        return
    if step.do == "file":
        labels = _Points(step, lists).nearest(centroids, threads)
    elif step.do == "dissolve":
        dropped, last = step.around[0], len(centroids) - 1
        among = np.array(step.around[1:], np.int32)
        labels = among[_Points(step, lists).nearest(centroids[among], threads)]
        labels[labels == last] = dropped
        emptied = [dropped]
        centroids = centroids.copy()
        centroids[dropped] = centroids[last]
        kept = centroids_of(coder, centroids[:last].copy(), arrays, np.arange(dropped, min(dropped + 1, last)))
    else:
        parted = _split(step, lists, threads)
        if parted is None:
            lists.limits[step.around[0]] = 2 * arrays.sizes[step.around[0]]
            return
        emptied = list(step.around)
        labels, centroids, changed = parted
        kept = centroids_of(coder, centroids, arrays, changed)
    offsets = arrays.offsets if kept is None else kept["offsets"]
    codes = np.empty((len(labels), coder.code_bytes), np.uint8)
    terms = np.empty((len(labels), coder.terms_count), np.float32)

    def work(first: int, last: int) -> None:
        some = slice(first, last)
        codes[some], terms[some] = encoded(coder, step.vectors[some], step.norms[some], labels[some], offsets)

    over_ranges(len(labels), 256, threads if len(labels) > 1024 else 1, work)
    done = lists.put(
        step.slots, step.places, numbering, labels, codes, terms, of_tail=step.of_tail, emptied=emptied, centroids=kept,
        dropped=dropped,
    )  # fmt: skip
    if step.do == "split" and done:
        whole, sizes = arrays.sizes[step.around[0]], lists.arrays.sizes
        for part in (step.around[0], *range(len(arrays.sizes), len(sizes))):
            again = step.longest < sizes[part] <= PROGRESS * whole
            lists.limits[part] = 0 if again else REGROWTH * sizes[part]


class _Points:
    """The rows of a step as k-means takes them, in parts; where there is but one, it is kept."""

    def __init__(self, step: Step, lists: InvertedFile) -> None:
        self._step, self._metric = step, lists.metric
        self._size = rows_at_hand(lists.config, lists.arrays.count, step.vectors.shape[1]) // PARTS
        self._kept: Floats | None = None

    def __iter__(self) -> Iterator[tuple[slice, Floats]]:
        vectors, norms = self._step.vectors, self._step.norms
        for first in range(0, len(vectors), self._size):
            some, points = slice(first, first + self._size), self._kept
            if points is None:
                points = unit_rows(vectors[some], norms[some], self._metric)
            if len(vectors) <= self._size:
                self._kept = points
            yield some, points

    def nearest(self, centroids: Floats, threads: int) -> Ints:
        """The nearest of some centroids for each row."""
        labels = np.empty(len(self._step.vectors), np.int32)
        for some, points in self:
            labels[some] = kmeans.assign(points, centroids, self._metric, threads=threads)[0]
        return labels

    def means(self, labels: Ints, centroids: Floats, threads: int) -> Floats:
        """The means of labelled rows, of length 1 under cosine; a centroid without rows stays."""
        sums, lengths = np.zeros(centroids.shape), np.bincount(labels, minlength=len(centroids)).astype(np.float64)
        for some, points in self:
            means, counts = kmeans.means(points, labels[some], len(centroids), threads=threads)
            sums += means * counts[:, None]
        if self._metric == "cosine":
            lengths = np.linalg.norm(sums, axis=1)
        made = centroids.copy()
        kept = lengths > 0
        made[kept] = sums[kept] / lengths[kept, None]
        return made


def _split(step: Step, lists: InvertedFile, threads: int) -> tuple[Ints, Floats, Ints] | None:
    """New labels of the rows around a list, the centroids of all lists, and which of those are new. None if its rows do
    not part: they may be equal."""
    arrays, metric, one = lists.arrays, lists.metric, step.around[0]
    own = np.flatnonzero(lists.owners(step.places) == one)
    own = own[:: -(-len(own) // (rows_at_hand(lists.config, 0, step.vectors.shape[1]) // PARTS)) or 1]
    rows = unit_rows(step.vectors[own], step.norms[own], metric)
    seed, alone = lists.config.seed + one, threads if step.parts > 2 else 1
    made = kmeans.train(rows, step.parts, metric, seed, iterations=ITERATIONS, threads=alone)
    counts = np.bincount(kmeans.assign(rows, made, metric, threads=alone)[0], minlength=step.parts)
    made = made[counts >= LEAST_HALF * 2 / step.parts * len(own)]
    if len(made) < 2:
        return None
    more = np.arange(len(arrays.centroids), len(arrays.centroids) + len(made) - 1)
    among = np.array([one, *more, *step.around[1:]], np.int32)
    nearby = np.concatenate([made, arrays.centroids[among[len(made) :]]])
    points = _Points(step, lists)
    for _ in range(LOCAL_ITERATIONS):
        nearby = points.means(points.nearest(nearby, threads), nearby, threads)
    centroids = np.concatenate([arrays.centroids, made[1:]])
    centroids[among] = nearby
    return among[points.nearest(nearby, threads)], centroids, among
