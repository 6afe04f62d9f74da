# ruff: noqa: PLW0108 (an instruction becomes callable only inside a function)
"""What graphs are made of: instructions against their twins, merging beams, nearness of codes, and pruned links."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numba.core.types import int64

import vecstore
from vecstore.index.graph import Graph
from vecstore.kernels import codes, memory, twins, upkeep
from vecstore.kernels._jit import JIT, kernel
from vecstore.kernels.graph import expand, merge, nearness
from vecstore.kernels.memory import address_of
from vecstore.kernels.pools import EMPTY

PROFILE = settings(max_examples=200 if JIT else 25, deadline=None, derandomize=True)
METRICS = ["cosine", "dot", "l2"]


@pytest.mark.parametrize("function", [codes.expand_u4, codes.expand_u8], ids=lambda f: f.__name__)
@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_expanded_codes(function, count):
    code = np.random.default_rng(count).integers(0, 256, 64 * count).astype(np.uint8)
    results = []
    for expanded in (njit(lambda a, b, n: function(a, b, n)), getattr(twins, function.__name__)):
        out = np.full(128 * count + 1, 77, np.int8)
        expanded(code.ctypes.data, out.ctypes.data, code.size)
        results.append(out.tolist())
    assert results[0] == results[1]
    if function is codes.expand_u8:
        assert results[0][: 64 * count] == (code.astype(int) - 128).tolist()
        assert set(results[0][64 * count :]) == {77}
    else:
        parts = code.reshape(-1, 1, 64).astype(int)
        assert results[0] == [*(np.concatenate((parts & 15, parts >> 4), axis=1).ravel() - 8).tolist(), 77]


@pytest.mark.parametrize(
    ("store", "size", "values"),
    [(memory.store_i32, 4, [0, -1, 2**31 - 1, -(2**31)]), (memory.store_u8, 1, [0, 1, 127, 128, 255])],
    ids=["store_i32", "store_u8"],
)
def test_stores_write_what_they_should_and_no_more(store, size, values):
    dtype = np.int32 if size == 4 else np.uint8
    for one in (njit(lambda a, b: store(a, b)), getattr(twins, store.__name__)):
        for value in values:
            for offset in (0, 1, 7):
                space = np.full(24, 9, np.uint8)
                one(space.ctypes.data + offset, value)
                assert space[offset : offset + size].view(dtype).tolist() == [value]
                assert (np.delete(space, range(offset, offset + size)) == 9).all()


@kernel(int64(int64[::1], int64, int64[::1], int64, int64[::1]))
def merge_keys(beam, ef, passed, n, spare):
    """`merge` by itself."""
    return merge(address_of(beam), ef, address_of(passed), n, address_of(spare))


numbers = st.integers(-40, 40).map(lambda x: 2 * x + 1)


@PROFILE
@given(
    ef=st.integers(1, 40),
    held=st.lists(st.tuples(numbers, st.booleans()), max_size=40, unique_by=lambda pair: pair[0]),
    new=st.lists(numbers, min_size=1, max_size=30, unique=True),
)
def test_merging_is_the_union_of_two_sets(ef, held, new):
    """Keys are odd; an expanded one is less by one, and stays so when its node comes again."""
    before = sorted((key - expanded for key, expanded in held), reverse=True)[:ef]
    beam = np.array(before + [EMPTY] * (ef - len(before)), np.int64)
    new = [key for key in new if key > beam[-1]]
    if not new:
        return
    passed = np.array([*new, 0], np.int64)
    there = {key | 1 for key in before}
    fresh = [key for key in new if key not in there]
    rank = merge_keys(beam, ef, passed, len(new), np.empty(ef, np.int64))
    expected = sorted([*before, *fresh], reverse=True)[:ef]
    assert beam.tolist() == expected + [EMPTY] * (ef - len(expected))
    # All before the rank is as it was, and nothing new stands before it.
    assert beam[:rank].tolist() == before[:rank]
    assert rank <= min([expected.index(key) for key in fresh if key in expected], default=ef)


@njit
def _near(kind, code, size, pair, other, other_pair, pair_bytes, top, query, facts, cosines):
    expand(kind, other, size, other_pair, pair_bytes, top, query, facts)
    return nearness(kind, code, size, pair, pair_bytes, top, query, facts, cosines)


def near(kind, graph, i, j, query, facts):
    arrays = graph.arrays
    size, pair_bytes = arrays.codes.shape[1], 4 * arrays.pairs.shape[1]
    at = [arrays.codes.ctypes.data + size * x for x in (i, j)]
    pair = [arrays.pairs.ctypes.data + pair_bytes * x for x in (i, j)]
    return _near(
        kind, at[0], size, pair[0], at[1], pair[1], pair_bytes, arrays.top[0], query.ctypes.data, facts.ctypes.data,
        arrays.cosines.ctypes.data,
    )  # fmt: skip


def graph_of(rows, kind, metric):
    """The graph of an Index on some rows, which need not be linked."""
    index = vecstore.Index(rows.shape[1], metric, quantization={"int8": vecstore.Int8(), "int4": vecstore.Int4(),
                           "binary": vecstore.Binary(), "float32": None}[kind])  # fmt: skip
    index.add(rows)
    assert isinstance(index._index.structure, Graph)
    return index._index.structure


@pytest.mark.skipif(not JIT, reason="a graph takes long without compiling")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["int8", "int4", "float32"])
def test_nearness_is_minus_half_the_squared_distance_of_what_codes_stand_for(kind, metric):
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((1100, 128)) * rng.uniform(0.5, 2, (1100, 1)) + 0.1).astype(np.float32)
    graph = graph_of(rows, kind, metric)
    coder, arrays = graph.arrays.coder, graph.arrays
    n = len(rows)
    if kind == "float32":
        decoded = arrays.codes[:n].view(np.float32).astype(np.float64)
    else:
        decoded = coder.decode(arrays.codes[:n], arrays.terms[:n]).astype(np.float64) * coder.unit
    if metric == "dot":  # one more coordinate brings all rows to one length
        squares = (rows.astype(np.float64) ** 2).sum(axis=1) * coder.unit**2
        assert arrays.top[0] == pytest.approx(squares.max(), rel=1e-5)
        decoded = np.column_stack((decoded, np.sqrt(np.maximum(squares.max() - squares, 0))))
    query, facts = np.zeros(2 * arrays.codes.shape[1], np.uint8), np.zeros(4, np.float32)
    number = coder.kernel_kind
    for i, j in rng.integers(0, n, (200, 2)):
        expected = -0.5 * ((decoded[i] - decoded[j]) ** 2).sum()
        scale = (decoded[i] ** 2).sum() + (decoded[j] ** 2).sum()
        assert abs(near(number, graph, i, j, query, facts) - expected) < 2e-4 * scale
    for i in range(n):
        assert near(number, graph, i, i, query, facts) == 0


def check_links(graph):
    arrays = graph.arrays
    links, linked, width = arrays.links[: arrays.linked], arrays.linked, arrays.width
    assert linked
    there = links >= 0
    assert (links[there] < linked).all()
    assert (links[~there] == -1).all()
    assert (np.diff(there.astype(int), axis=1) <= 0).all(), "a gap"
    assert there.sum(axis=1).max() <= width
    assert not (links == np.arange(linked)[:, None]).any(), "a link to itself"
    ordered = np.sort(links, axis=1)
    assert not ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any(), "a link twice"


@pytest.mark.skipif(not JIT, reason="a graph takes long without compiling")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["int8", "int4", "binary", "float32"])
def test_links_are_sound_after_linking_and_sweeping(kind, metric):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((1800, 64)).astype(np.float32)
    rows[1000:1100] = rows[:100]  # equal ones
    graph = graph_of(rows, kind, metric)
    while graph.link(2):
        check_links(graph)
    graph.settle(2)
    check_links(graph)
    graph.remove(rng.choice(1800, 700, replace=False))
    graph.settle(2)
    check_links(graph)
    assert len(graph.links_by_slot()) == graph.arrays.linked == 1100
    assert min(map(len, graph.links_by_slot().values())) > 0


def test_adopted_nodes_are_reached_and_nobody_is_lost():
    # Node 0 is full of links; 4, 5 and 6 know only it.
    links = np.full((8, 3), -1, np.int32)
    links[0] = 1, 2, 3
    for orphan in (4, 5, 6):
        links[orphan, 0] = 0
    starts = np.zeros(1, np.int32)
    for _ in range(3):
        reached, order = np.zeros(8, np.uint8), np.empty(8, np.int32)
        upkeep.reach(links, starts, 0, reached, order)
        orphans = np.flatnonzero(reached[:7] == 0).astype(np.int32)
        upkeep.adopt(links, orphans, reached, np.zeros(len(orphans), np.uint8))
    reached, order = np.zeros(8, np.uint8), np.empty(8, np.int32)
    assert upkeep.reach(links, starts, 0, reached, order) == 7
    assert links[0].tolist() == [1, 2, 3]


def test_a_node_without_room_adopts_none():
    # Room for two links: 0 takes 2, then 2 takes 3, which is full; so 4 must wait until others have been reached.
    links = np.array([[1, -1], [0, 5], [0, -1], [0, 1], [0, -1], [1, 0]], np.int32)
    reached, adopted = np.array([1, 1, 0, 0, 0, 1], np.uint8), np.zeros(3, np.uint8)
    assert upkeep.adopt(links, np.array([2, 3, 4], np.int32), reached, adopted) == 2
    assert adopted.tolist() == [1, 1, 0]
    assert links.tolist() == [[1, 2], [0, 5], [0, 3], [0, 1], [0, -1], [1, 0]]
