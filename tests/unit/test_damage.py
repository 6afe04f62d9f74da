"""Bytes that have changed on disk are noticed where they are read, and nowhere else."""

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
