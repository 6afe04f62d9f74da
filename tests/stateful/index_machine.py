"""A machine of rules for Hypothesis: a collection with any index follows every sequence of writes, whatever is done to
it between them; with all rows among its candidates, a search of it is the exact search."""

import contextlib
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import vecstore
from vecstore import checkpoints, indexing
from vecstore.index import codes, fitting, flat, following, graph, hnsw, ivf, places, steps
from vecstore.index.background import Indexer
from vecstore.index.lists import InvertedFile
from vecstore.storage import blocks, checkpoint, log, scratch
from vecstore.testing import ModelDatabase, strategies, wrong_hits
from vecstore.types import HNSW, IVF

NAME = "rows"
ALL = 1000  # candidates, or lists, and rescored rows for each hit, with which every row is one of them
# An index that is made early and refitted often, whose log is short; lists of few rows, which split and dissolve.
SMALL = (
    (hnsw, "FIT_FROM", 20),
    (hnsw, "LINK_FROM", 40),
    (fitting, "REFIT_GROWTH", 3),
    # What a walk costs decides whether there is one: here mostly there is.
    (hnsw, "CANDIDATE", 1.0),
    (ivf, "FIT_FROM", 20),
    (ivf, "TRAIN_FROM", 40),
    (steps, "SAMPLES", 4),
    (steps, "FEW_SAMPLES", 2),
    (steps, "AT_HAND", 0),
    (steps, "SCARCE", 0),
    (steps, "LEAST_ROWS", 48),
    (ivf, "LISTS_PER_ROOT", 0.8),
    (ivf, "BATCH", 32),
    (ivf, "LONGEST", 1.5),
    (ivf, "SHORTEST", 1 / 3),
    (ivf, "LEAST_LONGEST", 12),
    (ivf, "NEARBY", 3),
    (ivf, "ROW", 1e9),  # nor are rows scanned where few match
    (places, "AT_ONCE", 48),
    (codes, "MIN_ROWS", 20),
    (scratch, "LEAST", 1024),
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
    (indexing, "LOOK_AGAIN_SECONDS", 0.001),
    (checkpoints, "AWAIT_SECONDS", 0.1),
    (checkpoint, "PIECE_BYTES", 512),
    (checkpoint, "AT_ONCE", 8192),
    (log, "KEEP", 6),
    (log, "TRIM_AT_ONCE", 2),
    (blocks, "MIN_ROWS", 64),
    (blocks, "MAX_ROWS", 64),
)


