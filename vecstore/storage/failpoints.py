"""Named points between durable steps, at which a test can kill the process: `VECSTORE_FAILPOINT=name[:count]`.

A point is passed in less than 0.1 us unless it is armed; then the process is killed (SIGKILL) when it is reached for
the count-th time, the first by default. `tests/crash` kills a process at each of POINTS.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "VECSTORE_FAILPOINT"

POINTS: Final = (
    "open.marker_written",  # a new folder: VECSTORE lies there under its hidden name
    "open.marker_renamed",
    "open.leftovers",  # before what a killed process has left is removed
    "create.folder",  # the hidden folder of a new collection is there, and empty
    "create.laid_out",  # data.mdb is there, and may lack its databases
    "create.written",  # data.mdb is complete and synced
    "create.renamed",
    "create.synced",
    "drop.before",
    "drop.renamed",
    "drop.synced",
    "drop.closed",  # before its files are deleted
    "drop.deleted",
    "write.begun",  # a transaction is open, and holds nothing of this write
    "write.worked",  # its rows and ids are put, but not the log record
    "write.logged",
    "write.block",  # after one of the blocks of vectors was rewritten
    "commit.before",
    "commit.after",
    "log.trim",  # before old records are deleted in a transaction
    "log.trimmed",
    "map.grown",
    "compact.part",  # after each transaction that writes to data.mdb.new
    "compact.written",  # data.mdb.new is complete and synced
    "compact.next",  # it is called data.mdb.next
    "compact.unlocked",  # the table of readers of the old data.mdb is gone
    "compact.renamed",
    "compact.synced",
    "compact.opened",
    "index.built",  # another index holds all rows, and the config of the collection names the one before
    "index.changed",  # the config names it, durably; index.mdb is of the one before
    "index.deleted",  # there is neither graph nor lists any more, and index.mdb is gone
    "backup.copied",  # a collection, synced, under the hidden name of an unfinished backup
    "backup.marked",  # it is complete, and opens under that name
    "backup.renamed",
)
"""Every name that `reach` is called with, but for those of CHECKPOINT and INTERVAL."""

CHECKPOINT: Final = (
    "checkpoint.begun",  # nothing of it is written
    "checkpoint.deleted",  # index.mdb was damaged and is gone
    "checkpoint.piece",  # in the transaction, after one of its pieces
    "checkpoint.part",  # a new file holds some of its pieces, but no header
    "checkpoint.header",  # in the transaction, behind all of it
    "checkpoint.unlocked",  # the new file is complete, and the table of readers of the old one gone
    "checkpoint.written",  # it is durable; the log still reaches back to the one before
)
"""Those of a collection that is large enough to have a graph kept."""

INTERVAL: Final = (
    "interval.synced",  # a sync is done, and not yet recorded
    "interval.recorded",
    "interval.put_back",  # after the machine went down: the meta pages are written, and not yet synced
)
"""Those of databases with durability="interval"."""

_armed: dict[str, int] = {}


def arm(name: str, count: int = 1) -> None:
    """Kill this process when it reaches `name` for the `count`-th time from now."""
    if name not in POINTS + CHECKPOINT + INTERVAL:
        raise ValueError(f"{name!r} is no failpoint; there are {', '.join(POINTS + CHECKPOINT + INTERVAL)}")
    _armed[name] = count


def reach(name: str) -> None:
    """This process has come to the point `name`."""
    if name in _armed:
        _count_down(name)


def _count_down(name: str) -> None:
    _armed[name] -= 1
    if _armed[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _arm_from(setting: str | None) -> None:
    if setting:
        name, _, count = setting.partition(":")
        arm(name, int(count or 1))


_arm_from(os.environ.get(VARIABLE))
