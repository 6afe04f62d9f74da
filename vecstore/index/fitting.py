"""Coders for the rows of a collection, fitted on a sample of them."""

from __future__ import annotations

from typing import Final

from vecstore.index.arrays import Coder
from vecstore.index.flat import Rows, gathered
from vecstore.index.nodes import Slots
from vecstore.quantization import Quantizer
from vecstore.quantization.whole import Whole
from vecstore.types import Metric

# Rows that a coder is fitted on at most, and bytes of them.
SAMPLE_ROWS, SAMPLE_BYTES = 16_384, 24 << 20
SEED: Final = 1
# A coder that was fitted on fewer rows than this is fitted once more when there are ten times as many.
REFIT_BELOW, REFIT_GROWTH = 10_000, 10


def fitted(kind: str, rows: Rows, slots: Slots, metric: Metric) -> Coder:
    """A coder of one kind for rows like those of some slots."""
    if kind == Whole.kind:
        return Whole(rows.dim, metric)
    most = min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * rows.dim))
    sample, _ = gathered(rows, slots[:: -(-len(slots) // most)])
    return Quantizer.of_kind(kind).fit(sample, metric, SEED)


def outgrown(fitted_on: int, count: int) -> bool:
    """Whether a coder was fitted on too few of the rows there are now."""
    return fitted_on < REFIT_BELOW and count >= fitted_on * REFIT_GROWTH
