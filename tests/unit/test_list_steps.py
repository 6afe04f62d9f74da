"""A step on lists is prepared, and done later: what happens in between must not be undone by it, nor lose a row."""

from __future__ import annotations

import numpy as np
import pytest

import vecstore
from vecstore.index import fitting, steps
from vecstore.index.following import Change
from vecstore.index.kinds import index_of

N, DIM = 6000, 32


@pytest.fixture
def filled():
    """Rows in RAM, and an index that has coded them and filed none."""
    vectors = np.random.default_rng(5).standard_normal((N, DIM)).astype(np.float32)
    kept = vecstore.Index(DIM, index=vecstore.IVF())
    kept.add(vectors)
    index = index_of(vecstore.IVF(), vecstore.Int8(), DIM, "cosine")
    slots = np.arange(N)
    index.follow(kept._slabs.rows(), 1, lambda: slots, lambda _: None)
    return vectors, kept, index


def prepared(kept, index, slots=None):
    slots = np.arange(N) if slots is None else slots
    index.prepare(kept._slabs.rows(), index.lsn, len(slots), lambda: slots)


def found(kept, index):
    """The slots that a search of everything finds."""
    query = np.ones((1, DIM), np.float32)
    [(slots, _)] = index.search(kept._slabs.rows(), kept._slabs.live, len(kept), query, N, effort=10_000)
    return set(slots.tolist())


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_slots_that_are_numbered_anew_between(filled, steps):
    _, kept, index = filled
    for _ in range(steps):
        prepared(kept, index)
        index.step()
    prepared(kept, index)
    order = np.random.default_rng(1).permutation(N)
    with index.renumbering(order, 1, 2):
        pass
    index.step()
    assert index.structure.known == N
    numbers = index.structure.slots_in_order()
    assert sorted(numbers.tolist()) == list(range(N))


def test_lists_that_were_replaced_between(filled):
    _, kept, index = filled
    prepared(kept, index)
    index.step()
    prepared(kept, index)
    made = index.begun(kept._slabs.rows(), np.arange(N), 7)
    index.replace(made, 1, kept._slabs.rows(), 1, lambda: np.arange(N), lambda _: None)
    index.step()
    assert index.structure is made
    assert not made.trained
    assert found(kept, index) == set(range(N))


def test_rows_that_go_between_are_not_filed(filled):
    _, kept, index = filled
    prepared(kept, index)
    index.step()
    prepared(kept, index)
    gone = np.arange(0, N, 2)
    index.follow(kept._slabs.rows(), 2, lambda: None, lambda _: Change(np.zeros(0, np.int64), gone))
    index.step()
    assert index.figures()["linked"] == index.structure.known == N // 2
    assert index.figures()["tail"] == 0


def test_steps_end_where_rows_are_all_alike():
    rows = np.ones((20_000, DIM), np.float32)
    rows[::2] *= -1
    index = vecstore.Index(DIM, index=vecstore.IVF())
    index.add(rows)
    assert index.stats()["linked"] == len(rows)
    assert index.stats()["tail"] == 0


def test_lists_follow_rows_that_move_elsewhere():
    rng = np.random.default_rng(3)
    index = vecstore.Index(DIM, index=vecstore.IVF())
    index.add(rng.standard_normal((5000, DIM)).astype(np.float32) + np.eye(DIM, dtype=np.float32)[0] * 5)
    before = index.stats()["lists"]
    index.add(rng.standard_normal((5000, DIM)).astype(np.float32) - np.eye(DIM, dtype=np.float32)[0] * 5)
    assert index.stats()["lists"] > before
    index.remove(np.arange(5000))
    index.add(rng.standard_normal((10, DIM)).astype(np.float32))
    assert index.stats()["tombstones"] < 5000
    assert len(index) == 5010


@pytest.mark.parametrize("kind", [vecstore.Int8(), vecstore.Int4()])
def test_codes_that_were_fitted_on_few_rows_are_fitted_anew(kind, monkeypatch):
    monkeypatch.setattr(fitting, "REFIT_GROWTH", 2)
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((N, DIM)).astype(np.float32)
    rows[3000:, :8] += 20  # the first rows tell neither mean nor spread
    index = vecstore.Index(DIM, metric="l2", index=vecstore.IVF(), quantization=kind)
    index.add(rows[:3000])
    inner = index._index
    assert inner.structure.fitted_on == 3000
    inner.structure.remove(np.arange(5))
    index.add(rows[3000:])
    assert inner.structure.fitted_on == N
    inner.structure.remove(np.arange(N - 5, N))  # of lists, and of the tail
    for ids in (np.arange(5, 3000), np.arange(3000, N - 5)):
        found, _ = index.search(rows[ids], 1, nprobe=1000)
        assert np.mean(found[:, 0] == ids) > 0.99
    fresh = vecstore.Index(DIM, metric="l2", index=vecstore.IVF(), quantization=kind)
    fresh.add(rows)
    assert inner.structure.arrays.coder == fresh._index.structure.arrays.coder


def test_a_step_holds_few_rows_and_what_comes_to_one_place_is_parted(monkeypatch):
    monkeypatch.setattr(steps, "LEAST_ROWS", 256)
    monkeypatch.setattr(steps, "AT_HAND", 256 * 4 * DIM)
    held, do = [], steps.do
    monkeypatch.setattr(steps, "do", lambda step, *rest: (held.append(len(step.vectors)), do(step, *rest)))
    rng = np.random.default_rng(3)
    index = vecstore.Index(DIM, metric="l2", index=vecstore.IVF())
    index.add(rng.standard_normal((5000, DIM)).astype(np.float32))
    rows = rng.standard_normal((4000, DIM)).astype(np.float32) + 20
    index.add(rows, ids=np.arange(10_000, 14_000))
    assert len(held) > 9000 // 256 and max(held) <= 512
    sizes = index._index.structure.arrays.sizes
    assert len(sizes) > 100 and sizes.max() < 5 * sizes.mean()
    found, _ = index.search(rows[:500], 1)
    assert np.array_equal(found[:, 0], np.arange(10_000, 10_500))
