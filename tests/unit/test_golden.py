"""Databases of every format that ever was are read, searched, written to and brought up to date."""

import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import vecstore
from vecstore.storage import config

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import make  # noqa: E402

FORMATS = [1, 2]
NAMES = {1: ["flat", "graph"], 2: ["flat", "graph", "lists"]}
pytestmark = pytest.mark.usefixtures("small_graphs", "small_lists")
each = pytest.mark.parametrize(
    ("folder", "name"), [(number, name) for number in FORMATS for name in NAMES[number]], indirect=["folder"]
)


@pytest.fixture(params=FORMATS)
def folder(tmp_path, request):
    """A copy of a golden database."""
    return Path(shutil.copytree(GOLDEN / f"format-{request.param}", tmp_path / "db"))


def test_there_is_one_of_each_format():
    assert max(FORMATS) == config.FORMAT
    assert {path.name for path in GOLDEN.glob("format-*")} == {f"format-{number}" for number in FORMATS}
    for number in FORMATS:
        assert sorted(path.name for path in GOLDEN.glob(f"format-{number}/collections/*")) == NAMES[number]


def same_as(docs, expected):
    found = {one.id: one for one in docs.scroll(limit=1000, with_vectors=True).records}
    assert found.keys() == expected.keys()
    for one, (vector, payload) in expected.items():
        assert np.array_equal(found[one].vector, vector)
        assert found[one].payload == payload
    assert len(docs) == len(expected)
    assert docs.check() == []
    ids = [one for one in expected if docs.metric == "l2" or np.any(expected[one][0])]
    # Codes of one bit do not tell 4 dimensions apart: all rows are rescored.
    options = {"flat": {}, "lists": {"nprobe": 400, "oversampling": 400}}.get(docs.name, {"ef": 400})
    best = docs.search(np.array([expected[one][0] for one in ids]), 1, **options)
    for one, hits in zip(ids, best, strict=True):
        assert hits[0].score == pytest.approx(0 if docs.metric == "l2" else 1, abs=1e-6), one


@each
def test_it_is_read_without_being_changed(folder, name):
    file = folder / "collections" / name / "data.mdb"
    before = file.read_bytes()
    with vecstore.open(folder, read_only=True) as db:
        same_as(db.get_collection(name), make.expected())
    assert file.read_bytes() == before


@each
def test_it_is_written_to_and_followed(folder, name):
    with vecstore.open(folder) as db:
        expected, docs = make.expected(), db.get_collection(name)
        same_as(docs, expected)
        for seed in (7, 8):
            some = make.vectors(seed, 30)
            docs.upsert(range(30), some, [{"seed": seed}] * 30)
            docs.delete([200 + seed])
            expected |= {one: (vector, {"seed": seed}) for one, vector in enumerate(some)}
            del expected[200 + seed]
        same_as(docs, expected)
        docs.wait_indexed(60)
        uid = docs._store.config["uid"]
    for read_only in (True, False):
        with vecstore.open(folder, read_only=read_only) as db:
            docs = db.get_collection(name)
            assert (docs._store.config["format"], docs._store.config["uid"]) == (config.FORMAT, uid)
            assert docs.stats().linked == (0 if name == "flat" else len(expected))
            same_as(docs, expected)


def test_a_reader_goes_on_while_a_writer_brings_it_up_to_date(folder):
    with vecstore.open(folder, read_only=True) as reader:
        found = reader.get_collection("graph")
        same_as(found, make.expected())
        shutil.copytree(folder / "collections" / "graph", folder / "collections" / "copy")
    with vecstore.open(folder) as db:
        docs = db.get_collection("copy")
        docs.upsert("new", [1, 2, 3, 4])
        assert docs.search([1, 2, 3, 4], 1)[0].id == "new"


def test_the_first_opening_gives_each_its_own_uid(folder):
    with vecstore.open(folder) as db:
        names = db.list_collections()
        uids = {db.get_collection(name)._store.config["uid"] for name in names}
    assert len(uids) == len(names)


def test_lists_are_those_that_were_kept(tmp_path, monkeypatch):
    """Nothing is made anew."""
    folder = Path(shutil.copytree(GOLDEN / "format-2", tmp_path / "db"))
    monkeypatch.setattr("vecstore.index.ivf.IvfIndex._new", lambda *_: 1 / 0)
    for read_only in (True, False):
        with vecstore.open(folder, read_only=read_only) as db:
            docs = db.get_collection("lists")
            stats = docs.stats()
            assert stats.lists > 10 and stats.linked == stats.count and stats.checkpoint_lsn == stats.lsn
            same_as(docs, make.expected())


KILLED = """
import sys, vecstore
vecstore.open(sys.argv[1]).get_collection("flat")
"""


@pytest.mark.parametrize("folder", [1], indirect=True)
@pytest.mark.parametrize("failpoint", ["commit.before", "commit.after"])
def test_a_process_that_is_killed_while_it_brings_one_up_to_date_leaves_one_or_the_other(
    folder, process, monkeypatch, failpoint
):
    monkeypatch.setenv("VECSTORE_FAILPOINT", failpoint)
    assert process(KILLED, folder).popen.wait() == -signal.SIGKILL
    with vecstore.open(folder, read_only=True) as db:
        docs = db.get_collection("flat")
        assert docs._store.config["format"] == (1 if failpoint == "commit.before" else config.FORMAT)
        same_as(docs, make.expected())
    with vecstore.open(folder) as db:
        same_as(db.get_collection("flat"), make.expected())
        assert db.get_collection("flat")._store.config["format"] == config.FORMAT
