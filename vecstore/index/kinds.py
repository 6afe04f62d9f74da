"""Which index a configuration asks for."""

from __future__ import annotations

from vecstore.index.hnsw import HnswIndex
from vecstore.index.ivf import IvfIndex
from vecstore.types import HNSW, IVF, IndexConfig, Metric, Quantization

GraphOrLists = HnswIndex | IvfIndex


def index_of(config: IndexConfig, quantization: Quantization | None, dim: int, metric: Metric) -> GraphOrLists:
    """A new index without rows; `config` is HNSW or IVF."""
    if isinstance(config, IVF):
        return IvfIndex(config, quantization, dim, metric)
    assert isinstance(config, HNSW)
    return HnswIndex(config, quantization, dim, metric)
