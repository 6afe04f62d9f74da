"""The door of a collection's verbs: what each refuses, what the refusal says, and that nothing is changed by it."""

import datetime

import msgpack
import numpy as np
import pytest

import vecstore
from tests.refusals import refused
from vecstore import DimensionMismatchError, arguments
from vecstore.payloads import pack_payload, unpack_payload

NAN, INF = float("nan"), float("inf")
ROW = [1.0, 0.0, 0.0]
DEEP = {"a": None}
for _ in range(70):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize("verb", ["insert", "upsert", "update"])
@pytest.mark.parametrize(
    ("ids", "vectors", "payloads", "parts"),
    [
        (-1, ROW, None, ["between 0 and 2^63 - 1", "-1"]),
        (2**63, ROW, None, ["between 0 and 2^63 - 1", str(2**63)]),
        ([1, 2**63], [ROW] * 2, None, ["between 0 and 2^63 - 1"]),
        (True, ROW, None, ["expected int or str", "bool True"]),
        ([1.0], [ROW], None, ["expected int or str", "float 1.0"]),
        ([None], [ROW], None, ["expected int or str", "NoneType None"]),
        ([b"a"], [ROW], None, ["expected int or str", "bytes b'a'"]),
        (b"ab", [ROW] * 2, None, ["expected a list of int or str", "bytes b'ab'"]),
        (None, [ROW], None, ["expected a list of int or str", "NoneType None"]),
        (1.5, ROW, None, ["expected a list of int or str", "float 1.5"]),
        ("", ROW, None, ["1 to 480 bytes", "got 0"]),
        ("x" * 481, ROW, None, ["1 to 480 bytes", "got 481"]),
        (["é" * 241], [ROW], None, ["1 to 480 bytes", "got 482"]),
        ("\ud800", ROW, None, ["not valid Unicode"]),
        ([1, "a", 1], [ROW] * 3, None, ["1 appears twice", "rows 0 and 2"]),
        (["a", np.str_("a")], [ROW] * 2, None, ["'a' appears twice", "rows 0 and 1"]),
        ([1, 2], [ROW], None, ["one row for each of 2 ids", "got 1"]),
        ([1], [], None, ["expected shape (1, 3)", "(0,)"]),
        ([1], ROW, None, ["expected shape (1, 3)", "(3,)"]),
        (1, [ROW], None, ["expected shape (1, 3)", "(1, 1, 3)"]),
        (1, 5.0, None, ["expected shape (1, 3)"]),
        ([1, 2], [ROW, [1.0]], None, ["rows of numbers of one length"]),
        ([1], [["a", "b", "c"]], None, ["expected numbers", "array of <U1"]),
        ([1], [[True, False, True]], None, ["expected numbers", "bool"]),
        ([1], [[1j, 0, 0]], None, ["expected numbers", "complex"]),
        ([1], [[None, 0, 0]], None, ["expected numbers", "object"]),
        ([5, 6], [ROW, [0, NAN, 0]], None, ["row 1 holds nan at dimension 1"]),
        ([5, 6], [ROW, [0, 0, -INF]], None, ["row 1 holds -inf at dimension 2"]),
        ([5], [[0, 1e300, 0]], None, ["row 0 holds inf at dimension 1"]),
        ([5], [[1.1e18, 0, 0]], None, ["row 0 has norm 1.1e+18", "less than 1e+18"]),
        ([5], [[1e38, 1e38, 0]], None, ["row 0 has norm 1.41e+38"]),
        ([5, 6], [ROW, [0, 0, 0]], None, ["row 1 is a zero vector", "no direction under cosine"]),
        ([5], [[0, 1e-20, 0]], None, ["row 0 has norm 1e-20", "no direction under cosine"]),
        ([1], [ROW], {"n": 1}, ["expected a list of 1 dicts", "dict {'n': 1}"]),
        ([1], [ROW], "x", ["expected a list of 1 dicts", "str 'x'"]),
        ([1], [ROW], 5, ["expected a list of 1 dicts", "int 5"]),
        ([1, 2], [ROW] * 2, [{}], ["one for each of 2 ids", "got 1"]),
        ([1, 2], [ROW] * 2, [{}, 5], ["row 1", "expected a dict or None", "int 5"]),
        (1, ROW, [{"n": 1}], ["row 0", "expected a dict or None", "list"]),
        ([1], [ROW], [{1: 2}], ["row 0", "keys of a payload are str", "int 1"]),
        ([1], [ROW], [{"a": [{"b": {None: 2}}]}], ["row 0", "keys of a payload are str"]),
        ([1], [ROW], [{"a": datetime.date(2020, 1, 1)}], ["cannot store date", "ISO 8601"]),
        ([1], [ROW], [{"a": {1, 2}}], ["cannot store set"]),
        ([1], [ROW], [{"a": np.zeros(2)}], ["cannot store ndarray"]),
        ([1, 2], [ROW] * 2, [{"a": 1}, {"a": 2**64}], ["row 1"]),
        ([1], [ROW], [{"a": "\ud800"}], ["row 0"]),
        ([1], [ROW], [DEEP], ["row 0", "more than 64 levels"]),
        ([1], [ROW], [{"a": msgpack.Timestamp(1)}], ["row 0", "cannot store Timestamp"]),
        ([1], [ROW], [{"a": [msgpack.ExtType(1, b"")]}], ["row 0", "cannot store ExtType"]),
    ],
)
def test_rows_that_are_refused(docs, verb, ids, vectors, payloads, parts):
    refused(lambda: getattr(docs, verb)(ids, vectors, payloads), *parts)


