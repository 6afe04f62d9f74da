"""What the writers of the crash suite do: plans that the killed child carries out and the parent replays.

Each writer owns its rows. A plan depends on nothing but seed, writer, number and the rows that this writer has, so
that the parent knows from the acknowledged numbers alone what must be there, and what the call under way would change.
"""

import random

import numpy as np

DIM = 64
MAX_ROWS = 150  # of one writer


def plan(seed, writer, number, mine):
    """One call: its verb, ids, vectors or None, and payloads or None. `mine` is what the writer has, by id."""
    rng = random.Random(f"{seed} {writer} {number}")
    there = sorted(mine, key=str)
    some = rng.sample(there, min(len(there), rng.choice([1, 1, 10, 60])))
    first = writer * 1_000_000 + number * 200
    new = [one if one % 7 else f"{writer}:{one}" for one in range(first, first + rng.choice([1, 1, 20, 150]))]
    verb = rng.choice(["insert", "insert", "upsert", "vectors", "payloads", "both", "delete", "by filter"])
    if not there:
        verb = "insert"
    elif len(there) > MAX_ROWS:
        verb = "by filter"
    ids = {"insert": new, "upsert": some + new}.get(verb, some)
    vectors = payloads = None
    if verb in ("insert", "upsert", "vectors", "both"):
        vectors = np.random.default_rng([seed, writer, number]).standard_normal((len(ids), DIM), np.float32)
    if verb in ("insert", "upsert", "payloads", "both"):
        payloads = [
            {"writer": writer, "part": rng.randrange(3), "number": number, "text": "x" * rng.randrange(60)} for _ in ids
        ]
    if verb == "by filter":
        part = rng.randrange(3)
        ids = [one for one in there if mine[one][1]["part"] == part]
        payloads = {"writer": writer, "part": part}
    return verb, ids, vectors, payloads


def carry_out(collection, verb, ids, vectors, payloads):
    """Make the call."""
    if verb == "insert":
        collection.insert(ids, vectors, payloads)
    elif verb == "upsert":
        collection.upsert(ids, vectors, payloads)
    elif verb == "delete":
        collection.delete(ids)
    elif verb == "by filter":
        collection.delete(filter=payloads)
    else:
        collection.update(ids, vectors, payloads)


def applied(mine, verb, ids, vectors, payloads):
    """What the writer has after the call: `{id: (bytes of the vector, payload)}`."""
    after = dict(mine)
    for i, one in enumerate(ids):
        if verb in ("delete", "by filter"):
            del after[one]
        else:
            vector, payload = after.get(one, (None, {}))
            if vectors is not None:
                vector = vectors[i].tobytes()
            if payloads is not None:
                payload = {**payload, **payloads[i]} if verb in ("payloads", "both") else payloads[i]
            after[one] = vector, payload
    return after
