"""A collection that is opened again begins with the graph of its last checkpoint, if that is one of its rows."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

import vecstore
from vecstore import checkpoints
from vecstore.index import following, hnsw
from vecstore.storage import log

DIM = 16
pytestmark = pytest.mark.usefixtures("small_graphs")


def files(folder, name="docs"):
    return folder / "collections" / name / "data.mdb", folder / "collections" / name / "index.mdb"


def links(docs):
    return docs._index.structure.links_by_slot()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "kind", [None, vecstore.Int8(), vecstore.Int4(), vecstore.Binary()], ids=["none", "int8", "int4", "binary"]
)
def test_the_graph_is_the_same_again(folder, rows, warnings, kind, read_only, monkeypatch):
    path, query = folder(quantization=kind), rows(9, DIM, seed=3)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        before, hits, stats = links(docs), docs.search(query), docs.stats()
    monkeypatch.setattr(hnsw.HnswIndex, "_new", lambda *_: pytest.fail("it is not made anew"))
    monkeypatch.setattr(hnsw.HnswIndex, "_remember", lambda *_: pytest.fail("ids are not read again"))
    with vecstore.open(path, read_only=read_only) as db:
        docs = db.get_collection("docs")
        assert links(docs) == before
        assert docs.search(query) == hits
        assert replace(docs.stats(), durability="commit", synced_lsn=stats.synced_lsn) == stats
        assert docs._index.ids(np.arange(9), docs.stats().lsn) == list(range(9))
    assert warnings() == []


def test_only_what_came_after_the_checkpoint_is_linked(folder, rows, monkeypatch):
    path = folder(600)
    with monkeypatch.context() as patch, vecstore.open(path) as db:
        patch.setattr(checkpoints.Checkpoints, "write", lambda _: None)  # as if the process were killed
        docs = db.get_collection("docs")
        docs.upsert(range(590, 640), rows(50, DIM, seed=2))
        docs.delete(range(5))
        docs.wait_indexed(60)
        db.close()
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        added = []
        apply = following._apply
        monkeypatch.setattr(following, "_apply", lambda change, *_: (added.append(change), apply(change, *_)))
        assert [hit.id for hit in docs.search(rows(50, DIM, seed=2)[7], 1)] == [597]
        assert sum(len(change.added) for change in added) == 50
        docs.wait_indexed(60)
        assert docs.stats().linked == len(docs) == 635
        assert not {hit.id for hit in docs.search(rows(1, DIM)[0], 635)} & set(range(5))


def test_string_ids_are_found_again(tmp_path, rows):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, "l2")
        docs.insert([f"{n}" for n in range(400)], rows(400, DIM))
        docs.insert(range(10), rows(10, DIM, seed=9))
        docs.wait_indexed(60)
    with vecstore.open(tmp_path) as db:
        docs = db.get_collection("docs")
        found = docs.search(np.concatenate([rows(400, DIM), rows(10, DIM, seed=9)]), 1, with_payload=False)
        assert [hits[0].id for hits in found] == [*(f"{n}" for n in range(400)), *range(10)]


def test_what_changed_after_a_rebuild_with_another_seed_is_kept(folder, rows):
    path = folder(400)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        docs.rebuild(seed=7)
        before = links(docs)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert links(docs) == before
        assert docs._index.structure.config.seed == 7


# -- a checkpoint that is not one of the rows ------------------------------------------------------------------------


def test_a_missing_one_is_no_warning_in_a_small_collection(tmp_path, rows, warnings, monkeypatch):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", DIM).insert(range(10), rows(10, DIM))
    with vecstore.open(tmp_path) as db:
        assert len(db.get_collection("docs").search(rows(1, DIM)[0], 20)) == 10
    assert warnings() == []


def older_index(path, rows):
    """The checkpoint of an earlier write, which the log does not tell of any more."""
    shutil.copy(files(path)[1], path / "kept")
    for seed in (4, 5):  # the second time, the log need not reach back to the first checkpoint
        with vecstore.open(path) as db:
            docs = db.get_collection("docs")
            for n in range(20):
                docs.upsert(n, rows(20, DIM, seed=seed)[n])
    (path / "kept").replace(files(path)[1])


def older_rows(path, rows):
    """Rows of an earlier time, as from a copy."""
    shutil.copy(files(path)[0], path / "kept")
    with vecstore.open(path) as db:
        db.get_collection("docs").upsert(range(50), rows(50, DIM, seed=4))
    (path / "kept").replace(files(path)[0])


def other_history(path, rows):
    """The same, and then more writes than the checkpoint knows."""
    older_rows(path, rows)
    index = files(path)[1].read_bytes()
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        for n in range(5):
            docs.upsert(n, rows(5, DIM, seed=8)[n])
    files(path)[1].write_bytes(index)


def foreign(path, rows):
    with vecstore.open(path) as db:
        db.create_collection("other", DIM, "l2").insert(range(600), rows(600, DIM))
        db.get_collection("other").wait_indexed(60)
    shutil.copy(files(path, "other")[1], files(path)[1])


def another_kind(path, rows):
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        docs._indexing.checkpoints.info = replace(docs.info, quantization=vecstore.Binary())
        docs.upsert(1, rows(1, DIM)[0])


def flipped(path, rows):
    data = bytearray(files(path)[1].read_bytes())
    for at in range(9000, len(data), 4096):
        data[at] ^= 1
    files(path)[1].write_bytes(data)


def cut(path, rows):
    data = files(path)[1].read_bytes()
    files(path)[1].write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path, _: files(path)[1].unlink(), "is missing"),
        (lambda path, _: files(path)[1].write_bytes(b""), "is damaged"),
        (lambda path, _: files(path)[1].write_bytes(b"something else" * 1000), "is damaged"),
        (flipped, "is damaged"),
        (cut, "is damaged"),
        (older_index, "is too old"),
        (older_rows, "is newer than the rows"),
        (other_history, "is of rows that were written otherwise"),
        (foreign, "belongs to another collection"),
        (another_kind, "is of an index of another kind"),
    ],
    ids=["missing", "empty", "text", "flipped", "cut", "too old", "too new", "diverged", "foreign", "kind"],
)
def test_any_other_is_not_used_but_said_and_replaced(folder, rows, warnings, monkeypatch, spoil, reason, read_only):
    for module, name, value in ((log, "KEEP", 8), (log, "TRIM_AT_ONCE", 4)):
        monkeypatch.setattr(module, name, value)
    path = folder(600)
    spoil(path, rows)
    warnings()
    with vecstore.open(path, read_only=read_only) as db:
        docs = db.get_collection("docs")
        [warning] = warnings()
        assert warning.startswith(f"index.mdb of docs {reason}")
        assert docs.stats().linked == 0
        there = {one.id: one.vector for one in docs.scroll(limit=1000, with_vectors=True).records}
        for again in range(2):
            found = docs.search(np.array(list(there.values())), 1)
            assert [hits[0].score for hits in found] == [0] * 600
            if not again:
                docs.wait_indexed(60)
        before = links(docs)
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert len(warnings()) == read_only  # nothing is written by a reader
        if not read_only:
            assert links(docs) == before


def test_an_index_file_that_cannot_be_opened_is_no_obstacle(folder, rows, warnings, monkeypatch):
    path = folder(600)
    files(path)[1].unlink()
    files(path)[1].mkdir()
    with vecstore.open(path) as db:
        docs = db.get_collection("docs")
        assert "index.mdb of docs cannot be read" in warnings()[0]
        docs.upsert(5, rows(1, DIM, seed=5)[0])
        docs.wait_indexed(60)
        assert [hit.id for hit in docs.search(rows(1, DIM, seed=5)[0], 1)] == [5]
    assert warnings() == [] and files(path)[1].is_file()


def test_upkeep_behind_the_last_checkpoint_is_kept_by_the_close(tmp_path, rows, small_graphs):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 16, "l2", index=vecstore.HNSW(m=8))
        docs.insert(range(600), rows(600, 16))
        docs.wait_indexed(60)
        docs._indexing.indexer.stop()
        docs.delete(range(200))
        docs.search(np.zeros(16), 1)
        docs._indexing.checkpoints.write()
        docs._index.step()
        settled = docs._index.structure.links_by_slot()
    with vecstore.open(tmp_path) as db:
        assert db.get_collection("docs")._index.structure.links_by_slot() == settled
