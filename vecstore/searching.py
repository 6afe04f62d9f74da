"""How a query is answered in a view: by the quickest way of the collection's index that sees all of its rows."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore import results
from vecstore.index import flat
from vecstore.index.calls import NO_NAMES
from vecstore.index.kinds import GraphOrLists
from vecstore.indexing import Indexing
from vecstore.means import Means, follow_codes
from vecstore.storage.snapshot import Table
from vecstore.storage.view import View
from vecstore.types import Hit, Metric, hits_of
from vecstore.verbs.query import Query


class Searching:
    """The searches of one collection, from any number of threads; each is given its view and the means of then."""

    def __init__(self, dim: int, metric: Metric) -> None:
        self._dim, self._metric = dim, metric
        self._kept: tuple[Table, flat.Rows] | None = None
        self._looks_up_ids = False  # since some are strings

    def rows_of(self, view: View) -> flat.Rows:
        """Where the rows of a view are; made once for each commit."""
        kept = self._kept
        if kept is None or kept[0] is not view.table:
            rows = flat.Rows(
                view.table.rows, view.layout.shift, self._dim, view.state.slots, self._metric, view.env.fetching.soon
            )
            kept = self._kept = (view.table, rows)
        return kept[1]

    def search(self, view: View, means: Means, query: Query, *, scan_if_past: bool = True) -> list[list[Hit]]:
        """The hits of each query. Where the index has meanwhile gone on so far that all rows had to be scanned:
        PastError, unless it may `scan_if_past`."""
        allowed, matches = view.table.live, view.state.count
        if len(query.queries) == 1 and means.indexing is not None and query.is_plain:
            hits = self._nearest(means.indexing, view, query)
            if hits is not None:
                return [hits]
        if query.filter is not None:
            slots = results.matching(view, query.filter)
            allowed, matches = _bits(slots, len(allowed)), len(slots)
        found = self.found(view, means, allowed, matches, query, scan_if_past=scan_if_past)
        return _hits(view, means.index, found, query)

    def found(
        self,
        view: View,
        means: Means,
        allowed: npt.NDArray[np.uint8],
        matches: int,
        query: Query,
        *,
        scan_if_past: bool = True,
    ) -> flat.Found:
        """Slots and scores of the best for each query, among the `matches` slots with bits; its filter is not asked."""
        rows, indexing, codes = self.rows_of(view), means.indexing, means.codes
        if indexing is not None and not query.exact:
            index = indexing.index
            if view.state.lsn > index.lsn:
                indexing.follow(view)
                indexing.indexer.wake()
            if index.structure is not None and index.lsn >= view.state.lsn:
                return index.search(
                    rows, allowed, matches, query.queries, query.k, effort=query.effort,
                    threshold=query.score_threshold, oversampling=query.oversampling, lsn=view.state.lsn,
                    scan_if_past=scan_if_past,
                )  # fmt: skip
        view.verify()
        if codes is not None and not query.exact and not means.share.fits(means.info, view.state.count):
            codes.let_go()
            codes = None
        if codes is None or query.exact:
            return flat.search(rows, allowed, query.queries, query.k, query.score_threshold)
        follow_codes(codes, view, rows)
        return codes.search(
            rows, allowed, query.queries, query.k, query.score_threshold, query.oversampling, lsn=view.state.lsn,
            scan_if_past=scan_if_past,
        )  # fmt: skip

    def _nearest(self, indexing: Indexing, view: View, query: Query) -> list[Hit] | None:
        """The hits of one query in the ordinary case, without what the general one costs; None in any other."""
        lsn, index = view.state.lsn, indexing.index
        if lsn > index.lsn:
            indexing.follow(view)
            indexing.indexer.wake()
            if lsn > index.lsn:
                return None
        bare = not (query.with_payload or query.with_vectors or self._looks_up_ids)
        names, version = index.names(lsn) if bare else (NO_NAMES, 0)
        found = index.nearest(
            self.rows_of(view), view.table.live, view.state.count, query.queries, query.k, query.effort, names
        )
        if found is None or index.lost_since(lsn):
            return None
        best, scores = found
        if not len(names):
            return results.hits(view, best[0], scores[0], query.with_payload, query.with_vectors)
        ids = best[0].tolist()
        if -1 in ids:
            self._looks_up_ids = True
            return None
        return hits_of(ids, scores[0].tolist()) if index.names_are(version) else None


def _hits(view: View, index: GraphOrLists | None, found: flat.Found, query: Query) -> list[list[Hit]]:
    """Hits by the ids that the index knows, or else by looking rows up."""
    ids = None
    if index is not None and found and not (query.with_payload or query.with_vectors or query.exact):
        ids = index.ids(_joined([slots for slots, _ in found]), view.state.lsn)
    if ids is None:
        return [results.hits(view, slots, scores, query.with_payload, query.with_vectors) for slots, scores in found]
    hits = iter(hits_of(ids, _joined([scores for _, scores in found]).tolist()))
    return [list(islice(hits, len(scores))) for _, scores in found]


def _joined(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _bits(slots: npt.NDArray[np.int64], n_bytes: int) -> npt.NDArray[np.uint8]:
    bits = np.zeros(n_bytes * 8, np.uint8)
    bits[slots] = 1
    return np.packbits(bits, bitorder="little")
