"""Bytes that have changed on disk are noticed where they are read, and nowhere else."""

import struct
import subprocess
import sys

import numpy as np
import pytest

import vecstore
from vecstore import CorruptionError


def flip(path, found):
    """Flip a bit in the middle of every place in a file that holds some bytes."""
    data = bytearray(path.read_bytes())
    at, times = data.find(found), 0
    while at >= 0:
        data[at + len(found) // 2] ^= 4
        times += 1
        at = data.find(found, at + 1)
    assert times
    path.write_bytes(data)


@pytest.fixture
def damaged(tmp_path, rows):
    """`damaged(bytes_of)`: a collection of three blocks of 512 rows, damaged where `bytes_of(vectors)` lie."""
    opened = []

    def make(bytes_of):
        vectors = rows(1536, 64)
        with vecstore.open(tmp_path) as db:
            docs = db.create_collection("docs", 64, index=vecstore.Flat())
            assert docs._store.layout.rows == 512
            docs.insert(range(1536), vectors, [{"title": f"number {n}"} for n in range(1536)])
        flip(tmp_path / "collections" / "docs" / "data.mdb", bytes_of(vectors))
        opened.append(vecstore.open(tmp_path))
        return opened[0].get_collection("docs"), vectors

    yield make
    for db in opened:
        db.close()


def test_flipped_bits_in_a_block(damaged):
    docs, vectors = damaged(lambda vectors: vectors[700].tobytes())
    damage = r"data\.mdb: block 1 of vectors is damaged"
    for call in (
        lambda: docs.search(vectors[0]),
        lambda: docs.search(vectors[:9]),
        lambda: docs.get(700, with_vectors=True),
        lambda: docs.get([1, 512], with_vectors=True),
        lambda: docs.scroll(limit=600, with_vectors=True),
    ):
        with pytest.raises(CorruptionError, match=damage) as caught:
            call()
        assert caught.value.path == str(docs._store.env.path)
    others = [*range(512), *range(1024, 1536)]
    found = docs.get(others, with_vectors=True)
    assert (np.array([one.vector for one in found]) == vectors[others]).all()
    assert docs.get(700).payload == {"title": "number 700"}
    for _ in range(2):
        [finding] = docs.check()
        assert (finding.part, finding.ids) == ("vectors", tuple(range(512, 1024)))
        assert finding.message.count("block 1 of vectors is damaged") == 1


def test_a_write_into_a_damaged_block_is_refused_and_does_not_seal_the_damage(damaged):
    docs, vectors = damaged(lambda vectors: vectors[700].tobytes())
    docs.delete(range(512, 690))
    with pytest.raises(CorruptionError, match="block 1 of vectors is damaged"):
        docs.insert(5000, vectors[0])
    assert docs.get(5000) is None
    assert [len(finding.ids) for finding in docs.check()] == [334]


def test_flipped_bits_in_a_payload(damaged):
    docs, vectors = damaged(lambda _: b"number 700")
    for call in (
        lambda: docs.get(700),
        lambda: docs.count({"title": "number 3"}),
        lambda: docs.scroll(limit=800),
        lambda: docs.search(vectors[700], 1),
        lambda: docs.update(700, payloads={"more": 1}),
    ):
        with pytest.raises(CorruptionError, match="the id and payload of slot 700 are damaged"):
            call()
    assert docs.get(699).payload == {"title": "number 699"}
    [finding] = docs.check()
    assert (finding.part, finding.ids) == ("rows", (700,))
    assert docs.upsert(700, vectors[700], {"title": "repaired"}).updated == 1
    assert docs.check() == []
    assert docs.search(vectors[700], 1)[0].payload == {"title": "repaired"}


def pages_of(path):
    """The numbers of pages of the trees that the file begins with: all but meta pages and overflow pages."""
    data = path.read_bytes()
    heads = [struct.unpack_from("<QHH", data, at) for at in range(0, len(data), 4096)]
    return [number for number, (own, _, flags) in enumerate(heads) if number > 1 and own == number and flags in (1, 2)]


DAMAGED = """
import sys
import vecstore
from vecstore import CorruptionError
with vecstore.open(sys.argv[1]) as db:
    try:
        docs = db.get_collection("docs")
    except CorruptionError as error:
        assert "data.mdb: its pages do not hang together" in str(error), error
        print("refused", end=" ")
    else:
        print(len(docs.check()), len(docs.scroll(limit=10_000).records), end=" ")
    findings = db.repair_collection("docs")
    told = {one for finding in findings for one in finding.ids}
    docs = db.get_collection("docs")
    assert docs.check() == []
    assert docs.insert("new", [1.0] * docs.dim).inserted == 1
    there = {one.id for one in docs.scroll(limit=10_000).records} - {"new"}
    silent = [finding for finding in findings if not finding.ids]
    gone = int(silent[0].message.split()[1]) if silent else 0
    print(len(there), len(told - there), len(there | told) + gone == 1500)
with vecstore.open(sys.argv[1]) as db:
    assert db.get_collection("docs").check() == []
"""


@pytest.fixture
def broken(tmp_path, rows):
    """`broken(damage)`: a collection of 1500 rows whose data.mdb `damage(data, pages)` was done to; what a process that
    opens and repairs it says."""

    def make(damage):
        with vecstore.open(tmp_path / "db") as db:
            docs = db.create_collection("docs", 16, index=vecstore.Flat())
            docs.insert(range(1500), rows(1500, 16), [{"title": f"number {n}"} for n in range(1500)])
        path = tmp_path / "db" / "collections" / "docs" / "data.mdb"
        data = bytearray(path.read_bytes())
        path.write_bytes(damage(data, pages_of(path)) or data)
        command = [sys.executable, "-c", DAMAGED, str(tmp_path / "db")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
        return done.stdout.split()

    return make


def test_a_zeroed_page_is_refused_at_the_open_and_a_repair_saves_what_the_others_hold(broken):
    def damage(data, pages):
        page = max(pages, key=lambda page: data[4096 * page : 4096 * (page + 1)].count(b"number"))
        data[4096 * page : 4096 * (page + 1)] = bytes(4096)

    opened, kept, lost, all_told = broken(damage)
    assert opened == "refused" and all_told == "True"
    assert int(kept) + int(lost) == 1500 and 10 < int(lost) < 200


def test_leaves_behind_a_damaged_branch_are_found_again(broken):
    def damage(data, pages):
        for page in pages:
            if data[4096 * page + 10] == 1:
                data[4096 * page : 4096 * (page + 1)] = bytes(4096)

    assert broken(damage) == ["refused", "1500", "0", "True"]


def test_a_file_that_was_cut_short_is_refused_at_the_open(broken):
    def damage(data, pages):
        return data[: 4096 * max(pages)]

    opened, *_, all_told = broken(damage)
    assert (opened, all_told) == ("refused", "True")


@pytest.mark.parametrize(("meta", "at"), [(0, 144), (0, 10), (1, 16)])  # transaction, flags of the page, magic
def test_a_damaged_meta_page_costs_nothing(broken, meta, at):
    def damage(data, pages):
        del pages
        data[4096 * meta + at] ^= 1

    assert broken(damage) == ["refused", "1500", "0", "True"]


def test_an_id_that_leads_to_another_row_is_not_believed(damaged):
    docs, vectors = damaged(lambda _: b"\x00\x01" + (700).to_bytes(8, "big"))
    del vectors
    with pytest.raises(CorruptionError):
        docs.scroll(limit=2000)
    assert docs.check()


def test_a_repair_tells_if_the_last_write_cannot_be_read(tmp_path, rows):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 16, index=vecstore.Flat())
        docs.insert(range(500), rows(500, 16))
        docs.insert("last", rows(1, 16)[0])
    path = tmp_path / "collections" / "docs" / "data.mdb"
    data = bytearray(path.read_bytes())
    last = max(struct.unpack_from("<Q", data, at + 144)[0] for at in (0, 4096))
    (root,) = struct.unpack_from("<Q", data, 4096 * (last & 1) + 128)
    data[4096 * root + 10] ^= 1
    path.write_bytes(data)
    with vecstore.open(tmp_path) as db:
        [finding] = db.repair_collection("docs")
        assert "the last write cannot be read" in finding.message
        docs = db.get_collection("docs")
        assert (len(docs), docs.get("last"), docs.check()) == (500, None, [])
