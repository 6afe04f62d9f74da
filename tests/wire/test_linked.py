"""A collection whose graph is linked, over the wire; and a server that stops while it links."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vecstore_server import Config, Server

import vecstore
from vecstore.index import graph


def test_a_linked_collection_over_the_wire(server: Server, small_graphs: None, rows: Any) -> None:
    with vecstore.connect(server.address) as db:
        docs = db.create_collection("docs", 16, "l2")
        vectors = rows(1000, 16)
        docs.insert(range(1000), vectors, [{"n": n % 3} for n in range(1000)])
        docs.wait_indexed(60)
        stats = docs.stats()
        assert (stats.linked, stats.tail, stats.count, stats.index_error) == (1000, 0, 1000, None)
        assert stats.degree > 0 and stats.pilots > 0 and stats.index_bytes > stats.link_bytes > 0
        assert [hits[0].id for hits in docs.search(vectors[:50], 1, ef=100)] == list(range(50))
        docs.delete(range(10))
        docs.upsert(10, np.full(16, 9))
        assert docs.search(np.full(16, 9), 1)[0].id == 10
        found = docs.search(vectors[5], 20, filter={"n": 2})
        assert len(found) == 20 and all(hit.id > 9 and hit.payload == {"n": 2} for hit in found)
        docs.rebuild(seed=5)
        stats = docs.stats()
        assert (stats.linked, stats.tail, stats.tombstones, stats.count) == (990, 0, 0, 990)
        assert docs.search(np.full(16, 9), 1)[0].id == 10
        assert docs.search(vectors[20], 5, exact=True)[0].id == 20


def test_an_error_of_the_indexer_travels(
    server: Server, small_graphs: None, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: graph.Graph, threads: int) -> int:
        raise RuntimeError("no links today")

    with vecstore.connect(server.address) as db:
        docs = db.create_collection("docs", 16, "l2")
        with monkeypatch.context() as patch:
            patch.setattr(graph.Graph, "link", fail)
            docs.insert(range(500), rows(500, 16))
            with pytest.raises(vecstore.StateError, match="no links today"):
                docs.wait_indexed(30)
            assert docs.stats().index_error == "RuntimeError: no links today"
            with pytest.raises(vecstore.StateError, match="no links today"):
                docs.insert(500, np.ones(16))
        docs.insert(500, np.ones(16))
        docs.wait_indexed(60)
        assert (docs.stats().linked, docs.stats().index_error) == (501, None)


def test_a_server_that_links_stops_after_the_batch_it_is_in(
    tmp_path: Path, small_graphs: None, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "MIN_BATCH", 1)
    batches, begun = [0], threading.Event()
    link = graph.Graph.link

    def counted(self: graph.Graph, threads: int) -> int:
        batches[0] += 1
        if batches[0] == 5:
            begun.set()
        threading.Event().wait(0.05)
        return link(self, threads)

    monkeypatch.setattr(graph.Graph, "link", counted)
    server = Server(Config(tmp_path / "db", listen="127.0.0.1:0", grace=0.1))
    outcome: list[type[BaseException]] = []

    def wait(docs: vecstore.RemoteCollection) -> None:
        try:
            docs.wait_indexed()
        except vecstore.VecstoreError as error:
            outcome.append(type(error))

    with vecstore.connect(server.address) as db:
        docs = db.create_collection("docs", 16, "l2")
        docs.insert(range(3000), rows(3000, 16))
        thread = threading.Thread(target=wait, args=(docs,))
        thread.start()
        assert begun.wait(30)
        server.stop()
        thread.join(30)
    assert len(outcome) == 1 and issubclass(outcome[0], vecstore.VecstoreError)
    assert batches[0] < 500  # of 3,000
    monkeypatch.setattr(graph.Graph, "link", link)
    with vecstore.open(tmp_path / "db") as db:
        docs = db.get_collection("docs")
        assert len(docs) == 3000 and docs.search(rows(3000, 16)[9], 1)[0].id == 9
