"""Any sequence of calls to `vecstore.Index` against a dict, while there are so few rows that searches are exact."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vecstore
from vecstore.testing.strategies import quantizations

DIM = 5
ids = st.integers(0, 30)
some_ids = st.lists(ids, max_size=12, unique=True)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), some_ids, st.integers(0, 2**31)),
        st.tuples(st.just("append"), st.integers(0, 12), st.integers(0, 2**31)),
        st.tuples(st.just("remove"), some_ids),
        st.tuples(st.just("rebuild"), ids),
        st.tuples(st.just("search"), st.integers(0, 2**31), st.integers(1, 20)),
        st.tuples(st.just("filtered"), st.integers(0, 2**31), st.integers(1, 20), some_ids),
        st.tuples(st.just("reload")),
    ),
    max_size=25,
)


def vectors(n, seed):
    """Few values, so that scores tie, and no zero rows."""
    rows = np.random.default_rng(seed).integers(-2, 3, (n, DIM)).astype(np.float32)
    rows[:, 0] += 3
    return rows


def check(index, stored, query, k, found, scores, true_scores):
    n = min(k, len(stored))
    assert (found[n:] == -1).all()
    assert (scores[n:] == -np.inf).all()
    assert len(set(found[:n].tolist())) == n
    assert set(found[:n].tolist()) <= set(stored)
    if not n:
        return
    true = true_scores(index.metric, query, np.array(list(stored.values())))
    by_id = dict(zip(stored, true.tolist(), strict=True))
    np.testing.assert_allclose(scores[:n], [by_id[one] for one in found[:n].tolist()], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[:n], np.sort(true)[::-1][:n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, quantization=quantizations)
def test_an_index_is_a_dict_that_is_searched(tmp_path_factory, true_scores, metric, steps, quantization):
    index, stored = vecstore.Index(DIM, metric, quantization=quantization), {}
    for name, *args in steps:
        if name == "add":
            rows = vectors(len(args[0]), args[1])
            assert index.add(rows, args[0]).tolist() == args[0]
            stored |= dict(zip(args[0], rows, strict=True))
        elif name == "append":
            rows, first = vectors(*args), max(stored, default=-1) + 1
            numbers = index.add(rows).tolist()
            assert numbers == list(range(first, first + len(rows)))
            stored |= dict(zip(numbers, rows, strict=True))
        elif name == "remove":
            assert index.remove(args[0]) == len(stored.keys() & set(args[0]))
            stored = {one: row for one, row in stored.items() if one not in args[0]}
        elif name == "rebuild":
            index.rebuild(seed=args[0])
        elif name == "reload":
            path = tmp_path_factory.mktemp("index") / "file"
            index.save(path)
            index = vecstore.Index.load(path)
        else:
            query, k = vectors(1, args[0])[0], args[1]
            chosen = stored
            if name == "filtered":
                chosen = {one: row for one, row in stored.items() if one in args[2]}
                by_call = index.search(query, k, filter=lambda one, some=args[2]: one in some)
                check(index, chosen, query, k, *by_call, true_scores)
            answer = index.search(query, k, filter=args[2] if name == "filtered" else None)
            check(index, chosen, query, k, *answer, true_scores)
        assert len(index) == len(stored)
    if stored:
        np.testing.assert_array_equal(index.get(list(stored)), np.array(list(stored.values())))
