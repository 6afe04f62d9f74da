"""What goes wrong below the verbs: each has its own error, and nothing that was acknowledged is lost."""

import errno
import json
import os

import lmdb
import msgpack
import pytest

import vecstore
from vecstore import (
    DatabaseFullError,
    DatabaseLockedError,
    DiskFullError,
    FormatVersionError,
    NotADatabaseError,
    database,
)
from vecstore.storage import environment


def file_of(path, name="docs"):
    return path / "collections" / name / "data.mdb"


# -- no room -----------------------------------------------------------------------------------------------------


def test_a_full_map_keeps_what_was_acknowledged_and_nothing_of_the_rest(tmp_path, rows):
    acknowledged = 0
    with vecstore.open(tmp_path, max_size=2**20) as db:
        docs = db.create_collection("docs", 64)
        with pytest.raises(DatabaseFullError, match=r"does not fit into max_size=1048576 bytes; delete rows") as caught:
            for n in range(0, 100_000, 100):
                docs.insert(range(n, n + 100), rows(100, 64, n))
                acknowledged = n + 100
        assert type(caught.value) is DatabaseFullError
        assert (caught.value.limit, caught.value.path) == (2**20, str(file_of(tmp_path)))
        assert 500 < acknowledged < 5000
        assert (len(docs), docs.check()) == (acknowledged, [])
        assert len(docs.search(rows(1, 64)[0], 10)) == 10
        assert docs.delete(range(200, acknowledged)).deleted == acknowledged - 200
        docs.insert(range(200, 500), rows(300, 64))
    assert file_of(tmp_path).stat().st_size <= 2**20
    with vecstore.open(tmp_path, max_size=2**24) as db:
        docs = db.get_collection("docs")
        assert (len(docs), docs.check()) == (500, [])
        assert (docs.get(7, with_vectors=True).vector == rows(100, 64, 0)[7]).all()
        docs.insert(range(5000, 9000), rows(4000, 64))


def test_a_map_smaller_than_the_file_still_opens_and_deletes(tmp_path, rows):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", 64).insert(range(10_000), rows(10_000, 64))
    with vecstore.open(tmp_path, max_size=2**20) as db:
        docs = db.get_collection("docs")
        assert len(docs) == 10_000
        with pytest.raises(DatabaseFullError):
            docs.insert(range(10_000, 20_000), rows(10_000, 64))
        assert (len(docs), docs.check()) == (10_000, [])


FILE_LIMIT = """
import json, resource, signal, sys
import numpy as np
import vecstore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
db = vecstore.open(sys.argv[1])
docs = db.create_collection("docs", 64)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
acknowledged = 0
try:
    while True:
        docs.insert(range(acknowledged, acknowledged + 100), np.ones((100, 64)))
        acknowledged += 100
except vecstore.VecstoreError as error:
    first = [type(error).__name__, str(error)]
counted, findings = len(docs), len(docs.check())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
docs.insert(range(acknowledged, acknowledged + 100), np.ones((100, 64)))
print(json.dumps([*first, acknowledged, counted, findings, len(docs)]), flush=True)
sys.stdin.readline()
"""


def test_a_full_disk_keeps_what_was_acknowledged_and_writes_go_on_with_room(tmp_path, process):
    name, message, acknowledged, counted, findings, after = process(FILE_LIMIT, tmp_path).read()
    assert name == DiskFullError.__name__, message
    assert message.startswith("no room on the disk for ")
    assert message.endswith("nothing of this write was kept. Make room and repeat it")
    assert acknowledged > 0
    assert (counted, findings, after) == (acknowledged, 0, acknowledged + 100)


NO_FILE_AT_ALL = """
import json, resource, signal, sys
import vecstore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
db = vecstore.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    db.create_collection("docs", 64)
except vecstore.VecstoreError as error:
    print(json.dumps([type(error).__name__, db.list_collections()]), flush=True)
sys.stdin.readline()
"""


def test_a_collection_that_finds_no_room_is_not_created(tmp_path, process):
    assert process(NO_FILE_AT_ALL, tmp_path).read() == ["DiskFullError", []]
    assert list((tmp_path / "collections").iterdir()) == []


