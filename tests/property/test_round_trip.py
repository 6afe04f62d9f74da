"""Ids, vectors and payloads come back from a database as they went in; rows lie in the map as described."""

import math
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import vecstore
from vecstore.storage import blocks

ids = st.integers(0, 2**63 - 1) | st.text(min_size=1, max_size=120)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
)
payloads = st.none() | st.dictionaries(st.text(max_size=20), values, max_size=5)
floats = st.floats(-(2.0**50), 2.0**50, width=32)

in_one_database = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    with vecstore.open(tmp_path_factory.mktemp("round-trip") / "db") as opened:
        yield opened


def exact(value):
    """A value such that equal means of equal type too, and -0.0 is not 0.0."""
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    return type(value), value, math.copysign(1, value) if isinstance(value, float) else None


@pytest.fixture(scope="module")
def rows(db):
    return db.create_collection("rows", 1, "dot")


@in_one_database
@given(st.dictionaries(ids, payloads, max_size=8))
def test_ids_and_payloads(rows, given_rows):
    rows.delete(filter={})
    some = list(given_rows)
    rows.insert(some, np.ones((len(some), 1)), list(given_rows.values()))
    found = rows.get(some)
    assert [exact([one.id, one.payload]) for one in found] == [exact([one, given_rows[one]]) for one in some]
    assert [one.id for one in rows.scroll().records] == sorted(some, key=lambda one: (isinstance(one, str), one))


@pytest.fixture(scope="module")
def fresh(db):
    numbers = count()
    return lambda dim: db.create_collection(f"c{next(numbers)}", dim, "l2")


@in_one_database
@given(st.integers(1, 20).flatmap(lambda dim: arrays.arrays(np.float32, (3, dim), elements=floats)))
def test_vectors_bit_for_bit(fresh, vectors):
    docs = fresh(vectors.shape[1])
    docs.insert(range(3), vectors)
    docs.update([0, 1], vectors[1:])
    found = docs.get([2, 1, 0], with_vectors=True)
    assert b"".join(one.vector.tobytes() for one in found) == vectors[[2, 2, 1]].tobytes()
    docs.close()


@pytest.mark.parametrize("dim", [1, 2, 3, 15, 16, 48, 100, 384, 1000, 1536, 4096, 8191, 8192])
def test_rows_begin_on_64_bytes_and_do_not_move_while_others_are_written(db, dim):
    docs = db.create_collection(f"aligned-{dim}", dim, "l2")
    layout = docs._store.layout
    docs.insert(range(layout.rows), np.ones((layout.rows, dim)))
    with docs._store.view() as view:
        first = int(view.table.rows[0])
    docs.insert(range(layout.rows, 2 * layout.rows + 1), np.ones((layout.rows + 1, dim)), None)
    docs.update([0], payloads=[{"n": 1}])
    with docs._store.view() as view:
        assert view.table.rows[0] == first
        assert (view.table.rows % 64 == 0).all()
        assert len(view.table.rows) == 3
        value = blocks.at(first - blocks.HEADER_SIZE, layout.size)
        blocks.verify(value, layout, 0)
        assert view.txn.stat(view.env.db("vector:vector"))["overflow_pages"] >= 3 * layout.size // 4096
    docs.close()