def run(machine, examples, steps):
    """Hold a machine against so many sequences of so many rules."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


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


class IndexMachine(RuleBasedStateMachine):
    """A collection that is written to and searched, by its writer and by a reader; a subclass begins it (`begin`)."""

    def __init__(self):
        super().__init__()
        self.path = tempfile.mkdtemp()
        self.patch = pytest.MonkeyPatch()
        for module, name, value in SMALL:
            self.patch.setattr(module, name, value)
        self.folder, self.model, self.open = {}, None, []

    def teardown(self):
        for db in self.open:
            db.close()
        self.patch.undo()
        shutil.rmtree(self.path)

    def begin(self, dim, metric, index, quantization, n, at_wake):
        """With n rows. `at_wake` steps of indexing follow each write; if it is None, those of a thread, at any time."""
        self.dim, self.metric = dim, metric
        if at_wake is not None:
            self.patch.setattr(indexing, "Indexer", Stepped)
            self.patch.setattr(Stepped, "at_wake", at_wake)
        self.reopen_all()
        self.model = ModelDatabase(self.folder)
        for db in (self.open[0], self.model):
            db.create_collection(NAME, dim, metric, index=index, quantization=quantization)
        vectors = np.random.default_rng(n).standard_normal((n, dim)).astype(np.float32)
        self.both("insert", range(n), vectors, [{"n": one % 5} for one in range(n)])

    def reopen_all(self):
        self.open = [vecstore.open(self.path), vecstore.open(self.path, read_only=True)]

    def rows(self, reader=0):
        return self.open[reader].get_collection(NAME)

    def both(self, verb, *args, **kwargs):
        found, expected = (getattr(db.get_collection(NAME), verb)(*args, **kwargs) for db in (self.open[0], self.model))
        assert found == expected

    @property
    def info(self):
        """What the collection is by now."""
        return self.folder[NAME].info

    def effort(self, effort):
        """How far a search goes, in the terms of the index."""
        names = {HNSW: "ef", IVF: "nprobe"}
        return {names[type(self.info.index)]: effort} if type(self.info.index) in names else {}

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
        """Where `ef` or `nprobe` cover all rows, the answer is the exact one."""
        query, rows = self.drawn(data, 1)[0], self.rows(reader)
        options = {"filter": filter, "score_threshold": threshold}
        how = {} if self.info.quantization is None else {"oversampling": ALL}
        found = rows.search(query, k, **self.effort(ALL), **how, **options)
        assert wrong_hits(self.model.get_collection(NAME), found, query, k, **options) is None

    @rule(
        data=st.data(),
        reader=st.integers(0, 1),
        k=st.sampled_from([1, 5, 40]),
        effort=st.sampled_from([None, 1, 20]),
        filter=st.none() | st.integers(0, 4).map(lambda n: {"n": n}),
        payload=st.booleans(),
    )
    def search(self, data, reader, k, effort, filter, payload):
        """As many as there are, none twice, none that is gone, each with its own score."""
        queries = data.draw(strategies.queries(self.dim, self.metric))
        model = self.model.get_collection(NAME)
        found = self.rows(reader).search(queries, k, **self.effort(effort), filter=filter, with_payload=payload)
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
        stats, index = rows.stats(), rows._index
        if index is not None and index.structure is not None and stats.count >= 20:
            assert stats.linked + stats.tail == stats.count
            few = not index.structure.trained if isinstance(self.info.index, IVF) else index.structure.arrays.count < 40
            assert stats.tail == 0 or (few and stats.count < 40)

    @rule(reader=st.integers(0, 1), n=st.sampled_from([1, 2, 1000]))
    def index_some(self, reader, n):
        indexing = self.rows(reader)._indexing
        if indexing is not None and isinstance(indexing.indexer, Stepped):
            indexing.indexer.steps(n)

    @rule(reader=st.integers(0, 1), seed=st.none() | st.integers(0, 9))
    def rebuild(self, reader, seed):
        nothing = self.info.index == vecstore.Flat() and self.info.quantization is None
        with pytest.raises(vecstore.InvalidArgumentError) if nothing else contextlib.nullcontext():
            self.rows(reader).rebuild(seed=seed)

    # -- life ------------------------------------------------------------------------------------------------

    @rule()
    def compact(self):
        self.both("compact")

    @rule()
    def reopen(self):
        """The index is the same again. Where a rebuild of few rows has left none, an older checkpoint may be there."""
        rows, before, lsn = self.rows(), None, 0
        if rows._index is not None:
            rows._indexing.indexer.stop()
            before = shape(rows._index.structure)
            lsn = rows._indexing.checkpoints.lsn if before is None else rows._index.lsn
        for db in self.open:
            db.close()
        self.reopen_all()
        index = self.rows()._index
        assert (before is None and lsn) or before == (None if index is None else shape(index.structure))
        assert self.rows().stats().checkpoint_lsn == lsn

    @rule()
    def reopen_without_a_checkpoint(self):
        """As after a kill: what there is of the last one, if there was one, is used, and the rest follows."""
        rows = self.rows()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints.Checkpoints, "write", lambda _: None)
            for db in self.open:
                db.close()
        self.reopen_all()
        kept = 0 if rows._indexing is None else rows._indexing.checkpoints.lsn
        assert self.rows().stats().checkpoint_lsn == kept

    @rule(often=st.integers(0, 3))
    def drop_and_create(self, often):
        if often:
            return
        info = self.info
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
        assert rows.info == self.info
        assert rows.stats().index_error is None
        findings = rows.check()
        assert findings == [], findings


def shape(found):
    """What a graph or lists are, in a form in which equal means that all is in its place."""
    if not isinstance(found, InvertedFile):
        return found and found.links_by_slot()
    arrays = found.arrays
    members = [arrays.pool.slots.reshape(-1)[arrays.places(one)].tolist() for one in range(len(arrays.heads))]
    tail = arrays.tail.slots.reshape(-1)[: arrays.tail_size].tolist()
    return (
        members,
        tail,
        arrays.centroids.tolist(),
        arrays.coder.to_bytes() if hasattr(arrays.coder, "to_bytes") else b"",
    )
