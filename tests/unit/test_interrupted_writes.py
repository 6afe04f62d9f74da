"""A thread that is interrupted while it writes for others leaves them, and the collection, as if it had not come."""

import contextlib
import itertools
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.interrupts import Interrupted, interrupt_at
from vecstore import storage
from vecstore.storage import gate

DIM = 4
# Every point with VECSTORE_INTERRUPTS=1, by default each third.
STEP = int(os.environ.get("VECSTORE_INTERRUPTS", "3"))
WATCHED = (str(Path(storage.__file__).parent), contextlib.__file__)


def interrupted(docs, n):
    """Insert a row in a thread that is interrupted at its n-th point, with two others that queue behind it; whether
    that point was reached."""
    trace, left = interrupt_at(n, *WATCHED)
    inside, go_on = threading.Event(), threading.Event()
    vector = np.ones((1, DIM), np.float32)
    outcomes = []

    def work(write):
        inside.set()
        go_on.wait()
        write.add([b"\x02mine-%d" % n], vector, np.full(1, 2, np.float32), [None])

    def lead():
        sys.settrace(trace)
        try:
            docs._store.write(work)
        except Interrupted:
            pass
        finally:
            sys.settrace(None)
            inside.set()

    def follow(other):
        outcomes.append(docs.insert(f"other-{n}-{other}", vector[0]).inserted)

    threads = [threading.Thread(target=lead, daemon=True)]
    threads[0].start()
    inside.wait()
    threads += [threading.Thread(target=follow, args=(other,), daemon=True) for other in range(2)]
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), f"a writer hangs after an interruption at {n}"
    assert outcomes == [1, 1]
    closing = threading.Thread(target=docs._store.env._alone, args=(lambda: None,), daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive(), f"whoever closes the file hangs after an interruption at {n}"
    return left[0] <= 0


@pytest.mark.parametrize("options", [{}, {"durability": "interval", "sync_interval": 60}], ids=["commit", "interval"])
def test_an_interruption_anywhere_in_a_write_harms_nobody(tmp_path, options, monkeypatch):
    monkeypatch.setattr(gate, "LOOK_AGAIN_SECONDS", 0.02)
    with vecstore.open(tmp_path, **options) as db:
        docs = db.create_collection("docs", DIM, index=vecstore.Flat())
        n = 1
        while interrupted(docs, n):
            n += STEP
        assert n > 100
        found = [record.id for record in docs.scroll(limit=10_000).records]
        assert len([one for one in found if one.startswith("other")]) == 2 * len(range(1, n + 1, STEP))
        assert docs.check() == []


def test_a_write_that_is_interrupted_behind_its_commit_is_synced_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "LOOK_AGAIN_SECONDS", 0.02)
    with vecstore.open(tmp_path, durability="interval", sync_interval=60) as db:
        docs = db.create_collection("docs", DIM, index=vecstore.Flat())
        for n in itertools.count(1, STEP):
            trace, left = interrupt_at(n, *WATCHED)

            def write(trace=trace, n=n):
                sys.settrace(trace)
                with contextlib.suppress(Interrupted):
                    docs.insert(n, np.ones(DIM))
                sys.settrace(None)
                docs._store.env._alone(lambda: None)  # it does not wait for itself

            for action in (write, lambda: docs._store.env.sync_commits(docs.stats().lsn)):
                thread = threading.Thread(target=action, daemon=True)
                thread.start()
                thread.join(20)
                assert not thread.is_alive(), n
            assert docs.stats().synced_lsn == docs.stats().lsn
            if left[0] > 0:
                break
        assert n > 100
