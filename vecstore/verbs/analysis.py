"""Verbs about all rows of a collection at once: clusters, near duplicates, outliers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from vecstore import arguments
from vecstore.errors import InvalidArgumentError
from vecstore.keywords import verb
from vecstore.types import Clustering, CollectionInfo, DuplicateGroup, Filter, Hit
from vecstore.verbs.checks import Progress, checked, reported


class AnalysisVerbs(ABC):
    """They read the rows in parts, while others write: a row that is removed or replaced meanwhile is left out, and one
    that is new is not looked at. `progress(done, total)` is called now and then; over a connection, before and after.
    If the timeout of a connection ends first, the caller gets DeadlineExceededError.
    """

    @property
    @abstractmethod
    def info(self) -> CollectionInfo:
        """What the collection is."""

    @verb
    def cluster(
        self,
        n: int,
        *,
        filter: Filter | None = None,
        iterations: int = 10,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Clustering:
        """Put the rows (all, or those that match a filter) into n clusters of rows that are near each other: k-means,
        trained on at most 256 rows a cluster, drawn with `seed`.

        Under cosine it is spherical k-means; under dot and l2 rows belong to the centroid at the least Euclidean
        distance. The same rows, stored in the same order, give the same clusters for the same seed. There must be at
        least n rows (1 to 65,536). More `iterations` (1 to 1,000) than 10 gain little.
        """
        return self._cluster(
            arguments.whole_number(n, "n", 1, arguments.MAX_CLUSTERS),
            checked(filter),
            arguments.whole_number(iterations, "iterations", 1, 1000),
            arguments.whole_number(seed, "seed", 0, arguments.MAX_SEED),
            reported(progress),
        )

    @verb
    def near_duplicates(
        self,
        threshold: float,
        *,
        filter: Filter | None = None,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> list[DuplicateGroup]:
        """Groups of rows whose scores reach `threshold`, the largest first: of all rows, or of those that match a
        filter.

        Two rows are in one group if there is a way from one to the other over pairs that reach the threshold, so that a
        score with the representative may lie below it. `delete(group.duplicates)` keeps the representative alone.

        Each row is searched for as `search` does: in a graph a pair is missed now and then, if neither row finds the
        other; and a row with more than 1,024 near duplicates is joined with the nearest 1,024 only. With `exact=True`
        every pair of rows is scored instead, which takes time by the square of their number.
        """
        least = arguments.threshold(threshold, "threshold")
        if least is None:
            raise InvalidArgumentError("threshold: expected a number, got None")
        highest = {"cosine": 1.0, "l2": 0.0}.get(self.info.metric)
        if highest is not None and least > highest:
            what = "the cosine" if self.info.metric == "cosine" else "minus the Euclidean distance"
            raise InvalidArgumentError(f"threshold: a score is {what} here, {highest:g} at the most, got {least:g}")
        return self._near_duplicates(least, checked(filter), arguments.flag(exact, "exact"), reported(progress))

    @verb
    def outliers(
        self,
        n: int = 10,
        *,
        k: int = 10,
        filter: Filter | None = None,
        with_payload: bool = True,
        with_vectors: bool = False,
        progress: Progress | None = None,
    ) -> list[Hit]:
        """The n rows that are farthest from the others, the farthest first: of all rows, or of those that match a
        filter, which are held against each other alone.

        `score` is the mean distance to the k nearest other rows (Angiulli and Pizzuti, "Fast outlier detection in high
        dimensional spaces", PKDD 2002): 1 - cosine, minus the inner product, or the Euclidean distance. It is exact:
        what a graph finds can only be too far away, so that the highest scores are verified by scanning.
        """
        return self._outliers(
            arguments.whole_number(n, "n", 1, arguments.MAX_K),
            arguments.whole_number(k, "k", 1, 1000),
            checked(filter),
            arguments.flag(with_payload, "with_payload"),
            arguments.flag(with_vectors, "with_vectors"),
            reported(progress),
        )

    @abstractmethod
    def _cluster(self, n: int, filter: Filter | None, iterations: int, seed: int, progress: Progress) -> Clustering: ...

    @abstractmethod
    def _near_duplicates(
        self, threshold: float, filter: Filter | None, exact: bool, progress: Progress
    ) -> list[DuplicateGroup]: ...

    @abstractmethod
    def _outliers(
        self, n: int, k: int, filter: Filter | None, with_payload: bool, with_vectors: bool, progress: Progress
    ) -> list[Hit]: ...
