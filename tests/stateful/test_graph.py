"""A graph follows every sequence of writes: with all rows among its candidates, a search of it is the exact search."""

import os

from hypothesis import strategies as st
from hypothesis.stateful import initialize

import vecstore
from tests.stateful.index_machine import IndexMachine, run
from vecstore.testing import strategies

MANY = os.environ.get("VECSTORE_TEST_EFFORT") == "many"


class GraphMachine(IndexMachine):
    """A collection that is linked early and refitted often, whose log is short; read by its writer and by a reader."""

    @initialize(
        dim=st.sampled_from([8, 48]),
        metric=st.sampled_from(["cosine", "dot", "l2"]),
        quantization=strategies.quantizations,
        m=st.sampled_from([8, 16]),
        n=st.sampled_from([0, 60, 120, 200]),
        steps=st.sampled_from([0, 1, 3, None] if MANY else [0, 1, 3]),
    )
    def create(self, dim, metric, quantization, m, n, steps):
        self.begin(dim, metric, vecstore.HNSW(m=m, ef_construction=40), quantization, n, steps)


def test_a_graph_follows_any_sequence_of_writes():
    run(GraphMachine, *((300, 60) if MANY else (20, 25)))
