"""Who leads, whose work runs when, and what happens to the others when a leader fails or is interrupted."""

import gc
import signal
import sys
import threading
import time
import weakref

import pytest

from tests.interrupts import Interrupted, interrupt_at
from vecstore import StorageError
from vecstore.storage import group
from vecstore.storage.group import WriteQueue, again


class Commits:
    """A `commit` that runs works and remembers the groups; it stops at `gate` while that is closed."""

    def __init__(self):
        self.groups = []
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()
        self.fails = None

    def __call__(self, some):
        self.inside.set()
        self.gate.wait()
        if self.fails is not None:
            raise self.fails
        self.groups.append([one.work for one in some])
        for one in some:
            one.result = ("result", one.work)
        for one in some:
            one.done = True


class Writer(threading.Thread):
    def __init__(self, queue, work, size=0):
        super().__init__(daemon=True)
        self.queue, self.work, self.size = queue, work, size
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            self.result = self.queue.run(self.work, self.size)
        except BaseException as error:
            self.error = error

    def end(self):
        self.join(10)
        assert not self.is_alive(), "a writer hangs"
        return self


@pytest.fixture
def commits():
    return Commits()


@pytest.fixture
def queue(commits):
    return WriteQueue(commits)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def queued_behind(queue, commits, works, sizes=None):
    """Writers, queued in this order behind one whose commit goes on only when the gate is opened."""
    commits.gate.clear()
    first = Writer(queue, "first")
    commits.inside.wait()
    writers = []
    for n, work in enumerate(works):
        writers.append(Writer(queue, work, 0 if sizes is None else sizes[n]))
        wait_for(lambda n=n: len(queue._waiting) == n + 1)
    return first, writers


def test_one_writer_runs_its_work_at_once(queue, commits):
    assert queue.run("work") == ("result", "work")
    assert commits.groups == [["work"]]


def test_those_that_come_during_a_commit_share_the_next_in_the_order_they_came(queue, commits):
    first, writers = queued_behind(queue, commits, "abcde")
    commits.gate.set()
    assert [writer.end().result for writer in writers] == [("result", work) for work in "abcde"]
    assert first.end().result == ("result", "first")
    assert commits.groups == [["first"], list("abcde")]


def test_a_group_is_bounded_by_its_works_and_by_its_bytes(queue, commits, monkeypatch):
    monkeypatch.setattr(group, "MAX_WORKS", 3)
    monkeypatch.setattr(group, "MAX_BYTES", 100)
    _, writers = queued_behind(queue, commits, "abcdefgh", [0, 0, 0, 60, 60, 500, 1, 1])
    commits.gate.set()
    for writer in writers:
        writer.end()
    assert commits.groups == [["first"], list("abc"), ["d"], ["e"], ["f"], ["g", "h"]]


def test_what_a_commit_raises_is_an_error_of_its_own_for_each(queue, commits):
    first, writers = queued_behind(queue, commits, "abc")
    commits.fails = StorageError("no", path="p")
    commits.gate.set()
    errors = [writer.end().error for writer in [first, *writers]]
    assert [(type(error), str(error), error.path) for error in errors] == [(StorageError, "no", "p")] * 4
    assert len(set(map(id, errors))) == 4
    commits.fails = None
    assert queue.run("work") == ("result", "work")


def test_an_error_that_cannot_be_copied_is_handed_on_as_it_is():
    class OddError(Exception):
        def __init__(self, one, two):
            super().__init__("text")

    error = OddError(1, 2)
    assert again(error) is error


def test_leaders_wait_a_moment_for_those_that_wrote_just_now(queue, commits, monkeypatch):
    monkeypatch.setattr(group, "MAX_WAIT", 10)
    _, writers = queued_behind(queue, commits, "abc")
    queue._seconds = 50
    commits.gate.set()
    for writer in writers:
        writer.end()
    queue._seconds = 50
    assert queue._expected == 3
    late = [Writer(queue, work) for work in "xyz"]  # the first of them waits for the other two
    for writer in late:
        writer.end()
    assert [sorted(some) for some in commits.groups[2:]] == [["x", "y", "z"]]


# -- interruptions -----------------------------------------------------------------------------------------------


def leads_and_is_interrupted(n):
    """A leader that is interrupted at the n-th point, with writers that come before and during its commit."""
    commits = Commits()
    queue = WriteQueue(commits)
    _, before = queued_behind(queue, commits, ["leader", *"abc"])
    leader, before = before[0], before[1:]
    # The interrupted one is a thread of its own that leads a group from its first instruction to its last.
    trace, left = interrupt_at(n, group.__file__)
    commits.gate.set()
    for writer in [leader, *before]:
        writer.end()
    error = []

    def lead():
        sys.settrace(trace)
        try:
            queue.run("interrupted")
        except Interrupted as caught:
            error.append(caught)
        finally:
            sys.settrace(None)

    commits.gate.clear()
    commits.inside.clear()
    thread = threading.Thread(target=lead, daemon=True)
    thread.start()
    others = [Writer(queue, work) for work in "xyz"]
    commits.gate.set()
    thread.join(10)
    assert not thread.is_alive(), f"the leader hangs at {n}"
    for writer in others:
        writer.end()
        assert writer.result == ("result", writer.work), (n, writer.error)
    assert queue.run("afterwards") == ("result", "afterwards")
    applied = [work for some in commits.groups for work in some]
    assert sorted(applied) == sorted(set(applied)), f"something was committed twice at {n}"
    assert queue._leader is None and not queue._waiting
    return bool(error), left[0] <= 0


def test_an_interruption_anywhere_in_a_leader_leaves_nobody_waiting_and_nothing_twice():
    outcomes = []
    for n in range(1, 2000):
        raised, reached = leads_and_is_interrupted(n)
        if not reached:
            break
        outcomes.append(raised)
    assert len(outcomes) > 30
    assert any(outcomes)


@pytest.mark.parametrize("when", ["queued", "running"])
def test_a_follower_that_is_interrupted_takes_its_work_back_or_sees_it_end(queue, commits, when):
    main = threading.get_ident()
    commits.gate.clear()
    first = Writer(queue, "first")
    commits.inside.wait()
    follower_at = []

    def interrupt():
        other = Writer(queue, "other") if when == "running" else None
        wait_for(lambda: len(queue._waiting) == (1 if other is None else 2))
        if other is not None:
            commits.inside.clear()
            follower_at.append(other)
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.02)
        commits.gate.set()

    if when == "running":
        # Somebody else leads the group in which the main thread's work runs.
        ahead = Writer(queue, "ahead")
        wait_for(lambda: len(queue._waiting) == 1)
        stop = threading.Event()

        def gate(some):
            if len(some) > 1:
                signal.pthread_kill(main, signal.SIGINT)
                stop.wait(0.05)
            commits(some)

        queue._commit = gate
        threading.Timer(0.05, commits.gate.set).start()
        with pytest.raises(KeyboardInterrupt):
            queue.run("mine")
        ahead.end()
        assert commits.groups == [["first"], ["ahead", "mine"]]
    else:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            queue.run("mine")
        thread.join()
        wait_for(lambda: not first.is_alive())
        assert commits.groups == [["first"]]
    assert first.end().result == ("result", "first")
    assert queue.run("afterwards") == ("result", "afterwards")


def test_what_was_written_does_not_wait_for_the_garbage_collector():
    class Rows:
        pass

    queue, rows = WriteQueue(Commits()), Rows()
    held = weakref.ref(rows)
    gc.disable()
    try:
        queue.run(lambda _, rows=rows: rows)
        queue._commit.groups.clear()
        del rows
        assert held() is None
    finally:
        gc.enable()
