"""A graph follows every sequence of writes: with all rows among its candidates, a search of it is the exact search."""

import os
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import vecstore
from vecstore import checkpoints, indexing
from vecstore.index import flat, following, graph, hnsw
from vecstore.index.background import Indexer
from vecstore.storage import blocks, checkpoint, log
from vecstore.testing import ModelDatabase, strategies, wrong_hits

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
NAME = "rows"
ALL = 1000  # candidates and rescored rows for each hit, with which every row is one of them


class Stepped(Indexer):
    """An Indexer without a thread: so many steps at each `wake`, and as many as are asked for, so that the same rules
    give the same graph."""

    at_wake = 0

    def steps(self, most):
        while most > 0 and not self.stopping and self._step():
            most -= 1

    def wake(self):
        self.steps(self.at_wake)

    def wait_until(self, ready, timeout=None):
        while not ready() and not self.stopping:
            if not self._step():
                break
        return ready()


class GraphMachine(RuleBasedStateMachine):
    """A collection that is linked early and refitted often, whose log is short; read by its writer and by a reader."""

    def __init__(self):
        super().__init__()
        self.path = tempfile.mkdtemp()
        self.patch = pytest.MonkeyPatch()
        for module, name, value in (
            (hnsw, "FIT_FROM", 20),
            (hnsw, "LINK_FROM", 40),
            (hnsw, "REFIT_GROWTH", 3),
            (following, "REMEMBERED", 2),
            (graph, "MIN_BATCH", 8),
            (graph, "MIN_PILOTS", 2),
            (flat, "MAX_PART", 16),
            (indexing, "MAX_TAIL", 30),
            (checkpoints, "BUSY_ROWS", 16),
            (checkpoints, "BUSY_SHARE", 0),
            (checkpoints, "IDLE_ROWS", 16),
            (checkpoints, "IDLE_SHARE", 0),
            (checkpoints, "REST", 0),
            (checkpoints, "MAX_WRITES", 12),
            (checkpoint, "PIECE_BYTES", 512),
            (log, "KEEP", 6),
            (log, "TRIM_AT_ONCE", 2),
            (blocks, "MIN_ROWS", 64),
            (blocks, "MAX_ROWS", 64),
        ):
            self.patch.setattr(module, name, value)
        # What a walk costs decides whether there is one: here mostly there is.
        self.patch.setattr(hnsw, "CANDIDATE", 1.0)
        self.folder, self.model, self.open = {}, None, []

    def teardown(self):
        for db in self.open:
            db.close()
        self.patch.undo()
        shutil.rmtree(self.path)

    @initialize(
        dim=st.sampled_from([8, 48]),
        metric=st.sampled_from(["cosine", "dot", "l2"]),
        quantization=strategies.quantizations,
        m=st.sampled_from([8, 16]),
        n=st.sampled_from([0, 60, 120, 200]),
        steps=st.sampled_from([0, 1, 3, None] if MANY else [0, 1, 3]),
    )
    def create(self, dim, metric, quantization, m, n, steps):
        """`steps` of indexing follow each write; None: those of a thread, which may come at any time."""
        self.dim, self.metric = dim, metric
        if steps is not None:
            self.patch.setattr(indexing, "Indexer", Stepped)
            self.patch.setattr(Stepped, "at_wake", steps)
        self.reopen_all()
        self.model = ModelDatabase(self.folder)
        for db in (self.open[0], self.model):
            db.create_collection(
                NAME, dim, metric, index=vecstore.HNSW(m=m, ef_construction=40), quantization=quantization
            )
        vectors = np.random.default_rng(n).standard_normal((n, dim)).astype(np.float32)
        self.both("insert", range(n), vectors, [{"n": one % 5} for one in range(n)])

    def reopen_all(self):
        self.open = [vecstore.open(self.path), vecstore.open(self.path, read_only=True)]

    def rows(self, reader=0):
        return self.open[reader].get_collection(NAME)

    def both(self, verb, *args, **kwargs):
        found, expected = (getattr(db.get_collection(NAME), verb)(*args, **kwargs) for db in (self.open[0], self.model))
        assert found == expected

    def drawn(self, data, n):
        return data.draw(strategies.vectors(n, self.dim, self.metric))

    # -- writing ---------------------------------------------------------------------------------------------

    @rule(data=st.data(), start=st.integers(0, 200), n=st.integers(1, 80))
    def upsert_run(self, data, start, n):
        self.both("upsert", range(start, start + n), self.drawn(data, n), [{"n": one % 5} for one in range(n)])

    @rule(data=st.data(), ids=st.lists(st.integers(0, 280), unique=True, max_size=20))
    def upsert_some(self, data, ids):
        self.both("upsert", ids, self.drawn(data, len(ids)), data.draw(strategies.payload_lists(len(ids))))

    @rule(data=st.data(), n=st.integers(1, 5))
    def update_some(self, data, n):
        there = list(self.folder[NAME].rows)[-n:]
        self.both("update", there, self.drawn(data, len(there)))

    @rule(n=st.integers(0, 4))
    def update_payloads(self, n):
        there = list(self.folder[NAME].rows)[:7]
        self.both("update", there, payloads=[{"n": n}] * len(there))

    @rule(ids=st.lists(st.integers(0, 280), max_size=40))
    def delete_some(self, ids):
        self.both("delete", ids)

    @rule(start=st.integers(0, 280), n=st.integers(1, 60))
    def delete_run(self, start, n):
        self.both("delete", range(start, start + n))

    @rule(n=st.integers(0, 4))
    def delete_matching(self, n):
        self.both("delete", filter={"n": n})

    # -- reading ---------------------------------------------------------------------------------------------

    @rule(
        data=st.data(),
        reader=st.integers(0, 1),
        k=st.sampled_from([1, 7, 300]),
        filter=st.none() | st.integers(0, 4).map(lambda n: {"n": n}) | strategies.filters,
        threshold=strategies.thresholds,
    )
    def search_all(self, data, reader, k, filter, threshold):
        """Where `ef` covers all rows, the answer is the exact one."""
        query, rows = self.drawn(data, 1)[0], self.rows(reader)
        options = {"filter": filter, "score_threshold": threshold}
        how = {} if rows.info.quantization is None else {"oversampling": ALL}
        found = rows.search(query, k, ef=ALL, **how, **options)
        assert wrong_hits(self.model.get_collection(NAME), found, query, k, **options) is None

    @rule(
        data=st.data(),
        reader=st.integers(0, 1),
        k=st.sampled_from([1, 5, 40]),
        ef=st.sampled_from([None, 1, 20]),
        filter=st.none() | st.integers(0, 4).map(lambda n: {"n": n}),
        payload=st.booleans(),
    )
    def search(self, data, reader, k, ef, filter, payload):
        """As many as there are, none twice, none that is gone, each with its own score."""
        queries = data.draw(strategies.queries(self.dim, self.metric))
        model = self.model.get_collection(NAME)
        found = self.rows(reader).search(queries, k, ef=ef, filter=filter, with_payload=payload)
        for query, hits in zip(np.atleast_2d(queries), found if queries.ndim == 2 else [found], strict=True):
            ids, scores, slack = model.scores(query, filter)
            expected = dict(zip(ids, zip(scores.tolist(), slack.tolist(), strict=True), strict=True))
            assert len({hit.id for hit in hits}) == len(hits) == min(k, len(ids))
            for hit in hits:
                score, off = expected[hit.id]
                assert abs(hit.score - score) <= off
                if payload:
                    assert hit.payload == self.folder[NAME].rows[hit.id].payload
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    @rule(reader=st.integers(0, 1))
    def wait_indexed(self, reader):
        rows = self.rows(reader)
        rows.wait_indexed(60)
        stats = rows.stats()
        if stats.count >= 20:
            assert stats.linked + stats.tail == stats.count
            assert rows._index.structure.arrays.count < 40 or stats.tail == 0

    @rule(reader=st.integers(0, 1), n=st.sampled_from([1, 2, 1000]))
    def index_some(self, reader, n):
        indexer = self.rows(reader)._indexing.indexer
        if isinstance(indexer, Stepped):
            indexer.steps(n)

    @rule(reader=st.integers(0, 1), seed=st.none() | st.integers(0, 9))
    def rebuild(self, reader, seed):
        self.rows(reader).rebuild(seed=seed)

    # -- life ------------------------------------------------------------------------------------------------

    @rule()
    def reopen(self):
        """The graph is the same again."""
        rows = self.rows()
        for db in self.open:
            db.close()
        self.reopen_all()
        before, after = (one._index.structure and one._index.structure.links_by_slot() for one in (rows, self.rows()))
        assert before == after
        assert self.rows().stats().checkpoint_lsn == (0 if before is None else rows._index.lsn)

    @rule()
    def reopen_without_a_checkpoint(self):
        """As after a kill: what there is of the last one, if there was one, is used, and the rest follows."""
        rows = self.rows()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints.Checkpoints, "write", lambda _: None)
            for db in self.open:
                db.close()
        self.reopen_all()
        assert self.rows().stats().checkpoint_lsn == rows._indexing.checkpoints.lsn

    @rule(often=st.integers(0, 3))
    def drop_and_create(self, often):
        if often:
            return
        info = self.rows().info
        for db in (self.open[0], self.model):
            db.drop_collection(NAME)
            db.create_collection(NAME, info.dim, info.metric, index=info.index, quantization=info.quantization)

    @invariant()
    def every_row_is_found(self):
        if self.model is None:
            return
        rows, query = self.rows(), np.ones(self.dim, np.float32)
        there = self.folder[NAME].rows
        assert {hit.id for hit in rows.search(query, 1000, with_payload=False)} == there.keys()
        assert len(rows) == len(there)
        assert rows.stats().index_error is None
        assert rows.check() == []


def test_a_graph_follows_any_sequence_of_writes():
    run_state_machine_as_test(
        GraphMachine,
        settings=settings(
            max_examples=1000 if MANY else 40,
            stateful_step_count=60 if MANY else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
