"""What is refused where databases are opened and collections are created, and what these are created with."""

import numpy as np
import pytest

import vecstore
from tests.refusals import refused
from vecstore import UnknownArgumentError, arguments

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("name", ["", ".x", "-x", "_x", "a/b", "a b", "é", "x" * 129, "a\n", 5, None, b"x", ".."])
def test_names_that_are_refused(db, name):
    for call in (lambda: db.create_collection(name, 3), lambda: db.get_collection(name)):
        refused(call, "name: expected 1 to 128 letters, digits, dots, dashes and underscores", repr(name))
    refused(lambda: db.drop_collection(name), "name: expected")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"dim": 0}, ["dim: lies between 1 and 8192, got 0"]),
        ({"dim": 8193}, ["dim: lies between 1 and 8192, got 8193"]),
        ({"dim": 3.0}, ["dim: expected a whole number from 1 to 8192, got float 3.0"]),
        ({"dim": 3, "metric": "ip"}, ['expected "cosine", "dot" or "l2"', "'ip'", 'use "dot"']),
        ({"dim": 3, "metric": "Euclidean"}, ['use "l2"']),
        ({"dim": 3, "metric": "L2"}, ['expected "cosine", "dot" or "l2"', "'L2'"]),
        ({"dim": 3, "metric": None}, ['expected "cosine", "dot" or "l2"', "None"]),
        ({"dim": 3, "metric": []}, ['expected "cosine", "dot" or "l2"', "[]"]),
        ({"dim": 3, "index": "hnsw"}, ["index: expected vecstore.HNSW(), IVF(), Flat() or None, got 'hnsw'"]),
        ({"dim": 3, "index": vecstore.HNSW}, ["index: expected vecstore.HNSW(), IVF(), Flat() or None, got <class"]),
        ({"dim": 3, "index": vecstore.Int8()}, ["index: expected vecstore.HNSW(), IVF(), Flat() or None, got Int8()"]),
        (
            {"dim": 3, "quantization": "int8"},
            ['expected vecstore.Int8(), Int4() or Binary(), None or "auto"', "'int8'"],
        ),
        ({"dim": 3, "quantization": vecstore.Int4}, ["quantization: expected vecstore.Int8()", "got <class"]),
        ({"dim": 3, "quantization": True}, ["quantization: expected vecstore.Int8()", "got True"]),
        ({"dim": 3, "index": vecstore.Flat(), "quantization": "Auto"}, ["quantization: expected", "got 'Auto'"]),
        ({"dim": 3, "exist_ok": 1}, ["exist_ok: expected True or False, got int 1"]),
    ],
)
def test_collections_that_are_refused(db, options, parts):
    refused(lambda: db.create_collection("x", **options), *parts)


BOUNDS = {"m": (8, 128), "ef_construction": (16, 2000), "ef": (10, 10_000), "alpha": (1, 2), "seed": (0, 2**31 - 1)}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_numbers_of_an_hnsw_have_bounds(db, name):
    low, high = BOUNDS[name]
    for value in (low, high, np.float32(high) if name == "alpha" else np.int64(high)):
        checked = arguments.index_config(vecstore.HNSW(**{name: value}))
        assert checked == vecstore.HNSW(**{name: value})
        assert type(getattr(checked, name)) is (float if name == "alpha" else int)
    step = 0.001 if name == "alpha" else 1
    words = "expected a number from 1 to 2" if name == "alpha" else f"lies between {low} and {high}"
    for value in (low - step, high + step, -high):
        wrong = vecstore.HNSW(**{name: value})
        refused(lambda: db.create_collection("x", 3, index=wrong), f"index.{name}: {words}, got", str(value))  # noqa: B023
    words = "expected a number from 1 to 2" if name == "alpha" else f"expected a whole number from {low} to {high}"
    for value in (None, "8", True, [low], NAN):
        wrong = vecstore.HNSW(**{name: value})
        refused(lambda: db.create_collection("x", 3, index=wrong), f"index.{name}: {words}, got {type(value).__name__}")  # noqa: B023


