"""A collection that changes its index: online, whole or not at all, and followed by those who read."""

import json
import threading
from itertools import pairwise

import numpy as np
import pytest

import vecstore
from vecstore import checkpoints, indexing
from vecstore.index import ivf
from vecstore.storage.checkpoint import INDEX_FILE, CheckpointFile
from vecstore.types import KIND_NAMES

DIM = 24
KINDS = [
    (vecstore.HNSW(m=8), vecstore.Int8()),
    (vecstore.IVF(), vecstore.Binary()),
    (vecstore.Flat(), None),
    (vecstore.IVF(nlist=7), vecstore.Int4()),
    (vecstore.Flat(), vecstore.Int8()),
    (vecstore.HNSW(), None),
]


@pytest.fixture(autouse=True)
def small(small_graphs, monkeypatch):
    monkeypatch.setattr(ivf, "FIT_FROM", 100)
    monkeypatch.setattr(ivf, "TRAIN_FROM", 300)


def filled(db, rows, n=900, **kind):
    docs = db.create_collection("docs", DIM, "l2", **kind)
    docs.insert(range(n), rows(n, DIM), [{"n": i % 5} for i in range(n)])
    return docs


def is_right(docs, vectors):
    """Every row finds itself, and the collection is sound."""
    assert [hits[0].id for hits in docs.search(vectors, 1)] == list(range(len(vectors)))
    assert docs.count() == len(vectors) and docs.check() == []


@pytest.mark.parametrize(("before", "after"), [*pairwise(KINDS), (KINDS[-1], KINDS[0])])
def test_any_index_takes_the_place_of_any_other(tmp_path, rows, before, after):
    vectors, told = rows(900, DIM), []
    with vecstore.open(tmp_path) as db:
        docs = filled(db, rows, index=before[0], quantization=before[1])
        docs.set_index(after[0], quantization=after[1], progress=lambda done, total: told.append((done, total)))
        assert (docs.info.index, docs.info.quantization) == after
        stats = docs.stats()
        assert (stats.index, stats.quantization) == (type(after[0]).__name__, KIND_NAMES.get(type(after[1])))
        assert stats.linked == (0 if after[0] == vecstore.Flat() else 900) and stats.tail == 0
        assert after == (vecstore.Flat(), None) or told[-1] == (900, 900)
        assert (stats.checkpoint_lsn == stats.lsn) == (after[0] != vecstore.Flat())
        assert (docs._store.checkpoint.path.exists()) == (after[0] != vecstore.Flat())
        is_right(docs, vectors)
        docs.delete(range(890, 900))
        docs.compact()
        is_right(docs, vectors[:890])
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        assert (docs.info.index, docs.info.quantization) == after
        assert docs.stats().linked == (0 if after[0] == vecstore.Flat() else 890)
        is_right(docs, vectors[:890])
        assert db.create_collection("docs", DIM, "l2", index=after[0], quantization=after[1], exist_ok=True) is docs


def test_what_is_there_already_is_left_alone(db, rows, monkeypatch):
    docs = filled(db, rows, index=vecstore.HNSW(m=8), quantization=vecstore.Int8())
    docs.wait_indexed(120)
    monkeypatch.setattr(indexing.Indexing, "build", lambda *_: 1 / 0)
    lsn, graph = docs.stats().lsn, docs._index.structure
    docs.set_index(vecstore.HNSW(m=8))
    docs.set_index(vecstore.HNSW(m=8), quantization=vecstore.Int8())
    with pytest.raises(ZeroDivisionError):
        docs.set_index(vecstore.HNSW(m=8, seed=2))
    assert docs.info.index == vecstore.HNSW(m=8) and docs.stats().lsn == lsn and docs._index.structure is graph


@pytest.mark.parametrize(
    ("before", "after", "argument"),
    [(vecstore.HNSW(), vecstore.HNSW(ef=500), "ef"), (vecstore.IVF(nprobe=1), vecstore.IVF(nprobe=60), "nprobe")],
)
def test_what_only_searches_go_by_changes_at_once(tmp_path, rows, monkeypatch, before, after, argument):
    queries = rows(50, DIM, 5)
    wider, narrower = ({argument: getattr(one, argument)} for one in (after, before))
    with vecstore.open(tmp_path) as db:
        docs = filled(db, rows, index=before, quantization=vecstore.Int4())
        docs.wait_indexed(120)
        docs.rebuild(seed=7)
        wide, narrow = docs.search(queries, 10, **wider), docs.search(queries, 10)
        graph = docs._index.structure
        docs.set_index(after)
        assert docs.info.index == after and docs._index.structure is graph
        assert docs.search(queries, 10) == wide and (argument == "ef" or wide != narrow)
    # The checkpoint of before the change is as good: nothing is made anew.
    for one in (ivf.IvfIndex, docs._index.__class__):
        monkeypatch.setattr(one, "_new", lambda *_: 1 / 0)
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        docs.wait_indexed(120)
        assert docs.info.index == after and docs.search(queries, 10) == docs.search(queries, 10, **wider)
        docs.set_index(before)
        assert docs.search(queries, 10) == docs.search(queries, 10, **narrower)
        docs._indexing.close = lambda: None  # as if it were killed
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        assert docs.info.index == before and docs.search(queries, 10) == docs.search(queries, 10, **narrower)


