"""The verbs of an embedded collection: what they return, what they leave, and how exact a search is."""

import threading

import numpy as np
import pytest

import vecstore
from vecstore import AlreadyExistsError, CollectionNotFoundError, InvalidArgumentError, NotFoundError

METRICS = ["cosine", "dot", "l2"]


@pytest.fixture
def docs(db):
    return db.create_collection("docs", 3)


def ids_of(hits):
    return [hit.id for hit in hits]


def test_single_forms_are_batches_of_one(docs):
    assert docs.insert("a", [1, 0, 0], {"n": 1}) == vecstore.WriteResult(1, inserted=1)
    assert docs.upsert("a", [0, 1, 0], {"n": 2}) == vecstore.WriteResult(2, updated=1)
    assert docs.update("a", [0, 0, 1]) == vecstore.WriteResult(3, updated=1)
    assert docs.update("a", payloads={"m": 3}) == vecstore.WriteResult(4, updated=1)
    found = docs.get("a", with_vectors=True)
    assert found == vecstore.Record("a", {"n": 2, "m": 3})
    assert found.vector.tolist() == [0, 0, 1]
    assert docs.delete("a") == vecstore.WriteResult(5, deleted=1)
    assert docs.get("a") is None
    assert docs.delete("a").deleted == 0


def test_numpy_ids_are_python_ints(docs):
    docs.insert(np.int64(7), [1, 0, 0])
    docs.insert(np.arange(2), np.eye(3)[:2])
    assert [type(one.id) for one in docs.scroll().records] == [int] * 3
    assert docs.get(np.int32(7)).id == 7
    docs.insert(np.array(["x", "y"]), np.eye(3)[:2])
    assert docs.get(["x", "y"]) == [vecstore.Record("x"), vecstore.Record("y")]


def test_a_numpy_int_deletes_one_row(docs):
    docs.insert([7, 8], [[1, 0, 0]] * 2)
    assert docs.delete(np.int64(7)).deleted == 1


def test_empty_batches_change_nothing_and_take_no_lsn(docs):
    docs.insert([1], [[1, 0, 0]])
    for result in (
        docs.insert([], []),
        docs.upsert([], np.empty((0, 3))),
        docs.upsert([], [], []),
        docs.update([], payloads=[]),
        docs.delete([]),
        docs.delete(["not there"]),
        docs.delete(filter={"no": "such"}),
    ):
        assert result == vecstore.WriteResult(1)
    assert docs.get([]) == []
    assert docs.search(np.empty((0, 3))) == []
    assert docs.stats().lsn == 1


def test_insert_refuses_ids_that_are_there_and_keeps_nothing_of_the_call(docs):
    docs.insert([1, 2], np.eye(3)[:2], [{"n": 1}, {"n": 2}])
    with pytest.raises(AlreadyExistsError, match=r"id 2 is there already; use upsert") as caught:
        docs.insert([3, 2], np.eye(3)[:2])
    assert caught.value.ids == [2]
    assert docs.get([1, 2, 3]) == [vecstore.Record(1, {"n": 1}), vecstore.Record(2, {"n": 2}), None]
    with pytest.raises(AlreadyExistsError) as caught:
        docs.upsert(list(range(20)), np.ones((20, 3)))
        docs.insert(list(range(20)), np.ones((20, 3)))
    assert caught.value.ids == list(range(10))


def test_upsert_replaces_rows_whole(docs):
    docs.insert([1, 2], np.eye(3)[:2], [{"n": 1}, {"n": 2}])
    assert docs.upsert([2, 3], np.eye(3)[1:]) == vecstore.WriteResult(2, inserted=1, updated=1)
    assert docs.get([1, 2, 3]) == [vecstore.Record(1, {"n": 1}), vecstore.Record(2), vecstore.Record(3)]
    assert len(docs) == docs.count() == 3


def test_update_refuses_missing_rows_and_keeps_nothing_of_the_call(docs):
    docs.insert(1, [1, 0, 0], {"n": 1})
    with pytest.raises(NotFoundError, match="id 'x' is not there; nothing was updated") as caught:
        docs.update([1, "x"], payloads=[{"n": 2}, {"n": 2}])
    assert caught.value.ids == ["x"]
    assert docs.get(1).payload == {"n": 1}


