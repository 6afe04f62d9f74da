"""Processes that read while another one writes, dies, comes again, and writes the file anew."""

import contextlib
import signal

import numpy as np
import pytest

import vecstore
from vecstore.storage import environment

READER = """
import json, sys
import numpy as np
import vecstore
db = vecstore.open(sys.argv[1], read_only=True)
docs = db.get_collection("docs")
print(json.dumps("open"), flush=True)
for line in sys.stdin:
    hits = docs.search(np.full(16, json.loads(line)), 1)
    print(json.dumps([len(docs), hits[0].id, hits[0].payload, len(docs.check())]), flush=True)
"""

WRITER = """
import json, sys
import numpy as np
import vecstore
db = vecstore.open(sys.argv[1])
docs = db.get_collection("docs")
n = int(sys.argv[2])
while True:
    docs.upsert([n, "last"], np.full((2, 16), n), [{"n": n}] * 2)
    if n % 5 == 0:
        docs.compact()
    print(json.dumps(n), flush=True)
    n += 1
"""


def test_readers_outlive_writers_that_are_killed_and_files_that_are_replaced(tmp_path, process):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", 16, "l2", index=vecstore.Flat()).insert("last", np.zeros(16))
    readers = [process(READER, tmp_path) for _ in range(2)]
    assert [one.read() for one in readers] == ["open"] * 2
    n = 1
    for kill in range(4):
        writer = process(WRITER, tmp_path, n)
        for _ in range(3 + kill):
            n = writer.read()
        writer.popen.send_signal(signal.SIGKILL)
        writer.popen.wait()
        for line in writer.popen.stdout:
            n = int(line)
        for reader in readers:
            count, one, payload, findings = reader.ask(n + 0.1)
            assert payload["n"] == n and one in (n, "last")
            # One write may have been committed, and not yet told.
            assert count in (n + 1, n + 2) and findings == 0
        n += 1


SEARCHING = """
import sys, time
import vecstore
docs = vecstore.open(sys.argv[1], read_only=True).get_collection("docs")
with docs._store.view():
    print(1, flush=True)
    time.sleep(60)
"""


def test_a_reader_that_died_in_a_search_does_not_keep_pages(db, rows, process, monkeypatch):
    monkeypatch.setattr(environment, "LOOK_FOR_DEAD_SECONDS", 0)
    docs = db.create_collection("docs", 16, index=vecstore.Flat())
    docs.insert(range(2000), rows(2000, 16))
    for n in range(20):
        docs.upsert(range(100), rows(100, 16, n))
    reader = process(SEARCHING, db.path)
    assert reader.read() == 1
    before = docs.stats().file_bytes
    for n in range(20):
        docs.upsert(range(100), rows(100, 16, n))
    pinned = docs.stats().file_bytes
    assert pinned > 1.5 * before
    reader.end()
    for n in range(40):
        docs.upsert(range(100), rows(100, 16, n))
    assert docs.stats().file_bytes == pinned


@pytest.mark.parametrize("compact", [False, True])
def test_a_commit_is_in_the_next_search_of_every_reader(db, process, compact):
    docs = db.create_collection("docs", 16, "l2", index=vecstore.Flat())
    docs.insert("first", np.full(16, -9.0))
    readers = [process(READER, db.path) for _ in range(2)]
    assert [one.read() for one in readers] == ["open"] * 2
    for n in range(1, 12):
        docs.upsert(n, np.full(16, n), {"n": n})
        if compact and n % 3 == 0:
            docs.compact()
        for reader in readers:
            assert reader.ask(n) == [n + 1, n, {"n": n}, 0]


SEARCHING_SIX_TIMES = """
import contextlib, sys, time
import vecstore
docs = vecstore.open(sys.argv[1], read_only=True).get_collection("docs")
with contextlib.ExitStack() as views:
    for _ in range(6):
        views.enter_context(docs._store.view())
    print(1, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def few_slots(monkeypatch):
    """A table of readers with room for eight transactions."""
    monkeypatch.setattr(environment, "MAX_READERS", 8)


def test_a_full_table_of_readers_is_said_and_room_is_made_by_those_that_died(tmp_path, process, few_slots):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 16, index=vecstore.Flat())
        docs.insert(1, np.ones(16))
        reader = process(SEARCHING_SIX_TIMES, tmp_path)
        assert reader.read() == 1
        with contextlib.ExitStack() as views:
            views.enter_context(docs._store.view())
            views.enter_context(docs._store.view())
            with pytest.raises(vecstore.StorageError, match="table of readers"), docs._store.view():
                pass
            reader.end()
            for _ in range(6):
                views.enter_context(docs._store.view())
        docs.insert(2, np.ones(16))


UNREGISTERED = """
import json, sys
import numpy as np
import vecstore
from vecstore.storage import environment
environment.writable = lambda path: False
db = vecstore.open(sys.argv[1], read_only=True)
for line in sys.stdin:
    try:
        print(json.dumps(len(db.get_collection("docs").search(np.ones(16)))), flush=True)
    except vecstore.VecstoreError as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
"""


def test_a_reader_that_cannot_register_keeps_writers_out(tmp_path, process):
    with vecstore.open(tmp_path) as db:
        db.create_collection("docs", 16, "l2").insert(1, np.ones(16))
        reader = process(UNREGISTERED, tmp_path)
        kind, text = reader.ask()
        assert kind == "DatabaseLockedError" and "cannot register as a reader" in text
    assert reader.ask() == 1
    with pytest.raises(vecstore.DatabaseLockedError, match="may not write to it"):
        vecstore.open(tmp_path)
    assert reader.ask() == 1
    reader.end()
    with vecstore.open(tmp_path) as db:
        db.get_collection("docs").insert(2, np.ones(16))


def test_a_backup_that_nobody_has_written_to_is_read_without_registering(tmp_path, monkeypatch):
    with vecstore.open(tmp_path / "db") as db:
        db.create_collection("docs", 16, "l2").insert(1, np.ones(16))
        db.backup(tmp_path / "copy")
    monkeypatch.setattr(environment, "writable", lambda path: False)
    with vecstore.open(tmp_path / "copy", read_only=True) as db:
        assert len(db.get_collection("docs").search(np.ones(16))) == 1
