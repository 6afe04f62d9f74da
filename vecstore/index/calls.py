"""A search of one query, made ready: what a search costs beside the walk is mostly arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.arguments import LEAST_SQUARE, MOST_SQUARE
from vecstore.index.arrays import Arrays, SearchRoom
from vecstore.index.flat import METRICS, Rows

NO_IDS = np.zeros((0, 0), np.int64)
NO_NAMES = np.zeros(0, np.int64)


class Call:
    """The arguments of a kernel of kernels/walks.py, but for the query and where results go. For one thread at a time.

    It holds addresses of the arrays that it was made for, and not those: who calls it does. It `fits` the same question
    of the same rows and graph.
    """

    __slots__ = ("_arguments", "_asked", "_counts", "_kernel", "_seen", "room", "slots")

    def __init__(
        self,
        kernel: Callable[..., Any],
        arrays: Arrays,
        room: SearchRoom,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        asked: tuple[int, int | None],
        options: tuple[Any, ...],
    ) -> None:
        self._kernel, self._asked, self._seen = kernel, asked, (arrays.serial, allowed, rows.blocks)
        self.room = room
        self.slots = np.empty((1, asked[0]), np.int32)
        """What was found, until the next call."""
        self._counts = np.empty((1, 2), np.int64)
        self._arguments = (
            arrays.fields, allowed, *arrays.query_options, *room.arrays, rows.blocks, rows.shift, rows.dim,
            METRICS[rows.metric], *options, room.best,
        )  # fmt: skip

    def fits(self, arrays: Arrays, rows: Rows, allowed: npt.NDArray[np.uint8], asked: tuple[int, int | None]) -> bool:
        """Whether it asks this of these rows and this graph."""
        serial, same_allowed, same_blocks = self._seen
        return (
            serial == arrays.serial and same_allowed is allowed and same_blocks is rows.blocks and self._asked == asked
        )

    def __call__(
        self,
        query: npt.NDArray[np.float32],
        names: npt.NDArray[np.int64],
        ids: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
    ) -> int:
        """How many were found for the query `(1, dim)`, 0 for one of odd length, which may be no query at all; `scores`
        and, with names, `ids` `(1, k)` are written."""
        counts = self._counts
        square = self._kernel(*self._arguments, names, query, self.slots, ids, scores, counts)
        return counts.item(0) if LEAST_SQUARE < square < MOST_SQUARE else 0
