"""What searches of every index share: exact scans of few rows, thresholds, and rows that have gone meanwhile."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.index import flat
from vecstore.index.calls import NO_NAMES
from vecstore.index.flat import Floats, Found, Rows
from vecstore.index.following import Following, PastError, S
from vecstore.index.nodes import Slots
from vecstore.index.parallel import cpus
from vecstore.types import IndexConfig

# Fewer rows are too few to fit a quantizer on, and an exact scan is as fast.
FIT_FROM: Final = 1000

NO_FIGURES: Final[dict[str, Any]] = {
    "linked": 0, "tail": 0, "tombstones": 0, "pilots": 0, "degree": 0.0, "lists": 0, "code_bytes": 0, "link_bytes": 0,
    "index_bytes": 0,
}  # fmt: skip
"""What `stats()` tells of an index that has nothing of a kind."""


class Answering(Following[S]):
    """Searches from many threads, while one of them or another follows the writes and another looks after the index.

    The work on an index comes in steps. Each is prepared in a view and done outside of one, so that no write that has
    to grow the map waits for it; what has happened in between is sorted out by the step.
    """

    _planned: tuple[Any, Any] = (None, None)
    """What was asked last, and the plan for it."""

    @staticmethod
    @abc.abstractmethod
    def scans(count: int) -> bool:
        """Whether so few rows are scanned exactly, without codes."""

    @property
    @abc.abstractmethod
    def to_link(self) -> int:
        """Rows that wait to be linked or filed: none as long as there are few in all."""

    @property
    @abc.abstractmethod
    def uneven(self) -> bool:
        """Whether rows that came and went have left so much behind that it is worth mending."""

    @abc.abstractmethod
    def prepare(self, rows: Rows, lsn: int, count: int, live: Callable[[], Slots]) -> None:
        """What the next step needs of the `count` rows as they are at `lsn`; `live()` are their slots."""

    @abc.abstractmethod
    def refit(self, rows: Rows, lsn: int, live: Slots) -> bool:
        """Fit the codes anew on the rows at `lsn`; False if the index has moved on, or has codes that need it not."""

    @abc.abstractmethod
    def step(self, threads: int | None = None) -> bool:
        """Some of the work: link or file rows that wait, or mend what is uneven. Whether there is more."""

    @abc.abstractmethod
    def rebuild(self, rows: Rows, lsn: int, live: Slots, seed: int | None, *, threads: int | None = None) -> None:
        """A new structure of the rows at `lsn` takes the place of the old one, where nobody writes meanwhile."""

    @abc.abstractmethod
    def _scans_rows(self, matches: int, effort: int | None) -> bool:
        """Whether so few rows match that their exact scores are the quickest way."""

    @abc.abstractmethod
    def _plan(
        self,
        arrays: Any,
        matches: int,
        k: int,
        effort: int | None,
        oversampling: float | None,
        count: int,
        threads: int | None,
    ) -> Any:
        """How `count` queries are answered: what a search of the structure takes besides them."""

    @abc.abstractmethod
    def _widest(self, plan: Any, arrays: Any) -> Any:
        """The plan for queries that found too few: it finds whatever matches. None where `plan` did so already."""

    def retune(self, config: IndexConfig) -> None:
        """Search by other numbers from now on; all others of the config are as they were."""
        self.config = config

    # -- searching -------------------------------------------------------------------------------------------

    def _best(
        self,
        structure: S,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        matches: int,
        queries: Floats,
        k: int,
        effort: int | None,
        oversampling: float | None,
        threads: int | None,
    ) -> tuple[Any, Any, Any]:
        """Slots and scores `(n, k)` of the best rows, and `(n, 2)` how many were found and scored."""
        arrays = structure.arrays
        available = cpus() if threads is None and len(queries) > 1 else 1
        asked = (arrays.serial, self.config, available, matches, k, effort, oversampling, len(queries), threads)
        known, plan = self._planned  # most searches ask what the last one did
        if asked != known:
            plan = self._plan(arrays, *asked[3:])
            self._planned = (asked, plan)
        slots, scores, counts = structure.search(rows, allowed, queries, k, *plan)
        if not all_full(counts, k) and (widest := self._widest(plan, arrays)) is not None:
            short = np.flatnonzero(counts[:, 0] < k)
            again = structure.search(rows, allowed, np.ascontiguousarray(queries[short]), k, *widest)
            slots[short], scores[short], counts[short] = again
        return slots, scores, counts

    def search(
        self,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        matches: int,
        queries: Floats,
        k: int,
        *,
        effort: int | None = None,
        threshold: float | None = None,
        oversampling: float | None = None,
        threads: int | None = None,
        lsn: int | None = None,
        scan_if_past: bool = True,
    ) -> Found:
        """The k best rows for each of `(n, dim)` queries among the `matches` slots whose bit in `allowed` is set.

        Fewer than k only where fewer match or, with a `threshold`, reach it. `effort` is how far a search goes, in the
        terms of the index: the ef of a graph, the nprobe of lists. `lsn` is the write that the caller sees, if others
        may bring the index further up meanwhile. So far, that all rows had to be scanned: then, unless it
        `scan_if_past`, PastError.
        """
        structure = self.structure
        if structure is None or self._scans_rows(matches, effort):
            return flat.search(rows, allowed, queries, k, threshold, threads)
        k = min(k, max(1, matches))
        slots, scores, counts = self._best(structure, rows, allowed, matches, queries, k, effort, oversampling, threads)
        if threshold is None and all_full(counts, k):
            found = list(zip(slots, scores, strict=True))
        else:
            found = [_cut(slots[i, : counts[i, 0]], scores[i, : counts[i, 0]], threshold) for i in range(len(queries))]
        if lsn is None or lsn >= self._removed_at:
            return found
        if lsn < self._removals[0] and not scan_if_past:
            raise PastError
        return self._with_removed(found, lsn, rows, allowed, queries, k, threshold, threads)

    def _with_removed(
        self,
        found: Found,
        lsn: int,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        queries: Floats,
        k: int,
        threshold: float | None,
        threads: int | None,
    ) -> Found:
        """What was found, and the rows that are there at `lsn`, but that the index has lost since: by exact scores."""
        since, known = self._removals
        if lsn < since:
            return flat.search(rows, allowed, queries, k, threshold, threads)
        lost = np.unique(np.concatenate([slots for at, slots in known if at > lsn]))
        lost = lost[lost < rows.slots]
        lost = lost[(allowed[lost >> 3] >> (lost & 7).astype(np.uint8)) & 1 != 0].astype(np.int32)
        if not len(lost):
            return found
        return [
            flat.best_of(rows, query, np.union1d(slots, lost), k, threshold)
            for query, (slots, _) in zip(queries, found, strict=True)
        ]

    def nearest(
        self,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        matches: int,
        query: Floats,
        k: int,
        effort: int | None,
        names: Slots = NO_NAMES,
    ) -> tuple[npt.NDArray[Any], Floats] | None:
        """`search` for one query `(1, dim)` in the ordinary case, in which one call finds k; None in any other, a query
        of odd length among them.

        Slots and scores `(1, k)`; with `names`, those of the slots in their place, -1 for slots behind their end.
        """
        del rows, allowed, matches, query, k, effort, names
        return None

    def arrays_of_best(
        self,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        matches: int,
        queries: Floats,
        k: int,
        effort: int | None,
        threads: int | None,
    ) -> tuple[Any, Any]:
        """Slots and scores `(n, k)`, where there is a structure and at least k rows match."""
        structure = self.structure
        assert structure is not None
        slots, scores, _ = self._best(structure, rows, allowed, matches, queries, k, effort, None, threads)
        return slots, scores

    def figures(self) -> dict[str, Any]:
        """What `stats()` tells of the index."""
        return {} if self.structure is None else self.structure.figures()


def all_full(counts: Slots, k: int) -> bool:
    """Whether k were found for each query."""
    return (counts.item(0) if len(counts) == 1 else counts[:, 0].min(initial=k)) == k


def _cut(slots: Any, scores: Any, threshold: float | None) -> tuple[Any, Any]:
    if threshold is None:
        return slots, scores
    count = int(np.count_nonzero(scores.astype(np.float64) >= threshold))
    return slots[:count], scores[:count]
