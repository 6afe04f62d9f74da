"""Files larger than memory: opening one reads none of its rows, and searches fetch only what they score."""

import ctypes
import mmap
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vecstore
from vecstore.errors import CorruptionError
from vecstore.index import flat
from vecstore.storage import advice, blocks, keys, pages, tree
from vecstore.storage.environment import Environment


@pytest.fixture
def large(monkeypatch):
    """Every file is too large for the page cache, and scans ask for a block or two at a time."""
    monkeypatch.setattr(advice, "is_large", lambda size: True)
    monkeypatch.setattr(flat, "SCAN_BYTES", 1 << 17)


def evicted(path):
    """Have a file out of the page cache, as far as the system goes along."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(path):
    """The share of a file that is in the page cache."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        pages = -(-len(data) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        held = (ctypes.c_char * len(data)).from_buffer(data)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        assert libc.mincore(ctypes.addressof(held), len(data), found) == 0
        del held
        return float(np.mean(np.frombuffer(found, np.uint8) & 1))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the page cache cannot be emptied")
@pytest.mark.parametrize("index", [vecstore.HNSW(), vecstore.IVF()])
def test_opening_reads_no_rows_and_a_search_those_that_it_scores(
    tmp_path, rows, large, index, small_graphs, small_lists
):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 1024, index=index)
        for n in range(4):
            docs.insert(range(1000 * n, 1000 * n + 1000), rows(1000, 1024, n))
        docs.wait_indexed(60)
        path = docs._store.env.path
    evicted(path)
    if resident(path) > 0.1:
        pytest.skip("this file system keeps its files in memory")
    with vecstore.open(tmp_path, read_only=True) as db:
        docs = db.get_collection("docs")
        assert docs.count() == 4000
        assert docs.stats().linked == 4000
        assert resident(path) < 0.1
        assert docs.search(rows(1000, 1024, 3)[7], 1)[0].id == 3007
        assert resident(path) < 0.5


@pytest.mark.parametrize("index", [vecstore.HNSW(), vecstore.IVF(), vecstore.Flat()])
@pytest.mark.parametrize("quantization", ["auto", None])
def test_every_verb_answers_alike_of_a_large_file(
    tmp_path, rows, index, quantization, monkeypatch, small_graphs, small_lists
):
    answers = []
    for is_large in (False, True):
        monkeypatch.setattr(advice, "is_large", lambda size, is_large=is_large: is_large)
        with vecstore.open(tmp_path / str(is_large)) as db:
            docs = db.create_collection("docs", 48, "l2", index=index, quantization=quantization)
            assert docs.search(np.ones(48), 3) == []
            docs.insert(range(700), rows(700, 48), [{"n": n % 7} for n in range(700)])
            docs.delete(range(0, 700, 9))
            docs.wait_indexed(60)
            docs.upsert(range(650, 750), rows(100, 48, 1))
        with vecstore.open(tmp_path / str(is_large)) as db:
            docs = db.get_collection("docs")
            queries = rows(9, 48, 2)
            answers.append(
                [
                    docs.search(queries[0], 5),
                    docs.search(queries, 5, exact=True, with_vectors=False),
                    docs.search(queries[0], 700, filter={"n": 3}),
                    docs.get([1, 9, 700]),
                    docs.cluster(3).sizes.tolist(),
                    docs.near_duplicates(-6.0, exact=True),
                    docs.check(),
                ]
            )
            docs.compact()
            assert docs.search(queries[0], 5) == answers[-1][0]
    assert answers[0] == answers[1]


# -- where values stand --------------------------------------------------------------------------------------------

SIZE = 2100  # on a page of its own


@pytest.fixture
def env(tmp_path):
    made = Environment(tmp_path / "data.mdb", create=True)
    yield made
    made.close()


def values_of(env, size=SIZE):
    """Numbers and first bytes of the values, by their addresses, and by LMDB."""
    with env.reading() as txn:
        numbers, addresses = tree.large_values(txn, env, "vector:vector", size)
        found = {int(n): bytes(blocks.at(int(at), 8)) for n, at in zip(numbers, addresses, strict=True)}
        with txn.cursor(env.db("vector:vector")) as cursor:
            there = {keys.number(key): bytes(value[:8]) for key, value in cursor if len(value) == size}
    assert list(found) == sorted(found)
    return found, there


def put(env, numbers, size=SIZE):
    def work(txn):
        for number in numbers:
            value = np.random.default_rng(number).bytes(8) + bytes(size - 8)
            txn.put(keys.block_key(number), value, db=env.db("vector:vector"))

    env.write(work)


def test_values_are_found_in_a_tree_of_any_depth(env):
    assert values_of(env) == ({}, {})
    depths = set()
    for count in (1, 60, 3000):
        put(env, np.random.default_rng(count).permutation(count).tolist())
        found, there = values_of(env)
        assert found == there
        assert len(found) == count
        with env.reading() as txn:
            depths.add(txn.stat(env.db("vector:vector"))["depth"])
    assert len(depths) > 1


