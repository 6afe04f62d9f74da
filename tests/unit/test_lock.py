"""The lock of the one writer."""

import os
from pathlib import Path

import pytest

from vecstore import DatabaseLockedError, StorageError
from vecstore.storage.lock import WriterLock


def test_a_held_lock_names_its_holder_and_a_released_one_is_free(tmp_path):
    path = tmp_path / "LOCK"
    lock = WriterLock(path)
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(DatabaseLockedError, match="in this process already") as caught:
        WriterLock(path)
    assert (caught.value.pid, caught.value.path) == (os.getpid(), str(tmp_path))
    lock.release()
    lock.release()
    WriterLock(path).release()


@pytest.mark.parametrize("text", ["", "99999999999\n", "not a number\n", "1\n" * 50])
def test_what_a_leftover_file_says_locks_nobody_out(tmp_path, text):
    path = tmp_path / "LOCK"
    path.write_text(text)
    lock = WriterLock(path)
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()


@pytest.mark.parametrize("text", ["", "what\n"])
def test_a_holder_that_cannot_be_told_is_unknown(tmp_path, text):
    path = tmp_path / "LOCK"
    lock = WriterLock(path)
    path.write_text(text)
    with pytest.raises(DatabaseLockedError, match="in process unknown") as caught:
        WriterLock(path)
    assert caught.value.pid is None
    lock.release()


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "LOCK").mkdir()
    with pytest.raises(StorageError, match="cannot write to"):
        WriterLock(tmp_path / "LOCK")
    with pytest.raises(StorageError):
        WriterLock(tmp_path / "nowhere" / "LOCK")


def test_no_descriptor_is_left_open(tmp_path):
    def open_files():
        return len(list(Path("/dev/fd").iterdir()))

    before = open_files()
    for _ in range(3):
        lock = WriterLock(tmp_path / "LOCK")
        with pytest.raises(DatabaseLockedError):
            WriterLock(tmp_path / "LOCK")
        lock.release()
    assert open_files() == before
