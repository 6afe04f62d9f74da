"""What can be said about all rows of a collection at once: clusters, near duplicates, outliers.

Rows are read in parts, each in a view of its own: a view that stays open would keep the file from growing. `Standing`
says which rows there are, from the first view to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import InvalidArgumentError
from vecstore.index import flat, kmeans
from vecstore.index.parallel import cpus
from vecstore.kernels import groups as kernels
from vecstore.storage import keys
from vecstore.storage.view import View, Viewing
from vecstore.types import Clustering, DuplicateGroup, Id, Metric

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

# The sample that clusters are trained on stays within 256 MB, if that leaves it the fewest rows a cluster.
SAMPLE_FLOATS: Final = 1 << 26
FEWEST_SAMPLES: Final = 39
# Floats of the rows that are read at a time: 16 MB.
PART_FLOATS: Final = 1 << 22
# Rows that are searched for in one view.
BATCH: Final = 512
# Neighbours that a row's near duplicates are looked for among, at first and at the most; and places in the pools of one
# search, which bound its memory.
FIRST_K: Final = 16
MOST_K: Final = 1024
POOL_PLACES: Final = 1 << 21
# A score of float32 may be off by about so much, relative to its size.
SLACK: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Source:
    """A collection, as far as it is needed here. `matching(view)` are the slots that a verb is about, ascending, and
    `nearest(view, allowed, count, queries, k, threshold, exact)` searches among the `count` slots with bits."""

    metric: Metric
    view: Callable[[], Viewing]
    rows: Callable[[View], flat.Rows]
    matching: Callable[[View], Ints]
    nearest: Callable[[View, Bits, int, Floats, int, float | None, bool], flat.Found]


class Standing:
    """The rows that a verb goes through, by number: those that matched at its start. A row that is removed or replaced
    meanwhile has the slot -1 from then on."""

    def __init__(self, view: View, slots: Ints) -> None:
        self.ids: list[Id] = view.rows_of(slots.tolist())[0]
        self.slots = slots
        self._seen = (view.env, view.state.lsn)
        self._renumber(view)

    def __len__(self) -> int:
        return len(self.slots)

    def follow(self, view: View) -> None:
        """Bring it up to a view that is not older than the one before."""
        env, lsn = self._seen
        if view.env is env and view.state.lsn == lsn:
            return
        change = view.changed_since(lsn) if view.env is env else None
        if change is None:  # the log has no memory of it, or every row has a new slot
            self.slots = np.where(self.slots >= 0, view.slots(keys.id_keys(self.ids)), -1)
        else:
            touched = np.union1d(*change)
            self.slots = np.where(np.isin(self.slots, touched), -1, self.slots)
        self._seen = (view.env, view.state.lsn)
        self._renumber(view)

    def _renumber(self, view: View) -> None:
        there = np.flatnonzero(self.slots >= 0)
        bits = np.zeros(8 * len(view.table.live), np.uint8)
        bits[self.slots[there]] = 1
        self.allowed: Bits = np.packbits(bits, bitorder="little")
        self.count = len(there)
        self._numbers = np.full(len(bits), -1, np.int32)
        self._numbers[self.slots[there]] = there

    def numbers(self, slots: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The numbers of the rows in some allowed slots."""
        return self._numbers[slots]

    def part(self, first: int, last: int) -> Ints:
        """The numbers from `first` to `last` whose rows are still there."""
        return first + np.flatnonzero(self.slots[first:last] >= 0)


def _vectors(source: Source, view: View, slots: Ints, *, unit: bool = False) -> Floats:
    """Copies of rows, `(n, dim)`, verified; of unit norm if asked for."""
    view.verify(np.unique(slots >> view.layout.shift))
    vectors, norms = flat.gathered(source.rows(view), slots)
    if unit:
        vectors /= norms[:, None]
    return vectors


# -- clusters ------------------------------------------------------------------------------------------------


