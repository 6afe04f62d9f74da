"""How long work leaves room for searches: a thread that goes from call to call of LMDB would starve all others.

Each of those calls gives the interpreter's lock back for less time than another thread needs to wake up, and to be
given back is what keeps that thread from asking for it after 5 ms. Searches waited up to a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

# A search asks for the lock some ten times. At 2 ms each it takes 20 ms at worst, and the work takes a twentieth more.
WORK_SECONDS: Final = 0.002
REST_SECONDS: Final = 0.0001


class Pace:
    """Called between small pieces of long work: lets other threads in, now and then."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.perf_counter() + WORK_SECONDS

    def __call__(self) -> None:
        if time.perf_counter() >= self._until:
            time.sleep(REST_SECONDS)  # 0 would give the lock back for too short a time as well
            self._until = time.perf_counter() + WORK_SECONDS


def paced(items: Iterable[T]) -> Iterator[T]:
    """The same items, with a pace between them."""
    pace = Pace()
    for item in items:
        yield item
        pace()
