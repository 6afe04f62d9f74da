"""check() finds what does not fit together, in the store and in the graph; a repair keeps what is whole."""

import contextlib
import json
import time

import numpy as np
import pytest

import vecstore
from tests.unit.test_damage import flip
from vecstore.storage import check, compaction, keys, repair


@pytest.fixture
def docs(db, rows):
    made = db.create_collection("docs", 64, "l2", index=vecstore.Flat())
    made.insert(range(1536), rows(1536, 64), [{"title": f"number {n}"} for n in range(1536)])
    return made


@pytest.fixture
def graph(db, rows, small_graphs):
    made = db.create_collection("graph", 16, "l2", index=vecstore.HNSW(m=8))
    made.insert(range(900), rows(900, 16))
    made.delete(range(0, 900, 5))
    made.wait_indexed()
    indexer = made._indexing.indexer
    while indexer._done != indexer._wanted:  # it may still mend, or renumber, what a test is to spoil
        time.sleep(0.01)
    return made


def test_progress_goes_from_nothing_to_all(docs, graph, monkeypatch):
    monkeypatch.setattr(check, "ROWS_AT_ONCE", 104)
    monkeypatch.setattr(check, "BLOCKS_AT_ONCE", 1)
    for collection in (docs, graph):
        told = []
        assert collection.check(progress=lambda done, total, told=told: told.append((done, total))) == []
        assert told == sorted(told) and len(told) > 10
        assert told[-1][0] == told[-1][1]
    with pytest.raises(vecstore.InvalidArgumentError, match="progress: expected a function"):
        docs.check(progress=3)


def test_rows_that_are_written_meanwhile_and_compactions_are_no_findings(docs, rows, monkeypatch):
    monkeypatch.setattr(check, "ROWS_AT_ONCE", 104)
    steps = iter(range(10**6))

    def write(_done, _total):
        n = next(steps)
        docs.delete([n % 1536])
        docs.upsert([n % 700, f"new {n}"], rows(2, 64, n))
        if n % 7 == 3:
            docs.compact()

    assert docs.check(progress=write) == []
    assert next(steps) > 10  # the last try tells nothing before its end


def test_damage_to_a_graph(graph):
    arrays = graph._index.structure.arrays
    assert graph.check() == []
    for spoil, text in (
        (lambda: arrays.links.__setitem__((3, 0), arrays.linked + 5), "links that lead out of the graph"),
        (lambda: arrays.links.__setitem__((3, 0), 3), "links to themselves"),
        (lambda: arrays.slots.__setitem__(3, arrays.slots[4]), "a slot that does not lead to them"),
        (lambda: graph._index.structure._dead.__setitem__(3, 1), "are dead and have a slot"),
        (lambda: setattr(graph._index.structure, "dead_linked", 77), "are counted as dead"),
        (lambda: arrays.codes[: arrays.count].__imul__(3), "have no code, or that of another row"),
    ):
        before = arrays.links.copy(), arrays.slots.copy(), arrays.codes.copy()
        graph_before = graph._index.structure._dead.copy(), graph._index.structure.dead_linked
        spoil()
        findings = graph.check()
        assert findings and {one.part for one in findings} == {"index"}
        assert any(text in one.message for one in findings), findings
        arrays.links[...], arrays.slots[...], arrays.codes[...] = before
        graph._index.structure._dead[...], graph._index.structure.dead_linked = graph_before
        assert graph.check() == []


def contents(docs):
    records = docs.scroll(limit=10_000, with_vectors=True).records
    return {one.id: (one.payload, one.vector.tobytes()) for one in records}


def test_a_repair_of_what_is_sound_loses_nothing(db, docs, graph):
    for one in (docs, graph):
        before = contents(one)
        assert db.repair_collection(one.name) == []
        assert contents(one) == before and one.check() == []
        assert one.search(np.zeros(one.dim), 5) == one.search(np.zeros(one.dim), 5, exact=True)
        assert not list(one._store.env.path.parent.glob("quarantine*"))
        one.upsert("more", np.ones(one.dim))
        assert one.check() == []


def test_a_repair_takes_out_damaged_rows_and_lists_them(db, docs, rows):
    vectors, path = rows(1536, 64), docs._store.env.path
    before = contents(docs)
    db.close()
    flip(path, vectors[700].tobytes())  # in the second of three blocks of 512
    flip(path, b"number 30")  # with 300 to 309
    with vecstore.open(db.path) as again:
        assert len(again.get_collection("docs").check()) == 12
        lost = again.repair_collection("docs")
        gone = {one.ids[0] for one in lost}
        assert gone == {*range(512, 1024), 30, *range(300, 310)}
        docs = again.get_collection("docs")
        assert docs.check() == []
        assert contents(docs) == {key: value for key, value in before.items() if key not in gone}
        [file] = path.parent.glob("quarantine-*.jsonl")
        lines = {line["id"]: line for line in map(json.loads, file.read_text().splitlines())}
        assert lines.keys() == gone
        assert lines[600]["payload"] == {"title": "number 600"}
        assert np.float32(lines[600]["vector"]).tobytes() == vectors[600].tobytes()
        assert "damaged" in lines[30]["why"] and lines[30]["payload"] is None
        docs.upsert(sorted(gone), vectors[sorted(gone)])
        assert docs.check() == []