@pytest.mark.parametrize(
    ("before", "given", "merge", "after"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, True, {"a": 1, "b": {"d": 3}}),
        ({"a": 1}, {"a": None}, True, {"a": None}),
        ({"a": 1}, {}, True, {"a": 1}),
        ({"a": 1}, None, True, {"a": 1}),
        (None, {"a": 1}, True, {"a": 1}),
        (None, None, True, None),
        ({"a": 1}, {"b": 2}, False, {"b": 2}),
        ({"a": 1}, {}, False, {}),
        ({"a": 1}, None, False, None),
        ({}, {}, True, {}),
    ],
)
def test_update_of_payloads(docs, before, given, merge, after):
    docs.insert([1, 2], np.eye(3)[:2], [before, {"other": 1}])
    docs.update([1], payloads=[given], merge=merge)
    assert docs.get([1, 2]) == [vecstore.Record(1, after), vecstore.Record(2, {"other": 1})]
    docs.update([1], [[1, 1, 1]], [given], merge=merge)
    found = docs.get(1, with_vectors=True)
    assert (found.payload, found.vector.tolist()) == (after, [1, 1, 1])
    assert docs.check() == []


def test_update_of_vectors_alone_keeps_payloads(docs):
    docs.insert([1, 2], np.eye(3)[:2], [{"n": 1}, None])
    docs.update([1, 2], np.eye(3)[1:])
    assert docs.get([1, 2]) == [vecstore.Record(1, {"n": 1}), vecstore.Record(2)]
    assert ids_of(docs.search([0, 0, 1], 1)) == [2]


def test_delete_by_filter_and_by_repeated_ids(docs):
    docs.insert([1, 2, 3], np.eye(3), [{"n": 1}, {"n": 2}, None])
    assert docs.delete(filter={"n": {"$gte": 2}}).deleted == 1
    assert docs.delete([1, 1, "1"]).deleted == 1
    assert docs.delete(filter={}).deleted == 1
    assert len(docs) == 0
    assert docs.search([1, 0, 0]) == []
    assert docs.check() == []


def test_get_answers_in_the_order_asked_with_none_for_what_is_missing(docs):
    docs.insert([7, "7"], np.eye(3)[:2], [{"int": True}, {"str": True}])
    found = docs.get(["7", 8, 7, "7", "8"], with_payload=False)
    assert found == [vecstore.Record("7"), None, vecstore.Record(7), vecstore.Record("7"), None]
    assert docs.get(8) is None


def test_vectors_come_back_bit_for_bit(db):
    odd = [np.float32(-0.0), 1e-45, -1e-45, 1.17549421e-38, 3e17, np.float32(0.1), -np.pi]
    docs = db.create_collection("odd", len(odd), "dot")
    vectors = np.array([odd, odd[::-1], [0.0] * len(odd), [-0.0] * len(odd)], np.float32)
    docs.insert(range(4), vectors)
    assert np.array([one.vector for one in docs.get(range(4), with_vectors=True)]).tobytes() == vectors.tobytes()
    assert docs.scroll(with_vectors=True).records[1].vector.tobytes() == vectors[1].tobytes()
    hits = docs.search(np.ones(len(odd)), 4, with_vectors=True)
    assert sorted(hit.vector.tobytes() for hit in hits) == sorted(map(bytes, vectors))


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int8, np.uint32, list, "fortran", "strided"])
def test_any_array_of_numbers_is_taken(docs, kind):
    numbers = np.arange(1, 13).reshape(4, 3)
    if kind == "fortran":
        given = np.asfortranarray(numbers.astype(np.float32))
    elif kind == "strided":
        given = np.repeat(numbers, 2, axis=1)[:, ::2].astype(np.float32)
    else:
        given = numbers.tolist() if kind is list else numbers.astype(kind)
    docs.insert(range(4), given)
    assert np.array([one.vector for one in docs.get(range(4), with_vectors=True)]).tolist() == numbers.tolist()


