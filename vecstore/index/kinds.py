"""Which index a configuration asks for."""

from __future__ import annotations

from vecstore.index.arrays import aligned
from vecstore.index.blocks import Allocate
from vecstore.index.hnsw import HnswIndex
from vecstore.index.ivf import IvfIndex
from vecstore.types import HNSW, IVF, IndexConfig, Metric, Quantization

GraphOrLists = HnswIndex | IvfIndex


def index_of(
    config: IndexConfig,
    quantization: Quantization | None,
    dim: int,
    metric: Metric,
    in_files: Allocate = aligned,
) -> GraphOrLists:
    """A new index without rows; `config` is HNSW or IVF. `in_files` makes the large arrays of one that is not to be
    resident."""
    if isinstance(config, IVF):
        return IvfIndex(config, quantization, dim, metric, aligned if config.resident else in_files)
    assert isinstance(config, HNSW)
    return HnswIndex(config, quantization, dim, metric)
