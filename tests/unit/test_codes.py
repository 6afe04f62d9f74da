"""Searches of quantized collections: near the exact answer, exact on demand, and never behind the writes."""

import numpy as np
import pytest

import vecstore
from vecstore.demo import load_sample
from vecstore.index import codes

FLAT = vecstore.Flat()
KINDS = [vecstore.Int8(), vecstore.Int4(), vecstore.Binary()]
FLOORS = {vecstore.Int8: 0.998, vecstore.Int4: 0.99, vecstore.Binary: 0.97}


@pytest.fixture(scope="module")
def sample():
    return load_sample()


@pytest.fixture
def collection(db, sample):
    """`collection(quantization, metric)`: the sample's rows."""

    def make(quantization, metric="cosine", count=5000):
        rows = db.create_collection("rows", 384, metric, index=FLAT, quantization=quantization)
        rows.insert(sample.ids[:count], sample.vectors[:count], sample.payloads[:count])
        return rows

    return make


def ids(found):
    return [[hit.id for hit in hits] for hits in found]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_recall_against_the_exact_scan_and_scores_are_exact(collection, sample, kind, metric):
    rows = collection(kind, metric)
    near, exact = rows.search(sample.query_vectors), rows.search(sample.query_vectors, exact=True)
    shared = sum(len(set(a) & set(b)) for a, b in zip(ids(near), ids(exact), strict=True))
    assert shared / (10 * len(exact)) >= FLOORS[type(kind)]
    true = {hit.id: hit.score for hit in exact[0]}
    assert all(hit.score == true[hit.id] for hit in near[0] if hit.id in true)
    assert rows.stats().code_bytes > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_one_query_finds_what_it_finds_in_a_batch(collection, sample, kind):
    rows = collection(kind)
    batch = rows.search(sample.query_vectors[:20])
    assert [rows.search(query) for query in sample.query_vectors[:20]] == batch


def test_every_write_is_in_the_next_search(collection, sample):
    rows = collection(vecstore.Int4())
    query = sample.query_vectors[0]
    first = rows.search(query, k=1)[0]
    rows.insert("new", query)
    assert rows.search(query, k=1)[0].id == "new"
    rows.upsert("new", -query)
    assert rows.search(query, k=1)[0] == first
    rows.delete(first.id)
    assert first.id not in ids([rows.search(query)])[0]
    for i in range(300):  # through reused slots
        rows.upsert("moving", sample.vectors[i] + 0.01)
    assert rows.search(sample.vectors[299] + 0.01, k=1)[0].id == "moving"
    rows.delete(filter={})
    assert rows.search(query) == []


def test_a_reopened_collection_and_a_reader_know_how_it_was_created(tmp_path, sample):
    with vecstore.open(tmp_path / "d") as db:
        rows = db.create_collection("rows", 384, index=FLAT, quantization=vecstore.Binary())
        rows.insert(sample.ids, sample.vectors)
        before = rows.search(sample.query_vectors)
        with vecstore.open(tmp_path / "d", read_only=True) as reader:
            assert reader.get_collection("rows").search(sample.query_vectors) == before
    with vecstore.open(tmp_path / "d") as db:
        rows = db.get_collection("rows")
        assert rows.info.quantization == vecstore.Binary()
        assert rows.search(sample.query_vectors) == before


def test_with_few_rows_the_search_is_exact_and_codes_come_with_more(db, sample):
    rows = db.create_collection("rows", 384, index=FLAT, quantization=vecstore.Binary())
    for count in (1, codes.MIN_ROWS - 1, codes.MIN_ROWS, 3000):
        rows.upsert(sample.ids[:count], sample.vectors[:count])
        near, exact = rows.search(sample.query_vectors, k=5), rows.search(sample.query_vectors, k=5, exact=True)
        assert (rows.stats().code_bytes > 0) == (count >= codes.MIN_ROWS)
        if count < codes.MIN_ROWS:
            assert near == exact
        assert ids([rows.search(sample.vectors[count - 1], k=1)]) == [[sample.ids[count - 1]]]


