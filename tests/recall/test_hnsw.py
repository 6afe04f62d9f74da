"""What a graph must find, whatever was done to it: gates on seeded and real data, against brute force."""

import numpy as np
import pytest

import vecstore
from vecstore.demo import load_sample
from vecstore.index import hnsw

DIM = 128
KINDS = {"int8": vecstore.Int8(), "int4": vecstore.Int4(), "binary": vecstore.Binary(), "float32": None}
FLOORS = {"int8": 0.97, "int4": 0.97, "binary": 0.90, "float32": 0.97}
METRICS = ["cosine", "dot", "l2"]


def embeddings(n, seed, clusters=60, spread=0.7, noise=0.2):
    """`(n, DIM) float32` around centres, on 40 directions of falling weight, with noise and norms that differ; and the
    cluster of each."""
    axes = np.random.default_rng(0).standard_normal((40, DIM)) / np.sqrt(np.arange(1, 41))[:, None]
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((clusters, 40))
    which = random.integers(0, clusters, n)
    some = centres[which] + spread * random.standard_normal((n, 40))
    rows = some @ axes + noise * random.standard_normal((n, DIM)) + 0.3
    return (rows * random.uniform(0.8, 1.2, (n, 1))).astype(np.float32), which


def best_ids(metric, queries, stored, k):
    """The ids of the true k best `(queries, k)`; `stored` is the rows by id."""
    ids, rows = np.array(list(stored)), np.array(list(stored.values()), np.float64)
    queries = queries.astype(np.float64)
    scores = queries @ rows.T
    if metric == "cosine":
        scores /= np.linalg.norm(rows, axis=1)
    elif metric == "l2":
        scores = 2 * scores - (rows**2).sum(axis=1)
    return ids[np.argsort(-scores, axis=1, kind="stable")[:, :k]]


def recall(index, queries, stored, k=10, **options):
    """The share of the true k best that a search finds."""
    found, _ = index.search(queries, k, **options)
    truth = best_ids(index.metric, queries, stored, k)
    return float(np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]) / k)


def assert_walks(index):
    """A search would not scan: most of the rows are linked."""
    stats = index.stats()
    assert stats["linked"] >= 0.9 * len(index)
    assert stats["tail"] < 600


@pytest.fixture
def walk_only(monkeypatch):
    """Searches walk however few rows there are: a scan seems to cost a lot."""
    monkeypatch.setattr(hnsw, "PASSED", 1e6)
    monkeypatch.setattr(hnsw, "CODE", 1e6)


@pytest.fixture(scope="module")
def sample():
    return load_sample()


@pytest.mark.usefixtures("walk_only")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_floors_of_recall(kind, metric):
    rows, _ = embeddings(8000, 2)
    index = vecstore.Index(DIM, metric, quantization=KINDS[kind])
    index.add(rows)
    assert_walks(index)
    assert recall(index, embeddings(100, 3)[0], dict(enumerate(rows))) >= FLOORS[kind]


def test_rows_that_lie_closer_than_codes_can_tell_are_rescored_until_the_best_are_found():
    close = {"spread": 0.3, "noise": 0.05}
    rows, _ = embeddings(6000, 2, **close)
    index = vecstore.Index(DIM, quantization=vecstore.Int4())
    index.add(rows)
    assert recall(index, embeddings(200, 3, **close)[0], dict(enumerate(rows)), ef=128) >= 0.995


@pytest.mark.usefixtures("walk_only")
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_finds_itself_after_half_are_deleted_and_a_third_is_replaced(kind, metric):
    rows, _ = embeddings(8000, 2)
    stored = dict(enumerate(rows[:6000]))
    index = vecstore.Index(DIM, metric, quantization=KINDS[kind])
    index.add(rows[:6000])
    random = np.random.default_rng(5)
    gone = random.choice(6000, 3000, replace=False)
    assert index.remove(gone) == 3000
    for one in gone.tolist():
        del stored[one]
    moved = random.choice(list(stored), 900, replace=False)
    index.add(rows[6000:6900], moved)
    stored |= dict(zip(moved.tolist(), rows[6000:6900], strict=True))
    assert len(index) == len(stored) == 3000
    for ef in (None, 256):
        found, _ = index.search(np.array(list(stored.values())), 1, ef=ef)
        lost = np.flatnonzero(found[:, 0] != list(stored))
        assert not len(lost), f"{len(lost)} of {len(stored)} rows do not find themselves with ef={ef}"