def test_a_repair_makes_anew_what_follows_from_the_rows(db, docs):
    before = contents(docs)
    env = docs._store.env

    def spoil(txn):
        txn.put(keys.id_keys([3])[0], keys.slot_key(4), db=env.db("slot"))
        txn.delete(keys.id_keys([5])[0], db=env.db("slot"))
        txn.put(keys.id_keys(["ghost"])[0], keys.slot_key(9999), db=env.db("slot"))
        txn.put(keys.chunk_key(0), bytes(1024), db=env.db("live"))
        with txn.cursor(env.db("log")) as cursor:
            cursor.last()
            txn.put(bytes(cursor.key()), b"damaged", db=env.db("log"))

    env.write(spoil)
    db.close()
    with vecstore.open(db.path) as again:
        with pytest.raises(vecstore.CorruptionError):
            again.get_collection("docs").count()
        lost = again.repair_collection("docs")
        assert [one.ids for one in lost] == [("ghost",)]
        docs = again.get_collection("docs")
        assert contents(docs) == before and docs.check() == []
    with vecstore.open(db.path, read_only=True) as reader, pytest.raises(vecstore.ReadOnlyError):
        reader.repair_collection("docs")


def test_two_rows_of_one_id_leave_the_one_that_it_leads_to(db, docs):
    env = docs._store.env

    def spoil(txn):
        value = bytes(txn.get(keys.slot_key(7), db=env.db("row")))
        from vecstore.storage.rows import seal_rows

        assert value
        txn.put(keys.slot_key(2), seal_rows([2], keys.id_keys([7]), [None])[0], db=env.db("row"))

    env.write(spoil)
    assert docs.check()
    lost = db.repair_collection("docs")
    assert sorted(one.ids for one in lost) == [(2,), (7,)]
    assert docs.get(7).payload == {"title": "number 7"} and docs.get(2) is None
    assert docs.check() == []


def test_a_repair_that_fails_leaves_nothing_behind(db, docs, rows, monkeypatch):
    path = docs._store.env.path
    db.close()
    flip(path, b"number 30")
    there = sorted(entry.name for entry in path.parent.iterdir())
    with vecstore.open(db.path) as again:
        for module, name in ((repair, "sync"), (compaction, "_rename")):
            with monkeypatch.context() as patched:
                patched.setattr(module, name, lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    again.repair_collection("docs")
            assert sorted(entry.name for entry in path.parent.iterdir()) == there
        assert len(again.repair_collection("docs")) == 11


@pytest.mark.parametrize("tries", [1, 3])
def test_what_is_told_of_progress_may_close_the_collection_or_grow_the_map(docs, rows, monkeypatch, tries):
    monkeypatch.setattr(check, "TRIES", tries)
    assert docs.check(progress=lambda *_: docs._store.env.grow()) == []
    with contextlib.suppress(vecstore.ClosedError):
        assert docs.check(progress=lambda *_: docs.close()) == []
    assert docs.closed


def test_nodes_that_nobody_links_to(graph):
    arrays = graph._index.structure.arrays
    before = arrays.links.copy()
    lonely = np.setdiff1d(np.arange(arrays.linked), arrays.pilots.nodes)[:20]
    arrays.links[np.isin(arrays.links, lonely)] = -1
    messages = [one.message for one in graph.check()]
    assert f"20 of {arrays.linked} linked nodes have no link to them" in messages
    arrays.links[...] = before
    assert graph.check() == []


def test_damage_to_index_mdb(db, graph, rows):
    path = graph._store.checkpoint.path
    graph._indexing.checkpoints.write()
    assert graph.check() == []
    whole = path.read_bytes()
    flip(path, graph._index.structure.arrays.links[5].tobytes())
    [finding] = graph.check()
    assert finding.part == "index.mdb" and "is damaged" in finding.message
    path.write_bytes(whole[: len(whole) // 2])
    [finding] = graph.check()
    assert "do not hang together" in finding.message
    assert db.repair_collection("graph") == [] and graph.check() == []
    graph.wait_indexed()
    graph._indexing.checkpoints.write()
    header, columns = graph._store.checkpoint.load()
    del header["write_id"]
    graph._store.checkpoint.write({**header, "write_id": b"another"}, columns)
    [finding] = graph.check()
    assert "is of rows that were written otherwise" in finding.message
    graph._indexing.checkpoints.write()
    assert graph.check() == []