@pytest.mark.parametrize("m", [9, 12, 100, 127])
def test_the_links_of_an_hnsw_come_in_eights(db, m):
    refused(lambda: db.create_collection("x", 3, index=vecstore.HNSW(m)), f"index.m: expected a multiple of 8, got {m}")


@pytest.mark.parametrize(
    ("word", "better"),
    [("M", "m"), ("ef_construct", "ef_construction"), ("efConstruction", "ef_construction"), ("hnsw_ef", "ef"),
     ("ef_search", "ef"), ("efSearch", "ef"), ("search_k", "ef"), ("ef_runtime", "ef"), ("alhpa", "alpha")],
)  # fmt: skip
def test_an_unknown_number_of_an_hnsw_is_answered_with_ours(word, better):
    error = refused(
        lambda: vecstore.HNSW(**{word: 16}), f'HNSW() has no argument "{word}"; use "{better}"',
        error=UnknownArgumentError,
    )  # fmt: skip
    assert error.argument == word


def test_an_unknown_number_without_a_likeness_is_answered_with_all():
    kind = UnknownArgumentError
    refused(lambda: vecstore.HNSW(nlist=9), "it takes m, ef_construction, ef, alpha, seed", error=kind)
    refused(lambda: vecstore.Flat(m=9), 'Flat() has no argument "m"; it takes no arguments', error=kind)


@pytest.mark.parametrize(
    ("options", "index", "quantization"),
    [
        ({"dim": 191}, vecstore.HNSW(), vecstore.Int8()),
        ({"dim": 192}, vecstore.HNSW(), vecstore.Int4()),
        ({"dim": 192, "index": vecstore.HNSW(m=8), "quantization": "auto"}, vecstore.HNSW(m=8), vecstore.Int4()),
        ({"dim": 128, "quantization": None}, vecstore.HNSW(), None),
        ({"dim": 8, "quantization": vecstore.Binary()}, vecstore.HNSW(), vecstore.Binary()),
        ({"dim": 128, "index": vecstore.Flat()}, vecstore.Flat(), None),
        ({"dim": 128, "index": vecstore.Flat(), "quantization": "auto"}, vecstore.Flat(), None),
        ({"dim": 128, "index": vecstore.Flat(), "quantization": vecstore.Int8()}, vecstore.Flat(), vecstore.Int8()),
    ],
)
def test_what_a_collection_is_created_with(shared, options, index, quantization):
    db = shared[0]
    info = db.create_collection("made", **options).info
    assert info == vecstore.CollectionInfo("made", options["dim"], "cosine", index, quantization)
    assert db.create_collection("made", **options, exist_ok=True).info == info
    other_codes = vecstore.Binary() if quantization == vecstore.Int8() else vecstore.Int8()
    for other in ({"index": vecstore.HNSW(m=64)}, {"quantization": other_codes}):
        with pytest.raises(vecstore.AlreadyExistsError, match="created otherwise"):
            db.create_collection("made", **{**options, **other}, exist_ok=True)
    said = {"index": index, "quantization": quantization}
    assert db.create_collection("made", options["dim"], **said, exist_ok=True).info == info
    db.drop_collection("made")


@pytest.mark.parametrize(
    ("args", "options", "parts"),
    [
        ((5,), {}, ["path: expected a folder as str or Path, got int 5"]),
        ((b"x",), {}, ["path: expected a folder as str or Path"]),
        (("x",), {"max_size": 100}, ["max_size: lies between 1048576 and"]),
        (("x",), {"max_size": 1e9}, ["max_size: expected a whole number"]),
        (("x",), {"max_size": 2**20, "read_only": True}, ["max_size has no effect with read_only=True"]),
        (("x",), {"read_only": 1}, ["read_only: expected True or False, got int 1"]),
    ],
)
def test_opens_that_are_refused(tmp_path, monkeypatch, args, options, parts):
    monkeypatch.chdir(tmp_path)
    refused(lambda: vecstore.open(*args, **options), *parts)
    assert list(tmp_path.iterdir()) == []
