"""Makes the database of this folder in the format of the vecstore at hand: `python tests/golden/make.py FOLDER`.

One is kept for each format that ever was, made by the code of its time, and opened by every test run from then on.
`lists` came to format 2 later, and is of the code of that time.
"""

import sys
import tempfile
from pathlib import Path

import lmdb
import numpy as np

import vecstore
from vecstore.index import graph, hnsw, ivf

DIM = 4
ROWS = 400


def vectors(seed, n):
    """The same numbers for ever: `(n, DIM) float32`, each a multiple of 1/64."""
    state, numbers = seed, []
    for _ in range(n * DIM):
        state = (state * 1103515245 + 12345) % 2**31
        numbers.append((state >> 16) % 256 / 64 - 2)
    return np.array(numbers, np.float32).reshape(n, DIM)


def expected():
    """What the rows are in the end: {id: (vector, payload)}."""
    rows = {one: (vector, {"n": one % 7}) for one, vector in enumerate(vectors(1, ROWS))}
    rows |= {f"name {one}": (vector, None) for one, vector in enumerate(vectors(2, 10))}
    rows |= dict(zip([3, "name 3"], [(vector, {"new": True}) for vector in vectors(3, 2)], strict=True))
    rows[4] = (rows[4][0], {"n": 4, "more": [1, "x"]})
    del rows[5], rows["name 5"]
    return rows


def fill(docs):
    """The writes that lead there."""
    docs.insert(range(ROWS), vectors(1, ROWS), [{"n": one % 7} for one in range(ROWS)])
    docs.insert([f"name {one}" for one in range(10)], vectors(2, 10))
    docs.upsert([3, "name 3"], vectors(3, 2), [{"new": True}] * 2)
    docs.update(4, payloads={"more": [1, "x"]})
    docs.delete([5, "name 5"])
    docs.wait_indexed(60)


def main(target):
    """Write the files of all collections, without free pages."""
    hnsw.FIT_FROM, hnsw.LINK_FROM, graph.MIN_BATCH = 100, 300, 32
    ivf.FIT_FROM, ivf.TRAIN_FROM, ivf.LEAST_LONGEST, ivf.LISTS_PER_ROOT = 100, 300, 24, 1.0
    with tempfile.TemporaryDirectory() as scratch:
        with vecstore.open(scratch) as db:
            fill(db.create_collection("flat", DIM, "l2", index=vecstore.Flat()))
            fill(db.create_collection("graph", DIM, "cosine", index=vecstore.HNSW(m=8, ef_construction=32)))
            fill(db.create_collection("lists", DIM, "cosine", index=vecstore.IVF(), quantization=vecstore.Binary()))
        for source in [Path(scratch, "VECSTORE"), *Path(scratch).glob("collections/*/*.mdb")]:
            copy = target / source.relative_to(scratch)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".mdb":
                env = lmdb.open(str(source), subdir=False, readonly=True, lib_version=0, lock=False)
                with env, copy.open("wb") as file:
                    env.copyfd(file.fileno(), compact=True)
            else:
                copy.write_bytes(source.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
