"""The filter language, as a table: what matches, and what each error says."""

from datetime import datetime

import numpy as np
import pytest

from vecstore import InvalidArgumentError
from vecstore.filters import compile_filter

ADA = {
    "lang": "en",
    "year": 2021,
    "score": 0.5,
    "flag": True,
    "none": None,
    "tags": ["red", "blue"],
    "numbers": [1, 5, 9],
    "empty": [],
    "author": {"name": "Ada", "born": {"year": 1815}},
    "works": [{"title": "Notes", "pages": 66}, {"title": "Letters", "pages": 10}, "loose"],
    "grid": [[1, 2], [3, 4]],
    "bytes": b"x",
}

MATCHES = [
    {},
    {"lang": "en"},
    {"lang": {"$eq": "en"}},
    {"year": 2021.0},
    {"flag": True},
    {"bytes": b"x"},
    {"lang": "en", "year": 2021},
    {"year": {"$gte": 2021, "$lt": 2022}},
    {"year": {"$gt": 2020.5, "$lte": 2021}},
    {"lang": {"$gt": "de", "$lt": "fr"}},
    {"year": np.int64(2021)},
    {"year": {"$in": np.array([2020, 2021]).tolist()}},
    # None and missing fields
    {"none": None},
    {"missing": None},
    {"author.missing": None},
    {"lang.deeper": None},
    {"missing": {"$in": [None, 1]}},
    {"missing": {"$ne": 1}},
    {"missing": {"$nin": [1, 2]}},
    {"missing": {"$not": {"$gt": 1}}},
    {"missing": {"$exists": False}},
    {"none": {"$exists": True}},
    {"empty": {"$exists": True}},
    {"lang": {"$ne": None}},
    # lists: the list itself, or any element
    {"tags": "red"},
    {"tags": ["red", "blue"]},
    {"tags": ("red", "blue")},
    {"tags": {"$in": ["green", "blue"]}},
    {"tags": {"$in": [["red", "blue"]]}},
    {"tags": {"$nin": ["green"]}},
    {"tags": {"$ne": "green"}},
    {"numbers": {"$gt": 8}},
    {"numbers": {"$gt": 8, "$lt": 2}},  # by different elements
    {"empty": []},
    {"empty": {"$ne": 1}},
    {"tags.0": "red"},
    {"grid": [1, 2]},
    {"grid.1.0": 3},
    {"grid.1": 4},
    # nested fields
    {"author.name": "Ada"},
    {"author.born.year": {"$lt": 1900}},
    {"author": {"name": "Ada", "born": {"year": 1815}}},
    {"author": {"born": {"year": 1815.0}, "name": "Ada"}},
    {"works.title": "Letters"},
    {"works.pages": {"$gt": 60}},
    {"works.0.title": "Notes"},
    {"works": "loose"},
    {"works": {"title": "Notes", "pages": 66}},
    # logic
    {"$and": [{"lang": "en"}, {"year": 2021}]},
    {"$or": [{"lang": "de"}, {"year": 2021}]},
    {"$or": ({"lang": "de"}, {})},
    {"$not": {"lang": "de"}},
    {"$not": {"$or": [{"lang": "de"}, {"missing": 1}]}},
    {"lang": {"$not": {"$eq": "de"}}},
    {"year": {"$gt": 2000, "$not": {"$in": [2020, 2022]}}},
    {"lang": "en", "$or": [{"year": 1}, {"flag": True}]},
    {"year": {"$in": {2021, 2022}}},
    {"lang": {"$in": frozenset(["en"])}},
    {"lang": {"$in": ["en", 1]}},
]

MISSES = [
    {"lang": "de"},
    {"lang": "EN"},
    {"year": "2021"},
    {"lang": "en", "year": 2020},
    {"year": {"$gte": 2020, "$lt": 2021}},
    {"missing": 1},
    {"missing": {"$gt": 0}},
    {"missing": {"$lt": "a"}},
    {"missing": {"$exists": True}},
    {"lang": {"$exists": False}},
    {"none": {"$gte": 0}},
    {"none": {"$ne": None}},
    {"missing": {"$ne": None}},
    {"missing": {"$nin": [None]}},
    # a bool is no number
    {"flag": 1},
    {"flag": {"$in": [1]}},
    {"flag": {"$gt": 0}},
    {"numbers": True},
    {"numbers": {"$in": [True, "1"]}},
    # order needs one kind
    {"year": {"$gt": "1"}},
    {"lang": {"$gt": 1}},
    {"author": {"$gt": 1}},
    {"bytes": "x"},
    {"empty": None},
    {"empty": {"$gt": 0}},
    {"tags": ["blue", "red"]},
    {"tags": ["red"]},
    {"tags": {"$ne": "red"}},
    {"tags": {"$nin": ["red", "green"]}},
    {"tags": {"$not": {"$eq": "blue"}}},
    {"tags.5": "red"},
    {"tags.red": "red"},
    {"numbers": {"$not": {"$gt": 8}}},
    {"grid": 1},  # one level of lists only
    {"author": {"name": "Ada"}},  # a dict is compared whole
    {"author.name.first": "Ada"},
    {"author.born": 1815},
    {"works.title": "Poems"},
    {"works.7.title": "Notes"},
    {"works": {"title": "Notes", "pages": True}},
    {"lang": {"$in": []}},
    {"$and": [{"lang": "en"}, {"year": 1}]},
    {"$or": [{"lang": "de"}, {"year": 1}]},
    {"$not": {}},
    {"$not": {"lang": "en"}},
    {"score": float("nan")},
]