def test_what_a_search_returns_is_a_copy(docs):
    docs.insert([1], [[1, 2, 3]])
    hit = docs.search([1, 2, 3], with_vectors=True)[0]
    docs.upsert([1], [[3, 2, 1]])
    assert hit.vector.tolist() == [1, 2, 3]


def test_scroll_walks_in_the_order_of_ids_ints_first(docs):
    ids = ["b", 10, "a", 2, 2**63 - 1, "é", 0]
    docs.insert(ids, np.ones((len(ids), 3)))
    seen, cursor = [], None
    while True:
        page = docs.scroll(limit=2, cursor=cursor)
        seen += ids_of(page.records)
        if page.cursor is None:
            break
        assert len(page.records) == 2
        cursor = page.cursor
    assert seen == [0, 2, 10, 2**63 - 1, "a", "b", "é"]
    assert docs.scroll(limit=7).cursor is None
    assert docs.scroll(limit=6).cursor is not None


def test_scroll_meets_untouched_rows_once_while_others_are_written(docs, rows):
    docs.insert(range(0, 200, 2), rows(100, 3), [{"even": True}] * 100)
    seen, cursor, odd = [], None, 3
    while True:
        page = docs.scroll(limit=7, cursor=cursor)
        seen += [one.id for one in page.records if one.id % 2 == 0 and one.id < 150]
        cursor = page.cursor
        if cursor is None:
            break
        docs.upsert([odd, 200 - odd], rows(2, 3, odd))
        docs.delete([odd - 2, *range(150, 150 + odd, 2)])
        odd += 2
    assert seen == list(range(0, 150, 2))


def test_scroll_with_filter_and_a_cursor_whose_row_was_deleted(docs):
    docs.insert(range(6), np.ones((6, 3)), [{"n": n % 2} for n in range(6)])
    page = docs.scroll(filter={"n": 1}, limit=2, with_payload=False)
    assert page.records == [vecstore.Record(1), vecstore.Record(3)]
    docs.delete([3])
    rest = docs.scroll(filter={"n": 1}, limit=2, cursor=page.cursor)
    assert rest == ([vecstore.Record(5, {"n": 1})], None)
    assert docs.scroll(filter={"n": 7}) == ([], None)


def test_filters_narrow_search_count_and_threshold(docs):
    docs.insert(range(4), [[1, 0, 0], [1, 1, 0], [0, 1, 0], [-1, 0, 0]], [{"n": n} for n in range(3)] + [None])
    assert ids_of(docs.search([1, 0, 0], filter={"n": {"$gte": 1}})) == [1, 2]
    assert ids_of(docs.search([1, 0, 0], filter={"n": None})) == [3]
    assert ids_of(docs.search([1, 0, 0], score_threshold=0.5)) == [0, 1]
    assert ids_of(docs.search([1, 0, 0], score_threshold=0, filter={"n": 2})) == [2]
    assert (docs.count(), docs.count({"n": {"$lt": 2}}), docs.count({})) == (4, 2, 4)
    bare = docs.search([1, 0, 0], 1, with_payload=False)[0]
    assert (bare.payload, bare.vector) == (None, None)