@pytest.mark.parametrize("verb", ["insert", "upsert", "update"])
def test_a_wrong_dimension_is_an_error_of_its_own(docs, verb):
    for ids, vectors in ((1, [1, 2]), ([1, 2], np.ones((2, 2)))):
        error = refused(
            lambda: getattr(docs, verb)(ids, vectors),  # noqa: B023
            "this collection holds 3 dimensions, got 2",
            error=DimensionMismatchError,
        )
        assert (error.expected, error.received) == (3, 2)


def test_calls_that_lack_something(docs):
    refused(lambda: docs.insert(1, None), "vectors", "expected one for each id, got None")
    refused(lambda: docs.upsert(1, None), "vectors", "expected one for each id, got None")
    refused(lambda: docs.update(1), "update() needs vectors, payloads or both")
    refused(lambda: docs.update(1, ROW, merge=False), "merge=False has no effect without payloads")
    refused(lambda: docs.update(1, payloads={}, merge="no"), "merge: expected True or False, got str 'no'")
    refused(docs.delete, "delete() takes either ids or filter")
    refused(lambda: docs.delete(1, filter={}), "delete() takes either ids or filter")


@pytest.mark.parametrize("read", ["get", "delete"])
@pytest.mark.parametrize("ids", [[-1], 2.5, [1, None], "", b"x", True, [""]])
def test_ids_that_are_refused(docs, read, ids):
    refused(lambda: getattr(docs, read)(ids), "id")


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ([0, 0, 0], ["query: row 0 is a zero vector"]),
        ([ROW, [NAN, 0, 0]], ["query: row 1 holds nan at dimension 0"]),
        ("abc", ["query: expected numbers"]),
        (5, ["query: expected shape (3,) or (n, 3), got ()"]),
        (np.ones((1, 1, 3)), ["query: expected shape (3,) or (n, 3), got (1, 1, 3)"]),
        ([ROW, [1]], ["query: expected rows of numbers of one length"]),
        (None, ["query: expected numbers"]),
    ],
)
def test_queries_that_are_refused(docs, query, parts):
    refused(lambda: docs.search(query), *parts)


@pytest.mark.parametrize("query", [[1, 2], [[1, 2]], []])
def test_queries_of_another_dimension(docs, query):
    refused(lambda: docs.search(query), "query: this collection holds 3 dimensions", error=DimensionMismatchError)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"k": 0}, ["k: lies between 1 and 10000, got 0"]),
        ({"k": 10_001}, ["k: lies between 1 and 10000, got 10001"]),
        ({"k": 2.0}, ["k: expected a whole number from 1 to 10000, got float 2.0"]),
        ({"k": True}, ["k: expected a whole number", "bool True"]),
        ({"k": None}, ["k: expected a whole number", "NoneType None"]),
        ({"filter": "n = 1"}, ["filter: expected a dict", "'n = 1'"]),
        ({"filter": {"n": {"$gte": None}}}, ["n: $gte takes a number or a str, got None"]),
        ({"score_threshold": "x"}, ["score_threshold: expected a number, got str 'x'"]),
        ({"score_threshold": NAN}, ["score_threshold: expected a number, got float nan"]),
        ({"score_threshold": True}, ["score_threshold: expected a number, got bool True"]),
        ({"ef": 0}, ["ef: lies between 1 and 10000, got 0"]),
        ({"ef": 10_001}, ["ef: lies between 1 and 10000, got 10001"]),
        ({"ef": 64.0}, ["ef: expected a whole number from 1 to 10000, got float 64.0"]),
        ({"ef": True}, ["ef: expected a whole number", "bool True"]),
        ({"ef": "64"}, ["ef: expected a whole number", "str '64'"]),
        ({"ef": 64, "exact": True}, ["ef has no effect: exact=True scans the rows; leave it out"]),
        ({"ef": 0, "exact": True}, ["ef has no effect: exact=True"]),
        ({"oversampling": 0.5}, ["oversampling: expected a number from 1 to 1000, got float 0.5"]),
        ({"oversampling": NAN}, ["oversampling: expected a number from 1 to 1000, got float nan"]),
        ({"oversampling": 1001}, ["oversampling: expected a number from 1 to 1000, got int 1001"]),
        ({"oversampling": True}, ["oversampling: expected a number from 1 to 1000, got bool True"]),
        ({"oversampling": 2, "exact": True}, ["oversampling has no effect: exact=True rescores nothing"]),
        ({"exact": 1}, ["exact: expected True or False, got int 1"]),
        ({"with_payload": 1}, ["with_payload: expected True or False, got int 1"]),
        ({"with_vectors": "yes"}, ["with_vectors: expected True or False, got str 'yes'"]),
    ],
)
def test_search_options_that_are_refused(docs, options, parts):
    refused(lambda: docs.search(ROW, **options), *parts)


