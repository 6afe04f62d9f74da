"""What tests of a `vecstore.Index` share."""

from __future__ import annotations

import numpy as np

import vecstore
from vecstore.index import hnsw

DIM = 32
METRICS = ["cosine", "dot", "l2"]
QUANTIZATIONS = {
    "auto": "auto", "none": None, "int8": vecstore.Int8(), "int4": vecstore.Int4(), "binary": vecstore.Binary()
}  # fmt: skip


def clustered(n, seed=0, dim=DIM):
    """`(n, dim) float32` around 40 centres that are the same for every seed."""
    centres = np.random.default_rng(99).standard_normal((40, dim)) * 1.5
    random = np.random.default_rng(seed)
    return (centres[random.integers(0, 40, n)] + random.standard_normal((n, dim))).astype(np.float32)


def small_graph(monkeypatch):
    """A graph from 600 rows on, and searches that walk it."""
    monkeypatch.setattr(hnsw, "FIT_FROM", 300)
    monkeypatch.setattr(hnsw, "LINK_FROM", 600)
    monkeypatch.setattr(hnsw, "PASSED", 1e6)


def facts(index):
    """What a failed call must not change."""
    ids, scores = index.search(np.eye(index.dim, dtype=np.float32)[:3], 5)
    return len(index), index.stats(), ids.tolist(), scores.tolist()
