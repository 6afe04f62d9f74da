"""index.mdb holds what was written to it last, whole, or says that it does not."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vecstore.errors import CorruptionError, FormatVersionError, StorageError
from vecstore.storage import checkpoint
from vecstore.storage.checkpoint import CheckpointFile

arrays = st.builds(
    lambda seed, dtype, shape: np.random.default_rng(seed).integers(0, 255, shape).astype(dtype),
    st.integers(0, 3),
    st.sampled_from(["u1", "i4", "f4", "i8"]),
    st.sampled_from([(0,), (1,), (7, 3), (40,), (0, 5), (5, 0), (33, 2)]),
)
columns = st.dictionaries(st.sampled_from(["a", "aa", "b", "links"]), arrays)


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(columns, st.integers(0, 9)), min_size=1, max_size=4), st.sampled_from([120, 10**6]))
def test_the_last_checkpoint_is_what_is_loaded(tmp_path_factory, checkpoints, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "PIECE_BYTES", 50)
        patch.setattr(checkpoint, "AT_ONCE", at_once)
        file = CheckpointFile(tmp_path_factory.mktemp("checkpoint"))
        for some, lsn in checkpoints:
            file.write({"lsn": lsn}, some)
            header, loaded = CheckpointFile(file.path.parent).load()
            assert header == {"lsn": lsn}
            assert same(loaded, some)


def test_only_pieces_that_changed_are_written(tmp_path):
    file, size = CheckpointFile(tmp_path), checkpoint.PIECE_BYTES
    first = np.arange(10 * size, dtype=np.uint8)
    assert file.write({}, {"x": first, "y": first[:5]}).pieces == 11
    assert file.write({}, {"x": first, "y": first[:5]}).pieces == 0
    second = np.concatenate([first, first[: size // 2]])
    second[3 * size] += 1
    assert file.write({}, {"x": second, "y": first[:5]}).pieces == 2
    assert file.write({}, {"x": second[: 2 * size]}).pieces == 0
    _, loaded = file.load()
    assert same(loaded, {"x": second[: 2 * size]})


def test_one_that_is_smaller_than_the_last_may_end_behind_its_file(tmp_path, monkeypatch):
    """LMDB does not write pages at the end that it took and gave back in one transaction."""
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 512)
    file = CheckpointFile(tmp_path)
    for fill, sizes in enumerate(({"e": 3077, "d": 4688, "h": 99}, {"h": 571, "e": 789, "f": 3})):
        columns = {name: np.full(size, fill, np.uint8) for name, size in sizes.items()}
        file.write({"lsn": 1}, columns)
        assert same(CheckpointFile(tmp_path).load()[1], columns)
    with lmdb.open(os.fspath(file.path), subdir=False, readonly=True, lib_version=0) as env:
        assert (env.info()["last_pgno"] + 1) * env.stat()["psize"] > file.path.stat().st_size


def test_where_much_has_changed_a_new_file_takes_the_place_of_the_old(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "AT_ONCE", 3 * checkpoint.PIECE_BYTES)
    file, x = CheckpointFile(tmp_path), np.arange(20 * checkpoint.PIECE_BYTES, dtype=np.uint8)
    written = []
    write = checkpoint.Environment.write
    monkeypatch.setattr(checkpoint.Environment, "write", lambda env, work: (written.append(env.path), write(env, work)))
    file.write({"lsn": 1}, {"x": x})
    node = file.path.stat().st_ino
    assert len(written) == 7
    x[: 5 * checkpoint.PIECE_BYTES] += 1  # a quarter
    assert file.write({"lsn": 2}, {"x": x}).pieces == 5
    assert len(written) == 8 and file.path.stat().st_ino == node
    x[: 6 * checkpoint.PIECE_BYTES] += 1
    assert file.write({"lsn": 3}, {"x": x}).pieces == 20
    assert len(written) == 15 and file.path.stat().st_ino != node
    header, loaded = CheckpointFile(tmp_path).load()
    assert header == {"lsn": 3} and same(loaded, {"x": x})
    assert {one.name for one in tmp_path.iterdir()} <= {"index.mdb", "index.mdb-lock"}


def test_what_a_killed_process_or_a_full_disk_left_is_gone_with_the_next(tmp_path, monkeypatch):
    file, left = CheckpointFile(tmp_path), tmp_path / "index.mdb-new"
    left.write_bytes(b"half a checkpoint")
    file.write({"lsn": 1}, {"x": np.arange(9)})
    assert not left.exists()
    monkeypatch.setattr(checkpoint, "AT_ONCE", 0)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(checkpoint.Environment, "write", lambda *_: 1 / 0)
        file.write({"lsn": 2}, {"x": np.arange(8)})
    assert not left.exists() and file.load()[0] == {"lsn": 1}


HOLDING = """
import sys
from pathlib import Path
from vecstore.storage.checkpoint import DATABASES
from vecstore.storage.environment import Environment
with Environment(Path(sys.argv[1]), databases=DATABASES, read_only=True).reading():
    print("1", flush=True)
    sys.stdin.readline()