def test_values_of_another_size_are_left_out(env):
    put(env, [1, 2])
    put(env, [3], 5000)
    put(env, [4], 100)  # within the page of the tree
    found, there = values_of(env)
    assert set(found) == {1, 2}
    assert found == there


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=40))
def test_values_are_found_after_any_changes(tmp_path_factory, changes):
    env = Environment(tmp_path_factory.mktemp("tree") / "data.mdb", create=True, sync_interval=10)
    try:
        put(env, range(0, 400, 3))
        for kept, number in changes:
            if kept:
                put(env, [number])
            else:
                env.write(lambda txn, n=number: txn.delete(keys.block_key(n), db=env.db("vector:vector")))
        found, there = values_of(env)
        assert found == there
    finally:
        env.close()


@pytest.mark.parametrize("size", [1024, 4096, 16384, 65536])
def test_a_page_is_found_around_a_value_whatever_its_size(size):
    """A file keeps the page size of the system that made it, and its map begins at a page of this one."""
    with mmap.mmap(-1, 4 * 65536) as memory:
        held = (ctypes.c_char * len(memory)).from_buffer(memory)
        base = ctypes.addressof(held) + mmap.PAGESIZE
        for number in range(3):
            at = mmap.PAGESIZE + number * size
            pages.PAGE.pack_into(memory, at, number, 0, pages.LEAF, 40, size - 500)
            for value in (size - 500, size - 48):
                assert tree.page_around(base + number * size + value, size) == (base + number * size, number)
        memory[mmap.PAGESIZE + 10 : mmap.PAGESIZE + 12] = b"\0\0"
        with pytest.raises(ValueError, match="damaged"):
            tree.page_around(base + size - 48, size)
        del held


def test_a_damaged_tree_is_an_error_and_never_an_access_outside_the_file(tmp_path, env, monkeypatch):
    put(env, range(300))
    visited, nodes = [], tree._Tree._nodes
    monkeypatch.setattr(
        tree._Tree, "_nodes", lambda self, number, kind: visited.append(number) or nodes(self, number, kind)
    )
    values_of(env)
    size, own = env.geometry()[0], list(visited)
    assert len(own) > 2
    env.close()
    path = tmp_path / "data.mdb"
    whole = path.read_bytes()
    random, refused = np.random.default_rng(0), 0
    for number in own * 30:
        damaged = bytearray(whole)
        at = number * size + int(random.integers(random.choice([60, size - 4])))
        damaged[at : at + 4] = random.bytes(4)
        path.write_bytes(damaged)
        refused += not opened(path)
    assert refused > len(own) * 10


def opened(path):
    """Whether LMDB and the tree take a file as sound enough to read."""
    try:
        env = Environment(path, read_only=True)
    except vecstore.VecstoreError:
        return False
    try:
        with env.reading() as txn:
            tree.large_values(txn, env, "vector:vector", SIZE)
        return True
    except CorruptionError:
        return False
    finally:
        env.close()


# -- what is told to the system ------------------------------------------------------------------------------------


def test_pages_that_touch_are_asked_for_at_once(monkeypatch):
    asked = []
    monkeypatch.setattr(advice, "_advise", lambda start, size, advice: asked.append((start, size, advice)))
    page = mmap.PAGESIZE
    advice.read_soon(np.array([0, 10 * page + 1, 3 * page, 4 * page - 1, 0]), page)
    assert asked == [(3 * page, 2 * page, mmap.MADV_WILLNEED), (10 * page, 2 * page, mmap.MADV_WILLNEED)]
    asked.clear()
    advice.read_soon(np.zeros(3, np.int64), page)
    assert asked == []


def test_a_file_that_grows_large_while_it_is_open_is_fetched_singly(db, rows, monkeypatch):
    monkeypatch.setattr(advice, "memory", lambda: 4 << 20)
    docs = db.create_collection("docs", 256, index=vecstore.Flat())
    docs.insert(range(100), rows(100, 256))
    assert docs.search(rows(1, 256)[0], 1)[0].id == 0
    assert docs._store.env.fetching.soon is None
    docs.insert(range(100, 5000), rows(4900, 256, 1))
    assert docs.search(rows(1, 256, 1)[0], 1)[0].id == 100
    assert docs._store.env.fetching.soon is not None


def test_a_file_is_large_beside_the_memory_of_a_container(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(advice, "LIMITS", (str(limit), str(tmp_path / "none")))
    everything = advice.memory()
    limit.write_text("max\n")
    assert advice.memory() == everything
    limit.write_text("1000000\n")
    assert advice.memory() == 1_000_000
    assert not advice.is_large(400_000)
    assert advice.is_large(600_000)