@pytest.mark.parametrize("filter", MATCHES, ids=repr)
def test_matches(filter):
    assert compile_filter(filter)(ADA) is True
    assert compile_filter({"$not": filter})(ADA) is False


@pytest.mark.parametrize("filter", MISSES, ids=repr)
def test_does_not_match(filter):
    assert compile_filter(filter)(ADA) is False
    assert compile_filter({"$not": filter})(ADA) is True


@pytest.mark.parametrize("filter", MATCHES + MISSES, ids=repr)
def test_opposites_are_exact(filter):
    for payload in (ADA, {}, {"lang": ["en"], "year": None, "tags": "red"}):
        for name, condition in filter.items():
            if name.startswith("$"):
                continue
            if isinstance(condition, dict) and any(key.startswith("$") for key in condition):
                opposite = {"$not": condition}
            else:
                opposite = {"$ne": condition}
            assert compile_filter({name: condition})(payload) is not compile_filter({name: opposite})(payload)


def test_whole_numbers_and_floats_compare_exactly():
    assert not compile_filter({"n": 2**53})({"n": 2**53 + 1})
    assert compile_filter({"n": {"$gt": float(2**53)}})({"n": 2**53 + 1})


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("lang = 'en'", "filter: expected a dict, got \"lang = 'en'\""),
        (None, "filter: expected a dict, got None"),
        ([], "filter: expected a dict, got []"),
        ({1: 2}, "filter: field names are str, got 1"),
        ({"$and": []}, "filter: $and takes a non-empty list of filters, got []"),
        ({"$or": {}}, "filter: $or takes a non-empty list of filters, got {}"),
        ({"$or": [1]}, "filter: expected a dict, got 1"),
        ({"$not": 1}, "filter: expected a dict, got 1"),
        ({"$nor": []}, "filter: no operator $nor; did you mean $or? there are $and, $or, $not"),
        ({"$where": 1}, "filter: no operator $where; there are $and, $or, $not"),
        ({"$gt": 1}, "filter: no operator $gt over whole filters; there are $and, $or, $not"),
        ({"": 1}, "filter: '' is not a path of field names with dots between"),
        ({"a..b": 1}, "filter: 'a..b' is not a path of field names with dots between"),
        ({"a.": 1}, "filter: 'a.' is not a path"),
        ({"a": {"$in": "abc"}}, "filter: a: $in takes a list, got 'abc'"),
        ({"a": {"$nin": 1}}, "filter: a: $nin takes a list, got 1"),
        ({"a": {"$gt": None}}, "filter: a: $gt takes a number or a str, got None"),
        ({"a": {"$lte": True}}, "filter: a: $lte takes a number or a str, got True"),
        ({"a": {"$lt": [1]}}, "filter: a: $lt takes a number or a str, got [1]"),
        ({"a": {"$exists": 1}}, "filter: a: $exists takes True or False, got 1"),
        ({"a": {"$not": 1}}, "filter: a: $not takes operators, got 1; for a value use $ne"),
        ({"a": {"$not": {}}}, "filter: a: $not takes operators, got {}"),
        ({"a": {"$not": {"b": 1}}}, "filter: a: $not takes operators"),
        ({"a": {"$not": {"$foo": 1}}}, "filter: no operator $foo at a"),
        ({"a": {"$gte": 1, "b": 2}}, "filter: no operator b at a"),
        ({"a": datetime(2020, 1, 1)}, "filter: cannot compare with datetime"),
        ({"a": {"$in": [1, {2, 3}]}}, "filter: cannot compare with {2, 3}"),
        ({"a": {"$ne": {"b": [object]}}}, "filter: cannot compare with <class 'object'>"),
        ({"a": 2**64}, "filter: cannot compare with 18446744073709551616"),
        ({"a": {"$gtr": 1}}, "filter: no operator $gtr at a; did you mean $gt? there are $eq, $ne, $gt"),
        ({"a": {"$mod": 2}}, "filter: no operator $mod at a; there are $eq"),
    ],
)
def test_errors(filter, message):
    with pytest.raises(InvalidArgumentError) as caught:
        compile_filter(filter)
    assert str(caught.value).startswith(message)
