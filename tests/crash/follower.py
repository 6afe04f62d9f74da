"""A process that reads while writers are killed: `python -m tests.crash.follower`, which opens what it is told to.

A line of JSON on standard input is an order, which is answered with null, or with what went wrong. In between it
searches and reads all rows, again and again: those of each writer must be what that one has after some number of its
calls, never fewer than before.
"""

import json
import random
import select
import sys
import time
import traceback

import numpy as np

import vecstore
from tests.crash.children import NAME, make_all_small
from tests.crash.plans import DIM, applied, plan
from vecstore.kernels._jit import warmup

AHEAD = 2000  # calls that a writer may make between two looks


class Follower:
    """A collection, opened once, and what each writer has as it was seen last: its rows, and its next call."""

    def __init__(self, path, seed, writers):
        self.db = vecstore.open(path, read_only=True)
        self.docs = self.db.get_collection(NAME)
        self.seed, self.seen = seed, {writer: ({}, 0) for writer in range(writers)}
        self.random = random.Random(seed)
        self.looks = 0

    def look(self):
        """Read all rows in one view, and follow each writer up to what it has in it."""
        page = self.docs.scroll(limit=10_000, with_vectors=True)
        assert page.cursor is None
        found = {writer: {} for writer in self.seen}
        for record in page.records:
            found[record.payload["writer"]][record.id] = record.vector.tobytes(), record.payload
        for writer in self.seen:
            self.follow(writer, found[writer])
        self.looks += 1
        return page.records

    def follow(self, writer, rows):
        mine, first = self.seen[writer]
        for number in range(first, first + AHEAD):
            if rows == mine:
                self.seen[writer] = mine, number
                return
            mine = applied(mine, *plan(self.seed, writer, number, mine))
        raise AssertionError(f"writer {writer} has what it never had after its call {first}")

    def search(self):
        query = np.random.default_rng(self.random.randrange(1 << 30)).standard_normal(DIM, np.float32)
        hits = self.docs.search(query, 10, with_payload=True)
        assert len({hit.id for hit in hits}) == len(hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    def verify(self, rows, check):
        """The writers have just so many rows each, every one of them is found, and nothing is damaged."""
        records = self.look()
        assert [len(mine) for mine, _ in self.seen.values()] == rows
        if records:
            hits = self.docs.search(np.array([record.vector for record in records]), 1, with_payload=False)
            assert [found[0].id for found in hits] == [record.id for record in records]
        if check:
            assert self.docs.check() == []
        return self.looks


def main():
    make_all_small()
    warmup()
    print(json.dumps("ready"), flush=True)
    follower = wrong = None
    while True:
        asked = select.select([sys.stdin], [], [], 0.01)[0]
        answer = None
        try:
            if asked:
                line = sys.stdin.readline()
                if not line:
                    return
                order = json.loads(line)
                if order["do"] == "open":
                    wrong, follower = None, Follower(order["path"], order["seed"], order["writers"])
                elif wrong is None:
                    answer = follower.verify(order["rows"], order["check"])
                if order["do"] == "close" and follower is not None:
                    follower.db.close()
                    follower = None
            elif follower is not None and wrong is None:
                follower.random.choice([follower.look, follower.search])()
                time.sleep(0.03)  # the machine has other things to do
        except BaseException:
            wrong = traceback.format_exc()
        if asked:
            print(json.dumps(wrong or answer), flush=True)


if __name__ == "__main__":
    main()
