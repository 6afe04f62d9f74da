"""The graph index of one collection: follows its writes, links, and answers a search in the way that suits it.

While there are few rows they are scanned exactly. From FIT_FROM rows on there are codes, from LINK_FROM on a graph.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecstore.index.answering import FIT_FROM, Answering
from vecstore.index.arrays import Arrays, Coder
from vecstore.index.calls import NO_IDS, NO_NAMES, Call
from vecstore.index.fitting import fitted, outgrown
from vecstore.index.flat import Floats, Rows
from vecstore.index.graph import Graph
from vecstore.index.nodes import Slots
from vecstore.index.parallel import cpus
from vecstore.types import HNSW, Metric, Quantization

# Fewer codes are scanned in the time of a walk: 4,000 codes of 192 bytes take some 30 us.
LINK_FROM: Final = 4000

# Candidates that are rescored for each hit at least, unless the search says otherwise, by kind of codes: so many tell
# how far off the estimates are.
OVERSAMPLING: Final = {"int8": 1.5, "int4": 1.5, "binary": 10.0, "float32": 1.0}

# What strategies cost, in ns at d = 384, for the choice between them under a filter: an exact score of a row read at
# random, a code scored in a scan, a node passed over in it, a candidate of a walk with all that it makes scored.
ROW, CODE, PASSED, CANDIDATE = 120.0, 12.0, 1.5, 1400.0
MAX_EF: Final = 10_000


class Plan(NamedTuple):
    """How queries are answered: by a scan or a walk, with so many candidates, of which at most `depth` and at least
    `least` are rescored; and on how many threads."""

    scan: bool
    ef: int
    depth: int
    least: int
    threads: int


class HnswIndex(Answering[Graph]):
    """Searches from many threads, while one of them or another follows the writes and another links."""

    def __init__(self, config: HNSW, quantization: Quantization | None, dim: int, metric: Metric) -> None:
        super().__init__(config, quantization, dim, metric)
        self._calls: deque[Call] = deque(maxlen=64)

    # -- making graphs ---------------------------------------------------------------------------------------

    @staticmethod
    def scans(count: int) -> bool:
        return count < FIT_FROM

    def _made(self, config: Any, coder: Coder, fitted_on: int) -> Graph:
        return Graph(config, coder, self.metric, fitted_on)

    def _new(self, rows: Rows, slots: Slots, threads: int, config: Any) -> Graph | None:
        if len(slots) < FIT_FROM:
            return None
        graph = self._made(config, fitted(self.kind, rows, slots, self.metric), len(slots))
        graph.add(rows, slots, threads)
        return graph

    def needs_refit(self, count: int) -> bool:
        """Whether the codes were fitted on too few of the rows there are now."""
        graph = self.structure
        return graph is not None and self.kind != "float32" and outgrown(graph.fitted_on, count)

    def refit(self, rows: Rows, lsn: int, live: Slots) -> bool:
        """Fit the codes anew on the rows as they are at `lsn`; False if the index has moved on."""
        with self._following:
            if self.structure is None or lsn != self._lsn:
                return False
            # First, the dead go: their rows are gone, so that they would be left with codes that mean nothing.
            self.structure.settle(cpus())
            self.structure.recode(fitted(self.kind, rows, live, self.metric), rows, len(live))
            self.work += len(live)
            return True

    def prepare(self, rows: Rows, lsn: int, count: int, live: Callable[[], Slots]) -> None:
        """Steps need but the codes: those are fitted anew here, if it is time."""
        if self.needs_refit(count):
            self.refit(rows, lsn, live())

    # -- linking ---------------------------------------------------------------------------------------------

    @property
    def to_link(self) -> int:
        graph = self.structure
        if graph is None or graph.arrays.count < LINK_FROM:
            return 0
        return graph.arrays.count - graph.arrays.linked

    @property
    def uneven(self) -> bool:
        return self.structure is not None and self.structure.unsettled()

    def step(self, threads: int | None = None) -> bool:
        """Link a batch; and settle, once all are linked, or if so many of the linked are dead that it cannot wait."""
        graph, threads = self.structure, threads or cpus()
        if graph is None:
            return False
        if waiting := self.to_link:
            left = graph.link(threads)
            self.work += max(0, waiting - left)
        more = self.to_link > 0
        if self.uneven and (not more or graph.dead_linked * 3 > graph.arrays.linked):
            graph.settle(threads)
            self.work += 1  # what a checkpoint from before does not have
        return more

    def rebuild(self, rows: Rows, lsn: int, live: Slots, seed: int | None, *, threads: int | None = None) -> None:
        graph = self.begun(rows, live, seed, threads=threads)
        self.link_all(graph, threads=threads)
        self.replace(graph, lsn, rows, lsn, lambda: live, lambda _: None)

    def link_all(self, graph: Any, *, threads: int | None = None, going_on: Callable[[], bool] = lambda: True) -> None:
        """Link a new graph as long as it is `going_on`; it needs no rows."""
        threads = threads or cpus()
        if graph is not None and graph.arrays.count >= LINK_FROM:
            while going_on() and graph.link(threads):
                pass
            if going_on():
                graph.settle(threads)

    # -- searching -------------------------------------------------------------------------------------------

    def nearest(
        self,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        matches: int,
        query: Floats,
        k: int,
        ef: int | None,
        names: Slots = NO_NAMES,
    ) -> tuple[npt.NDArray[Any], Floats] | None:
        graph = self.structure
        if graph is None or matches < k:
            return None
        arrays, asked = graph.arrays, (k, ef)
        try:
            call = self._calls.pop()
        except IndexError:
            call = None
        if call is None or not call.fits(arrays, rows, allowed, asked):
            if call is not None:
                graph.give_back(call.room)
            plan = self._plan(arrays, matches, k, ef, None, 1, 1)
            if plan.scan or self._scans_rows(matches, ef):
                return None
            call = graph.call(arrays, rows, allowed, asked, plan)
        scores = np.empty((1, k), np.float32)
        if len(names):
            best: npt.NDArray[Any] = np.empty((1, k), np.int64)
            found = call(query, names, best, scores)
        else:
            found = call(query, names, NO_IDS, scores)
            best = call.slots.copy()
        self._calls.append(call)
        return (best, scores) if found == k else None

    def _scans_rows(self, matches: int, effort: int | None) -> bool:
        return matches * ROW <= _walk_cost(effort or self.config.ef) and matches <= FIT_FROM

    def _widest(self, plan: Plan, arrays: Arrays) -> Plan | None:
        # A walk may end among rows that do not match.
        del arrays
        return None if plan.scan else plan._replace(scan=True, ef=plan.depth, threads=1)

    def _plan(
        self,
        arrays: Arrays,
        matches: int,
        k: int,
        ef: int | None,
        oversampling: float | None,
        count: int,
        threads: int | None,
    ) -> Plan:
        depth, least = self._depth(k, ef, oversampling)
        nodes = arrays.count
        share = min(1.0, matches / max(1, nodes))
        wide = max(ef or self.config.ef, depth)
        if share < 1:
            wide = min(math.ceil(wide / share), max(wide, MAX_EF))
        scanned = nodes * PASSED + matches * CODE
        scan = not arrays.linked or scanned < _walk_cost(wide) + (nodes - arrays.linked) * CODE
        if threads is None:
            cost = scanned if scan else _walk_cost(wide)
            threads = min(cpus(), count, max(1, int(cost * count / 400_000)))
        return Plan(scan, depth if scan else wide, depth, least, threads)

    def _depth(self, k: int, ef: int | None, oversampling: float | None) -> tuple[int, int]:
        """Candidates to rescore at most, and at least. Those of the walk, as far as they may change the answer, unless
        it was said: where rows lie close together, as in the clusters of low dimension, codes cannot tell them apart,
        and a larger `ef` would find nothing more. An `ef` that was asked for is not widened, but to k."""
        if oversampling is not None:
            depth = math.ceil(k * oversampling)
            return depth, depth
        least = math.ceil(k * OVERSAMPLING[self.kind])
        depth = max(least, self.config.ef) if ef is None else max(k, ef)
        return depth, min(least, depth)


def _walk_cost(ef: int) -> float:
    return ef * CANDIDATE