@pytest.mark.parametrize("metric", METRICS)
def test_a_threshold_that_is_a_score_keeps_that_row(db, rows, metric):
    docs = db.create_collection("docs", 8, metric)
    docs.insert(range(100), rows(100))
    for query in rows(8, seed=1):
        hits = docs.search(query, 20)
        assert docs.search(query, 100, score_threshold=hits[-1].score) == hits
    batch = docs.search(rows(8, seed=1), 100, score_threshold=hits[-1].score)
    assert batch[-1] == hits


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 3, 64, 100, 384])
def test_searches_agree_with_brute_force_in_float64(db, rows, true_scores, metric, dim):
    docs = db.create_collection("docs", dim, metric)
    vectors, queries = rows(500, dim), rows(6, dim, 1)
    docs.insert(range(500), vectors)
    docs.delete(range(0, 500, 7))
    live = np.array([n for n in range(500) if n % 7])
    for query, hits in zip(queries, docs.search(queries, 20), strict=True):
        expected = true_scores(metric, query, vectors)
        got = np.array([hit.score for hit in hits])
        np.testing.assert_allclose(got, expected[ids_of(hits)], rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(got, np.sort(expected[live])[::-1][:20], rtol=2e-5, atol=2e-5)
        assert list(got) == sorted(got, reverse=True)
        assert not {n for n in ids_of(hits) if n % 7 == 0}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("norm", [1e-10, 1e-5, 1, 1e5, 1e10])
def test_scores_hold_at_any_norm(db, rows, true_scores, metric, norm):
    docs = db.create_collection("docs", 32, metric)
    vectors = rows(200, 32) * np.float32(norm)
    docs.insert(range(200), vectors)
    for query in (rows(1, 32, 1)[0] * np.float32(norm), vectors[3]):
        expected = true_scores(metric, query, vectors)
        hits = docs.search(query, 10)
        scale = np.abs(expected).max()
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1][:10], atol=scale * 1e-5)
        assert metric == "dot" or docs.search(vectors[3], 1)[0].id == 3


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("batch", [False, True])
def test_neighbours_are_right_where_data_lies_far_from_the_origin(db, rows, true_scores, metric, batch):
    docs = db.create_collection("docs", 32, metric)
    vectors, queries = rows(300, 32) + np.float32(1000), rows(5, 32, 1) + np.float32(1000)
    docs.insert(range(300), vectors)
    found = docs.search(queries, 10) if batch else [docs.search(query, 10) for query in queries]
    for query, hits in zip(queries, found, strict=True):
        expected = true_scores(metric, query, vectors)
        tolerance = 1e-3 if metric == "l2" else 1e-6
        np.testing.assert_allclose([hit.score for hit in hits], expected[ids_of(hits)], atol=tolerance)
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1][:10], atol=tolerance)


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_of_queries_gives_what_each_alone_gives(db, rows, metric):
    docs = db.create_collection("docs", 24, metric)
    docs.insert(range(1000), rows(1000, 24), [{"n": n % 3} for n in range(1000)])
    for n in (1, 2, 3, 4, 33, 300):
        queries = rows(n, 24, n)
        assert docs.search(queries, 5) == [docs.search(query, 5) for query in queries]
    queries, options = rows(9, 24, 1), {"filter": {"n": 1}, "with_payload": False}
    assert docs.search(queries, 5, **options) == [docs.search(query, 5, **options) for query in queries]


def test_fewer_hits_than_k_only_where_fewer_rows_match(docs):
    assert docs.search([1, 0, 0], 10_000) == []
    assert docs.search([[1, 0, 0]] * 5, 3) == [[]] * 5
    docs.insert(range(4), np.eye(4, 3) + 1)
    assert len(docs.search([1, 0, 0], 10_000)) == 4
    assert [len(hits) for hits in docs.search([[1, 0, 0]] * 5, 9)] == [4] * 5
    assert len(docs.search([1, 0, 0], 3)) == 3


@pytest.mark.parametrize("queries", [1, 6])
def test_equal_rows_are_all_found(db, queries):
    docs = db.create_collection("docs", 4, "l2")
    docs.insert(range(100), np.ones((100, 4)))
    for hits in docs.search(np.ones((queries, 4)), 100):
        assert sorted(ids_of(hits)) == list(range(100))
        assert {hit.score for hit in hits} == {0.0}


def test_writes_of_many_threads_are_each_whole(docs, rows):
    def write(n):
        for i in range(20):
            docs.upsert([f"{n}-{i}-{j}" for j in range(3)], rows(3, 3, n))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(docs), docs.stats().lsn, docs.check()) == (240, 80, [])


# -- the database ------------------------------------------------------------------------------------------------


def test_exist_ok_returns_what_was_created_alike(db):
    first = db.create_collection("docs", 3, "l2")
    first.insert(1, [1, 2, 3])
    assert len(db.create_collection("docs", 3, "l2", exist_ok=True)) == 1
    with pytest.raises(AlreadyExistsError, match="exist_ok=True"):
        db.create_collection("docs", 3, "l2")
    with pytest.raises(AlreadyExistsError, match="created otherwise"):
        db.create_collection("docs", 4, "l2", exist_ok=True)
    with pytest.raises(AlreadyExistsError, match="created otherwise") as caught:
        db.create_collection("docs", 3, exist_ok=True)
    assert caught.value.name == "docs"


