"""Readers leave linking to the writer: they scan a short tail, and take its checkpoints."""

import time

import numpy as np
import pytest

import vecstore
from vecstore import indexing
from vecstore.storage import log

N = 700
KINDS = [vecstore.HNSW(), vecstore.IVF(nprobe=16)]


@pytest.fixture
def pair(tmp_path, rows, monkeypatch, small_graphs, small_lists, request):
    """The same collection of N linked rows, to write and to read."""
    monkeypatch.setattr(indexing, "LEAST_LEFT", 100)
    monkeypatch.setattr(indexing, "FEW_WRITES", 2)
    monkeypatch.setattr(indexing, "MAX_CODED", 64)
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 16, "l2", index=request.param)
        docs.insert(range(N), rows(N, 16))
        docs.wait_indexed(60)
    with vecstore.open(tmp_path) as db, vecstore.open(tmp_path, read_only=True) as reader:
        yield db.get_collection("docs"), reader.get_collection("docs")


both = pytest.mark.parametrize("pair", KINDS, ids=["hnsw", "ivf"], indirect=True)


def write(docs, n, seed):
    """So many rows anew, one at a time."""
    random = np.random.default_rng(seed)
    for one in random.choice(N, n, replace=False).tolist():
        docs.upsert(one, random.standard_normal(16))


def agrees(docs, followed):
    """The reader finds what there is, and every row itself."""
    records = docs.scroll(limit=N, with_vectors=True).records
    hits = [followed.search(one.vector, 1)[0] for one in records]
    return [hit.id for hit in hits] == [one.id for one in records] and len(followed) == N


def when(ready):
    deadline = time.monotonic() + 20
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.01)
    return ready()


def idle(followed):
    """The thread of a reader has done what it does."""
    indexer = followed._indexing.indexer
    return when(lambda: indexer._done == indexer._wanted)


@both
def test_a_short_tail_is_left_until_the_writers_checkpoint_has_it(pair):
    docs, followed = pair
    write(docs, 60, 1)
    assert agrees(docs, followed) and idle(followed)
    assert (followed.stats().tail, followed.stats().tombstones) == (60, 60)
    docs.wait_indexed(60)
    docs._indexing.checkpoints.write()
    write(docs, 5, 2)
    assert agrees(docs, followed) and idle(followed)
    assert followed.stats().checkpoint_lsn == docs.stats().checkpoint_lsn
    assert followed.stats().tail == 5
    assert agrees(docs, followed) and followed.check() == []


@both
def test_a_long_tail_is_linked_where_no_checkpoint_comes(pair, monkeypatch):
    docs, followed = pair
    monkeypatch.setattr(indexing, "AWAIT_SECONDS", 0.2)
    write(docs, 120, 1)
    assert agrees(docs, followed)
    assert when(lambda: followed.stats().tail <= 100)
    write(docs, 3, 2)
    assert agrees(docs, followed) and followed.check() == []


@both
def test_who_waits_for_all_rows_has_them_linked(pair):
    docs, followed = pair
    write(docs, 30, 1)
    assert followed.search(np.ones(16)) and idle(followed)
    followed.wait_indexed(60)
    assert followed.stats().tail == 0
    assert agrees(docs, followed) and followed.check() == []


@both
@pytest.mark.parametrize("trimmed", [False, True], ids=["long log", "short log"])
def test_a_reader_that_slept_takes_the_writers_checkpoint(pair, monkeypatch, trimmed):
    docs, followed = pair
    if trimmed:
        monkeypatch.setattr(log, "KEEP", 8)
        monkeypatch.setattr(log, "TRIM_AT_ONCE", 4)
    before = followed._index.structure
    write(docs, 200, 1)
    docs.wait_indexed(60)
    docs._indexing.checkpoints.write()
    write(docs, 20, 2)
    with docs._store.view() as view:
        assert (view.changed_since(followed._index.lsn) is None) == trimmed
    assert agrees(docs, followed)
    assert followed._index.structure is not before
    assert followed.stats().checkpoint_lsn == docs.stats().checkpoint_lsn > 200
    assert followed.stats().linked >= N - 20
    assert agrees(docs, followed) and followed.check() == []


@both
def test_a_checkpoint_that_knows_less_is_not_taken(pair):
    docs, followed = pair
    write(docs, 30, 1)
    docs._indexing.indexer.stop()  # from here on the writer links no more
    write(docs, 30, 2)
    assert followed.search(np.ones(16))
    followed.wait_indexed(60)
    own = followed._index.structure
    docs.search(np.ones(16))
    docs._indexing.checkpoints.write()
    write(docs, 2, 3)
    assert agrees(docs, followed) and idle(followed)
    assert followed._index.structure is own
