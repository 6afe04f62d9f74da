"""compact() is killed, files change their names, and other processes go on with the new one."""

import os
import shutil
import signal
import threading

import numpy as np
import pytest

import vecstore
from tests.compactions import KINDS, contents, files, filled
from vecstore import CollectionNotFoundError, checkpoints
from vecstore.storage import compaction, failpoints, recovery, sharing, store
from vecstore.storage.environment import Environment

KILLED = """
import sys
import numpy as np
import vecstore
from vecstore.storage import failpoints
with vecstore.open(sys.argv[1]) as db:
    docs = db.get_collection("docs")
    failpoints.arm(sys.argv[2], int(sys.argv[3]))
    docs.compact()
"""
PLACES = [("compact.part", 1), ("compact.part", 3)] + [
    (name, 1) for name in failpoints.POINTS if name.startswith("compact.") and name != "compact.part"
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}-{place[1]}")
def test_killed_anywhere(db, rows, process, place):
    docs = filled(db, rows)
    before, lsn, path = contents(docs), docs.stats().lsn, docs._store.env.path
    db.close()
    follower = process(READER, db.path)
    assert follower.read() == len(before)
    assert process(KILLED, db.path, *place).popen.wait() == -signal.SIGKILL
    assert follower.ask() == [len(before), 0]
    with vecstore.open(db.path, read_only=True) as reader:
        assert contents(reader.get_collection("docs")) == before
    with vecstore.open(db.path) as again:
        docs = again.get_collection("docs")
        assert files(docs) == ["data.mdb", "data.mdb-lock"]
        assert (contents(docs), docs.check()) == (before, [])
        decided = place[0] not in ("compact.part", "compact.written")
        assert docs.stats().lsn == lsn + 2 * decided
        docs.upsert("x", np.ones(24))
        assert follower.ask() == [len(before) + 1, 0]
        assert path.exists()


READER = """
import json, sys
import vecstore
db = vecstore.open(sys.argv[1], read_only=True)
docs = db.get_collection("docs")
print(json.dumps(len(docs)), flush=True)
for line in sys.stdin:
    try:
        answer = [len(docs), len(docs.check())]
    except vecstore.VecstoreError as error:
        answer = type(error).__name__
    print(json.dumps(answer), flush=True)
"""


def stopped_compaction(docs):
    """Leave what a compaction leaves that was killed when it had decided on its file; the folder."""
    folder = docs._store.env.path.parent
    with docs._store.view() as view:
        meta = compaction.meta_of(view.txn, view.env)
        source = compaction.Source(
            view.env.path, meta, view.layout, view.table.live_slots(), view.table.rows, view.row, view.ids
        )
        compaction.write(source, view.state.lsn + 2).rename(folder / "data.mdb.next")
    return folder


def test_what_a_stopped_compaction_decided_on_is_dropped_if_data_went_on(db, rows):
    docs = filled(db, rows)
    before, folder = contents(docs), stopped_compaction(docs)
    docs.upsert("x", np.ones(24))
    (folder / "data.mdb.new").write_bytes(b"half")
    db.close()
    with vecstore.open(db.path) as again:
        docs = again.get_collection("docs")
        assert files(docs) == ["data.mdb", "data.mdb-lock"]
        assert len(contents(docs)) == len(before) + 1


def test_an_opener_waits_while_files_change_their_names(db, rows, monkeypatch):
    docs = filled(db, rows)
    path = docs._store.env.path
    db.close()
    opened = []

    def open_it():
        env = Environment(path, read_only=True)
        opened.append(env.inode)
        env.close()

    threads = [threading.Thread(target=open_it)]
    with compaction.not_replaced(path.parent, replacing=True):
        threads[0].start()
        threads[0].join(0.1)
        assert opened == []
    threads[0].join()
    assert opened == [path.stat().st_ino]


FOLLOWER = """
import json, sys
import vecstore
from tests.conftest import make_small
make_small("graphs")
db = vecstore.open(sys.argv[1], read_only=True)
docs = db.get_collection("docs")
for line in sys.stdin:
    query = json.loads(line)
    hits = docs.search(query, 5, with_payload=False)
    again = db.get_collection("docs") is docs
    print(json.dumps([[hit.id for hit in hits], len(docs), docs.stats().linked, again]), flush=True)
"""


def test_a_reader_of_a_graph_goes_on_with_the_checkpoint_of_the_compaction(db, rows, small_graphs, process):
    docs = filled(db, rows, "graph")
    query = rows(1, 24, 9)[0]
    docs.close()
    docs = db.get_collection("docs")
    follower = process(FOLLOWER, db.path)
    for _ in range(3):
        hits, linked = docs.search(query, 5, with_payload=False), docs.stats().linked
        assert linked > 1000
        assert follower.ask(query.tolist()) == [[hit.id for hit in hits], len(docs), linked, True]
        docs.compact()
        hits = docs.search(query, 5, with_payload=False)
        assert follower.ask(query.tolist()) == [[hit.id for hit in hits], len(docs), linked, True]
        docs.upsert("late", np.ones(24))
        docs.delete("late")
        docs.wait_indexed()


def test_a_compaction_is_followed_over_the_wire_and_by_other_databases_of_the_process(db, rows):
    docs = filled(db, rows)
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        docs.compact()
        assert contents(followed) == contents(docs)
        assert reader.get_collection("docs") is followed
        docs.upsert("x", np.ones(24))
        assert followed.get("x") is not None
    assert docs.get("x") is not None


