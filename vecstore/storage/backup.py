"""A copy of a database or of one collection, taken while others write: a folder that opens like any other.

It is written under a hidden name beside its target, the marker last, and then renamed: what was not finished opens as
nothing. Each collection is copied as of one commit.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from vecstore.errors import AlreadyExistsError, CollectionNotFoundError, InvalidArgumentError
from vecstore.storage import folder
from vecstore.storage.checkpoint import INDEX_FILE
from vecstore.storage.compaction import DATA_FILE
from vecstore.storage.disk import disk_errors, make_folder, sync, sync_folder
from vecstore.storage.failpoints import reach
from vecstore.storage.store import Store

UNFINISHED: Final = "UNFINISHED"


def back_up(target: Path, stores: Iterable[tuple[str, Store]]) -> None:
    """Copy some named stores into the new database `target`, which must not be there, or be an empty folder.

    AlreadyExistsError if it holds anything, InvalidArgumentError if it is among the collections of a database,
    DiskFullError if there is no room; the target is then as it was. A store that is dropped meanwhile is left out.
    """
    with disk_errors(target):
        _refuse_full(target)
        target = target.resolve()
        _refuse_among_collections(target)
        make_folder(target.parent)
        unfinished = target.parent / f".{target.name}-{secrets.token_hex(4)}"
        try:
            unfinished.mkdir()
            (unfinished / UNFINISHED).touch()  # so that no one takes it for an empty folder
            (unfinished / folder.COLLECTIONS).mkdir()
            for name, store in stores:
                _copy(store, unfinished / folder.COLLECTIONS / name)
                reach("backup.copied")
            sync_folder(unfinished / folder.COLLECTIONS)
            (unfinished / UNFINISHED).unlink()
            folder.lay_out(unfinished)
            _refuse_full(target)
            reach("backup.marked")
            unfinished.rename(target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        reach("backup.renamed")
        sync_folder(target.parent)


def _copy(store: Store, place: Path) -> None:
    place.mkdir()
    # First the index: of what it does not know yet the rows tell, but not the other way round.
    if store.checkpoint.copy(place / INDEX_FILE):
        sync(place / INDEX_FILE)
    try:
        with store.view() as view:
            view.env.copy(place / DATA_FILE, view.txn)
    except CollectionNotFoundError:
        shutil.rmtree(place)
        return
    sync(place / DATA_FILE)
    sync_folder(place)


def _refuse_among_collections(target: Path) -> None:
    """Where a backup would be taken for a collection, or go with one when it is dropped."""
    for parent in target.parents:
        if parent.name == folder.COLLECTIONS and (parent.parent / folder.MARKER).exists():
            raise InvalidArgumentError(f"path: {target} is among the collections of a database; name another folder")


def _refuse_full(target: Path) -> None:
    if target.is_dir() and not folder.names(target):
        return
    if target.exists() or target.is_symlink():
        raise AlreadyExistsError(f"{target} is there already; a backup needs a new name or an empty folder")
