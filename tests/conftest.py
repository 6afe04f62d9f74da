"""What tests of several folders share: databases, rows, the obvious way to search, and processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

import vecstore
from vecstore.index import graph, hnsw, ivf

ROOT = Path(__file__).parents[1]

# The same examples in each ordinary run, none of which is made smaller when it fails: that may take minutes. New ones
# are for VECSTORE_TEST_EFFORT=many.
settings.register_profile(
    "same", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate], deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
settings.register_profile("many", settings.get_profile("same"), derandomize=False, phases=list(Phase))
settings.load_profile("many" if os.environ.get("VECSTORE_TEST_EFFORT") == "many" else "same")


@pytest.fixture
def db(tmp_path):
    with vecstore.open(tmp_path / "db") as opened:
        yield opened


@pytest.fixture
def rows():
    """`rows(n, dim, seed)`: random vectors `(n, dim) float32`."""

    def make(n, dim=8, seed=0):
        return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)

    return make


# Codes from 100 rows on; a graph from 300 on, which grows by 32 nodes at a time; lists from 300 on, which are split
# from 24 rows on and filled with 64 rows at a time.
SMALL = {
    "graphs": ((hnsw, "FIT_FROM", 100), (hnsw, "LINK_FROM", 300), (graph, "MIN_BATCH", 32)),
    "lists": ((ivf, "FIT_FROM", 100), (ivf, "TRAIN_FROM", 300), (ivf, "LEAST_LONGEST", 24), (ivf, "BATCH", 64)),
}


def make_small(kind, set_attribute=setattr):
    """Let a few hundred rows have graphs, or lists, in this process, by `set_attribute(module, name, value)`."""
    for module, name, value in SMALL[kind]:
        set_attribute(module, name, value)


@pytest.fixture
def small_graphs(monkeypatch):
    """A few hundred rows have a graph."""
    make_small("graphs", monkeypatch.setattr)


@pytest.fixture
def small_lists(monkeypatch):
    """A few hundred rows have lists."""
    make_small("lists", monkeypatch.setattr)


@pytest.fixture
def true_scores():
    """`true_scores(metric, query, vectors)`: the scores in float64, `(n,)`."""

    def score(metric, query, vectors):
        query, vectors = np.asarray(query, np.float64), np.asarray(vectors, np.float64)
        if metric == "l2":
            return -np.linalg.norm(vectors - query, axis=1)
        products = vectors @ query
        if metric == "cosine":
            products /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        return products

    return score


class Process:
    """A Python process that runs `code` with `args`; it prints one JSON value a line and reads lines."""

    def __init__(self, code, *args):
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            bufsize=1,
        )

    @property
    def pid(self):
        return self.popen.pid

    def read(self):
        line = self.popen.stdout.readline()
        assert line, f"the process ended with {self.popen.wait()}"
        return json.loads(line)

    def ask(self, value=None):
        self.popen.stdin.write(json.dumps(value) + "\n")
        return self.read()

    def end(self):
        self.popen.kill()
        self.popen.wait()
        self.popen.stdin.close()
        self.popen.stdout.close()


@pytest.fixture
def process():
    """`process(code, *args)` starts a Process, which ends with the test at the latest."""
    started = []

    def start(code, *args):
        started.append(Process(code, *args))
        return started[-1]

    yield start
    for one in started:
        one.end()
