"""A search that is interrupted while it takes in what was written leaves an index that knows each row once."""

import itertools
import os
import sys
import threading
from pathlib import Path

import pytest

import vecstore
from tests.interrupts import Interrupted, interrupt_at
from vecstore import index

DIM = 8
# Every point with VECSTORE_INTERRUPTS=1.
STEPS = {vecstore.HNSW: 7, vecstore.IVF: 2}
WATCHED = (str(Path(index.__file__).parent),)


@pytest.mark.parametrize("kind", [vecstore.HNSW(m=8), vecstore.IVF(nprobe=100)], ids=["graph", "lists"])
def test_an_interruption_anywhere_in_a_search_harms_none_of_the_next(tmp_path, small_graphs, small_lists, rows, kind):
    vectors = rows(4000, DIM)
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", DIM, index=kind)
        docs.insert(range(320), vectors[:320])
        docs.wait_indexed(60)
        docs._indexing.indexer.stop()  # searches alone follow
        there = set(range(320))
        for n in itertools.count(1, int(os.environ.get("VECSTORE_INTERRUPTS", STEPS[type(kind)]))):
            new = range(320 + 3 * n, 323 + 3 * n)
            gone = min(there)
            docs.insert(new, vectors[new.start : new.stop])
            docs.delete(gone)
            there = (there | set(new)) - {gone}
            trace, left = interrupt_at(n, *WATCHED)

            def search(trace=trace, new=new):
                sys.settrace(trace)
                try:
                    docs.search(vectors[new.start], 3)
                except Interrupted:
                    pass
                finally:
                    sys.settrace(None)

            thread = threading.Thread(target=search)
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
            [hits] = docs.search(vectors[new.start : new.start + 1], 5000)
            assert [len(hits), {hit.id for hit in hits}] == [len(there), there], n
            assert hits[0].id == new.start
            if left[0] > 0:
                break
        assert n > 50
    with vecstore.open(tmp_path) as db:
        assert db.get_collection("docs").check() == []