@pytest.mark.parametrize("exist_ok", [False, True])
def test_names_that_differ_in_case_only_are_refused(db, exist_ok):
    db.create_collection("Docs", 3)
    with pytest.raises(AlreadyExistsError, match=r"differs .* only in case") as caught:
        db.create_collection("docs", 3, exist_ok=exist_ok)
    assert caught.value.name == "Docs"
    assert db.list_collections() == ["Docs"]


def test_missing_collections_are_named_with_those_that_are_there(db):
    with pytest.raises(CollectionNotFoundError, match="there are none yet"):
        db.get_collection("docs")
    db.create_collection("other", 3)
    with pytest.raises(CollectionNotFoundError, match=r'no collection "docs" in .*; there are other') as caught:
        db.drop_collection("docs")
    assert caught.value.name == "docs"


def test_a_dropped_collection_is_gone_and_its_name_is_free(db):
    docs = db.create_collection("docs", 3)
    docs.insert(1, [1, 0, 0])
    db.drop_collection("docs")
    for call in (docs.count, docs.check, lambda: docs.insert(2, [1, 0, 0])):
        with pytest.raises(CollectionNotFoundError, match="was dropped"):
            call()
    docs.close()
    assert db.list_collections() == []
    assert db.create_collection("docs", 5, "dot").count() == 0


def test_leftovers_of_a_killed_create_or_drop_are_removed_by_the_next_writer(tmp_path):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", 3).insert(1, [1, 0, 0])
        db.create_collection("gone", 3)
    (tmp_path / "collections" / "gone").rename(tmp_path / "collections" / ".gone-0123abcd")
    (tmp_path / "collections" / ".half-89abcdef").mkdir()
    with vecstore.open(tmp_path, read_only=True) as db:
        assert db.list_collections() == ["docs"]
    with vecstore.open(tmp_path) as db:
        assert db.list_collections() == ["docs"]
        assert len(db.get_collection("docs")) == 1
    assert [entry.name for entry in (tmp_path / "collections").iterdir()] == ["docs"]


def test_what_was_closed_says_so(tmp_path):
    with vecstore.open(tmp_path) as db:
        docs, other = db.create_collection("docs", 3), db.create_collection("other", 3)
        docs.close()
        docs.close()
        with pytest.raises(vecstore.ClosedError, match='"docs" is closed'):
            docs.count()
        assert db.get_collection("docs").count() == 0
        assert other.count() == 0
    db.close()
    for call in (other.stats, db.list_collections, lambda: db.get_collection("docs"), lambda: other.delete(1)):
        with pytest.raises(vecstore.ClosedError, match="is closed"):
            call()


def test_read_only_refuses_every_write(tmp_path):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", 3).insert(1, [1, 0, 0])
    with vecstore.open(tmp_path, read_only=True) as db:
        docs = db.get_collection("docs")
        for call in (
            lambda: docs.insert(2, [1, 0, 0]),
            lambda: docs.delete(filter={}),
            lambda: docs.update(1, payloads={}),
            lambda: db.create_collection("x", 3),
            lambda: db.drop_collection("docs"),
        ):
            with pytest.raises(vecstore.ReadOnlyError, match="read_only=True"):
                call()
        assert len(docs) == 1


def test_everything_is_there_after_reopening(tmp_path, rows):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 8, "l2")
        docs.insert(range(100), rows(100), [{"n": n} for n in range(100)])
        docs.delete(range(50))
        before, hits = docs.scroll(with_vectors=True), docs.search(rows(1)[0], 5)
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        assert (docs.dim, docs.metric, docs.name) == (8, "l2", "docs")
        assert docs.scroll(with_vectors=True) == before
        assert docs.search(rows(1)[0], 5) == hits
        assert docs.upsert(1, rows(1)[0]).lsn == 3


def test_an_int_of_a_bool_is_no_id(docs):
    with pytest.raises(InvalidArgumentError, match="expected int or str, got bool True"):
        docs.get(True)
