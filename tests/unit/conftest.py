"""Fixtures that several files share."""

import logging

import numpy as np
import pytest

import vecstore
from tests.indexes import DIM, clustered, small_graph


@pytest.fixture
def folder(tmp_path, rows):
    """`folder(n)`: a closed database with a linked collection of n rows of 16 dimensions."""

    def make(n=600, **options):
        with vecstore.open(tmp_path / "db") as db:
            docs = db.create_collection("docs", 16, "l2", **options)
            docs.insert(range(n), rows(n, 16))
            docs.wait_indexed(60)
        return tmp_path / "db"

    return make


@pytest.fixture
def warnings(caplog):
    """What was logged at WARNING since it was last called."""

    def since():
        found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        caplog.clear()
        return found

    return since


@pytest.fixture
def linked(monkeypatch):
    """1,500 rows under ids 0, 2, 4, ..., all linked; and the rows by id."""
    small_graph(monkeypatch)
    rows = clustered(1500)
    index = vecstore.Index(DIM)
    index.add(rows, np.arange(1500) * 2)
    assert index.stats()["linked"] == 1500
    return index, dict(zip(range(0, 3000, 2), rows, strict=True))