def test_a_name_that_cannot_be_synced_is_not_created_and_one_that_is_dropped_takes_no_writes(db, monkeypatch):
    docs = db.create_collection("docs", 3)

    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(database, "sync_folder", fail)
        with pytest.raises(vecstore.StorageError):
            db.create_collection("other", 3)
        assert db.list_collections() == ["docs"]
        with pytest.raises(vecstore.StorageError):
            db.drop_collection("docs")
    with pytest.raises(vecstore.CollectionNotFoundError):
        docs.insert(1, [1, 2, 3])
    for name in ("docs", "other"):
        db.create_collection(name, 3).insert(1, [1, 2, 3])


# -- what is not ours, or not of our time --------------------------------------------------------------------------


def test_a_folder_or_file_of_somebody_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for options in ({}, {"read_only": True}):
        with pytest.raises(NotADatabaseError, match="holds no vecstore database"):
            vecstore.open(tmp_path, **options)
        with pytest.raises(NotADatabaseError):
            vecstore.open(tmp_path / "thesis.txt", **options)
        with pytest.raises(NotADatabaseError, match="holds no vecstore database"):
            vecstore.open(tmp_path / "nowhere", read_only=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_whose_making_was_stopped_is_made_a_database(tmp_path):
    (tmp_path / "collections").mkdir()
    (tmp_path / ".VECSTORE").write_text("{")
    (tmp_path / "LOCK").touch()
    with vecstore.open(tmp_path) as db:
        assert db.list_collections() == []
    (tmp_path / "VECSTORE").unlink()
    (tmp_path / "collections" / "stamps").mkdir()
    with pytest.raises(NotADatabaseError):
        vecstore.open(tmp_path)


def foreign_lmdb(path, databases):
    with lmdb.open(str(path), subdir=False, max_dbs=10, lib_version=0) as env:
        for name in databases:
            with env.begin(write=True) as txn:
                txn.put(b"config", b"theirs", db=env.open_db(name and name.encode(), txn=txn))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("kind", ["text", "short", "empty database", "other databases", "the same databases"])
def test_a_data_file_of_another_program_is_refused_and_left_alone(tmp_path, read_only, kind):
    vecstore.open(tmp_path).close()
    path = file_of(tmp_path)
    path.parent.mkdir()
    if kind == "text":
        path.write_text("To whom it may concern.\n" * 1000)
    elif kind == "short":
        path.write_text("x")
    else:
        names = {"empty database": [], "other databases": [None, "users"], "the same databases": environment.DATABASES}
        foreign_lmdb(path, names[kind])
    before = path.read_bytes()
    with vecstore.open(tmp_path, read_only=read_only) as db:
        for _ in range(2):
            with pytest.raises(NotADatabaseError) as caught:
                db.get_collection("docs")
            assert caught.value.path == str(path)
    assert path.read_bytes() == before


def test_a_collection_without_data_file_is_no_collection(tmp_path):
    with vecstore.open(tmp_path) as db:
        (tmp_path / "collections" / "docs").mkdir()
        with pytest.raises(NotADatabaseError, match=r"holds no data\.mdb"):
            db.get_collection("docs")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_folder_is_refused(tmp_path, read_only):
    vecstore.open(tmp_path).close()
    (tmp_path / "VECSTORE").write_text(json.dumps({"vecstore": 2}))
    with pytest.raises(
        FormatVersionError, match="has format 2, and this version of vecstore reads 1; upgrade"
    ) as caught:
        vecstore.open(tmp_path, read_only=read_only)
    assert (caught.value.found, caught.value.supported, caught.value.path) == (2, 1, str(tmp_path))
    (tmp_path / "VECSTORE").write_text(json.dumps({"vecstore": 1}))
    vecstore.open(tmp_path).close()  # the refusal has let go of the lock


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "1"])
def test_an_unreadable_marker_is_refused(tmp_path, text):
    vecstore.open(tmp_path).close()
    (tmp_path / "VECSTORE").write_text(text)
    with pytest.raises(NotADatabaseError):
        vecstore.open(tmp_path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_collection_is_refused_and_the_others_open(tmp_path, read_only):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", 3)
        db.create_collection("other", 3)
    with lmdb.open(str(file_of(tmp_path)), subdir=False, max_dbs=6, lib_version=0) as env:
        meta = env.open_db(b"meta", create=False)
        with env.begin(write=True) as txn:
            config = msgpack.unpackb(txn.get(b"config", db=meta))
            txn.put(b"config", msgpack.packb({**config, "format": 3}), db=meta)
    with vecstore.open(tmp_path, read_only=read_only) as db:
        for _ in range(2):
            with pytest.raises(FormatVersionError, match=r"has format 3, .* reads up to 2; upgrade vecstore") as caught:
                db.get_collection("docs")
        assert (caught.value.found, caught.value.supported) == (3, 2)
        assert len(db.get_collection("other")) == 0


# -- other processes -----------------------------------------------------------------------------------------------

HOLDER = """
import json, sys, vecstore
db = vecstore.open(sys.argv[1])
print(json.dumps("open"), flush=True)
sys.stdin.readline()
"""


def test_a_folder_that_another_process_writes_names_it_and_is_free_when_that_is_killed(tmp_path, process):
    holder = process(HOLDER, tmp_path)
    holder.read()
    with pytest.raises(
        DatabaseLockedError, match=f"process {holder.pid}; close it there, or .*read_only=True"
    ) as caught:
        vecstore.open(tmp_path)
    assert (caught.value.pid, caught.value.path) == (holder.pid, str(tmp_path))
    with vecstore.open(tmp_path, read_only=True) as db:
        assert db.list_collections() == []
    holder.end()
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", 3)


FORKING = """
import json, os, subprocess, sys, threading
import vecstore
from vecstore.storage import sharing
db = vecstore.open(sys.argv[1])
docs = db.create_collection("docs", 3)
docs.insert(1, [1, 0, 0])
docs.search([1, 0, 0])
reading, writing = os.pipe()

def hold():  # every lock that a thread may hold while another one forks
    with db._mutex, docs._upkeep._maintaining, docs._upkeep._closing, docs._store.env.turn, sharing.sharing:
        held.set()
        leave.wait()

held, leave = threading.Event(), threading.Event()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    seen = []
    for call in (
        docs.count, lambda: docs.insert(2, [1, 0, 0]), lambda: docs.search([1, 0, 0]), docs.compact, docs.rebuild,
        lambda: docs.backup(sys.argv[1] + "-copy"), lambda: db.create_collection("other", 3), db.list_collections,
        lambda: db.get_collection("docs"), lambda: db.drop_collection("docs"), lambda: db.repair_collection("docs"),
    ):
        try:
            call()
        except vecstore.VecstoreError as error:
            seen.append([type(error).__name__, str(error)])
    try:
        vecstore.open(sys.argv[1])
    except vecstore.VecstoreError as error:
        seen.append([type(error).__name__, str(error)])
    docs.close()
    db.close()
    with open(writing, "w") as file:
        json.dump(seen, file)
    os._exit(0)
leave.set()
thread.join()
os.close(writing)
with open(reading) as file:
    seen = json.load(file)
os.waitpid(child, 0)
docs.insert(3, [0, 1, 0])
code = "import sys, vecstore; vecstore.open(sys.argv[1])"
locked = subprocess.run([sys.executable, "-c", code, sys.argv[1]], capture_output=True, text=True).stderr
print(json.dumps([seen, [hit.id for hit in docs.search([0, 1, 0])], len(docs.check()), locked]), flush=True)
sys.stdin.readline()
"""


def test_a_forked_child_is_refused_and_the_parent_goes_on(tmp_path, process):
    parent = process(FORKING, tmp_path)
    seen, ids, findings, locked = parent.read()
    assert [name for name, _ in seen] == ["StateError"] * 11 + ["DatabaseLockedError"]
    assert all("opened before this process was forked" in text for _, text in seen[:11])
    assert all("close it before forking, and open it in each process" in text for _, text in seen[:11])
    assert (ids, findings) == ([3, 1], 0)
    assert f"DatabaseLockedError: {tmp_path} is open for writing in process {parent.pid}" in locked


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(vecstore.StorageError):
            vecstore.open(tmp_path / "db")
    finally:
        tmp_path.chmod(0o700)
