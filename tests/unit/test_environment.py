"""One LMDB file: its transactions, its growth and its end, each waiting for the others."""

import threading
import time

import pytest

from vecstore import ClosedError, ReadOnlyError
from vecstore.storage import environment
from vecstore.storage.environment import DATABASES, Environment


@pytest.fixture
def env(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "FIRST_MAP_SIZE", 2**18)
    opened = Environment(tmp_path / "data.mdb", create=True)
    yield opened
    opened.close()


def put(env, key, value):
    env.write(lambda txn: txn.put(key, value, db=env.db("meta")))


def test_a_write_is_there_in_the_next_transaction_and_not_in_those_before(env):
    with env.reading() as before:
        put(env, b"a", b"1")
        assert before.get(b"a", db=env.db("meta")) is None
    with env.reading() as after:
        assert bytes(after.get(b"a", db=env.db("meta"))) == b"1"


def test_what_raises_in_a_write_leaves_nothing(env):
    def work(txn):
        txn.put(b"a", b"1", db=env.db("meta"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        env.write(work)
    with env.reading() as txn:
        assert txn.get(b"a", db=env.db("meta")) is None


def waits_for_a_reader(env, action):
    """Whether `action`, in a thread of its own, ends only when a reader that was there before has left."""
    inside, leave, done = threading.Event(), threading.Event(), threading.Event()
    order = []

    def read():
        with env.reading() as txn:
            inside.set()
            leave.wait()
            txn.stat(env.db("meta"))  # the map is still there
            order.append("reader")

    def act():
        action()
        order.append("action")
        done.set()

    threads = [threading.Thread(target=read)]
    threads[0].start()
    inside.wait()
    threads.append(threading.Thread(target=act))
    threads[1].start()
    ended_early = done.wait(0.05)
    leave.set()
    for thread in threads:
        thread.join()
    return not ended_early and order == ["reader", "action"]


def test_growing_the_map_waits_until_readers_have_left_and_tells_who_keeps_addresses(env):
    told = []
    env.on_remap = lambda: told.append(len(env._inside))
    assert waits_for_a_reader(env, lambda: put(env, b"a", b"x" * 2**19))
    assert told and set(told) == {0}
    with env.reading() as txn:
        assert len(txn.get(b"a", db=env.db("meta"))) == 2**19


def test_closing_waits_until_readers_have_left(env):
    assert waits_for_a_reader(env, env.close)
    with pytest.raises(ClosedError), env.reading():
        pass
    with pytest.raises(ClosedError):
        put(env, b"a", b"1")
    env.close()


def test_closing_waits_for_a_write_that_is_under_way(env):
    inside, leave = threading.Event(), threading.Event()
    order = []

    def work(txn):
        inside.set()
        leave.wait()
        txn.put(b"a", b"1", db=env.db("meta"))
        order.append("write")

    def close():
        env.close()
        order.append("close")

    threads = [threading.Thread(target=env.write, args=(work,)), threading.Thread(target=close)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join()
    assert order == ["write", "close"]


def test_readers_that_come_and_go_do_not_keep_a_writer_from_growing(env):
    done = threading.Event()

    def read():
        while not done.is_set():
            with env.reading() as txn:
                time.sleep(0.001)  # without the GIL: threads that only spin would keep the writer from that
                txn.stat(env.db("meta"))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(12):
        put(env, b"%d" % n, bytes(2**18))
    done.set()
    for thread in threads:
        thread.join()
    assert env._map_size > 2**21


def test_a_read_only_environment_does_not_write_and_finds_all_databases(env):
    env.close()  # a process opens a file once
    reader = Environment(env.path, read_only=True)
    try:
        with pytest.raises(ReadOnlyError):
            put(reader, b"a", b"1")
        with reader.reading() as txn:
            assert [txn.stat(reader.db(name))["entries"] for name in DATABASES] == [0] * len(DATABASES)
    finally:
        reader.close()


def test_used_bytes_are_those_of_the_file_and_free_ones_are_used_again(env):
    put(env, b"a", bytes(2**17))
    for _ in range(3):  # LMDB uses pages again two commits after they became free
        put(env, b"a", b"")
    with env.reading() as txn:
        size, free = env.used(txn)
    assert 2**17 <= free < size <= env.path.stat().st_size
    put(env, b"b", bytes(2**16))
    with env.reading() as txn:
        size_now, free_now = env.used(txn)
    assert size_now == size
    assert free_now <= free - 2**16
