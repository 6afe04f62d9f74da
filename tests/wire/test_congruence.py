"""One engine, two ways in: every call gives the same result, or the same error, embedded and remote."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vecstore_server import Config, Server

import vecstore
from tests.wire.calls import CALLS, LIST_CALLS, E
from vecstore.index import ivf
from vecstore.verbs.collection import CollectionVerbs
from vecstore.verbs.database import DatabaseVerbs


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DatabaseVerbs, DatabaseVerbs]]:
    path = tmp_path_factory.mktemp("congruence")
    with (
        vecstore.open(path / "db") as embedded,
        Server(Config(path / "served" / "db", listen="127.0.0.1:0", grace=1)) as server,
        vecstore.connect(server.address) as remote,
    ):
        yield embedded, remote


@pytest.fixture
def both(databases: tuple[DatabaseVerbs, DatabaseVerbs]) -> tuple[DatabaseVerbs, DatabaseVerbs]:
    """Both databases, with the same collections."""
    for db in databases:
        fill(db)
    return databases


FILLED: dict[DatabaseVerbs, Any] = {}


def fill(db: DatabaseVerbs) -> None:
    """Collections alike, made anew only if a test has changed them: each costs the disk some syncs."""
    if FILLED.get(db) == contents(db):
        return
    for name in db.list_collections():
        db.drop_collection(name)
    for metric in ("cosine", "dot", "l2"):
        rows = db.create_collection(f"c-{metric}", 4, metric)
        payloads = [
            {"n": 1, "tags": ["a", "b"]},
            None,
            {"n": 2.5, "deep": {"x": True}},
            {"raw": b"\0\xff", "n": 2**60},
        ]
        rows.insert([1, "1", "zwei", 2**63 - 1], E + 0.25, payloads)
    for name, index in (("c-codes", vecstore.Flat()), ("c-graph", vecstore.HNSW(m=16))):
        codes = db.create_collection(name, 4, index=index, quantization=vecstore.Int4())
        codes.insert(range(1500), np.random.default_rng(0).standard_normal((1500, 4)))
    FILLED[db] = contents(db)


def contents(db: DatabaseVerbs) -> Any:
    there = [db.get_collection(name) for name in db.list_collections()]
    return [(plain(rows.info), rows.stats().lsn, plain(rows.scroll(with_vectors=True))) for rows in there]


def plain(value: Any) -> Any:
    """Something that `==` compares whole: arrays as bytes, paths left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, plain({k: getattr(value, k) for k in asdict(value)})
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key != "path"}
    if isinstance(value, list | tuple):
        return type(value).__name__, [plain(inner) for inner in value]
    if isinstance(value, CollectionVerbs):
        return plain(value.info)
    return type(value).__name__, value


def outcome(call: Callable[[Any], Any], db: Any) -> Any:
    try:
        return plain(call(db))
    except vecstore.VecstoreError as error:
        fields = {name: getattr(error, name) for name in error.fields if name != "path"}
        # That a collection is gone is told by whoever notices: its open handle, or the server that looked for it.
        gone = isinstance(error, vecstore.CollectionNotFoundError)
        return type(error), "" if gone else str(error).replace("/served", ""), fields


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_the_same_call_has_the_same_outcome(both: tuple[DatabaseVerbs, DatabaseVerbs], number: int) -> None:
    embedded, remote = (outcome(CALLS[number], db) for db in both)
    assert embedded == remote, inspect.getsource(CALLS[number])


@pytest.fixture
def both_with_lists(
    both: tuple[DatabaseVerbs, DatabaseVerbs], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[DatabaseVerbs, DatabaseVerbs]]:
    """The same, and one more with lists; the server is in this process."""
    monkeypatch.setattr(ivf, "TRAIN_FROM", 1200)
    for db in both:
        rows = db.create_collection("c-lists", 4, index=vecstore.IVF(nlist=20, nprobe=4), quantization=vecstore.Int4())
        matrix = np.random.default_rng(0).standard_normal((1500, 4))
        rows.insert(range(1500), matrix, [{"n": n % 50} for n in range(1500)])
        rows.wait_indexed(60)  # what lists find depends on whether rows are in them
    yield both
    for db in both:
        db.drop_collection("c-lists")


@pytest.mark.parametrize("number", range(len(LIST_CALLS)))
def test_the_same_call_on_lists_has_the_same_outcome(
    both_with_lists: tuple[DatabaseVerbs, DatabaseVerbs], number: int
) -> None:
    embedded, remote = (outcome(LIST_CALLS[number], db) for db in both_with_lists)
    assert embedded == remote, inspect.getsource(LIST_CALLS[number])


@settings(max_examples=15, deadline=None)
@given(numbers=st.lists(st.integers(0, len(CALLS) - 1), min_size=1, max_size=30))
def test_any_sequence_of_calls_has_the_same_outcomes(
    databases: tuple[DatabaseVerbs, DatabaseVerbs], numbers: list[int]
) -> None:
    for db in databases:
        fill(db)
    for number in numbers:
        embedded, remote = (outcome(CALLS[number], db) for db in databases)
        assert embedded == remote, inspect.getsource(CALLS[number])