def test_searches_and_writes_go_on_meanwhile(db, rows, monkeypatch):
    vectors = rows(1500, DIM)
    docs = filled(db, rows, 1500, index=vecstore.Flat())
    done, wrong = threading.Event(), []

    def search():
        while not done.is_set():
            found = docs.search(vectors[700:720], 1)
            if [hits[0].id for hits in found] != list(range(700, 720)):
                wrong.append(found)
            done.wait(0.002)

    def write():
        n = 0
        while not done.is_set():
            docs.upsert(["late", n % 600], np.stack([np.full(DIM, n + 10), vectors[n % 600]]))
            if docs.search(np.full(DIM, n + 10), 1)[0].id != "late":
                wrong.append(n)
            n += 1
            done.wait(0.01)

    threads = [threading.Thread(target=one) for one in (search, write)]
    for one in threads:
        one.start()
    try:
        for index, codes in KINDS:
            docs.set_index(index, quantization=codes)
    finally:
        done.set()
        for one in threads:
            one.join()
    assert not wrong
    docs.delete("late")
    is_right(docs, vectors)
    docs.wait_indexed(120)
    is_right(docs, vectors)


def test_what_fails_leaves_the_old_index(tmp_path, rows, monkeypatch):
    with vecstore.open(tmp_path) as db:
        docs = filled(db, rows, index=vecstore.HNSW(), quantization=vecstore.Int8())
        docs.wait_indexed(120)
        info, index = docs.info, docs._index

        def fail(*_):
            raise RuntimeError("not today")

        for place in ((ivf.IvfIndex, "step"), (type(docs._store), "change_config")):
            with monkeypatch.context() as patched:
                patched.setattr(*place, fail)
                with pytest.raises(RuntimeError, match="not today"):
                    docs.set_index(vecstore.IVF())
            assert docs.info == info and docs._index is index
            docs.upsert(1, rows(2, DIM)[1])
            is_right(docs, rows(900, DIM))
        docs.set_index(vecstore.IVF())
        # Without the checkpoint, as if the process were killed before that.
        with monkeypatch.context() as patched:
            patched.setattr(CheckpointFile, "write", fail)
            with pytest.raises(RuntimeError, match="not today"):
                docs.set_index(vecstore.HNSW(m=16))
    with vecstore.open(tmp_path) as db:
        assert db.get_collection("docs").info.index == vecstore.HNSW(m=16)
        is_right(db.get_collection("docs"), rows(900, DIM))


CHANGING = """
import sys
import vecstore
from vecstore.index import hnsw, ivf
from vecstore.storage import failpoints
hnsw.FIT_FROM = ivf.FIT_FROM = 100
hnsw.LINK_FROM = ivf.TRAIN_FROM = 300
db = vecstore.open(sys.argv[1])
docs = db.get_collection("docs")
docs.wait_indexed()
failpoints.arm(sys.argv[2])
docs.set_index(vecstore.IVF(), quantization=vecstore.Binary())
print("1", flush=True)
"""


@pytest.mark.parametrize(
    ("point", "changed"),
    [("commit.before", False), ("commit.after", True), ("checkpoint.begun", True), ("checkpoint.header", True)],
)
def test_a_killed_process_has_changed_it_or_not(tmp_path, rows, process, point, changed):
    with vecstore.open(tmp_path) as db:
        filled(db, rows, index=vecstore.HNSW(), quantization=vecstore.Int8()).wait_indexed(120)
    assert process(CHANGING, tmp_path, point).popen.wait() == -9
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        assert isinstance(docs.info.index, vecstore.IVF if changed else vecstore.HNSW)
        is_right(docs, rows(900, DIM))
        docs.wait_indexed(120)
        is_right(docs, rows(900, DIM))


FOLLOWING = """
import json, sys
import numpy as np
import vecstore
from vecstore.index import hnsw, ivf
hnsw.FIT_FROM = ivf.FIT_FROM = 100
hnsw.LINK_FROM = ivf.TRAIN_FROM = 300
docs = vecstore.open(sys.argv[1], read_only=True).get_collection("docs")
for line in sys.stdin:
    asked = json.loads(line)
    if asked is not None:
        docs.wait_indexed(120)
        found = [hits[0].id for hits in docs.search(np.array(asked, np.float32), 1)]
        stats = docs.stats()
        print(json.dumps([found, repr(docs.info.index), stats.index, stats.quantization, stats.linked]), flush=True)
"""


