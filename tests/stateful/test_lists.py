"""Lists follow every sequence of writes, as a graph does, and one index takes the place of another between them."""

import os

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

import vecstore
from tests.stateful.index_machine import IndexMachine, run
from vecstore.testing import strategies

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"
STEPS = st.sampled_from([0, 1, 3, None] if MANY else [0, 1, 3])
LISTS = st.builds(
    vecstore.IVF,
    nlist=st.sampled_from([None, None, 1, 7]),
    nprobe=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
    resident=st.booleans(),
)


class ListsMachine(IndexMachine):
    """A collection with lists that are trained, split and dissolved early."""

    @initialize(
        dim=st.sampled_from([8, 48]),
        metric=st.sampled_from(["cosine", "dot", "l2"]),
        index=LISTS,
        quantization=strategies.quantizations,
        n=st.sampled_from([0, 60, 120, 200]),
        steps=STEPS,
    )
    def create(self, dim, metric, index, quantization, n, steps):
        self.begin(dim, metric, index, quantization, n, steps)


class ChangingMachine(IndexMachine):
    """A collection whose index is another now and then."""

    INDEXES = st.one_of(
        LISTS, st.just(vecstore.Flat()), st.builds(vecstore.HNSW, m=st.sampled_from([8, 16]), seed=st.integers(0, 9))
    )

    @initialize(
        metric=st.sampled_from(["cosine", "dot", "l2"]),
        index=INDEXES,
        quantization=strategies.quantizations,
        n=st.sampled_from([0, 60, 200]),
        steps=STEPS,
    )
    def create(self, metric, index, quantization, n, steps):
        self.begin(16, metric, index, quantization, n, steps)

    @rule(index=INDEXES, quantization=strategies.quantizations | st.just("same"))
    def set_index(self, index, quantization):
        self.both("set_index", index, **({} if quantization == "same" else {"quantization": quantization}))


def test_lists_follow_any_sequence_of_writes():
    run(ListsMachine, *((300, 60) if MANY else (9, 25)))


def test_any_index_takes_the_place_of_any_other_between_writes():
    run(ChangingMachine, *((300, 60) if MANY else (9, 25)))