@pytest.mark.usefixtures("walk_only")
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_churn_keeps_the_recall_of_a_fresh_build(sample, metric):
    spare, _ = embeddings(5000, 7)
    vectors = np.concatenate([sample.vectors[:, :DIM], spare / np.linalg.norm(spare, axis=1)[:, None]])
    random = np.random.default_rng(6)
    stored = dict(enumerate(vectors[:6000]))
    index = vecstore.Index(DIM, metric)
    index.add(vectors[:6000])
    unused = list(range(6000, 10_000))
    for _ in range(20):
        gone = random.choice(list(stored), 300, replace=False).tolist()
        index.remove(gone)
        new, unused = unused[:300], [*unused[300:], *gone]
        index.add(vectors[new], new)
        for one in gone:
            del stored[one]
        stored |= dict(zip(new, vectors[new], strict=True))
    fresh = vecstore.Index(DIM, metric)
    fresh.add(np.array(list(stored.values())), list(stored))
    for one in (index, fresh):
        assert_walks(one)
    queries = np.concatenate([sample.query_vectors[:, :DIM], embeddings(200, 8)[0]])
    for ef in (32, 64):
        churned, anew = recall(index, queries, stored, ef=ef), recall(fresh, queries, stored, ef=ef)
        assert churned >= anew - 0.005


@pytest.mark.usefixtures("walk_only")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_many_equal_rows_hide_no_others(kind, metric, seed):
    one = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    others, _ = embeddings(1000, 4)
    if metric == "dot":  # so that each is its own best
        one, others = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (one, others))
    index = vecstore.Index(DIM, metric, quantization=KINDS[kind])
    index.add(np.tile(one, (10_000, 1)))
    index.add(others)
    found, _ = index.search(others, 1)
    assert (found[:, 0] == np.arange(10_000, 11_000)).all()
    ids, scores = index.search(one, 50)
    assert len(set(ids.tolist())) == 50
    assert ids.max() < 10_000
    assert (scores == scores[0]).all()


@pytest.mark.usefixtures("walk_only")
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_come_cluster_by_cluster(metric):
    rows, which = embeddings(8000, 2)
    rows = rows[np.argsort(which, kind="stable")]
    index = vecstore.Index(DIM, metric)
    for first in range(0, 8000, 1000):
        index.add(rows[first : first + 1000])
    assert_walks(index)
    assert recall(index, embeddings(100, 3)[0], dict(enumerate(rows))) >= 0.95


@pytest.mark.usefixtures("walk_only")
@pytest.mark.parametrize("metric", METRICS)
def test_real_vectors(sample, metric):
    index = vecstore.Index(384, metric)
    index.add(sample.vectors)
    assert_walks(index)
    assert recall(index, sample.query_vectors, dict(enumerate(sample.vectors))) >= 0.97


@pytest.mark.usefixtures("walk_only")
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_unlike_all_before_them_are_found_at_once(metric, seed):
    random = np.random.default_rng(seed)
    one = random.standard_normal(DIM).astype(np.float32)
    before = embeddings(10_000, 9)[0][:, random.permutation(DIM)] * np.float32(3) + one * np.float32(2)
    others, _ = embeddings(1000, 4)
    index = vecstore.Index(DIM, metric, quantization=None)
    index.add(before)
    index.add(others)
    found, _ = index.search(others, 1)
    assert (found[:, 0] == np.arange(10_000, 11_000)).mean() >= 0.995


@pytest.mark.usefixtures("walk_only")
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_new_codes_do_not_lead_walks_to_rows_that_are_gone(monkeypatch, metric):
    monkeypatch.setattr(hnsw, "LINK_FROM", 2000)
    rows, _ = embeddings(11_000, 2)
    stored = dict(enumerate(rows))
    index = vecstore.Index(DIM, metric, quantization=vecstore.Int8())
    index.add(rows[:1000])  # the codes are fitted on these, and anew on ten times as many
    index.add(rows[1000:9900])
    gone = np.random.default_rng(3).choice(9900, 900, replace=False)
    index.remove(gone)
    assert index.stats()["tombstones"] == 900
    fitted = index._index.structure.arrays.coder
    index.add(rows[9900:], np.arange(9900, 11_000))
    assert index._index.structure.arrays.coder != fitted
    assert index.stats()["tombstones"] == 0
    for one in gone.tolist():
        del stored[one]
    queries = embeddings(100, 3)[0]
    assert recall(index, queries, stored) >= FLOORS["int8"]
