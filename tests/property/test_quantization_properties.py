"""Quantizers on data of any kind: nothing but finite numbers, and estimates within what codes can tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore.kernels._jit import JIT
from vecstore.quantization import KINDS, METRICS, Quantizer

PROFILE = settings(max_examples=60 if JIT else 8, deadline=None, derandomize=True)


@st.composite
def samples(draw):
    """Rows and queries, degenerate in one or several ways."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, dim = draw(st.sampled_from([1, 2, 3, 20])), draw(st.sampled_from([1, 2, 5, 64, 70, 200]))
    rows = rng.standard_normal((count, dim))
    queries = rng.standard_normal((4, dim))
    for way in draw(st.lists(st.sampled_from(["same", "flat", "zero", "offset", "sparse", "query"]), max_size=3)):
        if way == "same":
            rows[:] = rows[0]
        elif way == "flat":
            rows[:, : dim // 2] = rows[0, : dim // 2]
        elif way == "zero":
            rows[:: draw(st.integers(1, 2))] = 0
        elif way == "offset":
            rows, queries = rows + 1000, queries + 1000
        elif way == "sparse":
            rows[:, 1:] = 0
        else:
            queries[0] = 0
            queries[1] = rows[0]
    scale = draw(st.sampled_from([1.0, 1e-18, 1e18, 1e-30, 1e30]))
    for array in (rows, queries):
        norms = np.linalg.norm(array, axis=1, keepdims=True)
        array *= scale / (np.maximum(norms, 1e-30) if scale < 1 else max(norms.max(), 1e-30))  # noqa: PLW2901
    if draw(st.booleans()):
        rows *= 10.0 ** -rng.uniform(0, 18, (count, 1)) if scale == 1e18 else 1
    return rows.astype(np.float32), queries.astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@PROFILE
@given(sample=samples(), part=st.integers(1, 20), seed=st.integers(0, 2**64 - 1))
def test_any_data(kind, metric, sample, part, seed):
    rows, queries = sample
    wide, asked = rows.astype(np.float64), queries.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    quantizer = KINDS[kind].fit(rows[:part], metric, seed)
    codes, terms = quantizer.new_codes(len(rows))
    quantizer.encode(rows, norms.astype(np.float32), codes, terms)
    query = quantizer.encode_queries(queries)
    raw = quantizer.estimate(query, codes, terms)
    scores = quantizer.scores(query, raw)
    for array in (terms, query.factors, raw, scores):
        assert np.isfinite(array).all()
    if kind == "binary":
        bound = quantizer.bound(query, terms)
        assert np.isfinite(bound).all() and (bound >= 0).all()
    else:
        assert np.isfinite(quantizer.decode(codes, terms)).all()
    assert Quantizer.from_bytes(quantizer.to_bytes()) == quantizer
    if metric == "cosine":
        wide /= np.where(norms > 0, norms, 1)[:, None]
        asked_norms = np.linalg.norm(asked, axis=1)
        asked /= np.where(asked_norms > 0, asked_norms, 1)[:, None]
    sizes = quantizer.unit * np.concatenate((norms, np.linalg.norm(asked, axis=1)))
    if metric != "cosine" and ((sizes > 0.9e18) | ((sizes > 0) & (sizes < 1.1e-18))).any():
        return  # so far from the sample, nothing but finite numbers is promised
    # No estimate is off by more than the product of the two lengths about the centre allows.
    centre = quantizer.centre.astype(np.float64)
    if part < len(rows) and metric == "cosine" and kind != "binary" and not quantizer.terms_count:
        return  # later rows may lie outside of the range
    lengths = np.linalg.norm(wide - centre, axis=1) + 1e-6 * np.linalg.norm(wide, axis=1)
    reach = np.linalg.norm(asked - centre, axis=1) + np.linalg.norm(centre)
    worst = np.outer(reach, lengths) * {"int8": 0.05, "int4": 0.6, "binary": 4.0}[kind]
    true = asked @ wide.T
    if metric == "l2":
        true, worst = -((asked[:, None] - wide) ** 2).sum(axis=2), 2 * worst
    floor = 1e-5 * ((np.linalg.norm(asked, axis=1)[:, None] + np.linalg.norm(wide, axis=1)) ** 2)
    estimates = (raw + query.offsets[:, None]) / quantizer.unit**2
    assert (np.abs(estimates - true) <= worst + floor).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_rows_equal_to_the_centre_are_exact(kind, metric):
    row = np.full((1, 30), 2.5, np.float32)
    quantizer = KINDS[kind].fit(row, metric, 1)
    codes, terms = quantizer.new_codes(3)
    rows = np.concatenate((row, row, row))
    quantizer.encode(rows, np.linalg.norm(rows, axis=1).astype(np.float32), codes, terms)
    query = quantizer.encode_query(np.arange(30, dtype=np.float32))
    scores = quantizer.scores(query, quantizer.estimate(query, codes, terms))
    true = row[0] @ np.arange(30) if metric == "dot" else -np.linalg.norm(row[0] - np.arange(30))
    np.testing.assert_allclose(scores, [[true] * 3], rtol=1e-6)
