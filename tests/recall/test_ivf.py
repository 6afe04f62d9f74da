"""What lists must find, whatever was done to them: gates on seeded data, against brute force."""

import numpy as np
import pytest

import vecstore
from tests.recall.test_hnsw import DIM, KINDS, METRICS, embeddings, recall

FLOORS = {"int8": 0.95, "int4": 0.95, "binary": 0.93, "float32": 0.95}


def made(kind, metric="cosine", **config):
    return vecstore.Index(DIM, metric, index=vecstore.IVF(**config), quantization=KINDS[kind])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_floors_of_recall(kind, metric):
    rows, _ = embeddings(5000, 2)
    index = made(kind, metric)
    index.add(rows)
    assert index.stats()["tail"] == 0
    assert index.stats()["lists"] > 100
    assert recall(index, embeddings(100, 3)[0], dict(enumerate(rows))) >= FLOORS[kind]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_finds_itself_after_half_are_deleted_and_a_third_is_replaced(kind, metric):
    rows, _ = embeddings(6000, 2)
    stored = dict(enumerate(rows[:4000]))
    index = made(kind, metric)
    index.add(rows[:4200])
    index.remove(range(4000, 4200))
    assert index.stats()["lists"]
    random = np.random.default_rng(5)
    gone = random.choice(4000, 2000, replace=False)
    assert index.remove(gone) == 2000
    for one in gone.tolist():
        del stored[one]
    moved = random.choice(list(stored), 600, replace=False)
    index.add(rows[4200:4800], moved)
    stored |= dict(zip(moved.tolist(), rows[4200:4800], strict=True))
    found, _ = index.search(np.array(list(stored.values())), 1)
    lost = np.flatnonzero(found[:, 0] != list(stored))
    assert not len(lost), f"{len(lost)} of {len(stored)} rows do not find themselves"


@pytest.mark.parametrize(("kind", "metric"), [("binary", "cosine"), ("int8", "l2")])
def test_churn_keeps_the_recall_of_a_fresh_build(kind, metric):
    vectors, _ = embeddings(12_000, 7)
    random = np.random.default_rng(6)
    stored = dict(enumerate(vectors[:6000]))
    index = made(kind, metric)
    index.add(vectors[:6000])
    unused = list(range(6000, 12_000))
    for _ in range(20):
        gone = random.choice(list(stored), 300, replace=False).tolist()
        index.remove(gone)
        new, unused = unused[:300], unused[300:]
        index.add(vectors[new], new)
        for one in gone:
            del stored[one]
        stored |= dict(zip(new, vectors[new], strict=True))
    fresh = made(kind, metric)
    fresh.add(np.array(list(stored.values())), list(stored))
    queries = embeddings(300, 8)[0]
    for nprobe in (8, 16):
        churned, anew = (recall(one, queries, stored, nprobe=nprobe) for one in (index, fresh))
        assert churned >= anew - 0.005


@pytest.mark.parametrize(("kind", "metric"), [("binary", "cosine"), ("binary", "l2"), ("int8", "l2"), ("int8", "dot")])
def test_lists_follow_rows_that_drift(kind, metric):
    """Half as many rows again, of other clusters: nothing is trained anew, and they are found as well."""
    before, _ = embeddings(6000, 2)
    turn = np.linalg.qr(np.random.default_rng(4).standard_normal((DIM, DIM)))[0].astype(np.float32)
    after = embeddings(3000, 5)[0] @ turn + np.float32(0.4)
    rows = np.concatenate([before, after])
    index, fresh = made(kind, metric), made(kind, metric)
    index.add(before)
    for first in range(6000, 9000, 500):
        index.add(rows[first : first + 500])
    fresh.add(rows)
    queries = np.concatenate([embeddings(150, 3)[0], embeddings(150, 6)[0] @ turn + np.float32(0.4)])
    for nprobe in (8, 16):
        drifted, anew = (recall(one, queries, dict(enumerate(rows)), nprobe=nprobe) for one in (index, fresh))
        assert drifted >= anew - 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_near_duplicates_find_themselves(kind):
    """Although their codes hardly differ, and more of them than are rescored for one hit at least."""
    rows, _ = embeddings(4200, 2)
    near = rows[0] + 0.01 * embeddings(40, 3)[0]
    index = made(kind)
    index.add(np.concatenate([rows, near]))
    found, _ = index.search(near, 1)
    assert (found[:, 0] == np.arange(4200, 4240)).mean() >= 0.9


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("binary", "cosine"), ("binary", "dot"), ("binary", "l2"), ("int8", "l2"), ("float32", "dot")],
)
def test_many_equal_rows_hide_no_others(kind, metric):
    one = np.random.default_rng(0).standard_normal(DIM).astype(np.float32)
    others, _ = embeddings(1000, 4)
    if metric == "dot":  # so that each is its own best
        one, others = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (one, others))
    index = made(kind, metric)
    index.add(np.tile(one, (10_000, 1)))
    index.add(others)
    assert not index._index.uneven
    found, _ = index.search(others, 1)
    assert (found[:, 0] == np.arange(10_000, 11_000)).all()
    ids, scores = index.search(one, 50)
    assert len(set(ids.tolist())) == 50
    assert ids.max() < 10_000
    assert (scores == scores[0]).all()


@pytest.mark.parametrize("dim", [1, 3, 65, 1000])
@pytest.mark.parametrize("kind", ["binary", "int8"])
def test_any_number_of_dims(kind, dim):
    rows = np.random.default_rng(dim).standard_normal((4200, dim)).astype(np.float32)
    index = vecstore.Index(dim, "l2", index=vecstore.IVF(nlist=8), quantization=KINDS[kind])
    index.add(rows)
    assert index.stats()["lists"] >= 8
    found, scores = index.search(rows[:50], 5, nprobe=1000)
    assert (found[:, 0] == np.arange(50)).mean() >= (0.9 if dim > 2 else 0.0)
    assert (np.diff(scores, axis=1) <= 0).all()
