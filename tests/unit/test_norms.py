"""Rows of every length that is accepted, side by side: nothing leaves float32, and searches find the best of them."""

import numpy as np
import pytest

import vecstore
from vecstore.index import graph, hnsw
from vecstore.kernels import upkeep
from vecstore.kernels._jit import JIT

pytestmark = pytest.mark.skipif(not JIT, reason="a graph takes long without compiling")

DIM = 16
KINDS = {"none": None, "int8": vecstore.Int8(), "int4": vecstore.Int4(), "binary": vecstore.Binary()}
LEAST = {"cosine": 1e-16, "dot": 1e-30, "l2": 1e-30}
MOST = 1e17


@pytest.fixture
def tiny_graphs(monkeypatch):
    monkeypatch.setattr(hnsw, "FIT_FROM", 100)
    monkeypatch.setattr(hnsw, "LINK_FROM", 200)
    monkeypatch.setattr(graph, "MIN_BATCH", 32)


def exact(metric, rows, query):
    """Scores (n,) in float64, and how far those of float32 may be off."""
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    sizes = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    if metric == "l2":
        scores = -np.linalg.norm(rows - query, axis=1)
        return scores, 1e-5 * -scores + 1e-18
    if metric == "dot":
        return rows @ query, 1e-5 * sizes + 1e-36
    return rows @ query / sizes, np.full(len(rows), 1e-5)


@pytest.mark.parametrize("first", ["short", "ordinary", "long"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", LEAST)
def test_lengths_from_the_least_to_the_most(tiny_graphs, metric, kind, first):
    """The codes are fitted on rows of one length; those that come later have all lengths."""
    rng = np.random.default_rng(0)
    usual = {"short": LEAST[metric], "ordinary": 1, "long": MOST}[first]
    lengths = np.concatenate([np.full(200, usual), np.geomspace(LEAST[metric], MOST, 100)])
    rows = (rng.standard_normal((300, DIM)) * lengths[:, None]).astype(np.float32)
    raw = vecstore.Index(DIM, metric, quantization=KINDS[kind])
    raw.add(rows[:200])
    raw.add(rows[200:])
    index = raw._index
    while index.step(1):
        pass
    index.structure.settle(1)
    arrays = index.structure.arrays
    assert arrays.linked == 300
    for values in (arrays.pairs[:300], arrays.terms[:300], arrays.top):
        assert np.isfinite(values).all()
    allowed = np.full(38, 255, np.uint8)
    for row in [0, *range(200, 300, 11), 299]:
        scores, off = exact(metric, rows, rows[row])
        for scan in (False, True):
            # With all candidates rescored.
            found, given, _ = index.structure.search(
                raw._slabs.rows(), allowed, rows[row][None], 10, scan, 300, 300, 300, 1
            )
            assert len(set(found[0].tolist())) == 10
            assert (np.abs(given[0] - scores[found[0]]) <= off[found[0]]).all()
        missing = np.setdiff1d(np.arange(300), found)
        assert (scores[missing] - off[missing] <= given[0, -1]).all()


def walked(raw, query, k, ef):
    """Slots that a walk finds, with all its candidates rescored."""
    allowed = np.full(len(raw) // 8 + 1, 255, np.uint8)
    return raw._index.structure.search(raw._slabs.rows(), allowed, query[None], k, False, ef, ef, ef, 1)[0][0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_long_rows_are_found_as_soon_as_they_are_linked(tiny_graphs, monkeypatch, kind):
    """All others are equally far from a row of that length, and each drops its link to it for one to a nearer row."""
    monkeypatch.setattr(graph, "MIN_PILOTS", 4)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((600, DIM)).astype(np.float32)
    rows[300:600:60] *= np.float32(1e12)
    raw = vecstore.Index(DIM, "dot", quantization=KINDS[kind])
    for first in range(0, 600, 20):
        raw.add(rows[first : first + 20])
        nodes = raw._index.structure
        while raw._index.to_link:
            nodes.link(1)
        if nodes is None or not nodes.arrays.linked:
            continue
        arrays = nodes.arrays
        reached = np.zeros(arrays.linked, np.uint8)
        upkeep.reach(arrays.links, arrays.pilots.nodes, 0, reached, np.empty(arrays.linked, np.int32))
        assert reached.all()
        for long in range(300, first + 1, 60):
            assert walked(raw, rows[long], 1, 32) == [int(np.argmax(rows[: len(raw)] @ rows[long]))]