"""


def test_a_new_file_does_not_share_the_table_of_readers_of_the_old_one(tmp_path, process, monkeypatch):
    """LMDB takes from it which commit was the last."""
    monkeypatch.setattr(checkpoint, "AT_ONCE", 3 * checkpoint.PIECE_BYTES)
    file, x = CheckpointFile(tmp_path), np.zeros(5 * checkpoint.PIECE_BYTES, np.uint8)
    for n in range(6):
        x[:n] = n
        file.write({"lsn": n}, {"x": x})
    process(HOLDING, file.path).read()
    x[:] = 6
    for n in range(6, 10):  # the first into a new file
        x[:n] = n
        file.write({"lsn": n}, {"x": x})
        header, loaded = CheckpointFile(tmp_path).load()
        assert header == {"lsn": n} and same(loaded, {"x": x})


def test_columns_are_loaded_into_what_the_caller_allocates(tmp_path):
    CheckpointFile(tmp_path).write({}, {"x": np.ones((3, 4), np.float32)})
    made = np.zeros((3, 4), np.float32)
    _, loaded = CheckpointFile(tmp_path).load(lambda shape, dtype: made)
    assert loaded["x"] is made
    assert (made == 1).all()


def test_without_a_file_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        CheckpointFile(tmp_path).load()
    assert list(tmp_path.iterdir()) == []


def change(path, work):
    with lmdb.open(os.fspath(path), subdir=False, max_dbs=2, lib_version=0) as env:
        dbs = {name: env.open_db(name.encode()) for name in checkpoint.DATABASES}
        with env.begin(write=True) as txn:
            work(txn, dbs)


def test_a_piece_that_is_missing_damaged_or_misplaced_is_noticed_and_the_next_write_replaces_all(tmp_path):
    size = checkpoint.PIECE_BYTES
    some = {"x": np.arange(3 * size).astype(np.uint8), "y": np.arange(3 * size).astype(np.uint8)}
    x0, x1, y0 = (checkpoint.piece_key(*which) for which in (("x", 0), ("x", 1), ("y", 0)))

    def flipped(txn, dbs, at=1000):
        value = bytearray(txn.get(x1, db=dbs["block"]))
        value[at] ^= 1
        txn.put(x1, bytes(value), db=dbs["block"])

    for damage in (
        lambda txn, dbs: txn.delete(x1, db=dbs["block"]),
        flipped,
        lambda txn, dbs: flipped(txn, dbs, 17),
        lambda txn, dbs: txn.put(x1, txn.get(x0, db=dbs["block"]), db=dbs["block"]),
        lambda txn, dbs: txn.put(x0, txn.get(y0, db=dbs["block"]), db=dbs["block"]),
        lambda txn, dbs: txn.put(x1, txn.get(x1, db=dbs["block"])[:-1], db=dbs["block"]),
        lambda txn, dbs: txn.put(x1, b"", db=dbs["block"]),
        lambda txn, dbs: txn.delete(b"header", db=dbs["meta"]),
        lambda txn, dbs: txn.put(b"header", txn.get(b"header", db=dbs["meta"]) + b"x", db=dbs["meta"]),
        lambda txn, dbs: txn.put(b"header", b"", db=dbs["meta"]),
    ):
        file = CheckpointFile(tmp_path)
        file.write({"lsn": 1}, some)
        assert same(file.load()[1], some)
        change(file.path, damage)
        with pytest.raises(CorruptionError, match=r"index\.mdb: .*(damaged|missing|no header)"):
            file.load()
        assert file.write({"lsn": 2}, some).pieces == 6
        assert same(CheckpointFile(tmp_path).load()[1], some)


@pytest.mark.parametrize("content", [b"", b"x", bytes(4096), bytes(8192), b"text " * 10_000])
def test_a_file_of_something_else_is_noticed_and_replaced(tmp_path, content):
    file = CheckpointFile(tmp_path)
    file.path.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"index\.mdb"):
        file.load()
    file.write({}, {"x": np.ones(3)})
    assert same(file.load()[1], {"x": np.ones(3)})


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    file = CheckpointFile(tmp_path)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    file.write({}, {})
    monkeypatch.undo()
    with pytest.raises(FormatVersionError, match="format 2"):
        file.load()
    file.write({}, {})
    assert file.load() == ({}, {})


def test_a_header_holds_what_msgpack_can(tmp_path):
    file, header = CheckpointFile(tmp_path), {"uid": b"123", "lsn": 2**40, "deep": {"list": [1, None, "x"]}}
    file.write(header, {})
    assert file.load()[0] == header
    assert msgpack.packb(header)


FLIPPED = """
import sys
from pathlib import Path
import numpy as np
from vecstore.errors import StorageError
from vecstore.storage import checkpoint
from vecstore.storage.checkpoint import CheckpointFile
sys.path.insert(0, sys.argv[4])
from test_checkpoint import SOME, same
checkpoint.PIECE_BYTES = 5000
file = CheckpointFile(Path(sys.argv[1]))
whole = file.path.read_bytes()
random = np.random.default_rng(int(sys.argv[2]))
used = np.flatnonzero(np.frombuffer(whole, np.uint8))
outcomes = {"same": 0, "older": 0, "damaged": 0}
for at in [*range(16, 168), *(4096 + n for n in range(16, 168)), *random.choice(used, int(sys.argv[3])).tolist()]:
    changed = bytearray(whole)
    changed[at] ^= 1 << int(random.integers(8))
    file.path.write_bytes(changed)
    try:
        header, loaded = CheckpointFile(file.path.parent).load()
        assert same(loaded, SOME[header["lsn"]]), at
        outcomes["same" if header["lsn"] == 3 else "older"] += 1
    except StorageError:
        outcomes["damaged"] += 1
    CheckpointFile(file.path.parent).write({"lsn": 4}, SOME[2])  # by one that has not loaded it, and knows of nothing
    try:
        header, loaded = CheckpointFile(file.path.parent).load()
        assert header["lsn"] == 4 and same(loaded, SOME[2]), at
    except StorageError:
        pass