def test_with_commits_that_are_synced_at_an_interval(tmp_path, rows, monkeypatch):
    with vecstore.open(tmp_path / "db", durability="interval") as db:
        docs = filled(db, rows)
        with monkeypatch.context() as patched:
            patched.setattr(compaction, "_rename", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                docs.compact()
        docs.upsert("before", np.ones(24))
        docs.compact()
        docs.upsert("after", np.ones(24))
        docs._store.env.settle()
        docs.upsert("behind the last sync", np.ones(24))
        before = contents(docs)
        shutil.copytree(tmp_path / "db", tmp_path / "copy")
    with vecstore.open(tmp_path / "db") as db:
        docs = db.get_collection("docs")
        assert contents(docs) == before and docs.check() == []
        assert files(docs) == ["data.mdb", "data.mdb-lock"]
    # The machine went down: what the record of syncs leads to is a commit of the new file.
    monkeypatch.setattr(recovery, "boot_id", lambda: "another")
    with vecstore.open(tmp_path / "copy") as db:
        docs = db.get_collection("docs")
        assert docs.check() == [] and docs.get("before") is not None and docs.get("after") is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", ["compact.renamed", "compact.synced"])
def test_a_collection_that_is_dropped_while_its_files_change_their_names(db, rows, monkeypatch, kind, point):
    """The file may get the inode number of the next collection's: the store must not be found under it."""
    docs = filled(db, rows, kind)
    path = docs._store.env.path
    before = set(sharing._shared)
    dropping = threading.Thread(target=db.drop_collection, args=("docs",))

    def dropped(name):
        if name == point:
            dropping.start()
            while path.exists():
                pass

    for module in (compaction, store):
        monkeypatch.setattr(module, "reach", dropped)
    with pytest.raises(CollectionNotFoundError, match='"docs" was dropped'):
        docs.compact()
        len(docs)
    dropping.join()
    assert docs._store not in sharing._shared.values() and not before & set(sharing._shared)
    for call in (lambda: len(docs), docs.compact, lambda: docs.upsert(1, np.ones(24))):
        with pytest.raises(CollectionNotFoundError):
            call()
    again = db.create_collection("docs", 3)
    again.insert(1, [1, 2, 3])
    assert len(again) == 1


COMPACTING = """
import sys
import vecstore
with vecstore.open(sys.argv[1]) as db:
    db.get_collection("docs").compact()
"""


def test_a_reader_whose_collection_is_dropped_while_it_opens_the_new_file(db, rows, process, monkeypatch):
    filled(db, rows)
    db.close()
    with vecstore.open(db.path, read_only=True) as reader:
        docs = reader.get_collection("docs")
        assert len(docs) > 0
        assert process(COMPACTING, db.path).popen.wait() == 0
        continues = store.Store._continues

        def dropped_then(self, fresh):
            found = continues(self, fresh)
            fresh.path.parent.rename(db.path / "collections" / ".docs")
            return found

        monkeypatch.setattr(store.Store, "_continues", dropped_then)
        with pytest.raises(CollectionNotFoundError, match='"docs" was dropped'):
            len(docs)
    assert not sharing._shared


def test_a_reader_scans_until_the_checkpoint_of_a_compaction_is_there(db, rows, small_graphs, monkeypatch):
    docs, query = filled(db, rows, "graph"), rows(1, 24, 9)[0]
    docs.wait_indexed()
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        followed.wait_indexed()
        with monkeypatch.context() as patched:
            patched.setattr(docs._indexing.checkpoints, "try_write", lambda: None)  # the thread's too, which comes soon
            docs.compact()
            patched.setattr(followed._index, "_new", lambda *_: 1 / 0)
            for _ in range(2):
                assert followed.search(query, 5) == docs.search(query, 5, exact=True)
                docs.upsert("late", np.ones(24))
            assert followed._indexing.checkpoints.is_awaited
            docs._indexing.checkpoints.write()
            followed.wait_indexed(30)
            assert followed._index.lsn == docs.stats().lsn and not followed._indexing.checkpoints.is_awaited
        assert followed.stats().linked == docs.stats().linked and followed.check() == []


def test_a_reader_does_not_wait_for_ever_for_that_checkpoint(db, rows, small_graphs, monkeypatch):
    monkeypatch.setattr(checkpoints, "AWAIT_SECONDS", 0.1)
    docs = filled(db, rows, "graph")
    docs.wait_indexed()
    with vecstore.open(db.path, read_only=True) as reader:
        followed = reader.get_collection("docs")
        followed.wait_indexed()
        monkeypatch.setattr(docs._indexing.checkpoints, "try_write", lambda: None)
        docs.compact()
        followed.wait_indexed(30)
        assert followed.stats().linked == len(docs) and followed.check() == []


def test_what_a_stopped_compaction_decided_on_takes_the_place_of_a_damaged_file(db, rows):
    docs = filled(db, rows)
    before, folder = contents(docs), stopped_compaction(docs)
    db.close()
    os.truncate(folder / "data.mdb", 40_000)
    with vecstore.open(db.path) as again:
        docs = again.get_collection("docs")
        assert (contents(docs), docs.check(), files(docs)) == (before, [], ["data.mdb", "data.mdb-lock"])
