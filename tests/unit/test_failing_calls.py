"""Each call of a write to LMDB fails in turn: an error leaves nothing of the write, and a repetition is whole."""

import errno
import itertools

import lmdb
import numpy as np
import pytest

import vecstore
from vecstore.storage import blocks
from vecstore.testing import ModelDatabase

DIM = 64
ROWS = 8  # to a block


class Counting:
    """An LMDB environment whose `fail_at`-th call that changes something raises `error`, once."""

    def __init__(self, env, error, fail_at):
        self._env, self._error, self._left = env, error, fail_at
        self.failed = False

    def __getattr__(self, name):
        return getattr(self._env, name)

    def begin(self, **options):
        txn = self._env.begin(**options)
        return CountingTransaction(self, txn) if options.get("write") else txn

    def count(self):
        self._left -= 1
        if self._left == 0:
            self.failed = True
            raise self._error


class CountingTransaction:
    def __init__(self, counting, txn):
        self._counting, self._txn = counting, txn

    def __getattr__(self, name):
        if name in ("put", "delete"):
            self._counting.count()
        return getattr(self._txn, name)

    def cursor(self, *args, **options):
        return CountingCursor(self._counting, self._txn.cursor(*args, **options))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            try:
                self._counting.count()  # the commit
            except BaseException:
                self._txn.abort()
                raise
            self._txn.commit()
        else:
            self._txn.abort()


class CountingCursor:
    def __init__(self, counting, cursor):
        self._counting, self._cursor = counting, cursor

    def __getattr__(self, name):
        if name in ("putmulti", "delete", "put"):
            self._counting.count()
        return getattr(self._cursor, name)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._cursor.close()

    def __iter__(self):
        return iter(self._cursor)


def vectors(n, seed):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def payloads(n):
    return [{"n": i % 3} if i % 4 else None for i in range(n)]


WRITES = {
    "insert": lambda docs: docs.insert(range(100, 120), vectors(20, 1), payloads(20)),
    "upsert": lambda docs: docs.upsert([5, "new", 7, 300, 12], vectors(5, 2), payloads(5)),
    "update vectors": lambda docs: docs.update([0, 1, 13], vectors(3, 3)),
    "update payloads": lambda docs: docs.update([0, 1, 13], payloads=[{"m": 1}, None, {"n": 0}]),
    "update both": lambda docs: docs.update([2, 22], vectors(2, 4), [{"m": 1}, {"n": 0}]),
    "delete": lambda docs: docs.delete([3, 4, 5, 6, "not there"]),
    "delete by filter": lambda docs: docs.delete(filter={"n": 1}),
}


def content(docs):
    """All rows in a form in which equal means equal bits, and the lsn."""
    records = docs.scroll(limit=10_000, with_vectors=True).records
    return [(one.id, one.payload, one.vector.tobytes()) for one in records], docs.stats().lsn


@pytest.fixture
def pair(db, monkeypatch):
    """`pair()`: a new collection of small blocks, some of them with free slots, and its model."""
    for name in ("MIN_ROWS", "MAX_ROWS"):
        monkeypatch.setattr(blocks, name, ROWS)
    databases = db, ModelDatabase()

    def make():
        number = len(db.list_collections())
        made = [one.create_collection(f"docs{number}", DIM, "l2") for one in databases]
        for docs in made:
            docs.insert(range(40), vectors(40, 0), payloads(40))
            docs.delete([8, 9, 10, 24])
        assert made[0]._store.layout.rows == ROWS
        return made

    return make


def disk_error():
    error = lmdb.DiskError("disk")
    error.code = errno.EIO
    return error


@pytest.mark.parametrize("error", [disk_error(), MemoryError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("write", WRITES)
def test_every_call_that_fails_leaves_nothing_and_the_write_can_be_repeated(pair, write, error):
    docs, model = pair()
    env = docs._store.env
    before = content(docs)
    for fail_at in itertools.count(1):
        counting = env._env = Counting(env._env, error, fail_at)
        try:
            result = WRITES[write](docs)
        except (vecstore.StorageError, MemoryError, KeyboardInterrupt):
            assert counting.failed
        else:
            assert not counting.failed
            break
        finally:
            env._env = counting._env
        assert content(docs) == before
        assert docs.check() == []
    assert fail_at > 3
    assert result == WRITES[write](model)
    assert content(docs) == content(model)
    # What is kept in memory, such as which slots are free, was not led astray.
    for again in ("upsert", "delete", "upsert", "delete by filter"):
        assert WRITES[again](docs) == WRITES[again](model)
    assert content(docs) == content(model)
    assert docs.check() == []


@pytest.mark.parametrize("write", WRITES)
def test_a_map_that_is_full_at_any_call_grows_and_the_write_is_done_once(pair, write):
    for fail_at in itertools.count(1):
        docs, model = pair()
        env = docs._store.env
        size = env._map_size
        counting = env._env = Counting(env._env, lmdb.MapFullError("full"), fail_at)
        result = WRITES[write](docs)
        env._env = counting._env
        assert env._map_size == (2 * size if counting.failed else size)
        assert result == WRITES[write](model)
        assert content(docs) == content(model)
        assert WRITES["upsert"](docs) == WRITES["upsert"](model)
        assert content(docs) == content(model)
        assert docs.check() == []
        docs.close()
        if not counting.failed:
            break
    assert fail_at > 3
