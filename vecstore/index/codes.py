"""Codes of all rows in RAM, scanned in place of the rows: the best by estimate are rescored from the full rows.

The codes are derived: they are made when a search first needs them, and follow the writes from then on. A slot that
was used again may hold the code of a newer row than an older view sees there; its own row is deleted by then.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.index import fitting, flat
from vecstore.index.flat import Floats, Found, Rows, gathered
from vecstore.index.following import PastError
from vecstore.index.parallel import over_ranges
from vecstore.kernels import scans
from vecstore.kernels.pools import new_pools
from vecstore.quantization import Quantizer
from vecstore.types import KIND_NAMES, Quantization

Slots = npt.NDArray[np.int64]

SCANS: Final = {"int8": scans.scan_int8, "int4": scans.scan_int4, "binary": scans.scan_binary}
# Below this the exact scan is as fast, and there is too little to fit a quantizer on.
MIN_ROWS: Final = 1000
# A quantizer that was fitted on a tenth of what there is now is fitted anew: recall is its sample's, and fitting
# and encoding again at each tenfold costs a ninth more in all.
REFIT: Final = 10

# Candidates that are rescored for each hit, unless the search says otherwise. Recall@10 of 100,000 text embeddings,
# d = 384: Int8 1.000, Int4 0.9998, Binary 0.991.
OVERSAMPLING: Final = {"int8": 2.0, "int4": 2.0, "binary": 10.0}


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A quantizer and the codes it made; `rows` is how many there were when it was fitted. Slots are numbered as from
    the write `since` on."""

    quantizer: Quantizer
    rows: int
    codes: npt.NDArray[np.uint8]
    terms: Floats
    since: int = 0


class CodeScan:
    """The codes of one collection. Searches from many threads may run while one of them follows a write."""

    def __init__(self, quantization: Quantization) -> None:
        self.kind = KIND_NAMES[type(quantization)]
        self._fitted: _Fitted | None = None
        self._lsn = -1
        self._following = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes of RAM that codes and terms take."""
        fitted = self._fitted
        return 0 if fitted is None else fitted.codes.nbytes + fitted.terms.nbytes

    @property
    def coder(self) -> Quantizer | None:
        """What makes the codes, if there are any."""
        return None if self._fitted is None else self._fitted.quantizer

    def let_go(self) -> None:
        """Have no codes, until they are followed again."""
        if self._fitted is not None:
            with self._following:
                self._fitted, self._lsn = None, -1

    def follow(
        self, rows: Rows, lsn: int, count: int, live: Callable[[], Slots], added_since: Callable[[int], Slots | None]
    ) -> None:
        """Bring the codes up to `lsn`, when `count` rows live.

        `live()` gives the slots of all of them, `added_since(lsn)` those that got their rows after an lsn, or None
        where that is no longer known.
        """
        if lsn <= self._lsn:
            return
        with self._following:
            if lsn <= self._lsn:
                return
            fitted = self._fitted
            added = None if fitted is None else added_since(self._lsn)
            if fitted is not None and added is not None:
                self._fitted = _encoded(_grown(fitted, rows.slots), rows, added)
            if fitted is None or added is None or count > fitted.rows * REFIT:
                # Where it is not known what has changed, it may be that all slots have.
                since = lsn if fitted is None or added is None else fitted.since
                self._fitted = self._fit(rows, live(), since)
            self._lsn = lsn

    @contextlib.contextmanager
    def renumbering(self, slots: Slots, before: int, lsn: int) -> Iterator[None]:
        """At the end of the block, the row that had the slot `slots[i]` at the write `before` has the slot i at the
        write `lsn`."""
        with self._following:
            made = fitted = self._fitted if self._lsn == before else None
            if fitted is not None:  # before the block, behind which searches wait
                made = _Fitted(fitted.quantizer, fitted.rows, fitted.codes[slots], fitted.terms[slots], lsn)
            yield
            if self._lsn != before:
                return  # `follow` will find that it cannot know what has changed
            self._fitted, self._lsn = made, lsn

    def _fit(self, rows: Rows, slots: Slots, since: int) -> _Fitted | None:
        if len(slots) < MIN_ROWS:
            return None
        quantizer = fitting.fitted(self.kind, rows, slots, rows.metric)
        assert isinstance(quantizer, Quantizer)
        made = _Fitted(quantizer, len(slots), *quantizer.new_codes(0), since)
        return _encoded(_grown(made, rows.slots), rows, slots)

    def search(
        self,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        queries: Floats,
        k: int,
        threshold: float | None = None,
        oversampling: float | None = None,
        threads: int | None = None,
        lsn: int | None = None,
        scan_if_past: bool = True,
    ) -> Found:
        """As `flat.search`, among the best `k * oversampling` candidates by their codes; exact while rows are few.

        `lsn` is the write that the caller sees, if others may have gone on. Too far: then, unless it `scan_if_past`,
        PastError.
        """
        fitted = self._fitted
        if fitted is not None and lsn is not None and lsn < fitted.since and not scan_if_past:
            raise PastError
        if fitted is None or len(fitted.codes) < rows.slots or (lsn is not None and lsn < fitted.since):
            return flat.search(rows, allowed, queries, k, threshold, threads)
        depth = min(math.ceil(k * (oversampling or OVERSAMPLING[self.kind])), max(1, rows.slots))
        asked = fitted.quantizer.encode_queries(queries)

        def work(first: int, last: int) -> npt.NDArray[np.int64]:
            pools = new_pools(len(queries), depth)
            scan: Any = SCANS[self.kind]
            scan(fitted.codes, fitted.terms, allowed, first, last, asked.queries, asked.factors, pools)
            return pools

        # A code is scored some eight times as fast as a row.
        width = flat.threads_for(rows, len(queries), threads, share=8)
        pools = flat.merged(over_ranges(rows.slots, 64, width, work), len(queries), depth)
        return flat.rescored(rows, queries, pools, k, threshold)


def _grown(fitted: _Fitted, slots: int) -> _Fitted:
    """Room for more slots, a quarter more than are needed, so that appending stays cheap."""
    have = len(fitted.codes)
    if have >= slots:
        return fitted
    codes, terms = fitted.quantizer.new_codes(slots + slots // 4 if have else slots)
    codes[:have], terms[:have] = fitted.codes, fitted.terms
    return _Fitted(fitted.quantizer, fitted.rows, codes, terms, fitted.since)


def _encoded(fitted: _Fitted, rows: Rows, slots: Slots) -> _Fitted:
    """Write the codes of some slots, in the arrays that searches read."""
    part = flat.part_rows(rows.dim)

    def work(first: int, last: int) -> None:
        for start in range(first, last, part):
            some = slots[start : min(start + part, last)]
            vectors, norms = gathered(rows, some)
            codes, terms = fitted.quantizer.new_codes(len(some))
            fitted.quantizer.encode(vectors, norms, codes, terms)
            fitted.codes[some], fitted.terms[some] = codes, terms

    over_ranges(len(slots), part, flat.threads_for(rows, 1, None), work)
    return fitted