def test_a_quantizer_is_fitted_anew_when_the_collection_has_outgrown_it(db, sample, monkeypatch):
    monkeypatch.setattr(codes, "REFIT", 2)
    rows = db.create_collection("rows", 384, index=FLAT, quantization=vecstore.Int8())
    fitted = set()
    for count in (1000, 1500, 2500, 5000):
        rows.upsert(sample.ids[:count], sample.vectors[:count])
        rows.search(sample.query_vectors[0])
        fitted.add(rows._codes._fitted.rows)
    assert fitted == {1000, 2500}
    rows.delete(sample.ids[1000:])
    rows.search(sample.query_vectors[0])
    assert rows._codes._fitted.rows == 2500  # not for the slots that were left behind


def test_when_the_log_does_not_reach_back_all_rows_are_coded_again(collection, sample, monkeypatch):
    monkeypatch.setattr("vecstore.storage.log.KEEP", 4)
    monkeypatch.setattr("vecstore.storage.log.TRIM_AT_ONCE", 2)
    rows = collection(vecstore.Int8(), count=2000)
    rows.search(sample.query_vectors[0])
    for i in range(2000, 2050):
        rows.insert(sample.ids[i], sample.vectors[i])
    assert ids(rows.search(sample.vectors[2000:2050], k=1)) == [[one] for one in sample.ids[2000:2050]]


def test_filters_and_thresholds_hold(collection, sample):
    rows = collection(vecstore.Int4())
    query = sample.query_vectors[3]
    found = rows.search(query, k=20, filter={"pos": "verb"}, score_threshold=0.2)
    exact = rows.search(query, k=20, filter={"pos": "verb"}, score_threshold=0.2, exact=True)
    assert found == exact
    assert found and all(hit.payload["pos"] == "verb" and hit.score >= 0.2 for hit in found)


def test_more_oversampling_finds_more(collection, sample):
    rows = collection(vecstore.Binary())
    exact = ids(rows.search(sample.query_vectors, exact=True))

    def recall(oversampling):
        near = ids(rows.search(sample.query_vectors, oversampling=oversampling))
        return sum(len(set(a) & set(b)) for a, b in zip(near, exact, strict=True))

    assert recall(1) < recall(3) <= recall(30)


@pytest.mark.parametrize(("options", "words"), [
    ({"oversampling": 2}, ["no quantization"]),
    ({"oversampling": 2, "exact": True}, ["exact=True"]),
])  # fmt: skip
@pytest.mark.parametrize(("index", "quantization"), [(FLAT, "auto"), (FLAT, None), (vecstore.HNSW(), None)])
def test_oversampling_without_effect_is_refused(db, options, words, index, quantization):
    rows = db.create_collection("plain", 2, index=index, quantization=quantization)
    with pytest.raises(vecstore.InvalidArgumentError) as error:
        rows.search([1, 0], **options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("value", ["int8", "none", vecstore.Int8, vecstore.Flat(), 8, False])
def test_an_unknown_quantization_is_refused(db, value):
    with pytest.raises(vecstore.InvalidArgumentError, match="quantization"):
        db.create_collection("rows", 2, quantization=value)
    assert db.list_collections() == []


def test_degenerate_rows_are_found(db):
    rows = db.create_collection("rows", 8, "l2", index=FLAT, quantization=vecstore.Int8())
    same = np.ones((3000, 8), np.float32)
    rows.insert(range(3000), same)
    rows.insert(3000, np.zeros(8))
    rows.insert(3001, np.full(8, 1e6))
    assert rows.search(np.zeros(8), k=1)[0].id == 3000
    assert rows.search(np.full(8, 1e6), k=1)[0].id == 3001
    assert len(rows.search(np.ones(8), k=50)) == 50
