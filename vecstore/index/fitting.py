"""Coders for the rows of a collection, fitted on a sample of them."""

from __future__ import annotations

from typing import Final

from vecstore.index.arrays import Coder
from vecstore.index.flat import Rows, gathered
from vecstore.index.nodes import Slots
from vecstore.quantization import Quantizer
from vecstore.quantization.whole import Whole
from vecstore.types import Metric

SAMPLE_ROWS: Final = 16_384
SEED: Final = 1


def fitted(kind: str, rows: Rows, slots: Slots, metric: Metric) -> Coder:
    """A coder of one kind for rows like those of some slots."""
    if kind == Whole.kind:
        return Whole(rows.dim, metric)
    sample, _ = gathered(rows, slots[:: -(-len(slots) // SAMPLE_ROWS)])
    return Quantizer.of_kind(kind).fit(sample, metric, SEED)