print(outcomes)
"""
SOME = {
    lsn: {
        "codes": np.random.default_rng(5).integers(0, 255, (300 + 40 * lsn, 192)).astype(np.uint8),
        "links": np.random.default_rng(lsn).integers(0, 500, (300 + 40 * lsn, 48)).astype(np.int32),
        "top": np.ones(1, np.float32),
    }
    for lsn in (1, 2, 3)
}


def test_no_flipped_bit_ends_the_process_or_goes_unnoticed(tmp_path, monkeypatch):
    """In a process of its own: LMDB takes for granted that its pages are sound."""
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 5000)
    for lsn in (1, 2, 3):
        CheckpointFile(tmp_path).write({"lsn": lsn}, SOME[lsn])
    effort = "20000" if os.environ.get("VECSTORE_TEST_EFFORT") == "many" else "60"
    command = [sys.executable, "-c", FLIPPED, os.fspath(tmp_path), "1", effort, os.fspath(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert ast.literal_eval(done.stdout)["damaged"] > 50


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_noticed(tmp_path, share):
    file = CheckpointFile(tmp_path)
    file.write({"lsn": 1}, SOME[1])
    os.truncate(file.path, int(file.path.stat().st_size * share))
    with pytest.raises(CorruptionError):
        file.load()
    file.write({"lsn": 2}, SOME[2])
    assert same(file.load()[1], SOME[2])


def test_a_folder_under_its_name_is_replaced(tmp_path):
    (tmp_path / "index.mdb" / "more").mkdir(parents=True)
    file = CheckpointFile(tmp_path)
    with pytest.raises(StorageError):
        file.load()
    file.write({"lsn": 2}, SOME[2])
    assert same(file.load()[1], SOME[2])


def test_a_file_that_is_written_while_it_is_looked_through_is_read_again(tmp_path, monkeypatch):
    file = CheckpointFile(tmp_path)
    file.write({"lsn": 1}, {"x": np.arange(9)})
    verify, looks = checkpoint.pages.verify, []

    def in_between(path):
        looks.append(path)
        if len(looks) == 1:
            os.utime(path, ns=(1, 1))
            raise CorruptionError("a page is that of a later transaction")
        verify(path)

    monkeypatch.setattr(checkpoint.pages, "verify", in_between)
    assert file.load()[0] == {"lsn": 1}
    assert len(looks) == 2 and not file._damaged
