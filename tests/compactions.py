"""Collections to compact, and what must stay as it is."""

import vecstore

KINDS = {
    "flat": {"index": vecstore.Flat()},
    "codes": {"index": vecstore.Flat(), "quantization": vecstore.Int8()},
    "graph": {"index": vecstore.HNSW(m=16)},
}


def contents(docs):
    """All rows, bit by bit."""
    records = docs.scroll(limit=10_000, with_vectors=True).records
    return [(one.id, one.payload, one.vector.tobytes()) for one in records]


def filled(db, rows, kind="flat", n=2000, dim=24):
    """A collection of n rows, half of them written twice, and a third deleted."""
    docs = db.create_collection("docs", dim, "l2", **KINDS[kind])
    docs.insert(range(n), rows(n, dim), [{"n": i} for i in range(n)])
    docs.upsert(range(0, n, 2), rows(n // 2, dim, 1))
    docs.delete(range(0, n, 3))
    docs.upsert(["a", "b"], rows(2, dim, 2), [{"s": "x"}, None])
    docs.wait_indexed()
    return docs


def files(docs):
    """The names in the folder of a collection."""
    return sorted(entry.name for entry in docs._store.env.path.parent.iterdir())


def files_of(kind):
    """The names that there are."""
    index = ["index.mdb", "index.mdb-lock"] if kind == "graph" else []
    return ["data.mdb", "data.mdb-lock", *index]
