"""Who is in a map, and who waits: readers come and go, and what moves or unmaps it waits until none is left.

A thread that reads or writes must not begin a second transaction before it has ended the first: the other side of that
wait may stand between them.
"""

from __future__ import annotations

import abc
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from vecstore.errors import ClosedError, StateError

T = TypeVar("T")

LOOK_AGAIN_SECONDS = 1.0
PACKAGE: Final = os.fspath(Path(__file__).parents[1])


class ReplacedError(Exception):
    """The path leads to another file than the one that was opened: that of a compaction, or none."""


def forked(path: Path) -> StateError:
    """The error of what was opened by the parent of this process."""
    return StateError(
        f"{path} was opened before this process was forked, and is its parent's alone; "
        "close it before forking, and open it in each process"
    )


class Gate(abc.ABC):
    """Counts the readers of the file that is open under a path."""

    _env: Any
    """LMDB's environment."""
    inode: int
    """Of the file that was opened."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._pid = os.getpid()
        # Entered by itself: through the condition a reader would take it slower, twice in each search, and an
        # interruption could leave it held.
        self._lock = threading.RLock()
        self._gate = threading.Condition(self._lock)
        # The threads that are in the map. One that was interrupted on its way out is still among them, until it comes
        # again or is waited for: KeyboardInterrupt may come between any two lines.
        self._inside: set[int] = set()
        self._exclusive = False
        self._closed: Callable[[], Exception] | None = None
        self._retired: Callable[[], Exception] | None = None

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that opened the file: locks and transactions are its parent's."""
        return os.getpid() != self._pid

    def refuse_forked(self) -> None:
        """StateError in a child of the process that opened the file."""
        if os.getpid() != self._pid:  # as `forked`, but on the way of each search
            raise forked(self.path.parent)

    def _enter(self) -> int:
        """Come in, as the thread that is returned."""
        me, entered = threading.get_ident(), False
        try:
            self.refuse_forked()
            with self._lock:
                if me in self._inside:
                    self._take_out(me)
                while self._exclusive:
                    self._gate.wait()
                if self._retired is not None:
                    raise self._retired()
                if self._closed is not None:
                    raise self._closed()
                if self.read_only and not self.still_there():
                    raise ReplacedError
                self._inside.add(me)
                entered = True
            return me
        except BaseException:
            if entered:  # and interrupted on the way out
                self._leave(me)
            raise

    def _leave(self, thread: int) -> None:
        with self._lock:
            self._take_out(thread)

    def _take_out(self, thread: int) -> None:
        self._inside.discard(thread)
        if not self._inside:
            if self._retired is not None:
                self._shut(ClosedError, aside=True)
            if self._exclusive:
                self._gate.notify_all()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed is not None

    def still_there(self) -> bool:
        """Whether the path leads to the file that was opened."""
        if self._closed is not None:
            return False  # dropped; a new file may well have got its inode number
        try:
            return self.path.stat().st_ino == self.inode
        except FileNotFoundError:
            return False

    def _alone(self, action: Callable[[], T]) -> T:
        """Run `action` while no reader is in the map."""
        with self._lock:
            self._take_out(threading.get_ident())
            while self._exclusive:
                self._gate.wait()
            self._exclusive = True
            try:
                while self._inside:
                    if not self._gate.wait(LOOK_AGAIN_SECONDS):
                        self._forget_interrupted()
                return action()
            finally:
                self._exclusive = False
                self._gate.notify_all()

    def _forget_interrupted(self) -> None:
        """Take out the threads that are not in vecstore at all, and so in no map."""
        frames = sys._current_frames()
        for thread in [*self._inside]:
            frame = frames.get(thread)
            while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
                frame = frame.f_back
            if frame is None:
                self._inside.discard(thread)

    def _aside(self, action: Callable[[], None]) -> None:
        """Run `action` for a reader that has found no way in, once no other is in the map."""

        def unless_closed() -> None:
            if self._closed is None and self._retired is None:
                action()

        me = threading.get_ident()
        with self._lock:
            try:
                self._alone(unless_closed)
            finally:
                self._inside.add(me)
            if self._retired is not None:
                raise self._retired()
            if self._closed is not None:
                raise self._closed()

    def retire(self, because: Callable[[], Exception] = ReplacedError) -> None:
        """Another file has taken the place of this one: who reads it may end, and the last one closes it; later calls
        raise `because()`."""
        with self._lock:
            self._retired = because
            if not self._inside:
                self._shut(ClosedError, aside=True)

    def _shut(self, because: Callable[[], Exception], *, aside: bool = False) -> None:
        """Close the file. Where it was deleted, that frees its pages on the disk, which takes a second for each GB:
        `aside` from a search, which may be its last reader."""
        if self._closed is None:
            self._closed = because
            if aside:
                with contextlib.suppress(RuntimeError):  # the interpreter ends
                    threading.Thread(target=self._env.close, name="vecstore-close", daemon=True).start()
                    return
            self._env.close()
