"""What the killed child runs: `python worker.py FOLDER ACTS SEED FIRST`, acknowledging each act on standard output.

An act is a single call that depends on nothing but the seed, its number and the state that it finds, so that the
parent can repeat it on the model.
"""

import os
import random
import sys

import numpy as np

import vecstore

DIM = 24
NAME = "rows"


def change_rows(database, seed, number):
    """One write of one row or some hundred, in one of all the ways there are."""
    collection = database.create_collection(NAME, DIM, "l2", exist_ok=True) if number == 0 else None
    if collection is not None:
        return
    collection = database.get_collection(NAME)
    rng = random.Random(f"{seed} {number}")
    there = [record.id for record in collection.scroll(limit=10_000, with_payload=False).records]
    some = rng.sample(there, min(len(there), rng.choice([1, 10, 200])))
    new = [one for start in [rng.randrange(3000)] for one in range(start, start + rng.choice([1, 30, 400]))]
    new = [str(one) if one % 5 == 0 else one for one in new if one not in there and str(one) not in there]
    verb = rng.choice(["insert", "upsert", "vectors", "payloads", "both", "delete", "delete by filter"])
    if len(there) > 1500:
        verb = "delete by filter"
    if verb == "insert" or not there:
        collection.insert(new, vectors(seed, number, len(new)), payloads(rng, number, len(new)))
    elif verb == "upsert":
        collection.upsert(some + new, vectors(seed, number, len(some + new)), payloads(rng, number, len(some + new)))
    elif verb == "vectors":
        collection.update(some, vectors(seed, number, len(some)))
    elif verb == "payloads":
        collection.update(some, payloads=payloads(rng, number, len(some)), merge=rng.random() < 0.5)
    elif verb == "both":
        collection.update(some, vectors(seed, number, len(some)), payloads(rng, number, len(some)))
    elif verb == "delete":
        collection.delete(some)
    else:
        collection.delete(filter={"part": rng.randrange(3)})


def change_collections(database, seed, number):
    """One collection created, filled or dropped."""
    rng = random.Random(f"{seed} {number}")
    names = database.list_collections()
    verb = rng.choice(["create", "create", "fill", "drop", "drop"])
    if not names or (verb == "create" and len(names) < 4):
        database.create_collection(f"c{number}", rng.choice([3, 500]), rng.choice(["cosine", "dot"]))
    elif verb == "fill":
        collection = database.get_collection(rng.choice(names))
        matrix = np.random.default_rng([seed, number]).standard_normal((50, collection.dim))
        collection.upsert(range(50), matrix, payloads(rng, number, 50))
    else:
        database.drop_collection(rng.choice(names))


def vectors(seed, number, n):
    """`(n, DIM) float32`, other ones for each act."""
    return np.random.default_rng([seed, number]).standard_normal((n, DIM), np.float32)


def payloads(rng, number, n):
    """`n` payloads, some None, that tell which act wrote them."""
    return [
        None
        if rng.random() < 0.1
        else {"part": rng.randrange(3), f"f{number % 3}": number, "text": "x" * rng.randrange(90)}
        for _ in range(n)
    ]


ACTS = {"rows": change_rows, "collections": change_collections}


def main():
    """Say that all is imported, then act and acknowledge until killed."""
    folder, acts, seed, first = sys.argv[1:]
    out = sys.stdout.fileno()
    os.write(out, b"!")
    with vecstore.open(folder) as database:
        number = int(first)
        while True:
            ACTS[acts](database, int(seed), number)
            os.write(out, b".")
            number += 1


if __name__ == "__main__":
    main()
