"""Lists that follow their rows: what comes between the steps that file, split, dissolve and write them anew."""

import threading

import numpy as np
import pytest

import vecstore
from vecstore.index import check
from vecstore.index.slabs import Slabs
from vecstore.kernels._jit import JIT

pytestmark = [
    pytest.mark.skipif(not JIT, reason="lists take long without compiling"),
    pytest.mark.usefixtures("small_lists"),
]

DIM = 16
KINDS = {"none": None, "int8": vecstore.Int8(), "int4": vecstore.Int4(), "binary": vecstore.Binary()}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def clustered(n, seed=0, clusters=20, dim=DIM):
    """Rows `(n, dim)` around a few centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((clusters, dim)) * 3
    return (centres[rng.integers(0, clusters, n)] + rng.standard_normal((n, dim))).astype(np.float32)


def raw(n, kind=None, metric="l2", **config):
    index = vecstore.Index(DIM, metric, index=vecstore.IVF(**config), quantization=kind)
    index.add(clustered(n))
    return index


def sound(index, stored):
    """Lists hang together, and each of the rows `{id: vector}` is found where all lists are scanned."""
    assert list(check.check_lists(index._index.structure)) == []
    assert len(index) == len(stored)
    found, _ = index.search(np.array(list(stored.values())), 60, nprobe=10_000)  # of which many are rescored
    assert found[:, 0].tolist() == list(stored)
    everything, _ = index.search(np.zeros(DIM), len(stored) + 1, nprobe=10_000)
    assert sorted(everything.tolist()) == [-1, *sorted(stored)]


def step(index):
    """Prepare a step on lists, as the thread in the background does."""
    inner = index._index
    inner.prepare(index._slabs.rows(), inner.lsn, len(index), index._slabs.live_slots)
    return inner._prepared and inner._prepared[2]


@pytest.fixture
def by_hand(monkeypatch):
    """Nothing is filed before a test says so."""
    monkeypatch.setattr(vecstore.Index, "_link", lambda *_: None)


@kinds
@pytest.mark.parametrize("waiting", [1, 31, 32, 40])
def test_rows_that_come_between_the_parts_of_a_step_stay_in_the_tail(by_hand, kind, waiting):
    index = raw(500, kind)
    stored = dict(enumerate(clustered(500)))
    while step(index):
        index._index.step()
    assert index.stats()["tail"] == 0
    for first in (500, 600):
        index.add(clustered(waiting, first), range(first, first + waiting))
        stored |= dict(zip(range(first, first + waiting), clustered(waiting, first), strict=True))
        if first == 500:
            assert step(index).of_tail == waiting
    index._index.step()
    assert index.stats()["tail"] == waiting
    sound(index, stored)


@kinds
@pytest.mark.parametrize("do", ["train", "file", "split", "rewrite", "dissolve"])
def test_a_step_does_nothing_to_rows_that_were_numbered_anew_since(by_hand, kind, do):
    index = raw(500, kind)
    reach(index, do)
    inner, live = index._index, index._slabs.live_slots()
    rest = live[::-1].copy()  # as a compaction would have them
    slabs = index._slabs
    ids, matrix = slabs.ids[rest].copy(), slabs.matrix()[rest]
    stored = dict(zip(ids.tolist(), matrix, strict=True))
    with inner.renumbering(rest, inner.lsn, inner.lsn + 2):
        index._slabs = Slabs.restored(slabs.metric, matrix, ids, np.arange(len(rest)))
    index._lsn = inner.lsn
    inner.step()
    sound(index, stored)
    while step(index):
        inner.step()
    sound(index, stored)


def reach(index, do):
    """Do steps until one of a kind is prepared."""
    inner = index._index
    for number in range(200):
        found = step(index)
        if found is not None and found.do == do:
            return
        if found is None:
            if do == "split":
                more = np.repeat(clustered(1, 5), 400, 0) + clustered(400, 6) / 10
                index.add(more)
            elif do == "rewrite":
                index.remove(np.arange(number % 3, 400, 3))
            else:
                lists = inner.structure
                index.remove(index._slabs.ids[lists.members(int(lists.arrays.sizes.argmin()))[0]])
        inner.step()
    raise AssertionError(f"no step is to {do}")


@kinds
def test_a_step_of_lists_that_were_replaced_is_dropped(by_hand, kind):
    index = raw(500, kind)
    reach(index, "file")
    kept = index._index._prepared
    rows, live = index._slabs.rows(), index._slabs.live_slots
    begun = index._index.begun(rows, live(), None)
    index._index.replace(begun, index._lsn, rows, index._lsn, live, lambda _: None)
    index._index._prepared = kept
    index._index.step()
    sound(index, dict(enumerate(clustered(500))))


def test_a_small_tail_does_not_disturb_a_rebuild():
    index = raw(500)
    index.add(clustered(20, 3))
    assert index.stats()["tail"] == 20
    index.rebuild(seed=3)
    assert index.stats()["tail"] == 0
    sound(index, dict(enumerate(np.concatenate([clustered(500), clustered(20, 3)]))))


def test_blocks_that_are_in_no_list_any_more_do_not_stop_a_compaction(by_hand):
    index = raw(500)
    reach(index, "split")
    held = index._index.structure.arrays  # a search that goes on keeps the old blocks
    index._index.step()
    last = index._slabs.size - 1
    index.remove(index._slabs.ids[range(last - 50, last + 1)])
    live = index._slabs.live_slots()
    inner = index._index
    inner.structure.renumber_slots(np.arange(live.max() + 1))
    assert list(check.check_lists(inner.structure)) == []
    assert held.linked


@kinds
def test_all_rows_go_before_there_are_lists(db, kind):
    docs = db.create_collection("docs", DIM, "l2", index=vecstore.IVF(), quantization=kind)
    with docs._indexing.checkpoints.keeping:  # the thread waits
        docs.insert(range(250), clustered(250))
        docs.search(np.zeros(DIM), 1)
        docs.delete(range(250))
        docs.insert(range(250), clustered(250))
        docs.search(np.zeros(DIM), 1)
        docs.delete(range(250))
        docs.search(np.zeros(DIM), 1)
        assert docs._index.structure.arrays.count == 500
    docs.insert(1000, np.ones(DIM))
    docs.wait_indexed(30)
    assert docs.stats().index_error is None
    assert [hit.id for hit in docs.search(np.zeros(DIM), 5)] == [1000]
    assert docs.check() == []


def test_the_thread_rests_where_few_rows_are_left(db, monkeypatch):
    docs = db.create_collection("docs", DIM, "l2", index=vecstore.IVF())
    docs.insert(range(800), clustered(800))
    docs.wait_indexed(30)
    done, rested = [], threading.Event()
    inner = docs._indexing.indexer._step

    def step():
        done.append(1)
        more = inner()
        if not more or len(done) > 200:
            rested.set()
            return False
        return more

    with docs._indexing.checkpoints.keeping:
        docs.insert(range(800, 1000), clustered(200, 4))
        docs.search(np.zeros(DIM), 1)  # which lets the tail know of them
        docs.delete(range(20, 1000))
        docs._indexing.indexer._step = step
    assert rested.wait(30)
    assert len(done) < 200
    docs.wait_indexed(30)
    assert docs.check() == []


def test_lists_of_a_raw_index_are_looked_after_when_rows_only_go():
    index = raw(2000)
    gone = np.arange(1900)
    index.remove(gone)
    stats = index.stats()
    assert stats["tombstones"] <= 0.25 * 100 + 8 * stats["lists"]
    assert not index._index.uneven
    sound(index, {one: row for one, row in enumerate(clustered(2000)) if one >= 1900})


def test_a_tail_whose_rows_have_all_gone_is_cleared_for_good(tmp_path):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2", index=vecstore.IVF())
        docs.insert(range(500), clustered(500))
        docs.wait_indexed(30)
        docs._indexing.indexer.stop()
        docs.insert(range(500, 540), clustered(40, 3))
        docs.search(np.zeros(DIM), 1)
        docs.delete(range(500, 540))
        docs.search(np.zeros(DIM), 1)
        docs._indexing.checkpoints.write()
        assert docs._index.structure.arrays.tail_size == 40
        assert docs._indexing._prepare()
        docs._index.step()
        assert docs._index.structure.arrays.tail_size == 0
    with vecstore.open(tmp_path) as db:
        assert db.get_collection("docs")._index.structure.arrays.tail_size == 0


def longest(parts):
    return int(parts["sizes"].argmax())


def first_block(parts):
    return int(parts["heads"][longest(parts)])


DAMAGES = {
    "a slot that there is not": lambda parts: parts["slots"].__setitem__((first_block(parts), 0), 10**6),
    "a slot below -1": lambda parts: parts["tail_slots"].__setitem__((0, 0), -2),
    "a row in two places": lambda parts: parts["slots"].__setitem__((first_block(parts), 0), parts["tail_slots"][0, 0]),
    "a block in two lists": lambda parts: parts["heads"].__setitem__(parts["sizes"].argmin(), first_block(parts)),
    "a chain that leads out": lambda parts: parts["heads"].__setitem__(longest(parts), len(parts["chain"])),
    "a size below 0": lambda parts: parts["sizes"].__setitem__(0, -5),
    "a list without blocks": lambda parts: parts["heads"].__setitem__(longest(parts), -1),
    "a list that is too long": lambda parts: parts["sizes"].__setitem__(longest(parts), 2**30),
    "another number of dead": lambda parts: parts["dead"].__setitem__(0, parts["dead"][0] + 1),
    "a tail that is too long": lambda parts: parts["tail_size"].__setitem__(0, 10**6),
    "a tail of less than none": lambda parts: parts["tail_size"].__setitem__(0, -1),
    "centroids that are none": lambda parts: parts["centroids"].__setitem__((0, 0), np.nan),
    "fewer centroids": lambda parts: parts.update(centroids=parts["centroids"][:-1]),
    "fewer blocks": lambda parts: parts.update(codes=parts["codes"][:-1]),
    "codes of other rows": lambda parts: parts.update(codes=parts["codes"][:, :-64].copy()),
    "a part that is missing": lambda parts: parts.pop("chain"),
}


@kinds
def test_a_saved_index_comes_back_with_its_lists(kind, tmp_path):
    index = raw(800, kind, nlist=9)
    index.remove(range(0, 800, 9))
    index.save(tmp_path / "index")
    again = vecstore.Index.load(tmp_path / "index")
    assert (again.config, again.quantization, again.metric) == (index.config, kind, "l2")
    sound(again, {one: row for one, row in enumerate(clustered(800)) if one % 9})
    found, given = (one.search(clustered(50, 4), 5, nprobe=3) for one in (again, index))
    assert np.array_equal(found, given)


@kinds
def test_lists_come_back_as_they_were_and_damaged_parts_are_told(kind):
    index = raw(800, kind)
    index.remove(range(0, 800, 9))
    index.add(clustered(40, 3), range(800, 840))
    stored = {one: row for one, row in enumerate(clustered(800)) if one % 9}
    stored |= dict(zip(range(800, 840), clustered(40, 3), strict=True))
    inner, held = index._index, index._index.structure
    with held.held() as parts:
        kept = {name: part.copy() for name, part in parts.items()}
    assert kept["tail_size"][0] == 40
    for name, damage in DAMAGES.items():
        damaged = {part: values.copy() for part, values in kept.items()}
        damage(damaged)
        with pytest.raises((ValueError, KeyError)):
            inner._made(inner.config, held.arrays.coder, held.fitted_on).restore(damaged, index._slabs.size)
            raise AssertionError(name)
    inner.take_over(held.arrays.coder, inner.config, held.fitted_on, kept, index._slabs.size)
    sound(index, stored)
    index.add(clustered(500, 8), range(900, 1400))
    index.remove(range(900, 1000))
    stored |= {one: row for one, row in zip(range(900, 1400), clustered(500, 8), strict=True) if one >= 1000}
    sound(index, stored)
