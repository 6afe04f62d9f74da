"""The verbs of an embedded collection: what they return and what they leave."""

import threading

import numpy as np
import pytest

import vecstore
from vecstore import AlreadyExistsError, CollectionNotFoundError, InvalidArgumentError, NotFoundError


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
