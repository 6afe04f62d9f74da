"""A collection that no refused call may change."""

import numpy as np
import pytest

import vecstore


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with vecstore.open(tmp_path_factory.mktemp("door") / "db") as db:
        docs = db.create_collection("docs", 3)
        docs.insert([1, "a"], np.eye(3)[:2], [{"n": 1}, None])
        yield db, docs


@pytest.fixture
def db(shared):
    yield shared[0]
    assert shared[0].list_collections() == ["docs"]


@pytest.fixture
def docs(shared):
    """A collection that a test must leave as it was."""
    docs = shared[1]
    yield docs
    assert docs.scroll() == ([vecstore.Record(1, {"n": 1}), vecstore.Record("a")], None)
    assert (docs.stats().lsn, docs.check()) == (1, [])
