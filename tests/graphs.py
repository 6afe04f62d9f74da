"""What tests of collections with graphs share."""

import time

DIM = 24
NAME_OF = {"ids": lambda value: value if isinstance(value, str) else str(getattr(type(value), "__name__", value))}


def ids_of(hits):
    """The ids of hits, best first."""
    return [hit.id for hit in hits]


def recall(found, truth):
    """The share of the true hits that was found."""
    return sum(len(set(ids_of(a)) & set(ids_of(b))) for a, b in zip(found, truth, strict=True)) / sum(map(len, truth))


def wait(ready, seconds=30):
    """Return when `ready()`, which must not take so many seconds."""
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.01)
