"""Codes follow every sequence of writes: with all rows rescored, a search of codes is the exact search."""

import os
import shutil
import tempfile
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import vecstore
from vecstore.index import codes, flat
from vecstore.storage import blocks, log
from vecstore.testing import strategies

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
KINDS = [vecstore.Int8(), vecstore.Int4(), vecstore.Binary()]
ALL = 1000  # oversampling with which every row is a candidate


class QuantizedMachine(RuleBasedStateMachine):
    """A collection that is fitted early and often, whose log is short; read by its writer and by a reader."""

    def __init__(self):
        super().__init__()
        self.path = tempfile.mkdtemp()
        self.patch = pytest.MonkeyPatch()
        for module, name, value in (
            (codes, "MIN_ROWS", 20),
            (codes, "REFIT", 2),
            (flat, "MAX_PART", 16),
            (log, "KEEP", 6),
            (log, "TRIM_AT_ONCE", 2),
            (blocks, "MIN_ROWS", 64),
            (blocks, "MAX_ROWS", 64),
        ):
            self.patch.setattr(module, name, value)

    def teardown(self):
        for db in self.open:
            db.close()
        self.patch.undo()
        shutil.rmtree(self.path)

    @initialize(
        dim=st.sampled_from([16, 48]),
        metric=st.sampled_from(["cosine", "dot", "l2"]),
        kind=st.sampled_from(KINDS),
    )
    def create(self, dim, metric, kind):
        self.dim, self.metric = dim, metric
        self.reopen_all()
        self.open[0].create_collection("rows", dim, metric, index=vecstore.Flat(), quantization=kind)

    def reopen_all(self):
        self.open = [vecstore.open(self.path), vecstore.open(self.path, read_only=True)]

    @property
    def rows(self):
        return self.open[0].get_collection("rows")

    def drawn(self, data, n):
        return data.draw(strategies.vectors(n, self.dim, self.metric))

    @rule(data=st.data(), start=st.integers(0, 200), n=st.integers(1, 80))
    def upsert_run(self, data, start, n):
        self.rows.upsert(range(start, start + n), self.drawn(data, n))

    @rule(data=st.data(), ids=st.lists(st.integers(0, 280), unique=True, max_size=20))
    def upsert_some(self, data, ids):
        self.rows.upsert(ids, self.drawn(data, len(ids)))

    @rule(ids=st.lists(st.integers(0, 280), max_size=40))
    def delete_some(self, ids):
        self.rows.delete(ids)

    @rule(start=st.integers(0, 280), n=st.integers(1, 150))
    def delete_run(self, start, n):
        self.rows.delete(range(start, start + n))

    @rule(data=st.data())
    def update_payloads(self, data):
        there = [one.id for one in self.rows.scroll(limit=5).records]
        self.rows.update(there, payloads=[{"n": data.draw(st.integers(0, 3))}] * len(there))

    @rule(data=st.data(), reader=st.integers(0, 1), k=st.sampled_from([1, 7, 300]))
    def search(self, data, reader, k):
        query = data.draw(strategies.queries(self.dim, self.metric))
        rows = self.open[reader].get_collection("rows")
        found = rows.search(query, k, oversampling=ALL, with_vectors=True)
        exact = rows.search(query, k, exact=True, with_vectors=True)
        assert found == exact

    @rule()
    def reopen(self):
        for db in self.open:
            db.close()
        self.reopen_all()

    @rule()
    def drop_and_create(self):
        info = self.rows.info
        self.open[0].drop_collection("rows")
        self.open[0].create_collection("rows", info.dim, info.metric, index=info.index, quantization=info.quantization)

    @invariant()
    def every_row_is_found(self):
        if not hasattr(self, "open"):
            return
        rows = self.rows
        query = np.ones(self.dim, np.float32)
        assert len(rows.search(query, 1000)) == len(rows)
        assert rows.search(query, 3, oversampling=ALL) == rows.search(query, 3, exact=True)
        assert rows.check() == []


def test_codes_follow_any_sequence_of_writes():
    run_state_machine_as_test(
        QuantizedMachine,
        settings=settings(
            max_examples=300 if MANY else 20,
            stateful_step_count=60 if MANY else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_searches_of_other_threads_lack_no_row_while_codes_follow_writes(db, rows, monkeypatch, kind):
    """Among them rows whose slots are used again, and a quantizer that is fitted anew."""
    monkeypatch.setattr(codes, "MIN_ROWS", 50)
    monkeypatch.setattr(codes, "REFIT", 2)
    docs = db.create_collection("docs", 64, "l2", index=vecstore.Flat(), quantization=kind)
    docs.insert(range(60), rows(60, 64))
    done, wrong, searches = threading.Event(), [], [0] * 3

    def search(n):
        try:
            while not done.is_set():
                hits = docs.search(np.zeros(64), 1000, with_vectors=True)
                assert {hit.id for hit in hits} >= set(range(60)), "a row that is always there"
                for hit in hits:
                    assert abs(hit.score + np.linalg.norm(hit.vector)) <= 1e-4 * abs(hit.score)
                searches[n] += 1
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=search, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for n in range(150 if MANY else 60):
        docs.upsert(range(60), rows(60, 64, n))
        docs.insert(range(100 + n * 3, 103 + n * 3), rows(3, 64, n))
        docs.delete(range(100 + n * 2, 102 + n * 2))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(searches)
    assert docs.check() == []
