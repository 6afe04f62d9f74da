"""What a database goes through while its storage fails: every kind of write, small enough to be run hundreds of times.

A step depends on nothing but what it finds, so that it can be applied to the model as well.
"""

import random

import numpy as np

import vecstore

DIM = 8


def vectors(seed, n):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def payloads(seed, n):
    rng = random.Random(seed)
    return [None if rng.random() < 0.1 else {"part": rng.randrange(4), "n": seed, "text": "x" * 20} for _ in range(n)]


def create(db):
    db.create_collection("docs", DIM, "cosine", exist_ok=True)


def create_another(db):
    db.create_collection("other", DIM, "l2", index=vecstore.Flat(), quantization=None, exist_ok=True)


def drop_another(db):
    db.drop_collection("other")


def write(verb, *arguments, **options):
    def step(db):
        getattr(db.get_collection("docs"), verb)(*arguments, **options)

    step.__name__ = verb
    return step


STEPS = [
    create,
    write("insert", range(150), vectors(1, 150), payloads(1, 150)),
    write("upsert", range(100, 300), vectors(2, 200), payloads(2, 200)),
    write("update", range(50, 90), vectors(3, 40)),
    create_another,
    write("update", range(60, 120), payloads=payloads(4, 60)),
    write("delete", range(130)),
    write("set_index", vecstore.IVF(nlist=9), quantization=vecstore.Binary()),
    write("delete", filter={"part": 2}),
    write("insert", range(500, 640), vectors(5, 140), payloads(5, 140)),  # into slots that became free
    write("upsert", "lonely", vectors(6, 1)[0], {"a": "text of some length " * 300}),
    drop_another,
    write("upsert", [f"name {i}" for i in range(40)], vectors(7, 40), payloads(7, 40)),
]


def state(database):
    """All that a database holds, in a form in which equal means equal bits."""
    found = {}
    for name in database.list_collections():
        collection = database.get_collection(name)
        page = collection.scroll(limit=10_000, with_vectors=True)
        assert page.cursor is None
        assert len(page.records) == len(collection) == collection.stats().count
        rows = [(record.id, record.payload, record.vector.tobytes()) for record in page.records]
        found[name] = collection.info, collection.stats().lsn, rows
    return found


def assert_sound(database):
    """Nothing is damaged, and each row is its own nearest."""
    for name in database.list_collections():
        collection = database.get_collection(name)
        assert collection.check() == []
        records = collection.scroll(limit=10_000, with_payload=False, with_vectors=True).records
        if records:
            found = collection.search(np.array([record.vector for record in records]), 1)
            assert [hits[0].id for hits in found] == [record.id for record in records]