IDS = st.sampled_from([1, "1", 2, "two", "é\0", 2**63 - 1])
VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 2**63 - 1, "a", "b", b"a", {"x": 1}])
FIELDS = st.sampled_from(["n", "t", "d.x"])
PAYLOADS = st.none() | st.dictionaries(st.sampled_from(["n", "t", "d"]), VALUES | st.lists(VALUES, max_size=3))
ROWS = st.lists(st.tuples(IDS, st.lists(st.integers(-3, 3), min_size=4, max_size=4), PAYLOADS), max_size=4)
CONDITIONS = VALUES | st.dictionaries(
    st.sampled_from(["$eq", "$ne", "$gt", "$lte", "$exists", "$in"]), VALUES, min_size=1
)
FILTERS = st.none() | st.dictionaries(FIELDS, CONDITIONS, max_size=2)
FLAGS = st.fixed_dictionaries({"with_payload": st.booleans(), "with_vectors": st.booleans()})
STEPS = st.one_of(
    st.builds(lambda verb, rows: (verb, [[*column] for column in zip(*rows, strict=True)] or [[], []], {}),
              st.sampled_from(["insert", "upsert", "update"]), ROWS),
    st.builds(lambda ids, payload, merge: ("update", [ids], {"payloads": [payload] * len(ids), "merge": merge}),
              st.lists(IDS, max_size=3), PAYLOADS, st.booleans()),
    st.builds(lambda ids: ("delete", [ids], {}), IDS | st.lists(IDS, max_size=3)),
    st.builds(lambda wanted: ("delete", [], {"filter": wanted}), FILTERS),
    st.builds(lambda ids, flags: ("get", [ids], flags), IDS | st.lists(IDS, max_size=9), FLAGS),
    st.builds(lambda query, k, wanted, threshold, flags: (
                  "search", [query, k], {"filter": wanted, "score_threshold": threshold, **flags}),
              st.lists(st.integers(-2, 2), min_size=4, max_size=4), st.integers(0, 9), FILTERS,
              st.none() | st.floats(-2, 2), FLAGS),
    st.builds(lambda wanted, limit, flags: ("scroll", [], {"filter": wanted, "limit": limit, **flags}),
              FILTERS, st.integers(1, 9), FLAGS),
    st.builds(lambda wanted: ("count", [wanted], {}), FILTERS),
    st.sampled_from([("stats", [], {}), ("check", [], {})]),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(metric=st.sampled_from(["cosine", "dot", "l2"]), steps=st.lists(STEPS, min_size=1, max_size=25))
def test_any_steps_on_any_rows_have_the_same_outcomes(
    databases: tuple[DatabaseVerbs, DatabaseVerbs], metric: Any, steps: list[Any]
) -> None:
    for db in databases:
        if "steps" in db.list_collections():
            db.drop_collection("steps")
    handles = [db.create_collection("steps", 4, metric) for db in databases]
    for verb, args, named in [*steps, ("scroll", [], {"with_vectors": True}), ("check", [], {})]:
        embedded, remote = (outcome(lambda rows: getattr(rows, verb)(*args, **named), rows) for rows in handles)  # noqa: B023
        assert embedded == remote, (verb, args, named)


def test_both_backends_have_the_same_verbs_and_signatures() -> None:
    for embedded, remote, inside in (
        # What names a path, or is done to files by hand, is done where they are.
        (vecstore.Collection, vecstore.RemoteCollection, {"backup"}),
        (vecstore.Database, vecstore.RemoteDatabase, {"backup", "repair_collection"}),
    ):
        names, others = ({name for name in dir(kind) if not name.startswith("_")} for kind in (embedded, remote))
        assert names - inside == others - inside
        for name in others:
            one, other = getattr(embedded, name), getattr(remote, name)
            assert type(one) is type(other)
            if callable(one):
                assert inspect.signature(one) == inspect.signature(other), name


def test_closed_handles_say_so_on_both_sides(tmp_path: Path) -> None:
    with Server(Config(tmp_path / "served", listen="127.0.0.1:0", grace=1)) as server:
        for db in (vecstore.open(tmp_path / "db"), vecstore.connect(server.address)):
            rows = db.create_collection("rows", 2)
            other = db.create_collection("other", 2)
            other.close()
            other.close()
            for call in (other.count, lambda: other.insert(1, [1, 0]), other.stats):  # noqa: B023
                with pytest.raises(vecstore.ClosedError):
                    call()
            assert rows.count() == 0
            db.close()
            db.close()
            for call in (rows.count, db.list_collections, lambda: db.get_collection("rows")):  # noqa: B023
                with pytest.raises(vecstore.ClosedError):
                    call()
