"""The lists of one collection: how they are begun, filled, split and merged, and how a search of them is planned.

While there are few rows they are scanned exactly. From FIT_FROM rows on there are codes, from TRAIN_FROM on lists. The
work on lists comes in steps: `prepare` takes what a step needs of the rows, `step` does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from vecstore.index import steps
from vecstore.index.answering import FIT_FROM, Answering
from vecstore.index.arrays import Coder, Floats, Ints, aligned
from vecstore.index.blocks import Allocate, Lists
from vecstore.index.fitting import fitted, outgrown
from vecstore.index.flat import Rows, gathered
from vecstore.index.lists import InvertedFile
from vecstore.index.nodes import Slots
from vecstore.index.parallel import cpus
from vecstore.index.steps import Step
from vecstore.types import IVF, Metric, Quantization

# Fewer rows are scanned, by their codes, in the time that it takes to choose lists.
TRAIN_FROM: Final = 4096
LISTS_PER_ROOT: Final = 2.0
# Rows that are filed at once, if a step may hold as many: what it reads while a write that has to grow the file may
# wait for it.
BATCH: Final = 32_768
# A list is split when it is so many times as long as they should be on average, and dissolved below such a share.
LONGEST, SHORTEST = 2.0, 1 / 8
LEAST_LONGEST: Final = 64
# Parts into which a list that is far too long is split at once: rows have come faster than lists were split.
MOST_PARTS: Final = 32
# Lists nearby that are clustered together with the two halves of a split, as many of them as a step may hold: what has
# grown in one place stood in lists whose centroids were those of others. With a dozen lists and without iterations
# recall@10 fell by 0.16 where a third of the rows had come from elsewhere.
NEARBY: Final = 48
# A list is written anew without the rows that have gone when they are such a share of it.
DEAD_SHARE: Final = 1 / 4

# Candidates rescored for each hit at most, and at least, unless the search says otherwise, by kind of codes.
OVERSAMPLING: Final = {"list-binary": (12.0, 2.0), "int8": (3.0, 1.5), "int4": (4.0, 2.0), "float32": (1.0, 1.0)}
# With int8 and int4 as many may be rescored as a graph would, where rows lie too close together for codes to tell them
# apart: it costs up to a tenth of a search for one row (128 dims, 16 lists), and of 100 near duplicates 70 instead of 5
# find themselves. With twice as many all do, for a quarter.
CLOSE: Final = 64
# Standard deviations by which the estimate from a bit a dim may be off, and one more where all lists are scanned. On
# text embeddings of 384 dims a wider bound finds less in the same time than more lists do: at 64 of 630 lists 1.5
# rescores 145 rows for recall@10 0.917, 1.0 rescores 90 for 0.909, and 8 more lists make up for that.
SURE: Final = 1.0
# What strategies cost, in ns at d = 384: an exact score of a row read at random, a place of a list, a list with its
# share of centroids to choose from.
ROW, PLACE, LIST = 120.0, {"list-binary": 3.0, "int8": 12.0, "int4": 12.0, "float32": 40.0}, 200.0


class Plan(NamedTuple):
    """How queries are answered: lists that are scanned, rows rescored at most and at least, or by how many deviations
    an estimate may be off; and threads."""

    probes: int
    depth: int
    least: int
    sure: float
    threads: int


class IvfIndex(Answering[InvertedFile]):
    """Searches from many threads, while one of them or another follows the writes and another looks after the lists."""

    def __init__(
        self,
        config: IVF,
        quantization: Quantization | None,
        dim: int,
        metric: Metric,
        allocate: Allocate = aligned,
    ) -> None:
        super().__init__(config, quantization, dim, metric)
        self.allocate = allocate
        if self.kind == "binary":
            self.kind = "list-binary"
        self._prepared: tuple[InvertedFile, int, Step] | None = None

    @staticmethod
    def scans(count: int) -> bool:
        return count < FIT_FROM

    def _made(self, config: Any, coder: Coder, fitted_on: int) -> InvertedFile:
        return InvertedFile(config, coder, self.metric, fitted_on, self.allocate)

    def _new(self, rows: Rows, slots: Slots, threads: int, config: Any) -> InvertedFile | None:
        if len(slots) < FIT_FROM:
            return None
        made = self._made(config, fitted(self.kind, rows, slots, self.metric), len(slots))
        made.add(rows, slots, threads)
        return made

    # -- the work on lists -----------------------------------------------------------------------------------

    @property
    def to_link(self) -> int:
        lists = self.structure
        if lists is None or (not lists.trained and (lists.arrays.count < TRAIN_FROM or not lists.known)):
            return 0
        return lists.arrays.tail_size

    def prepare(self, rows: Rows, lsn: int, count: int, live: Callable[[], Slots]) -> None:
        """Copies of the rows that the next step moves; or all are coded anew."""
        if self.structure is not None and outgrown(self.structure.fitted_on, count):
            self.refit(rows, lsn, live())
        with self._following:
            lists, self._prepared = self.structure, None
            if lsn != self._lsn or lists is None:
                return
            numbering = lists.numbering
            step = self._next_step(lists, rows, live)
            if step is not None:
                self._prepared = lists, numbering, step

    def step(self, threads: int | None = None) -> bool:
        """Do the step that was prepared, if there is one."""
        prepared, self._prepared = self._prepared, None
        lists, threads = self.structure, threads or cpus()
        if lists is None:
            return False
        if prepared is not None and prepared[0] is lists:  # or they were replaced since
            _, numbering, step = prepared
            with lists.filing():
                if step.do == "train":
                    steps.train(step, lists, lists_for(max(1, lists.known), lists.config), threads)
                else:
                    steps.do(step, lists, numbering, threads)
            self.work += max(1, len(step.slots))  # also where all of its rows have gone
        return self.to_link > 0 or self.uneven

    def _next_step(self, lists: InvertedFile, rows: Rows, live: Callable[[], Slots]) -> Step | None:
        if not self.to_link and not lists.trained:
            return None
        config = lists.config
        if not lists.trained:
            slots = live()
            wanted = steps.samples_for(config, lists_for(len(slots), config), self.dim)
            if len(slots) > wanted:
                rng = np.random.default_rng(config.seed)
                slots = np.sort(rng.choice(slots, wanted, replace=False, shuffle=False))
            within = np.empty if len(slots) <= steps.rows_at_hand(config, 0, self.dim) else self.allocate
            return Step("train", *gathered(rows, slots, within), slots, slots)
        room, due = steps.rows_at_hand(config, lists.arrays.count, self.dim), self._due(lists)
        sizes = lists.arrays.sizes - lists.dead
        # What is filed next must not make a list longer than a step can split.
        overlong = [(do, one) for do, one in due if do == "split" and sizes[one] > room // 2]
        if lists.arrays.tail_size and not overlong:
            slots, places, n = lists.waiting(min(BATCH, steps.rows_at_hand(config, 0, self.dim)))
            return Step("file", *gathered(rows, slots), slots, places, of_tail=n)
        return self._upkeep_step(lists, rows, *(overlong or due)[0]) if due else None

    def _upkeep_step(self, lists: InvertedFile, rows: Rows, do: str, one: int) -> Step:
        config, sizes = lists.config, lists.arrays.sizes - lists.dead
        room = steps.rows_at_hand(config, lists.arrays.count, self.dim)
        if do == "rewrite":
            slots, places = lists.members(one)
            return Step(do, *gathered(rows, slots[:0]), slots, places, around=(one,))
        near = nearest_lists(lists.arrays.centroids, one, self.metric, NEARBY)
        if do == "dissolve":
            slots, places = lists.members(one)
            return Step(do, *gathered(rows, slots), slots, places, around=(one, *near))
        near = near[: max(0, int(np.searchsorted(np.cumsum(sizes[[one, *near]]), room, side="right")) - 1)]
        slots, places = (np.concatenate(parts) for parts in zip(*map(lists.members, (one, *near)), strict=True))
        # A list whose rows could not be parted, as equal ones, may hold any number of them.
        within = np.empty if len(slots) <= 2 * room else self.allocate
        average, longest = self._lengths(sizes, config)
        parts = min(MOST_PARTS, max(2, round(sizes[one] / average)))
        return Step(
            do, *gathered(rows, slots, within), slots, places, around=(one, *near), parts=parts, longest=longest
        )

    @staticmethod
    def _lengths(sizes: Ints, config: IVF) -> tuple[float, float]:
        """How long lists should be on average, and at the most."""
        average = average_length(int(sizes.sum()), config, len(sizes))
        return average, max(LEAST_LONGEST, LONGEST * average)

    def _due(self, lists: InvertedFile) -> list[tuple[str, int]]:
        """Lists that are too long, too short, or of rows that have gone."""
        with lists.changing():
            sizes, dead, limits = lists.arrays.sizes, lists.dead, lists.limits
        if not len(sizes):
            return []
        live = sizes - dead
        average, longest = self._lengths(live, lists.config)
        due = [("split", int(one)) for one in np.flatnonzero(live > np.maximum(longest, limits))]
        due += [("rewrite", int(one)) for one in np.flatnonzero(dead > np.maximum(8, DEAD_SHARE * sizes))]
        if len(sizes) > 1 and lists.config.nlist is None:
            due += [("dissolve", int(one)) for one in np.flatnonzero(live < SHORTEST * average)[:1]]
        return due

    def refit(self, rows: Rows, lsn: int, live: Slots) -> bool:
        """Fit the codes anew on the rows as they are at `lsn`; False if the index has moved on, or where codes are
        relative to centroids, which follow the rows."""
        if self.kind not in ("int8", "int4"):
            return False
        with self._following:
            if self.structure is None or lsn != self._lsn:
                return False
            self.structure.recode(fitted(self.kind, rows, live, self.metric), rows, len(live))
            self.work += len(live)
            return True

    @property
    def uneven(self) -> bool:
        return self.structure is not None and len(self._due(self.structure)) > 0

    def rebuild(self, rows: Rows, lsn: int, live: Slots, seed: int | None, *, threads: int | None = None) -> None:
        made = self.begun(rows, live, seed, threads=threads)
        self.replace(made, lsn, rows, lsn, lambda: live, lambda _: None)
        more = True
        while more:
            self.prepare(rows, lsn, len(live), lambda: live)
            more = self.step(threads)

    # -- searching -------------------------------------------------------------------------------------------

    def _scans_rows(self, matches: int, effort: int | None) -> bool:
        return matches <= FIT_FROM and matches * ROW <= (effort or self.config.nprobe) * LIST * 4

    def _widest(self, plan: Plan, arrays: Lists) -> Plan | None:
        # The lists that were scanned may hold too few that match.
        return None if plan.probes >= len(arrays.heads) else plan._replace(probes=1 << 20, threads=1)

    def _plan(
        self,
        arrays: Lists,
        matches: int,
        k: int,
        effort: int | None,
        oversampling: float | None,
        count: int,
        threads: int | None,
    ) -> Plan:
        most, least = OVERSAMPLING[self.kind] if oversampling is None else (oversampling, oversampling)
        depth = max(k, math.ceil(k * most), CLOSE if oversampling is None and most > 1 else 0)
        lists, live = len(arrays.heads), max(1, arrays.count)
        probes = effort or self.config.nprobe
        if matches < live:
            probes = math.ceil(probes * live / max(1, matches))
        probes = min(probes, lists)
        if threads is None:
            scanned = arrays.tail_size + (arrays.linked * probes / lists if lists else 0)
            cost = probes * LIST + scanned * PLACE[self.kind]
            threads = min(cpus(), count, max(1, int(cost * count / 400_000)))
        sure = 0.0 if oversampling is not None else SURE + (probes / lists if lists else 1.0)
        return Plan(probes, depth, min(depth, math.ceil(k * least)), sure, threads)


def lists_for(count: int, config: IVF) -> int:
    """Lists for so many rows."""
    return max(1, min(count, config.nlist or round(LISTS_PER_ROOT * math.sqrt(count))))


def average_length(count: int, config: IVF, lists: int) -> float:
    """How long lists of so many rows should be: as many as were asked for, or as suit them."""
    return count / (lists if config.nlist else lists_for(max(1, count), config))


def nearest_lists(centroids: Floats, one: int, metric: Metric, count: int) -> tuple[int, ...]:
    """The lists whose centroids are nearest to that of one, without itself."""
    products = centroids @ centroids[one]
    scores = products if metric == "cosine" else products - np.einsum("ij,ij->i", centroids, centroids) / 2
    scores[one] = -np.inf
    return tuple(int(x) for x in np.argsort(-scores, kind="stable")[: min(count, len(centroids) - 1)])
