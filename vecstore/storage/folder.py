"""The folder of a database: its marker, its lay-out, and what a killed process leaves in it.

VECSTORE                     marks the folder and its format
LOCK                         held by the one process that writes
collections/NAME/data.mdb    a collection; the folder's name is its name
collections/.NAME-...        one being created or dropped, removed by the next writer
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Final

from vecstore.errors import FormatVersionError, NotADatabaseError
from vecstore.storage.disk import sync_folder
from vecstore.storage.failpoints import reach

FORMAT: Final = 1
MARKER: Final = "VECSTORE"
LOCK: Final = "LOCK"
COLLECTIONS: Final = "collections"


def refuse_foreign(path: Path) -> None:
    """NotADatabaseError unless the folder is vecstore's, empty, or not there. Files of the desktop do not count,
    nor does what `lay_out` has made when it is stopped before the marker is there."""
    if path.exists() and not path.is_dir():
        raise NotADatabaseError(f"{path} is a file; a vecstore database is a folder", path=str(path))
    if not path.exists() or (path / MARKER).exists():
        return
    others = [name for name in names(path) if not name.startswith(".") and name != LOCK]
    if others == [COLLECTIONS] and (path / COLLECTIONS).is_dir() and not names(path / COLLECTIONS):
        return
    if others:
        raise NotADatabaseError(
            f"{path} is not empty and holds no vecstore database (there is {sorted(others)[0]}); name another folder",
            path=str(path),
        )


def lay_out(path: Path) -> None:
    """Make an existing folder a database, durably; nothing is changed where it is one."""
    (path / COLLECTIONS).mkdir(exist_ok=True)
    if not (path / MARKER).exists():
        unfinished = path / f".{MARKER}"
        with unfinished.open("w") as file:
            file.write(json.dumps({"vecstore": FORMAT}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        reach("open.marker_written")
        unfinished.rename(path / MARKER)
        reach("open.marker_renamed")
    # In a folder that is one already too: whoever made it so may have been killed just before this.
    sync_folder(path)
    with contextlib.suppress(PermissionError):  # who may write to a folder need not be able to list the one it is in
        sync_folder(path.parent)


def check_marker(path: Path) -> None:
    """NotADatabaseError or FormatVersionError unless the folder is a database of this format."""
    try:
        found = json.loads((path / MARKER).read_text())["vecstore"]
    except (OSError, ValueError, KeyError, TypeError):
        raise NotADatabaseError(f"{path} holds no vecstore database", path=str(path)) from None
    if found != FORMAT:
        raise FormatVersionError(
            f"{path} has format {found}, and this version of vecstore reads {FORMAT}; upgrade vecstore",
            path=str(path),
            found=found,
            supported=FORMAT,
        )


def remove_leftovers(parent: Path) -> None:
    """Delete what a killed process left half created or half dropped, and have on the disk what it has done."""
    sync_folder(parent)
    for entry in parent.iterdir():
        if entry.name.startswith("."):
            reach("open.leftovers")
            shutil.rmtree(entry, ignore_errors=True)


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return [entry.name for entry in folder.iterdir()]