def cluster(source: Source, n: int, iterations: int, seed: int, progress: Progress) -> Clustering:
    """n clusters by k-means: trained on a sample, and all rows assigned part by part."""
    unit = source.metric == "cosine"
    with source.view() as view:
        standing = Standing(view, source.matching(view))
        if len(standing) < n:
            raise InvalidArgumentError(
                f"n: expected at most as many clusters as there are rows, {len(standing):,}, got {n:,}"
            )
        dim = view.layout.dim
        most = min(kmeans.MAX_SAMPLES * n, max(SAMPLE_FLOATS // dim, FEWEST_SAMPLES * n))
        chosen = standing.slots
        if len(chosen) > most:
            rng = np.random.default_rng(seed)
            chosen = chosen[np.sort(rng.choice(len(chosen), most, replace=False, shuffle=False))]
        sample = _vectors(source, view, chosen, unit=unit)
    size = max(1, PART_FLOATS // dim)
    total = iterations + -(-len(standing) // size)
    centroids = kmeans.train(
        sample,
        n,
        source.metric,
        seed,
        iterations=iterations,
        threads=cpus(),
        progress=lambda done, _: progress(done, total),
    )
    del sample
    labels = np.full(len(standing), -1, np.int32)
    scores = np.empty(len(standing), np.float32)
    for number, first in enumerate(range(0, len(standing), size)):
        progress(iterations + number, total)
        with source.view() as view:
            standing.follow(view)
            part = standing.part(first, first + size)
            rows = _vectors(source, view, standing.slots[part], unit=unit)
        labels[part], scores[part] = kmeans.assign(rows, centroids, source.metric, threads=cpus())
    progress(total, total)
    kept = np.flatnonzero(labels >= 0)
    ids = standing.ids if len(kept) == len(standing) else [standing.ids[i] for i in kept.tolist()]
    labels = labels[kept]
    return Clustering(ids, labels, scores[kept], centroids, np.bincount(labels, minlength=n))


# -- near duplicates -----------------------------------------------------------------------------------------


def near_duplicates(source: Source, threshold: float, exact: bool, progress: Progress) -> list[DuplicateGroup]:
    """Groups of rows that hang together by pairs whose score reaches the threshold."""
    with source.view() as view:
        standing = Standing(view, source.matching(view))
    parents = np.arange(len(standing), dtype=np.int32)
    degrees = np.zeros(len(standing), np.int64)
    for first in range(0, len(standing), BATCH):
        progress(first, len(standing))
        with source.view() as view:
            standing.follow(view)
            part = standing.part(first, first + BATCH)
            for one, others in _near(source, view, standing, part, threshold, exact):
                degrees[one] = len(others)
                kernels.unite(parents, np.full(len(others), one, np.int32), others)
    kernels.flatten(parents)
    groups = []
    members = _members(parents)
    for first in range(0, len(members), BATCH):
        with source.view() as view:
            standing.follow(view)
            groups += [_ranked(source, view, standing, some, degrees) for some in members[first : first + BATCH]]
    progress(len(standing), len(standing))
    return sorted((group for group in groups if len(group.ids) > 1), key=lambda group: -len(group.ids))


def _near(
    source: Source, view: View, standing: Standing, part: Ints, threshold: float, exact: bool
) -> Iterator[tuple[int, npt.NDArray[np.int32]]]:
    """Each row of a part, and all others that reach the threshold: where all that were found do, it goes on to more."""
    most = standing.count if exact else min(standing.count, MOST_K)
    k = min(FIRST_K, most)
    while len(part):
        full = []
        step = max(1, POOL_PLACES // k)
        for begin in range(0, len(part), step):
            some = part[begin : begin + step]
            queries = _vectors(source, view, standing.slots[some])
            found = source.nearest(view, standing.allowed, standing.count, queries, k, threshold, exact)
            for one, (slots, _) in zip(some.tolist(), found, strict=True):
                if len(slots) >= k and k < most:
                    full.append(one)
                    continue
                others = standing.numbers(slots)
                yield one, others[others != one]
        part, k = np.array(full, np.int64), min(4 * k, most)


def _members(parents: npt.NDArray[np.int32]) -> list[Ints]:
    """The numbers in each group of two or more, ascending."""
    order = np.argsort(parents, kind="stable")
    cuts = np.flatnonzero(np.diff(parents[order])) + 1
    return [some for some in np.split(order, cuts) if len(some) > 1]


def _ranked(source: Source, view: View, standing: Standing, members: Ints, degrees: Ints) -> DuplicateGroup:
    """A group with its representative first, the others by their score with it."""
    members = members[standing.slots[members] >= 0]
    if len(members) < 2:
        return DuplicateGroup([], [])
    first = int(members[degrees[members].argmax()])
    [vector] = _vectors(source, view, standing.slots[[first]])
    slots = standing.slots[members].astype(np.int32)
    view.verify(np.unique(slots >> view.layout.shift))
    slots, scores = flat.best_of(source.rows(view), vector, slots, len(slots), None)
    numbers = standing.numbers(slots)
    at = np.flatnonzero(numbers == first)
    order = [*at.tolist(), *(i for i in range(len(numbers)) if i != at[0])]
    return DuplicateGroup([standing.ids[numbers[i]] for i in order], scores[order].tolist())


# -- outliers ------------------------------------------------------------------------------------------------


def outliers(source: Source, n: int, k: int, progress: Progress) -> list[tuple[Id, float]]:
    """The n rows with the greatest mean distance to their k nearest others, the greatest first.

    A neighbour that a search misses makes the distance greater, never smaller. So the rows are gone through from the
    greatest estimate down, each is scanned for exactly, and no row is left out once n of the exact ones are greater
    than all estimates to come.
    """
    with source.view() as view:
        standing = Standing(view, source.matching(view))
    if len(standing) < 2:
        return []
    far = np.full(len(standing), -np.inf)
    for first in range(0, len(standing), BATCH):
        progress(first, len(standing))
        with source.view() as view:
            standing.follow(view)
            part = standing.part(first, first + BATCH)
            far[part] = _distances(source, view, standing, part, k, exact=False)
    order = np.argsort(-far, kind="stable")
    best: list[tuple[float, int]] = []
    step = min(256, max(32, n))
    for first in range(0, len(order), step):
        if len(best) >= n and best[n - 1][0] - SLACK * (1 + abs(best[n - 1][0])) > far[order[first]]:
            break
        with source.view() as view:
            standing.follow(view)
            part = order[first : first + step]
            part = part[standing.slots[part] >= 0]
            exact = _distances(source, view, standing, part, k, exact=True).astype(np.float32)
        best = sorted([*best, *zip(exact.tolist(), part.tolist(), strict=True)], key=lambda one: (-one[0], one[1]))[:n]
    progress(len(standing), len(standing))
    return [(standing.ids[number], score) for score, number in best if score > -np.inf]


def _distances(
    source: Source, view: View, standing: Standing, part: Ints, k: int, *, exact: bool
) -> npt.NDArray[np.float64]:
    """The mean distance of each row of a part to its k nearest others; infinite where a search found too few, and minus
    infinity where there are no others."""
    wanted = min(k, standing.count - 1)
    if wanted < 1:
        return np.full(len(part), -np.inf)
    queries = _vectors(source, view, standing.slots[part])
    found = source.nearest(view, standing.allowed, standing.count, queries, wanted + 1, None, exact)
    means = np.empty(len(part))
    for i, (slots, scores) in enumerate(found):
        others = scores[slots != standing.slots[part[i]]][:wanted]
        means[i] = -np.inf if len(others) < wanted else others.mean(dtype=np.float64)
    return (source.metric == "cosine") - means
