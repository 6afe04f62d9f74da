"""The shim itself: it sees what LMDB asks for, fails what it is told to, and leaves no trace."""

import errno
import itertools

import lmdb
import numpy as np
import pytest

import vecstore
from vecstore.testing import elf, faults
from vecstore.testing.faults import Fail, Short, storage_calls

pytestmark = pytest.mark.skipif(faults.unavailable() is not None, reason=str(faults.unavailable()))


@pytest.fixture
def env(tmp_path):
    with lmdb.open(str(tmp_path / "data.mdb"), subdir=False, lib_version=0) as opened:
        yield opened


def put(env, value=b"x"):
    with env.begin(write=True) as txn:
        txn.put(b"key", value)


def slots():
    return {slot: elf.read(slot) for _, slot in elf.slots(faults._extension(), faults._SIGNATURES)}


def test_a_commit_is_writes_then_a_sync_then_a_synced_write_of_the_meta_page(env, tmp_path):
    put(env)  # the first call binds the functions
    before = slots()
    with storage_calls(lambda call: None) as calls:
        put(env, bytes(100_000))
        assert slots() != before
    assert slots() == before
    *pages, sync, meta = calls.made
    assert {call.kind for call in pages} == {"write"} and not any(call.synced for call in pages)
    assert sum(len(call.data) for call in pages) >= 100_000
    assert (sync.kind, sync.synced) == ("sync", True)
    assert (meta.kind, meta.synced) == ("write", True)
    assert meta.offset < 2 * 4096 and len(meta.data) < 512
    assert {call.path for call in calls.made} == {str(tmp_path / "data.mdb")}
    assert calls.results == [len(call.data) for call in calls.made]
    on_disk = (tmp_path / "data.mdb").read_bytes()
    for call in (*pages, meta):
        assert on_disk[call.offset : call.offset + len(call.data)] == call.data
    put(env)
    assert len(calls.made) == len(pages) + 2


@pytest.mark.parametrize(("number", "kind"), [(0, "write"), (1, "sync"), (2, "write")])
def test_the_call_that_fails_is_an_error_of_lmdb_with_that_errno(env, number, kind):
    put(env, b"before")
    count = itertools.count()

    def fail(call):
        return Fail(errno.ENOSPC) if next(count) == number else None

    with storage_calls(fail) as calls, pytest.raises(lmdb.Error) as caught:
        put(env, b"after")
    assert caught.value.code == errno.ENOSPC
    assert calls.made[number].kind == kind
    assert calls.results[number] == -errno.ENOSPC


def test_a_short_write_writes_just_that_much(env):
    put(env, b"a" * 20_000)
    with storage_calls(lambda call: Short(4096) if len(call.data) > 8192 else None) as calls, pytest.raises(lmdb.Error):
        put(env, b"b" * 20_000)
    assert 4096 in calls.results
    with env.begin() as txn:
        assert txn.get(b"key") == b"a" * 20_000


def test_a_write_that_fails_after_it_was_done_is_in_the_file(env, tmp_path):
    def fail(call):
        return Fail(errno.EIO, done=len(call.data)) if call.kind == "write" else None

    with storage_calls(fail) as calls, pytest.raises(lmdb.Error):
        put(env, b"unmistakable")
    assert b"unmistakable" in calls.made[0].data
    assert b"unmistakable" in (tmp_path / "data.mdb").read_bytes()


def test_an_exception_in_the_callback_is_raised_when_the_context_ends(env):
    def wrong(call):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), storage_calls(wrong), pytest.raises(lmdb.Error):
        put(env)
    put(env)


def test_there_is_one_at_a_time(env):
    with storage_calls(lambda call: None):
        with pytest.raises(RuntimeError), storage_calls(lambda call: None):
            pass
        put(env)
    with storage_calls(lambda call: None, record=False) as calls:
        put(env)
    assert calls.made == []


def test_a_database_is_met_too_and_its_lock_file_is_told_apart(tmp_path):
    with storage_calls(lambda call: None) as calls, vecstore.open(tmp_path / "db") as db:
        db.create_collection("docs", 3, index=vecstore.Flat()).insert(range(3), np.eye(3))
    assert {call.path.rsplit("/", 1)[1] for call in calls.made} >= {"data.mdb", "data.mdb-lock"}
    assert "truncate" in {call.kind for call in calls.made}
