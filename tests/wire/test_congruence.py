"""One engine, two ways in: every call gives the same result, or the same error, embedded and remote."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vecstore_server import Config, Server

import vecstore
from vecstore.index import ivf
from vecstore.verbs.collection import CollectionVerbs
from vecstore.verbs.database import DatabaseVerbs

E = np.eye(4, dtype=np.float32)


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


def c(db: DatabaseVerbs, metric: str = "cosine") -> CollectionVerbs:
    return db.get_collection(f"c-{metric}")


CALLS: list[Callable[[DatabaseVerbs], Any]] = [
    # databases
    lambda db: db.list_collections(),
    lambda db: db.create_collection("new", 7, "l2"),
    lambda db: db.create_collection("new", 7, index=vecstore.Flat(), exist_ok=True),
    lambda db: db.create_collection("new", 7, quantization=vecstore.Binary()),
    lambda db: db.create_collection("new", 7, quantization="int8"),
    lambda db: db.create_collection("new", 128),
    lambda db: db.create_collection("new", 128, quantization=None),
    lambda db: db.create_collection("new", 128, index=vecstore.Flat()),
    lambda db: db.create_collection("new", 128, index=vecstore.Flat(), quantization=vecstore.Int8()),
    lambda db: db.create_collection("new", 7, index=vecstore.HNSW(8, 16, 10, 1, 0), quantization=vecstore.Binary()),
    lambda db: db.create_collection("new", 7, index=vecstore.HNSW(m=np.int64(128), alpha=np.float32(1.3), seed=9)),
    lambda db: db.create_collection("new", 7, index=vecstore.HNSW(m=12)),
    lambda db: db.create_collection("new", 7, index=vecstore.HNSW(ef_construction=2**40)),
    lambda db: db.create_collection("new", 7, index=vecstore.HNSW(alpha="1.2")),
    lambda db: db.create_collection("new", 7, index=vecstore.HNSW(M=16)),
    lambda db: db.create_collection("new", 7, index=vecstore.HNSW),
    lambda db: db.create_collection("new", 7, ef_construct=100),
    lambda db: [db.create_collection("new", 7, index=vecstore.HNSW(m=16)),
                db.create_collection("new", 7, index=vecstore.HNSW(m=16, ef=64), exist_ok=True),
                db.get_collection("new"), db.create_collection("new", 7, exist_ok=True)],
    lambda db: db.create_collection("c-dot", 4, "dot", quantization=vecstore.Int8(), exist_ok=True),
    lambda db: db.create_collection("c-dot", 4, "dot", quantization=vecstore.Int4(), exist_ok=True),
    lambda db: db.create_collection("c-dot", 4, "dot", index=vecstore.Flat(), exist_ok=True),
    lambda db: db.create_collection("c-dot", 4, "dot"),
    lambda db: db.create_collection("c-dot", 4, "dot", exist_ok=True),
    lambda db: db.create_collection("c-dot", 5, "dot", exist_ok=True),
    lambda db: db.create_collection("C-dot", 4, "dot"),
    lambda db: db.create_collection("no/name", 4),
    lambda db: db.create_collection("x", 0),
    lambda db: db.create_collection("x", 4, "euclid"),
    lambda db: db.create_collection("x", 4, distance="dot"),
    lambda db: db.create_collection("x", 4, index="flat"),
    lambda db: db.get_collection("c-l2"),
    lambda db: db.get_collection("nope"),
    lambda db: db.drop_collection("nope"),
    lambda db: (db.drop_collection("c-l2"), db.list_collections()),
    lambda db: [db.get_collection("c-l2"), db.drop_collection("c-l2")][0].count(),
    lambda db: [c(db, kind).compact() for kind in ("cosine", "codes", "graph")]
    + [c(db, kind).scroll(with_vectors=True) for kind in ("cosine", "codes", "graph")],
    lambda db: (c(db, "graph").compact(), c(db, "graph").search(E, 3)),
    lambda db: c(db, "graph").check(progress=lambda _done, _total: None),
    lambda db: c(db).check(progress=1),
    # insert, upsert, update
    lambda db: c(db).insert([5, "5"], E[:2], [{"a": [1, {"b": None}]}, {}]),
    lambda db: c(db).insert(5, [1, 2, 3, 4], {"a": 1}),
    lambda db: c(db).insert([], []),
    lambda db: c(db).insert([5, 1], E[:2]),
    lambda db: c(db).insert([5, 5], E[:2]),
    lambda db: c(db).insert([5], E[:2]),
    lambda db: c(db).insert([5], None),
    lambda db: c(db).insert([-1], E[:1]),
    lambda db: c(db).insert([True], E[:1]),
    lambda db: c(db).insert(["x" * 481], E[:1]),
    lambda db: c(db).insert([5], [[1, 2, 3]]),
    lambda db: c(db).insert([5], [[1, 2, 3, float("nan")]]),
    lambda db: c(db).insert([5], [[0, 0, 0, 0]]),
    lambda db: c(db, "dot").insert([5], [[0, 0, 0, 0]]),
    lambda db: c(db).insert([5], E[:1], [{1: 2}]),
    lambda db: c(db).insert([5], E[:1], [{"a": object}]),
    lambda db: c(db).insert([5], E[:1], payload=[{}]),
    lambda db: c(db).insert([f"{'é' * 200}\0{i}" for i in range(12)] * 2, np.ones((24, 4))),
    lambda db: [c(db).insert([f"{'é' * 200}\0{i}" for i in range(12)], np.ones((12, 4))) for _ in range(2)],
    lambda db: c(db).insert(np.arange(5, 8), E[:3].astype(np.float64), tuple({"i": np.int8(i)} for i in range(3))),
    lambda db: (c(db).upsert([1, 9], E[:2], [None, {"n": 1}]), c(db).get([1, 9], with_vectors=True)),
    lambda db: (c(db).update([1, "1"], payloads=[{"n": 9}, {"m": 1}]), c(db).get([1, "1"])),
    lambda db: (c(db).update([1, "1"], payloads=[{"n": 9}, None], merge=False), c(db).get([1, "1"])),
    lambda db: (c(db).update("zwei", [9, 9, 9, 9]), c(db).get("zwei", with_vectors=True)),
    lambda db: (c(db).update("zwei", [9, 9, 9, 9], {"n": 0}), c(db).get("zwei", with_vectors=True)),
    lambda db: c(db).update([1, 77, 78], E[:3]),
    lambda db: c(db).update([1]),
    lambda db: c(db).update([1], E[:1], merge=False),
    # delete
    lambda db: (c(db).delete([1, "1", "none", 1]), c(db).count()),
    lambda db: (c(db).delete("zwei"), c(db).get(["zwei"])),
    lambda db: (c(db).delete(filter={"n": {"$gte": 2}}), c(db).count()),
    lambda db: (c(db).delete(filter={}), c(db).count(), c(db).search(E[0])),
    lambda db: c(db).delete([]),
    lambda db: c(db).delete(),
    lambda db: c(db).delete([1], filter={}),
    # get
    lambda db: c(db).get(["zwei", 404, 1, 1], with_vectors=True),
    lambda db: c(db).get([1, "1"], with_payload=False),
    lambda db: c(db).get(2**63 - 1),
    lambda db: c(db).get("nope"),
    lambda db: c(db).get([]),
    lambda db: c(db).get([1.5]),
    lambda db: c(db).get([1], with_vector=True),
    # search
    lambda db: c(db).search(E[1]),
    lambda db: c(db, "dot").search(E, 2, with_vectors=True),
    lambda db: c(db, "l2").search(E[2].tolist(), 3, with_payload=False),
    lambda db: c(db, "l2").search(E, k=1, score_threshold=-0.6),
    lambda db: c(db).search(E[1], score_threshold=np.float32(0.9)),
    lambda db: c(db).search(E[1], filter={"tags": "a"}),
    lambda db: c(db).search(E[1], filter={"n": {"$in": [1, np.int64(2**60)]}}),
    lambda db: c(db).search(E[1], filter={"deep.x": True}),
    lambda db: c(db).search(E[1], filter={"n": {"$gte": 2, "$regex": "x"}}),
    lambda db: c(db).search(E[1], filter=["n"]),
    lambda db: c(db).search(E[1], exact=True),
    lambda db: c(db).search(E[1], exact=1),
    lambda db: c(db).search(E[1], oversampling=2),
    lambda db: c(db, "codes").search(E[1], oversampling=3),
    lambda db: c(db, "codes").search(E, exact=True),
    lambda db: c(db, "codes").search(E[1], oversampling=3, exact=True),
    lambda db: c(db, "codes").search(E[1], oversampling=0.5),
    lambda db: (c(db, "codes").search(E), c(db, "codes").stats()),
    lambda db: c(db, "graph").search(E, 3, ef=200),
    lambda db: c(db, "graph").search(E[1], 20, ef=1),
    lambda db: c(db, "graph").search(E[1], ef=np.int16(10_000), oversampling=4),
    lambda db: c(db, "graph").search(E[1], ef=0),
    lambda db: c(db, "graph").search(E[1], ef=10_001),
    lambda db: c(db, "graph").search(E[1], ef="64"),
    lambda db: c(db, "graph").search(E[1], ef=64, exact=True),
    lambda db: c(db, "graph").search(E[1], hnsw_ef=64),
    lambda db: c(db, "codes").search(E[1], ef=64),
    lambda db: c(db, "graph").search(E[1], nprobe=8),
    lambda db: c(db, "codes").search(E[1], nprobe=8),
    lambda db: c(db).search(E[:0]),
    lambda db: c(db).search(E[1], 0),
    lambda db: c(db).search(E[1], k=2.0),
    lambda db: c(db).search(E[1], top_k=2),
    lambda db: c(db).search([0, 0, 0, 0]),
    lambda db: c(db).search([1, 2]),
    lambda db: c(db).search("text"),
    lambda db: c(db).search(E[1], score_threshold="high"),
    # scroll, count
    lambda db: c(db).scroll(),
    lambda db: (page := c(db).scroll(limit=3), c(db).scroll(limit=3, cursor=page.cursor, with_vectors=True)),
    lambda db: c(db).scroll(filter={"n": {"$exists": True}}, limit=1),
    lambda db: c(db).scroll(cursor="not a cursor"),
    lambda db: c(db).scroll(cursor=7),
    lambda db: c(db).scroll(cursor="\ud800"),
    lambda db: c(db).scroll(cursor=""),
    lambda db: c(db).scroll(limit=0),
    lambda db: (c(db).count(), len(c(db)), c(db).count({"n": {"$ne": 1}}), c(db).count(filter={})),
    lambda db: c(db).count({"$where": 1}),
    # indexing
    lambda db: (c(db, "graph").wait_indexed(), c(db, "graph").search(E, ef=100)),
    lambda db: c(db, "graph").wait_indexed(30),
    lambda db: (c(db, "codes").wait_indexed(np.float64(30)), c(db).wait_indexed(timeout=30)),
    lambda db: c(db, "graph").wait_indexed(-1),
    lambda db: c(db, "graph").wait_indexed(float("nan")),
    lambda db: c(db, "graph").wait_indexed("1"),
    lambda db: (c(db, "graph").rebuild(seed=7), c(db, "graph").search(E, ef=100)),
    lambda db: (c(db, "graph").rebuild(), c(db, "codes").rebuild(seed=0), c(db).rebuild(seed=np.int8(3))),
    lambda db: c(db, "graph").rebuild(seed=2**31),
    lambda db: c(db, "graph").rebuild(seed=1.5),
    lambda db: (rows := db.create_collection("bare", 4, index=vecstore.Flat()), rows.wait_indexed(), rows.rebuild()),
    lambda db: (rows := c(db, "graph"), rows.set_index(vecstore.IVF(nlist=9), quantization="auto"), rows.info,
                rows.search(E, 3, nprobe=9), replace(rows.stats(), checkpoint_lsn=0)),
    lambda db: (rows := c(db, "graph"), rows.set_index(vecstore.HNSW(m=16, ef=200), quantization=vecstore.Int4()),
                rows.info, rows.search(E, 3), rows.set_index(vecstore.HNSW(m=16, ef=200)), rows.info),
    lambda db: (rows := c(db, "codes"), rows.set_index(vecstore.Flat(), quantization=None), rows.info, rows.search(E)),
    lambda db: (rows := c(db), rows.set_index(vecstore.Flat(), progress=lambda _done, _total: None), rows.info),
    lambda db: (rows := c(db), rows.set_index(vecstore.IVF()), rows.search(E, ef=3)),
    lambda db: c(db).set_index(vecstore.IVF(nprobe=0)),
    lambda db: c(db).set_index(None),
    lambda db: c(db).set_index(vecstore.IVF),
    lambda db: c(db).set_index(vecstore.IVF(), quantization="binary"),
    lambda db: c(db).set_index(vecstore.IVF(), quantisation=None),
    lambda db: c(db).set_index(vecstore.IVF(), progress=3),
    # stats, check, estimates, names
    lambda db: (c(db, "codes").estimate(), c(db, "graph").estimate(10**6)),
    lambda db: c(db, "codes").estimate(np.int64(5000), index=vecstore.IVF(nlist=9)),
    lambda db: c(db, "codes").estimate(5000, index=vecstore.HNSW(m=8), quantization=None),
    lambda db: c(db, "codes").estimate(5000, quantization="auto"),
    lambda db: c(db, "codes").estimate(-1),
    lambda db: c(db, "codes").estimate(rows=3),
    lambda db: c(db, "codes").estimate(index="ivf"),
    lambda db: c(db, "codes").estimate(quantization="int4"),
    # clusters, near duplicates, outliers
    lambda db: c(db, "codes").cluster(7),
    lambda db: c(db).cluster(2, filter={"n": {"$exists": True}}, iterations=2, seed=np.int8(3)),
    lambda db: c(db, "l2").cluster(4, progress=lambda _done, _total: None).members(1),
    lambda db: c(db).cluster(5),
    lambda db: c(db).cluster(2**40),
    lambda db: c(db).cluster(n_clusters=2),
    lambda db: c(db).cluster(2, iterations=True),
    lambda db: c(db).cluster(1, filter={"n": 77}),
    lambda db: c(db, "codes").near_duplicates(0.995),
    lambda db: c(db, "graph").near_duplicates(np.float32(0.99), filter={}, exact=True),
    lambda db: c(db, "dot").near_duplicates(0.5),
    lambda db: c(db, "l2").near_duplicates(-2, filter={"n": {"$exists": False}}),
    lambda db: c(db, "l2").near_duplicates(0.5),
    lambda db: c(db).near_duplicates(float("nan")),
    lambda db: c(db).near_duplicates(0.9, min_score=0.8),
    lambda db: c(db, "codes").outliers(5),
    lambda db: c(db, "graph").outliers(np.int16(3), k=20, with_payload=False, with_vectors=True),
    lambda db: c(db).outliers(2, filter={"n": {"$exists": True}}),
    lambda db: c(db, "dot").outliers(k=0),
    lambda db: c(db).outliers(progress=1),
    # stats, check, names
    lambda db: c(db).stats(),
    # when a checkpoint is written is a matter of time
    lambda db: (c(db, "graph").wait_indexed(), replace(c(db, "graph").stats(), checkpoint_lsn=0)),
    lambda db: c(db, "codes").stats(),
    lambda db: db.create_collection("bare", 4, index=vecstore.Flat()).stats(),
    lambda db: c(db).check(),
    lambda db: (c(db).name, c(db).dim, c(db).metric),
    # closed and dropped
    lambda db: (rows := db.create_collection("mine", 4), rows.close(), rows.close(), rows.count()),
    lambda db: (rows := db.create_collection("mine", 4), rows.close(), rows.insert(1, E[0])),
    lambda db: (rows := db.create_collection("mine", 4), rows.close(), rows.closed, rows.info)[2:],
    lambda db: (rows := c(db, "l2"), db.drop_collection("c-l2"), rows.insert(1, E[0])),
    lambda db: (rows := c(db, "l2"), db.drop_collection("c-l2"), rows.search(E[0])),
    lambda db: (rows := c(db, "l2"), db.drop_collection("c-l2"), rows.check()),
    lambda db: (rows := c(db, "l2"), db.drop_collection("c-l2"), rows.wait_indexed()),
    lambda db: (rows := c(db, "l2"), db.drop_collection("c-l2"), rows.rebuild()),
    lambda db: (rows := c(db, "l2"), db.drop_collection("c-l2"), rows.set_index(vecstore.Flat())),
    lambda db: (rows := db.create_collection("mine", 4), rows.close(), rows.set_index(vecstore.IVF())),
    lambda db: (rows := db.create_collection("mine", 4), rows.close(), rows.estimate()),
    lambda db: (rows := db.create_collection("mine", 4), rows.close(), rows.wait_indexed()),
    lambda db: (rows := db.create_collection("mine", 4), rows.close(), rows.rebuild()),
    lambda db: (db.drop_collection("c-l2"), db.create_collection("c-l2", 2), c(db, "l2").insert(1, [1, 0])),
]  # fmt: skip

LIST_CALLS: list[Callable[[DatabaseVerbs], Any]] = [
    lambda db: (c(db, "lists").search(E, 30, nprobe=2), c(db, "lists").search(E, 30, nprobe=20)),
    lambda db: (c(db, "lists").search(E[1], 3, with_payload=False), c(db, "lists").search(E[1], 30, oversampling=1)),
    lambda db: c(db, "lists").search(E[1], 400, nprobe=1),
    lambda db: c(db, "lists").search(E, 20, filter={"n": 7}, nprobe=np.int32(1), score_threshold=0.5),
    lambda db: c(db, "lists").search(E[1], nprobe=0),
    lambda db: c(db, "lists").search(E[1], nprobe=65_537),
    lambda db: c(db, "lists").search(E[1], nprobe="8"),
    lambda db: c(db, "lists").search(E[1], nprobe=8, exact=True),
    lambda db: c(db, "lists").search(E[1], ef=8),
    lambda db: c(db, "lists").search(E[1], probes=8),
    lambda db: (c(db, "lists").compact(), c(db, "lists").search(E, 30), c(db, "lists").check()),
    lambda db: (rows := c(db, "lists"), rows.delete(range(0, 1500, 3)), rows.update(1, E[0]), rows.wait_indexed(60),
                rows.search(E, 30, nprobe=30), rows.check()),
    lambda db: (rows := c(db, "lists"), rows.set_index(vecstore.IVF(nlist=20, nprobe=1)), rows.info, rows.search(E, 30),
                replace(rows.stats(), checkpoint_lsn=0)),
    lambda db: (rows := c(db, "lists"), rows.set_index(vecstore.IVF(resident=False), quantization=vecstore.Binary()),
                rows.info, rows.search(E, 30), rows.search(E, 30, nprobe=3), replace(rows.stats(), checkpoint_lsn=0)),
    lambda db: (rows := c(db, "lists"), rows.set_index(vecstore.HNSW(), quantization="auto"), rows.search(E, 3, ef=300),
                rows.search(E, nprobe=3)),
    lambda db: (rows := c(db, "lists"), rows.rebuild(seed=5), rows.search(E, 30, nprobe=2), rows.stats().lists),
    # by another handle, which remotely has not seen what has become of the collection
    lambda db: (rows := c(db, "graph"), c(db, "graph").set_index(vecstore.IVF(nlist=9)), rows.search(E, 3, nprobe=9),
                rows.info),
    lambda db: (rows := c(db, "lists"), c(db, "lists").set_index(vecstore.HNSW()), rows.search(E, 3, nprobe=9)),
    lambda db: (rows := c(db, "lists"), c(db, "lists").set_index(vecstore.Flat(), quantization=None), rows.rebuild()),
    lambda db: (c(db, "lists").estimate(), c(db, "lists").estimate(10**6, quantization=vecstore.Binary()),
                c(db, "lists").estimate(10**6, index=vecstore.IVF(resident=False))),
    lambda db: (c(db, "lists").near_duplicates(0.999), c(db, "lists").cluster(5), c(db, "lists").outliers(4)),
]  # fmt: skip


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


@settings(max_examples=25, deadline=None)
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


@settings(max_examples=60, deadline=None)
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
