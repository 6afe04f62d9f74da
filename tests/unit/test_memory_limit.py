"""An index takes no more RAM than it may: it is refused or let go, and rows are found all the same."""

import numpy as np
import pytest
from vecstore_server import Config, Server

import vecstore
from vecstore import budget

MB = 10**6


@pytest.fixture(autouse=True)
def large(monkeypatch, small_graphs):
    """Each row takes a thousand times as much as it does."""
    sizes_of = budget.sizes_of

    def larger(*args):
        return type(sizes_of(*args))(*(1000 * size for size in sizes_of(*args)))

    monkeypatch.setattr(budget, "sizes_of", larger)


def needs(docs, count, index=None, quantization="same"):
    return 1000 * docs.estimate(count, index=index, quantization=quantization).peak_bytes


def limit_for(rows, kind):
    """So much that the index of 1,024 rows fits, and that of 2,048 does not."""
    with vecstore.open(rows) as db:
        docs = db.create_collection("measured", 32, **kind)
        limit = (needs(docs, 1024) + needs(docs, 2048)) // 2
        db.drop_collection("measured")
    return limit


KINDS = [
    {"index": vecstore.HNSW(), "quantization": vecstore.Int8()},
    {"index": vecstore.Flat(), "quantization": vecstore.Int4()},
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_has_grown_too_large_is_let_go(tmp_path, rows, kind):
    limit, vectors = limit_for(tmp_path, kind), rows(2000, 32)
    with vecstore.open(tmp_path, memory_limit=limit) as db:
        docs = db.create_collection("docs", 32, **kind)
        docs.insert(range(1020), vectors[:1020])
        docs.search(vectors[0])
        docs.wait_indexed(120)
        assert docs.stats().code_bytes > 0 and docs.stats().index_error is None
        docs.insert(range(1020, 2000), vectors[1020:])
        assert [hits[0].id for hits in docs.search(vectors, 1)] == list(range(2000))
        said = docs.stats().index_error
        assert said.startswith(f"memory_limit={limit}: ") and "set_index(" in said
        assert docs.stats().index_bytes == 0
        if kind["index"] != vecstore.Flat():
            with pytest.raises(vecstore.StateError, match=r"not indexed.*memory_limit"):
                docs.wait_indexed(120)
            with pytest.raises(vecstore.StateError, match="memory_limit"):
                docs.rebuild()
        docs.upsert(7, np.full(32, 9))  # writes go on
        assert docs.search(np.full(32, 9), 1)[0].id == 7 and docs.check() == []
        docs.compact()
        docs.delete(range(1010, 2000))  # there is room again
        docs.search(vectors[0])
        docs.wait_indexed(120)
        assert docs.stats().code_bytes > 0 and docs.stats().index_error is None


def test_an_open_loads_no_index_that_does_not_fit(tmp_path, rows):
    limit, vectors = limit_for(tmp_path, KINDS[0]), rows(2000, 32)
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 32, **KINDS[0])
        docs.insert(range(2000), vectors)
        docs.wait_indexed(120)
    for read_only in (False, True):
        with vecstore.open(tmp_path, read_only=read_only, memory_limit=limit) as db:
            docs = db.get_collection("docs")
            assert docs.stats().index_bytes == 0 and "memory_limit" in docs.stats().index_error
            assert [hits[0].id for hits in docs.search(vectors[:99], 1)] == list(range(99))
    with vecstore.open(tmp_path) as db:  # the checkpoint is still there
        docs = db.get_collection("docs")
        assert docs.stats().linked == 2000 and docs.stats().index_error is None


def test_set_index_refuses_what_does_not_fit_and_takes_what_does(tmp_path, rows):
    vectors, small = rows(2000, 32), (vecstore.IVF(), vecstore.Binary())
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 32, index=vecstore.Flat())
        docs.insert(range(2000), vectors)
        limit = needs(docs, 2048, *small) + MB
        assert needs(docs, 2000, vecstore.HNSW(), None) > limit
    with vecstore.open(tmp_path, memory_limit=limit) as db:
        docs = db.get_collection("docs")
        for quantization in (None, vecstore.Int8()):
            with pytest.raises(vecstore.StateError, match=r"keeps its index.*IVF\(\), quantization=Binary\(\)"):
                docs.set_index(vecstore.HNSW(), quantization=quantization)
            assert docs.info.index == vecstore.Flat()
        docs.set_index(small[0], quantization=small[1])
        assert docs.stats().index_error is None and docs.stats().code_bytes > 0
        # What it has is not there for another.
        other = db.create_collection("other", 32, index=small[0], quantization=small[1])
        other.insert(range(2000), vectors)
        assert other.search(vectors[5], 1)[0].id == 5
        assert "of other indexes" in other.stats().index_error
        assert "set_index(" in other.stats().index_error
        db.drop_collection("docs")
        assert other.search(vectors[5], 1)[0].id == 5
        assert other.stats().index_error is None


def test_a_server_has_a_limit_too(tmp_path, rows):
    limit = limit_for(tmp_path / "db", KINDS[0])
    with (
        Server(Config(tmp_path / "db", listen="127.0.0.1:0", grace=1, memory_limit=limit)) as server,
        vecstore.connect(server.address) as db,
    ):
        docs = db.create_collection("docs", 32, **KINDS[0])
        docs.insert(range(2000), rows(2000, 32))
        assert docs.search(rows(2000, 32)[3], 1)[0].id == 3
        assert "memory_limit" in docs.stats().index_error


def test_arguments(tmp_path):
    for wrong in (0, -1, "2 GB", 1.5e9, True):
        with pytest.raises(vecstore.InvalidArgumentError, match="memory_limit"):
            vecstore.open(tmp_path, memory_limit=wrong)
    with pytest.raises(vecstore.UnknownArgumentError, match="memory_limit"):
        vecstore.open(tmp_path, max_memory=10**9)
