"""Writers that come while another one commits share the next commit.

A writer queues its work. Whoever comes first leads: it takes what is queued, runs it, commits once, and hands the
lead to the first of those that came meanwhile, whose own work so is the next to run. Works run in the order in which
they came. A writer that comes alone leads at once, and runs its work itself.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

from vecstore.errors import VecstoreError

# What one commit takes at most: beyond, those at the head of the queue would wait for too many that came after them.
MAX_WORKS: Final = 128
MAX_BYTES: Final = 16 << 20

# The leader waits for those that wrote a moment ago to come back, but no longer than this share of a commit. Without
# it writers fall into two groups that take turns, and each commit serves half of them.
WAIT_SHARE: Final = 0.2
MAX_WAIT: Final = 0.01  # seconds; a group of large writes says nothing of the next


class Pending:
    """A work, and what came of it: once it is `done`, an `error` or else a `result`. `size` is in bytes of rows."""

    __slots__ = ("done", "error", "group", "result", "size", "wake", "work")

    def __init__(self, work: Callable[[Any], Any], size: int = 0) -> None:
        self.work = work
        self.size = size
        self.result: Any = None
        self.error: Exception | None = None
        self.done = False
        self.group: list[Pending] = []  # those it runs as the leader, itself first
        self.wake: Lock | None = None  # held until it is done or leads; None for one that need not wait


class WriteQueue:
    """Runs works in groups by `commit(group)`, one group at a time.

    `commit` gives each work its result or error and sets it done. What it raises becomes the error of those that are
    not done; unless it is an interruption of the leader, for which the works of the others run once more.

    An interruption (KeyboardInterrupt) may come between any two lines of the main thread. So whatever ends a turn can
    be done twice, and each step of it is one assignment.
    """

    def __init__(self, commit: Callable[[list[Pending]], None]) -> None:
        self._commit = commit
        self._mutex = threading.Lock()
        self._waiting: deque[Pending] = deque()
        self._leader: Pending | None = None  # runs a group, or is about to
        self._expected = 1  # writers of late: those of the last group, and those that came meanwhile
        self._enough: Lock | None = None  # held until as many wait
        self._seconds = 0.0  # that the last group took

    def run(self, work: Callable[[Any], Any], size: int = 0) -> Any:
        """The result of `work` once it is committed, or its error."""
        mine = Pending(work, size)
        try:
            self._enter(mine)
            if mine.wake is not None:
                mine.wake.acquire()
            if not mine.done:
                self._lead(mine)
                self._leave(mine)
        except BaseException:
            try:
                self._leave(mine)
            except BaseException:
                self._leave(mine)
                raise
            raise
        mine.group = []  # it holds itself: what was written would stay in memory until garbage is collected
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _enter(self, mine: Pending) -> None:
        with self._mutex:
            self._waiting.append(mine)
            if self._leader is None:
                self._leader = mine
                return
            mine.wake = Lock()
            mine.wake.acquire()
            if self._enough is not None and len(self._waiting) >= self._expected:
                _release(self._enough)

    def _lead(self, mine: Pending) -> None:
        self._gather(mine)
        start = time.monotonic()
        try:
            self._commit(mine.group)
        except Exception as error:
            for one in mine.group:
                if not one.done:
                    one.error = again(error)
                    one.done = True
        self._seconds = time.monotonic() - start

    def _gather(self, mine: Pending) -> None:
        """Take what is queued, or as much of it as one commit takes."""
        if len(self._waiting) < self._expected:
            enough = Lock()
            enough.acquire()
            self._enough = enough
            if len(self._waiting) < self._expected:
                enough.acquire(timeout=min(self._seconds * WAIT_SHARE, MAX_WAIT))
        with self._mutex:
            self._enough = None
            size = 0
            for one in self._waiting:
                size += one.size
                if mine.group and (size > MAX_BYTES or len(mine.group) == MAX_WORKS):
                    break
                mine.group.append(one)
            for _ in mine.group:
                self._waiting.popleft()

    def _leave(self, mine: Pending) -> None:
        """End a turn, or the wait for one: what was left undone goes back into the queue, and the next one leads."""
        runs_elsewhere: Lock | None = None
        with self._mutex:
            if self._leader is mine:
                mine.wake = None
                undone = [one for one in mine.group if not one.done and one not in self._waiting]
                self._waiting.extendleft(reversed(undone))
                mine.group = [one for one in mine.group if one.done]
                while mine in self._waiting:
                    self._waiting.remove(mine)
                self._expected = len(mine.group) + len(self._waiting)
                self._leader = self._waiting[0] if self._waiting else None
            elif mine in self._waiting:
                mine.wake = None
                self._waiting.remove(mine)
            elif not mine.done:
                runs_elsewhere = mine.wake
            if self._leader is not None:
                _release(self._leader.wake)
        for one in mine.group:
            _release(one.wake)
        if runs_elsewhere is not None:
            runs_elsewhere.acquire()


def again(error: Exception) -> Exception:
    """The same error once more, for another caller to raise."""
    if isinstance(error, VecstoreError):
        twin: Exception = type(error)(error.message, **{name: getattr(error, name) for name in error.fields})
    else:
        try:
            twin = copy.copy(error)
        except Exception:  # not all can be copied
            return error
    twin.__cause__ = error.__cause__
    return twin


def _release(lock: Lock | None) -> None:
    """Let go of a lock, if it is held."""
    if lock is not None and lock.locked():
        with contextlib.suppress(RuntimeError):
            lock.release()
