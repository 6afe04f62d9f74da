"""One thread that keeps an index up with its collection: follows writes, links, mends.

It starts at the first `wake`, sleeps while there is nothing to do, and ends at `stop`. What goes wrong in it is kept,
told once to the next writer, and tried again after the next write: searches scan what is not linked, so that nothing
is lost but speed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger("vecstore")

# Single writes that follow closely are taken together.
GATHER_SECONDS: Final = 0.02
NICENESS: Final = 5


class Indexer:
    """Runs `step()`, which does some of the work and tells whether there is more, until there is none."""

    def __init__(self, name: str, step: Callable[[], bool]) -> None:
        self._name = name
        self._step = step
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted = 0
        self._done = 0
        self._stopping = False
        self._hurry = 0
        self._untold: BaseException | None = None
        self.error: str | None = None

    @property
    def stopping(self) -> bool:
        """Whether a step should return soon."""
        return self._stopping

    def wake(self) -> None:
        """There is something to do."""
        with self._changed:
            self._wanted += 1
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name=f"vecstore-index-{self._name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take_error(self) -> BaseException | None:
        """What went wrong since it was last asked for."""
        with self._changed:
            error, self._untold = self._untold, None
            return error

    def wait_until(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `ready()`; False after `timeout` seconds, or where the thread has stopped or failed since the last
        `wake`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            wanted = self._wanted
            self._hurry += 1
            self._changed.notify_all()
            try:
                while not ready():
                    if self._stopping or (self.error is not None and self._done >= wanted):
                        return False
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._changed.wait(0.2 if left is None else min(left, 0.2))
                return True
            finally:
                self._hurry -= 1

    def stop(self) -> None:
        """End the thread, after the step it is in."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def end(self) -> None:
        """Let the thread end by itself, for there will never be anything to do again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _run(self) -> None:
        if hasattr(os, "setpriority"):  # on Linux a thread's own: searches go first
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            with self._changed:
                while self._done == self._wanted and not self._stopping:
                    self._changed.wait()
                if not self._hurry and not self._stopping:
                    self._changed.wait(GATHER_SECONDS)
                wanted = self._wanted
                if self._stopping:
                    return
            try:
                while not self._stopping and self._step():
                    with self._changed:
                        self._changed.notify_all()
                self.error = None
            except BaseException as error:
                log.exception("vecstore: indexing of %s failed; searches scan what is not linked", self._name)
                with self._changed:
                    self._untold, self.error = error, f"{type(error).__name__}: {error}"
            with self._changed:
                self._done = wanted
                self._changed.notify_all()
