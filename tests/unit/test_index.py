"""`vecstore.Index`: shapes, ids, filters, errors, threads, against brute force."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import vecstore
from tests.indexes import DIM, METRICS, QUANTIZATIONS, clustered, facts, small_graph
from vecstore.errors import DimensionMismatchError, InvalidArgumentError
from vecstore.index import check, graph, hnsw


def test_shapes():
    index = vecstore.Index(4, "l2")
    assert index.add([[1, 0, 0, 0], [0, 1, 0, 0]]).tolist() == [0, 1]
    assert index.add([0, 0, 1, 0]).tolist() == [2]
    assert index.add(np.zeros((0, 4))).tolist() == []
    ids, scores = index.search([1, 0, 0, 0], 2)
    assert (ids.shape, scores.shape, ids.dtype, scores.dtype) == ((2,), (2,), np.int64, np.float32)
    ids, scores = index.search([[1, 0, 0, 0], [0, 0, 1, 0]], 3)
    assert (ids.shape, scores.shape) == ((2, 3), (2, 3))
    assert ids[:, 0].tolist() == [0, 2]
    assert scores[:, 0].tolist() == [0, 0]
    ids, scores = index.search(np.zeros((0, 4)), 3)
    assert (ids.shape, scores.shape) == ((0, 3), (0, 3))
    assert index.get([2, 0]).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert len(index) == 3
    assert "3 vectors of 4 dims, l2" in repr(index)


@pytest.mark.parametrize("n", [0, 3, 1100])
def test_places_without_a_row_hold_minus_one(n):
    index = vecstore.Index(DIM)
    index.add(clustered(n))
    for k in (n, n + 7):
        if not k:
            continue
        ids, scores = index.search(clustered(2, 5), k)
        assert ids.shape == (2, k)
        assert [sorted(row) for row in ids[:, :n].tolist()] == [list(range(n))] * 2
        assert (ids[:, n:] == -1).all()
        assert (scores[:, n:] == -np.inf).all()
        assert (np.diff(scores[:, :n], axis=1) <= 0).all()


def test_ids_given_replaced_and_numbered_on():
    index = vecstore.Index(2, "l2")
    assert index.add([[1, 0], [2, 0]], [7, 2**63 - 1]).tolist() == [7, 2**63 - 1]
    assert index.remove(2**63 - 1) == 1
    assert index.add([[3, 0]]).tolist() == [8]
    index.add([[4, 0], [5, 0]], np.array([7, 3], np.uint16))
    assert len(index) == 3
    assert sorted(index.search([0, 0], 5)[0].tolist()) == [-1, -1, 3, 7, 8]
    assert index.get([7, 3, 8]).tolist() == [[4, 0], [5, 0], [3, 0]]
    assert index.remove([7, 7, 100]) == 1
    assert index.remove([7, 100]) == 0
    assert index.remove([]) == 0
    index.add([[9, 9]], [7])
    assert index.search([9, 9], 1)[0].tolist() == [7]
    with pytest.raises(InvalidArgumentError):
        index.get([100])


def test_ids_cannot_be_numbered_past_the_last():
    index = vecstore.Index(2, "l2")
    index.add([[1, 0]], [2**63 - 2])
    with pytest.raises(InvalidArgumentError):
        index.add([[1, 0], [2, 0]])
    assert index.add([[2, 0]]).tolist() == [2**63 - 1]
    assert len(index) == 2


def test_removed_rows_are_gone_and_come_back(linked):
    index, stored = linked
    gone = list(stored)[::3]
    assert index.remove(gone) == 500
    assert len(index) == 1000
    found, _ = index.search(np.array([stored[one] for one in gone]), 10)
    assert not set(found.ravel().tolist()) & set(gone)
    index.add(np.array([stored[one] for one in gone]), gone)
    found, scores = index.search(np.array(list(stored.values())), 1)
    assert found[:, 0].tolist() == list(stored)
    np.testing.assert_allclose(scores, 1, atol=1e-5)


def test_everything_removed_and_added_again(linked):
    index, stored = linked
    assert index.remove(list(stored)) == 1500
    assert len(index) == 0
    assert index.search(clustered(1)[0], 2)[0].tolist() == [-1, -1]
    assert index.add(clustered(700, 3)).tolist() == list(range(700))
    assert index.search(clustered(700, 3), 1)[0][:, 0].tolist() == list(range(700))


@pytest.mark.parametrize("matches", [0, 1, 4, 30, 400, 1500])
@pytest.mark.parametrize("k", [1, 10, 50])
def test_filters_give_as_many_as_match(linked, matches, k):
    index, stored = linked
    some = np.random.default_rng(matches).choice(list(stored), matches, replace=False).tolist()
    queries = clustered(8, 7)
    vectors = np.array([stored[one] for one in some], np.float64).reshape(-1, DIM)
    for given in (some, [*some, 1, 10**12], lambda one: one in set(some)):
        ids, scores = index.search(queries, k, filter=given)
        n = min(k, matches)
        assert (ids[:, n:] == -1).all()
        assert (scores[:, n:] == -np.inf).all()
        true = queries @ vectors.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(vectors, axis=1)
        for row, best, own in zip(ids[:, :n].tolist(), scores[:, :n], true, strict=True):
            assert len(set(row)) == n
            assert set(row) <= set(some)
            by_id = dict(zip(some, own, strict=True))
            np.testing.assert_allclose(best, [by_id[one] for one in row], atol=1e-5)
            shared = len(set(row) & {some[i] for i in np.argsort(-own)[:n]})
            assert shared >= 0.8 * n


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_what_brute_force_finds(monkeypatch, true_scores, quantization, metric):
    small_graph(monkeypatch)
    rows, queries = clustered(2000), clustered(50, 8)
    index = vecstore.Index(DIM, metric, quantization=QUANTIZATIONS[quantization])
    index.add(rows)
    ids, scores = index.search(queries, 10)
    shared = 0
    for query, found, best in zip(queries, ids, scores, strict=True):
        true = true_scores(metric, query, rows)
        np.testing.assert_allclose(best, true[found], rtol=1e-4, atol=1e-4)
        shared += len(set(found.tolist()) & set(np.argsort(-true)[:10].tolist()))
    assert shared / 500 >= 0.95


BAD_ROWS = {
    "nan": (np.full((2, DIM), np.nan), None),
    "infinity": (np.full((2, DIM), np.inf), None),
    "dimension": (np.ones((2, DIM + 1)), None),
    "zero": (np.zeros((2, DIM)), None),
    "text": (np.full((2, DIM), "x"), None),
    "cube": (np.ones((2, 2, DIM)), None),
    "twice": (np.ones((2, DIM)), [9001, 9001]),
    "negative": (np.ones((2, DIM)), [9001, -1]),
    "large": (np.ones((2, DIM)), np.array([1, 2**63], np.uint64)),
    "larger": (np.ones((2, DIM)), [1, 2**70]),
    "fewer": (np.ones((2, DIM)), [9001]),
    "floats": (np.ones((2, DIM)), [1.0, 2.0]),
    "texts": (np.ones((2, DIM)), ["a", "b"]),
    "ragged": (np.ones((2, DIM)), [[1], [1, 2]]),
}


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_bad_rows_change_nothing(linked, bad):
    index, _ = linked
    before = facts(index)
    vectors, ids = BAD_ROWS[bad]
    with pytest.raises(InvalidArgumentError):
        index.add(vectors, ids)
    assert facts(index) == before


@pytest.mark.parametrize("n", [3, 1500])
def test_other_bad_arguments(monkeypatch, n):
    small_graph(monkeypatch)
    index = vecstore.Index(DIM)
    index.add(clustered(n))
    before = facts(index)
    query = np.ones(DIM)
    calls = [
        lambda: index.search(query, 0),
        lambda: index.search(query, 10_001),
        lambda: index.search(query, 1.5),
        lambda: index.search(query, ef=0),
        lambda: index.search(query, threads=0),
        lambda: index.search(query, filter=[-1]),
        lambda: index.search(query, filter="x"),
        lambda: index.search(np.zeros(DIM)),
        lambda: index.search(np.full(DIM, np.nan)),
        lambda: index.search(np.ones((2, 2, DIM))),
        lambda: index.add(np.ones((1, DIM)), threads=0),
        lambda: index.remove([-1]),
        lambda: index.remove(["x"]),
        lambda: index.remove([[1], [1, 2]]),
        lambda: index.rebuild(seed=-1),
        lambda: vecstore.Index(DIM, "hamming"),
        lambda: vecstore.Index(0),
        lambda: vecstore.Index(DIM, index=vecstore.Flat()),
        lambda: vecstore.Index(DIM, index=vecstore.HNSW(m=7)),
        lambda: vecstore.Index(DIM, quantization="int3"),
    ]
    for i, call in enumerate(calls):
        with pytest.raises(InvalidArgumentError):
            call()
            pytest.fail(f"call {i} was let through")
    with pytest.raises(DimensionMismatchError):
        index.search(np.ones(DIM + 1))
    assert facts(index) == before


def test_stats(linked):
    index, stored = linked
    stats = index.stats()
    assert (stats["count"], stats["linked"], stats["tail"], stats["tombstones"]) == (1500, 1500, 0, 0)
    assert 5 < stats["degree"] <= 64
    assert stats["code_bytes"] + stats["link_bytes"] < stats["index_bytes"]
    assert stats["row_bytes"] >= 1500 * DIM * 4
    index.remove(list(stored)[:100])
    stats = index.stats()
    assert (stats["count"], stats["linked"], stats["tombstones"]) == (1400, 1400, 100)
    index.remove(list(stored)[100:400])
    assert index.stats()["tombstones"] < 150
    empty = vecstore.Index(DIM).stats()
    assert (empty["count"], empty["linked"], empty["index_bytes"]) == (0, 0, 0)


def test_getting_some_vectors_copies_no_others(monkeypatch):
    index = vecstore.Index(DIM)
    rows = clustered(200)
    index.add(rows)
    monkeypatch.setattr(type(index._slabs), "matrix", None)
    assert (index.get([150, 3]) == rows[[150, 3]]).all()
    index.remove(3)
    with pytest.raises(vecstore.InvalidArgumentError, match="3 is not there"):
        index.get([150, 3])


def test_a_query_that_is_none_is_refused_by_a_graph_too(monkeypatch):
    small_graph(monkeypatch)
    rows = clustered(1500)
    index = vecstore.Index(DIM)
    index.add(rows)
    for odd, what in ((np.nan, "holds nan"), (np.inf, "holds inf"), (0, "zero vector")):
        query = np.zeros(DIM, np.float32)
        query[0] = odd
        with pytest.raises(vecstore.InvalidArgumentError, match=what):
            index.search(query)
    # As short as queries can be: by the way of those that are looked at twice.
    tiny = (rows[7] * np.float32(1e-16)).astype(np.float32)
    assert index.search(tiny, 1)[0].tolist() == index.search(rows[7], 1)[0].tolist()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_links_do_not_depend_on_threads(monkeypatch, quantization):
    small_graph(monkeypatch)
    rows = clustered(2500)
    links = []
    for threads in (1, 2, 3):
        index = vecstore.Index(DIM, quantization=QUANTIZATIONS[quantization])
        index.add(rows[:1700], threads=threads)
        index.remove(np.arange(0, 900, 2))
        index.add(rows[1700:], threads=threads)
        added = index._index.structure.links_by_slot()
        index.rebuild(seed=7, threads=threads)
        links.append(
            (added, index._index.structure.links_by_slot(), index._index.structure.arrays.pilots.nodes.tolist())
        )
    assert links[0] == links[1] == links[2]
    assert len(links[0][1]) == 2050


def test_progress_is_told(monkeypatch):
    small_graph(monkeypatch)
    told = []
    index = vecstore.Index(DIM)
    index.add(clustered(1500), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (1500, 1500)
    assert told == sorted(told)
    assert index.stats()["linked"] == 1500


def test_searches_while_another_thread_writes(monkeypatch):
    small_graph(monkeypatch)
    rows = clustered(4000, 11)
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    index = vecstore.Index(DIM)
    index.add(rows[:1000])
    steady, added, doomed, removed = set(range(500)), set(range(1000)), set(), set()
    done, failures = threading.Event(), []

    def search(seed):
        random = np.random.default_rng(seed)
        try:
            while not done.is_set():
                there, gone = sorted(added - removed)[-40:], set(removed)
                asked = [*random.choice(500, 4), *random.choice(there, 4)]
                ids, scores = index.search(rows[asked], 5, threads=1)
                after = set(doomed)
                for one, found, best in zip(asked, ids.tolist(), scores, strict=True):
                    if (one in steady or one not in after) and found[0] != one:
                        failures.append(f"{one} is not found: {found}")
                    if set(found) & gone or not set(found) <= set(range(4000)):
                        failures.append(f"{found} holds a removed or an unknown id")
                    if np.abs(rows[found] @ rows[one] - best).max() > 1e-4:
                        failures.append(f"{found} have scores of other rows")
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    random = np.random.default_rng(0)
    for first in range(1000, 4000, 50):
        ids = np.arange(first, first + 50)
        index.add(rows[ids], ids)
        added.update(ids.tolist())
        gone = random.choice(sorted(added - steady - removed)[:-20], 30, replace=False).tolist()
        doomed.update(gone)
        index.remove(gone)
        removed.update(gone)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, (len(failures), failures[:3])


@pytest.mark.parametrize("seed", range(1, 9))
def test_pilots_from_which_all_nodes_are_reached_stay_when_nodes_are_numbered(monkeypatch, seed):
    """Although they are few, since of equal rows one is a pilot."""
    for module, name, value in ((hnsw, "FIT_FROM", 20), (hnsw, "LINK_FROM", 40), (graph, "MIN_BATCH", 8)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(graph, "MIN_PILOTS", 2)
    rows = np.ones((53, 16), np.float32)
    rows[50, 9] = -2
    index = vecstore.Index(16, "l2", index=vecstore.HNSW(m=8, seed=seed), quantization=vecstore.Int4())
    index.add(rows)
    index.remove(range(14, 19))
    while index._index.step():
        pass
    assert index._index.structure.arrays.linked == 48
    assert list(check.check_graph(index._index.structure)) == []