def test_readers_follow(db, rows, process, monkeypatch):
    docs, vectors = filled(db, rows, index=vecstore.Flat()), rows(900, DIM)
    follower = process(FOLLOWING, db.path)
    some = [3, 500, 899]
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        for index, codes in [*KINDS, (vecstore.HNSW(ef=99), None)]:
            docs.set_index(index, quantization=codes)
            linked = 0 if index == vecstore.Flat() else 900
            answer = [some, repr(index), type(index).__name__, KIND_NAMES.get(type(codes)), linked]
            assert follower.ask(vectors[some].tolist()) == answer
            # It is loaded, not made.
            with monkeypatch.context() as patched:
                patched.setattr("vecstore.index.ivf.IvfIndex._new", lambda *_: 1 / 0)
                patched.setattr("vecstore.index.hnsw.HnswIndex._new", lambda *_: 1 / 0)
                is_right(followed, vectors)
            assert (followed.info.index, followed.info.quantization) == (index, codes)
            assert followed.stats().linked == linked
        with pytest.raises(vecstore.ReadOnlyError):
            followed.set_index(vecstore.Flat())
    assert json.loads(json.dumps(some)) == some


def test_a_reader_scans_until_the_new_index_is_kept(db, rows, monkeypatch):
    docs, query = filled(db, rows, index=vecstore.HNSW()), rows(1, DIM, 9)[0]
    docs.wait_indexed(120)
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        followed.wait_indexed(120)
        with monkeypatch.context() as patched:
            patched.setattr(indexing.Indexing, "begin", lambda _: None)
            docs.set_index(vecstore.IVF(nlist=9))
        with monkeypatch.context() as patched:
            patched.setattr(ivf.IvfIndex, "_new", lambda *_: 1 / 0)
            assert followed.search(query, 5) == docs.search(query, 5, exact=True)
            assert followed.info == docs.info and followed.stats().linked == 0
            docs._indexing.begin()
            followed.wait_indexed(120)
        assert followed.stats().linked == 900 and followed.check() == []
        monkeypatch.setattr(checkpoints, "AWAIT_SECONDS", 0.1)
        monkeypatch.setattr(indexing.Indexing, "begin", lambda _: None)
        docs.set_index(vecstore.HNSW())
        followed.search(query)
        followed.wait_indexed(120)  # by itself, when it has waited long enough
        assert followed.stats().linked == 900 and followed.check() == []


def test_a_reader_takes_the_options_of_the_index_that_there_is_by_now(db, rows):
    """Although it has not looked since the writer has changed it."""
    docs, query = filled(db, rows, index=vecstore.Flat(), quantization=None), rows(1, DIM, 9)[0]
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        docs.set_index(vecstore.HNSW(), quantization=vecstore.Int8())
        assert followed.search(query, 5, ef=300) == docs.search(query, 5, ef=300)
        docs.set_index(vecstore.IVF())
        assert followed.search(query, 5, nprobe=9, oversampling=3) == docs.search(query, 5, nprobe=9, oversampling=3)
        docs.set_index(vecstore.HNSW(), quantization=None)
        for options in ({"nprobe": 9}, {"oversampling": 3}):
            with pytest.raises(vecstore.InvalidArgumentError, match="has no effect"):
                followed.search(query, **options)
        docs.set_index(vecstore.Flat())
        docs.set_index(vecstore.Flat(), quantization=vecstore.Int8())
        followed.rebuild()


def test_a_reader_follows_a_change_and_a_compaction(db, rows):
    docs = filled(db, rows, index=vecstore.HNSW())
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        is_right(followed, rows(900, DIM))
        docs.set_index(vecstore.IVF())
        docs.compact()
        is_right(followed, rows(900, DIM))
        assert followed.info == docs.info
    assert not (docs._store.checkpoint.path.parent / f"{INDEX_FILE}-new").exists()


def test_arguments(db, rows):
    docs = filled(db, rows, 10)
    for index in (None, "ivf", vecstore.IVF, vecstore.HNSW(m=7)):
        with pytest.raises(vecstore.InvalidArgumentError, match=r"^index"):
            docs.set_index(index)
    with pytest.raises(vecstore.InvalidArgumentError, match="quantization"):
        docs.set_index(vecstore.IVF(), quantization="int8")
    with pytest.raises(vecstore.InvalidArgumentError, match="progress"):
        docs.set_index(vecstore.IVF(), progress=1)
    with pytest.raises(vecstore.InvalidArgumentError, match="ef has no effect"):
        docs.set_index(vecstore.IVF(), quantization="auto")
        docs.search(np.ones(DIM), ef=10)
    db.drop_collection("docs")
    with pytest.raises(vecstore.CollectionNotFoundError):
        docs.set_index(vecstore.HNSW())


def test_closing_ends_a_change(tmp_path, rows, monkeypatch):
    begun, errors = threading.Event(), []
    step = ivf.IvfIndex.step

    def slow(self, threads=None):
        begun.set()
        threading.Event().wait(0.05)
        step(self, threads)
        return True

    def change(docs):
        try:
            docs.set_index(vecstore.IVF())
        except vecstore.VecstoreError as error:
            errors.append(error)

    with vecstore.open(tmp_path) as db:
        docs = filled(db, rows)
        monkeypatch.setattr(ivf.IvfIndex, "step", slow)
        thread = threading.Thread(target=change, args=(docs,))
        thread.start()
        assert begun.wait(30)
    thread.join(30)
    assert [type(one) for one in errors] == [vecstore.ClosedError]
    with vecstore.open(tmp_path) as db:
        assert db.get_collection("docs").info.index == vecstore.HNSW()
        is_right(db.get_collection("docs"), rows(900, DIM))
