"""Recall of each kind of search on seeded data that resembles embeddings, against exact scores in float64."""

import numpy as np
import pytest

import vecstore

DIM, COUNT, QUERIES, K = 256, 2400, 50, 10
KINDS = [vecstore.Int8(), vecstore.Int4(), vecstore.Binary()]
FLOORS = {vecstore.Int8: 0.995, vecstore.Int4: 0.98, vecstore.Binary: 0.90}
METRICS = ["cosine", "dot", "l2"]


def embeddings(n, seed):
    """`(n, DIM) float32`: 40 directions of falling weight, clusters, noise, and norms that differ."""
    axes = np.random.default_rng(0).standard_normal((40, DIM)) / np.sqrt(np.arange(1, 41))[:, None]
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((50, 40))
    some = centres[random.integers(0, 50, n)] + 0.7 * random.standard_normal((n, 40))
    rows = some @ axes + 0.2 * random.standard_normal((n, DIM)) + 0.3
    return (rows * random.uniform(0.8, 1.2, (n, 1))).astype(np.float32)


def recall(docs, queries, stored, true_scores, **options):
    """The share of the true K best that are found; `stored` is the rows by id."""
    ids = list(stored)
    matrix = np.array([stored[one] for one in ids])
    shared = 0
    for query, hits in zip(queries, docs.search(queries, K, **options), strict=True):
        assert len(hits) == K
        scores = true_scores(docs.metric, query, matrix)
        best = {ids[i] for i in np.argsort(-scores, kind="stable")[:K]}
        shared += len(best & {hit.id for hit in hits})
    return shared / (K * len(queries))


@pytest.mark.parametrize("metric", METRICS)
def test_flat_search_finds_all(db, true_scores, metric):
    rows = embeddings(COUNT, 2)
    docs = db.create_collection("docs", DIM, metric, index=vecstore.Flat())
    docs.insert(range(COUNT), rows)
    assert recall(docs, embeddings(QUERIES, 3), dict(enumerate(rows)), true_scores) >= 0.999  # ties in float32


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_floors_hold_from_the_first_row_to_the_last_of_a_churn(db, true_scores, metric, kind):
    queries = embeddings(QUERIES, 3)
    stored = dict(enumerate(embeddings(COUNT, 2)))
    docs = db.create_collection("docs", DIM, metric, index=vecstore.Flat(), quantization=kind)
    docs.insert(list(stored), np.array(list(stored.values())))
    floor = FLOORS[type(kind)]
    assert recall(docs, queries, stored, true_scores) >= floor
    random = np.random.default_rng(4)
    for step in range(3):
        gone = random.choice(list(stored), COUNT // 4, replace=False).tolist()
        docs.delete(gone)
        for one in gone:
            del stored[one]
        new = dict(zip(range(10_000 * (step + 1), 10_000 * (step + 1) + COUNT // 4), embeddings(COUNT // 4, 10 + step),
                       strict=True))  # fmt: skip
        moved = random.choice(list(stored), COUNT // 8, replace=False).tolist()
        new |= dict(zip(moved, embeddings(COUNT // 8, 20 + step), strict=True))
        docs.upsert(list(new), np.array(list(new.values())))
        stored |= new
    assert len(docs) == len(stored) == COUNT
    assert recall(docs, queries, stored, true_scores) >= floor
    assert recall(docs, queries, stored, true_scores, exact=True) >= 0.999
    some = random.choice(list(stored), 200, replace=False).tolist()
    if metric != "dot":  # under dot a longer row may be nearer than the row itself
        found = docs.search(np.array([stored[one] for one in some]), 1)
        assert [hits[0].id for hits in found] == some
