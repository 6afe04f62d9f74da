"""The map of a collection grows under its readers, of this process and of others."""

import threading

import numpy as np
import pytest

import vecstore
from vecstore.storage import environment


@pytest.fixture
def small_maps(monkeypatch):
    monkeypatch.setattr(environment, "FIRST_MAP_SIZE", 2**18)


READER = """
import json, sys
import numpy as np
import vecstore
from vecstore.storage import environment
environment.FIRST_MAP_SIZE = 2**18
db = vecstore.open(sys.argv[1], read_only=True)
docs = db.get_collection("docs")
print(json.dumps("open"), flush=True)
for line in sys.stdin:
    hits = docs.search(np.ones(32), 3)
    print(json.dumps([len(docs), [hit.id for hit in hits], len(docs.check()), docs._store.env._map_size]), flush=True)
"""


def test_the_map_grows_while_threads_search_and_a_process_follows(tmp_path, small_maps, process, rows):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 32, index=vecstore.Flat())
        docs.insert(range(100), rows(100, 32))
        first_size = docs._store.env._map_size
        assert first_size <= 2**20
        follower = process(READER, tmp_path)
        assert follower.read() == "open"
        done, wrong, rounds = threading.Event(), [], [0] * 3

        def search(n):
            try:
                while not done.is_set():
                    hits = docs.search(np.ones((5, 32)), 10, with_vectors=True)
                    assert [len(some) for some in hits] == [10] * 5
                    assert docs.get(50, with_vectors=True).vector.tobytes() == rows(100, 32)[50].tobytes()
                    rounds[n] += 1
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=search, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for n in range(100, 20_000, 500):
            docs.insert(range(n, n + 500), rows(500, 32, n))
            if n % 2000 == 100:
                count, ids, findings, _ = follower.ask()
                assert (count, findings) == (n + 500, 0)
                assert ids == [hit.id for hit in docs.search(np.ones(32), 3)]
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert all(rounds)
        assert docs._store.env._map_size >= 8 * first_size
        assert (len(docs), docs.check()) == (20_100, [])


def test_one_write_may_double_the_map_several_times(tmp_path, small_maps, rows):
    with vecstore.open(tmp_path) as db:
        docs = db.create_collection("docs", 64)
        vectors = rows(20_000, 64)
        docs.insert(range(20_000), vectors)
        assert (len(docs), docs.check()) == (20_000, [])
        assert docs.get(19_999, with_vectors=True).vector.tobytes() == vectors[-1].tobytes()