@pytest.mark.parametrize("quantization", [None, vecstore.Int8()])
def test_ef_is_refused_where_there_is_no_graph(tmp_path, quantization):
    with vecstore.open(tmp_path) as db:
        flat = db.create_collection("flat", 3, index=vecstore.Flat(), quantization=quantization)
        refused(lambda: flat.search(ROW, ef=64), "ef has no effect: this collection has no graph, its index is Flat()")
        assert flat.search(ROW, ef=None) == []


@pytest.mark.parametrize("ef", [1, 5, 10_000, np.int64(64), None])
def test_ef_finds_k_rows_however_small_it_is(docs, ef):
    assert [hit.id for hit in docs.search(ROW, 2, ef=ef)] == [1, "a"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"limit": 0}, ["limit: lies between 1 and 10000, got 0"]),
        ({"limit": "5"}, ["limit: expected a whole number", "str '5'"]),
        ({"cursor": 5}, ["cursor: expected one that scroll() returned, got 5"]),
        ({"cursor": "!"}, ["cursor: expected one that scroll() returned, got '!'"]),
        ({"cursor": "é"}, ["cursor: expected one that scroll() returned"]),
        ({"cursor": ""}, ["cursor: expected one that scroll() returned"]),
        ({"filter": []}, ["filter: expected a dict"]),
        ({"with_vectors": None}, ["with_vectors: expected True or False"]),
    ],
)
def test_scroll_options_that_are_refused(docs, options, parts):
    refused(lambda: docs.scroll(**options), *parts)


@pytest.mark.parametrize("timeout", [-0.1, 1_000_001, NAN, INF, "1", True, [1]])
def test_timeouts_that_are_refused(docs, timeout):
    words = f"timeout: expected a number from 0 to 1000000, got {type(timeout).__name__}"
    refused(lambda: docs.wait_indexed(timeout), words)


@pytest.mark.parametrize(
    ("seed", "words"),
    [(-1, "seed: lies between 0 and 2147483647, got -1"), (2**31, "seed: lies between 0 and 2147483647, got"),
     (1.0, "seed: expected a whole number"), ("1", "seed: expected a whole number"), (False, "seed: expected a whole")],
)  # fmt: skip
def test_seeds_that_are_refused(docs, seed, words):
    refused(lambda: docs.rebuild(seed=seed), words)


def test_a_rebuild_is_refused_only_where_there_is_nothing_to_build(tmp_path):
    with vecstore.open(tmp_path) as db:
        flat = db.create_collection("flat", 3, index=vecstore.Flat())
        for options in ({}, {"seed": 1}):
            refused(lambda: flat.rebuild(**options), "rebuild() has no effect: this collection has neither")  # noqa: B023
        for name, options in {
            "codes": {"index": vecstore.Flat(), "quantization": vecstore.Int8()},
            "graph": {"quantization": None},
            "both": {},
        }.items():
            made = db.create_collection(name, 3, **options)
            assert made.rebuild() is None and made.rebuild(seed=2**31 - 1) is None
            assert made.wait_indexed() is None and made.wait_indexed(0) is None
        assert flat.wait_indexed(timeout=np.float32(1.5)) is None


def test_other_options_that_are_refused(docs):
    refused(lambda: docs.get(1, with_payload="x"), "with_payload: expected True or False")
    refused(lambda: docs.count({"$where": 1}), "no operator $where")
    refused(lambda: docs.delete(filter=5), "filter: expected a dict")


def test_what_is_taken_at_the_edges(docs):
    assert arguments.id_list([0, 2**63 - 1, "x" * 480, "é" * 240]) == [0, 2**63 - 1, "x" * 480, "é" * 240]
    assert arguments.id_list(iter("ab")) == ["a", "b"]
    assert arguments.rows([1], [[0, 0]], None, 2, "l2").norms.tolist() == [0]
    assert arguments.whole_number(np.int8(3), "k", 1, 3) == 3
    assert arguments.threshold(np.float32(0.5)) == 0.5
    packed = pack_payload({"a": np.int64(1), "b": (1, np.float32(0.5)), "c": np.bool_(True), "d": b"x"})
    assert unpack_payload(packed) == {"a": 1, "b": [1, 0.5], "c": True, "d": b"x"}


def test_anything_with_array_or_dlpack_is_taken(docs):
    class Arrays:
        def __array__(self, dtype=None, copy=None):
            return np.eye(3, dtype=dtype)

    class Capsules:
        def __dlpack__(self, **options):
            return np.eye(3, dtype=np.float32).__dlpack__(**options)

        def __dlpack_device__(self):
            return 1, 0

    for like in (Arrays(), Capsules()):
        assert (arguments.as_floats(like, "x") == np.eye(3)).all()
