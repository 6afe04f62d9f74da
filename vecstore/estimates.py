"""What a collection would take in RAM and on the disk, before it does."""

from __future__ import annotations

from typing import Any, Final, Literal

from vecstore import arguments
from vecstore.index.sizes import sizes_of
from vecstore.keywords import verb
from vecstore.storage.blocks import Layout
from vecstore.types import HNSW, KIND_NAMES, Estimate, IndexConfig, Metric, Quantization

# Of a row without payload, in the trees of rows and of ids, whose pages are not all full.
ROW_BYTES: Final = 90


@verb
def estimate(
    count: int,
    dim: int,
    metric: Metric = "cosine",
    *,
    index: IndexConfig | None = None,
    quantization: Quantization | Literal["auto"] | None = "auto",
) -> Estimate:
    """About what a collection of `count` rows without payloads would take, that was created with the other arguments.

    `Collection.estimate` goes by the payloads that there are, and by the codes: under cosine those of Int8 and Int4 are
    smaller by 8 bytes a row where the rows point in all directions, which is not known before there are some.
    """
    count = arguments.whole_number(count, "count", 0, arguments.MAX_ROWS)
    dim, metric = arguments.dimension(dim), arguments.metric_name(metric)
    config = HNSW() if index is None else arguments.index_config(index)
    return estimated(count, dim, metric, config, arguments.quantization_kind(quantization, config, dim))


def estimated(
    count: int,
    dim: int,
    metric: Metric,
    index: IndexConfig,
    quantization: Quantization | None,
    row_bytes: float = ROW_BYTES,
    terms: int | None = None,
) -> Estimate:
    """The same of checked arguments; `row_bytes` are those of a row beside its vector, `terms` the numbers beside a
    code, if they are known."""
    sizes = sizes_of(index, quantization, count, dim, metric, terms)
    kind: Any = None if quantization is None else KIND_NAMES[type(quantization)]
    return Estimate(
        count=count,
        dim=dim,
        index=type(index).__name__,
        quantization=kind,
        code_bytes=sizes.codes,
        link_bytes=sizes.links,
        index_bytes=sizes.whole,
        peak_bytes=sizes.peak,
        file_bytes=Layout.of(dim).bytes_of(count) + int(count * row_bytes),
        checkpoint_bytes=sizes.checkpoint,
    )
