"""The smallest sequences that once gave something else than the model."""

import base64

import numpy as np
import pytest

import vecstore


@pytest.fixture
def database(tmp_path):
    with vecstore.open(tmp_path / "db") as opened:
        yield opened


def test_a_reader_in_the_same_process_finds_a_collection_created_anew_after_a_drop(database):
    database.create_collection("rows", 2)
    with vecstore.open(database.path, read_only=True) as reader:
        assert len(reader.get_collection("rows")) == 0
        database.drop_collection("rows")
        database.create_collection("rows", 2).insert(1, [1, 2])
        assert len(reader.get_collection("rows")) == 1


@pytest.mark.parametrize(("threshold", "hits"), [(1e300, 0), (-1e300, 1)])
def test_a_score_threshold_may_lie_beyond_float32(database, threshold, hits):
    collection = database.create_collection("rows", 2)
    collection.insert(1, [1, 2])
    assert len(collection.search([1, 2], score_threshold=threshold)) == hits


@pytest.mark.parametrize("key", [b"\x01", b"\x01" + bytes(9), b"\x02\xff", b"\x03a", b""])
def test_a_damaged_cursor_is_an_invalid_argument(database, key):
    collection = database.create_collection("rows", 2)
    with pytest.raises(vecstore.InvalidArgumentError, match="cursor"):
        collection.scroll(cursor=base64.urlsafe_b64encode(key).decode())


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_search_for_no_queries_gives_no_answers(database, metric):
    collection = database.create_collection("rows", 2, metric)
    collection.insert(1, [1, 2])
    assert collection.search(np.empty((0, 2))) == []


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_a_payload_with_a_number_of_more_than_64_bits_is_an_invalid_argument(database, value):
    collection = database.create_collection("rows", 2)
    with pytest.raises(vecstore.InvalidArgumentError, match="row 1"):
        collection.insert([1, 2], [[1, 2], [3, 4]], [{"a": 1}, {"a": value}])
    assert len(collection) == 0
