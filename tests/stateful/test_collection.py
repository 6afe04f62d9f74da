"""Any sequence of calls on a database gives what the model gives, and leaves the rows that it holds."""

import mmap
import os
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import vecstore
from vecstore.payloads import pack_payload
from vecstore.storage import blocks
from vecstore.storage.store import Store
from vecstore.testing import ModelDatabase, strategies, wrong_hits

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
NAME = "rows"

writers = st.sampled_from([True, True, True, False])  # through which of the two openers a call goes
everything = {"limit": 10_000, "with_vectors": True}


def outcome(call):
    """What a call returned, or the class of the error it raised."""
    try:
        return call()
    except vecstore.VecstoreError as error:
        return type(error)


def shown(record):
    """A record or hit in a form in which equal means equal bits, and True is not 1."""
    if record is None:
        return None
    vector = None if record.vector is None else (record.vector.dtype.str, record.vector.tobytes())
    return type(record.id), record.id, record.payload and pack_payload(record.payload), record.payload, vector


def small_blocks(dim):
    """Rows in the smallest block of this dimension that LMDB keeps on pages of its own."""
    rows = 8
    while blocks.HEADER_SIZE + rows * (dim + 1) * 4 <= mmap.PAGESIZE // 2:
        rows *= 2
    return rows


class CollectionMachine(RuleBasedStateMachine):
    """A folder and its model, each open twice: by a writer and, now and then, by a reader."""

    def __init__(self):
        super().__init__()
        self.path = tempfile.mkdtemp()
        self.patch = pytest.MonkeyPatch()
        self.folder = {}
        self.databases = {}  # by whether it writes: the real database and the model of it
        self.cursors = None

    def teardown(self):
        for real, _ in self.databases.values():
            real.close()
        self.patch.undo()
        shutil.rmtree(self.path)

    @initialize(
        dim=st.sampled_from([2, 16, 64]),
        metric=st.sampled_from(["cosine", "dot", "l2"]),
        index=strategies.index_configs,
        quantization=strategies.quantizations,
    )
    def create(self, dim, metric, index, quantization):
        rows = small_blocks(dim)
        for name, value in (("MIN_ROWS", rows), ("MAX_ROWS", rows), ("MAX_BLOCK_BYTES", 1)):
            self.patch.setattr(blocks, name, value)
        self.dim, self.metric = dim, metric
        self.open(True)
        for database in self.databases[True]:
            database.create_collection(NAME, dim, metric, index=index, quantization=quantization)
        assert self.pair(True)[0]._store.layout.rows == rows

    def open(self, writes, durability="commit"):
        real = vecstore.open(self.path, durability=durability) if writes else vecstore.open(self.path, read_only=True)
        self.databases[writes] = real, ModelDatabase(self.folder, read_only=not writes)

    def pair(self, writes=True):
        """The collection and its model, through the writer or, if it is open, the reader."""
        real, model = self.databases.get(writes, self.databases[True])
        return real.get_collection(NAME), model.get_collection(NAME)

    def both(self, verb, *args, writes=True, **kwargs):
        """Call a verb on both; the two results, or None twice where both raised errors of one class."""
        found, expected = (outcome(lambda one=one: getattr(one, verb)(*args, **kwargs)) for one in self.pair(writes))
        if isinstance(found, type) or isinstance(expected, type):
            assert found == expected
            return None, None
        return found, expected

    def same(self, verb, *args, writes=True, **kwargs):
        found, expected = self.both(verb, *args, writes=writes, **kwargs)
        assert found == expected

    def drawn_vectors(self, data, n):
        return data.draw(strategies.vectors(n, self.dim, self.metric))

    # -- writing ---------------------------------------------------------------------------------------------

    @rule(
        data=st.data(), verb=st.sampled_from(["insert", "upsert", "upsert"]), ids=strategies.id_lists(), writes=writers
    )
    def put(self, data, verb, ids, writes):
        payloads = data.draw(strategies.payload_lists(len(ids)))
        self.same(verb, ids, self.drawn_vectors(data, len(ids)), payloads, writes=writes)

    @rule(data=st.data(), start=st.integers(100, 400), n=st.integers(1, 80))
    def put_run(self, data, start, n):
        self.same("upsert", range(start, start + n), self.drawn_vectors(data, n))

    @rule(data=st.data())
    def insert_new(self, data):
        there = self.folder[NAME].rows
        ids = [one for one in data.draw(strategies.id_lists()) if one not in there]
        self.same("insert", ids, self.drawn_vectors(data, len(ids)), data.draw(strategies.payload_lists(len(ids))))

    @rule(data=st.data(), there=st.booleans(), vectors=st.booleans(), merge=st.booleans())
    def update(self, data, there, vectors, merge):
        ids = data.draw(strategies.id_lists(max_size=4))
        if there:
            ids = data.draw(self.some_ids())
        matrix = self.drawn_vectors(data, len(ids)) if vectors else None
        self.same("update", ids, matrix, data.draw(strategies.payload_lists(len(ids))), merge=merge)

    @rule(data=st.data(), fields=st.lists(st.sampled_from(strategies.FIELDS), min_size=1, unique=True))
    def set_fields(self, data, fields):
        ids = data.draw(self.some_ids(1))
        payload = {name: data.draw(strategies.scalars) for name in fields}
        self.same("update", ids, payloads=[payload] * len(ids))

    def some_ids(self, min_size=0):
        """A strategy for a list of ids that are there."""
        there = list(self.folder[NAME].rows)
        return st.lists(st.sampled_from(there), unique=True, min_size=min_size, max_size=30) if there else st.just([])

    @rule(data=st.data(), verb=st.sampled_from(["insert", "upsert", "update"]), one=strategies.ids)
    def write_one(self, data, verb, one):
        self.same(verb, one, self.drawn_vectors(data, 1)[0], data.draw(strategies.payloads))

    @rule(ids=strategies.id_lists(), writes=writers)
    def delete(self, ids, writes):
        self.same("delete", ids + ids[:1], writes=writes)

    @rule(data=st.data())
    def delete_there(self, data):
        self.same("delete", data.draw(self.some_ids()))

    @rule(filter=strategies.filters)
    def delete_matching(self, filter):
        self.same("delete", filter=filter)

    # -- reading ---------------------------------------------------------------------------------------------

    @rule(data=st.data(), writes=writers, payload=st.booleans(), vectors=st.booleans())
    def get(self, data, writes, payload, vectors):
        ids = data.draw(strategies.id_lists()) + data.draw(self.some_ids())
        found, expected = self.both("get", ids, writes=writes, with_payload=payload, with_vectors=vectors)
        assert list(map(shown, found)) == list(map(shown, expected))
        for one in ids[-1:]:
            found, expected = self.both("get", one, writes=writes)
            assert shown(found) == shown(expected)

    @rule(
        data=st.data(),
        k=st.integers(1, 40),
        filter=st.none() | strategies.filters,
        threshold=strategies.thresholds,
        how=st.sampled_from([{}, {}, {"exact": True}, {"ef": 1}, {"ef": 50}, {"oversampling": 3}]),
        writes=writers,
    )
    def search(self, data, k, filter, threshold, how, writes):
        query = data.draw(strategies.queries(self.dim, self.metric))
        options = {"filter": filter, "score_threshold": threshold}
        found, expected = self.both("search", query, k, writes=writes, with_vectors=True, **options, **how)
        if found is None:
            return
        model = self.pair()[1]
        answers = [found] if query.ndim == 1 else found
        assert query.ndim == 1 or len(found) == len(expected)
        for hits, one in zip(answers, np.atleast_2d(query), strict=True):
            assert wrong_hits(model, hits, one, k, **options) is None
            alone = self.pair(writes)[0].search(one, k, **options, **how)
            assert [hit.id for hit in hits] == [hit.id for hit in alone]
            records = model.get([hit.id for hit in hits], with_vectors=True)
            assert list(map(shown, hits)) == list(map(shown, records))

    @rule(filter=st.none() | strategies.filters, limit=st.integers(1, 30), writes=writers)
    def scroll_from_the_start(self, filter, limit, writes):
        self.cursors = {"cursor": None}, {"cursor": None}
        self.options = {"filter": filter, "limit": limit, "with_vectors": True}
        self.next_page(writes)

    @rule(writes=writers)
    def next_page(self, writes):
        """Pages follow the ids, whatever was written since the page before."""
        if self.cursors is None:
            return
        pages = [one.scroll(**self.options, **at) for one, at in zip(self.pair(writes), self.cursors, strict=True)]
        found, expected = pages
        assert list(map(shown, found.records)) == list(map(shown, expected.records))
        assert (found.cursor is None) == (expected.cursor is None)
        self.cursors = tuple({"cursor": page.cursor} for page in pages) if found.cursor else None

    @rule(filter=strategies.filters, writes=writers)
    def count(self, filter, writes):
        self.same("count", filter, writes=writes)

    # -- indexing --------------------------------------------------------------------------------------------

    @rule(writes=writers)
    def wait_indexed(self, writes):
        self.same("wait_indexed", 60, writes=writes)

    @rule(seed=st.none() | st.integers(0, 9), writes=writers)
    def rebuild(self, seed, writes):
        self.same("rebuild", seed=seed, writes=writes)

    # -- calls that are refused ------------------------------------------------------------------------------

    @rule(writes=writers)
    def compact(self, writes):
        self.same("compact", writes=writes)

    @rule(data=st.data(), verb=st.sampled_from(["insert", "upsert", "update"]), ids=strategies.id_lists(2))
    def write_wrongly(self, data, verb, ids):
        """One thing wrong among many right ones: the model refuses it, so the collection does, and changes nothing."""
        n, fine = len(ids), self.drawn_vectors(data, len(ids))
        row = data.draw(st.integers(0, n - 1))
        broken = fine.copy()
        broken[row] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 2e18]))
        payload = data.draw(
            st.sampled_from([1, {1: 2}, {"a": object()}, {"a": 2**64}, {"a": {"b": {3}}}, {"\ud800": 1}])
        )
        odd_id = data.draw(st.sampled_from([-1, 2**63, "", "x" * 481, "\ud800", True, 1.5, None, b"a"]))
        args = data.draw(
            st.sampled_from(
                [
                    ([*ids[:-1], ids[0]], fine),
                    ([*ids[:row], odd_id, *ids[row + 1 :]], fine),
                    (ids, fine[:-1]),
                    (ids, fine[:, :-1]),
                    (ids, broken),
                    (ids, None),
                    (ids, [*fine.tolist()[:-1], [1]]),
                    (ids, fine, [{}] * (n - 1)),
                    (ids, fine, [{"a": 1}] * row + [payload] + [{}] * (n - row - 1)),
                ]
            )
        )
        assert self.both(verb, *args) == (None, None)

    @rule(data=st.data(), call=st.sampled_from(range(9)))
    def call_wrongly(self, data, call):
        query = self.drawn_vectors(data, 1)[0]
        bad_filter = data.draw(st.sampled_from([1, {"a": {"$x": 1}}, {"$or": []}, {"a..b": 1}, {"a": {"$gt": None}}]))
        verb, args, kwargs = [
            ("search", (query, data.draw(st.sampled_from([0, -1, 10_001, 1.0, True, None]))), {}),
            ("search", (query[:-1],), {}),
            ("search", (query,), {"filter": bad_filter}),
            ("search", (query,), {"top_k": 3}),
            ("search", (query * np.float32(np.nan),), {}),
            ("delete", (), data.draw(st.sampled_from([{}, {"ids": [1], "filter": {}}, {"filter": bad_filter}]))),
            ("scroll", (), data.draw(st.sampled_from([{"limit": 0}, {"cursor": "?"}, {"cursor": 1}]))),
            ("get", (data.draw(st.sampled_from([None, 1.5, [None], -1])),), {}),
            ("count", (bad_filter,), {}),
        ][call]
        assert self.both(verb, *args, **kwargs) == (None, None)

    # -- life ------------------------------------------------------------------------------------------------

    @rule(durability=st.sampled_from(["commit", "interval"]))
    def reopen(self, durability):
        for database in self.databases.pop(True):
            handle = database.get_collection(NAME)
            database.close()
            assert outcome(handle.count) == outcome(lambda: database.get_collection(NAME)) == vecstore.ClosedError  # noqa: B023
        self.open(True, durability)

    @rule()
    def open_or_close_a_reader(self):
        if False in self.databases:
            self.databases.pop(False)[0].close()
        else:
            self.open(False)

    @rule()
    def close_a_handle(self):
        for one in self.pair():
            one.close()
            assert outcome(one.count) == vecstore.ClosedError

    @rule()
    def forget_what_was_derived(self):
        """Readers and the allocator begin anew from what is stored, as another process would."""
        store = self.pair()[0]._store
        assert isinstance(store, Store)
        store._forget()
        store._writer.forget()

    @rule(
        metric=st.sampled_from(["cosine", "dot", "l2"]),
        index=strategies.index_configs,
        quantization=strategies.quantizations,
        often=st.integers(0, 4),
    )
    def drop_and_create(self, metric, index, quantization, often):
        if often:
            return
        for database in self.databases[True]:
            handle = database.get_collection(NAME)
            database.drop_collection(NAME)
            assert database.list_collections() == []
            assert outcome(handle.count) == vecstore.CollectionNotFoundError
            assert outcome(lambda: database.get_collection(NAME)) == vecstore.CollectionNotFoundError  # noqa: B023
            database.create_collection(NAME, self.dim, metric, index=index, quantization=quantization)
        self.metric, self.cursors = metric, None

    @invariant()
    def the_rows_are_those_of_the_model(self):
        for writes in self.databases:
            real, model = self.pair(writes)
            found, expected = real.scroll(**everything), model.scroll(**everything)
            assert list(map(shown, found.records)) == list(map(shown, expected.records))
            assert len(real) == len(model)
            stats = real.stats()
            figures = [(one.count, one.lsn, one.index, one.quantization) for one in (stats, model.stats())]
            assert figures[0] == figures[1] and real.info == model.info
            assert real.check() == []


def test_any_sequence_of_calls_gives_what_the_model_gives():
    run_state_machine_as_test(
        CollectionMachine,
        settings=settings(
            max_examples=800 if MANY else 30,
            stateful_step_count=80 if MANY else 40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
