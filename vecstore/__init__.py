"""vecstore: a durable vector database that is a folder.

    import vecstore
    with vecstore.open("data/") as db:                 # embedded
        docs = db.create_collection("docs", dim=384)
        docs.upsert(ids, vectors, payloads)            # returned = durable and searchable
        hits = docs.search(query, k=10)

    db = vecstore.connect("localhost:6333")            # the same verbs against a server

What is not needed is not imported: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vecstore.client import RemoteCollection, RemoteDatabase, connect
    from vecstore.collection import Collection
    from vecstore.database import Database, open
    from vecstore.errors import (
        AlreadyExistsError,
        ClosedError,
        CollectionNotFoundError,
        CorruptionError,
        DatabaseFullError,
        DatabaseLockedError,
        DeadlineExceededError,
        DimensionMismatchError,
        DiskFullError,
        FormatVersionError,
        InvalidArgumentError,
        NotADatabaseError,
        NotFoundError,
        ReadOnlyError,
        RemoteError,
        ResourceExhaustedError,
        StateError,
        StorageError,
        UnauthenticatedError,
        UnavailableError,
        UnknownArgumentError,
        VecstoreError,
    )
    from vecstore.estimates import estimate
    from vecstore.index.raw import Index
    from vecstore.kernels._jit import warmup
    from vecstore.types import (
        HNSW,
        IVF,
        Binary,
        Clustering,
        CollectionInfo,
        DuplicateGroup,
        Estimate,
        Finding,
        Flat,
        Hit,
        Int4,
        Int8,
        Page,
        Record,
        Stats,
        WriteResult,
    )

__version__ = "0.1.0"

__all__ = [
    "open",
    "connect",
    "warmup",
    "estimate",
    "Database",
    "Collection",
    "RemoteDatabase",
    "RemoteCollection",
    "Hit",
    "Record",
    "Page",
    "WriteResult",
    "CollectionInfo",
    "Stats",
    "Finding",
    "Estimate",
    "Clustering",
    "DuplicateGroup",
    "Index",
    "HNSW",
    "IVF",
    "Flat",
    "Int8",
    "Int4",
    "Binary",
    "VecstoreError",
    "InvalidArgumentError",
    "DimensionMismatchError",
    "UnknownArgumentError",
    "NotFoundError",
    "CollectionNotFoundError",
    "AlreadyExistsError",
    "StateError",
    "ClosedError",
    "ReadOnlyError",
    "StorageError",
    "DatabaseFullError",
    "DiskFullError",
    "DatabaseLockedError",
    "CorruptionError",
    "FormatVersionError",
    "NotADatabaseError",
    "RemoteError",
    "UnavailableError",
    "DeadlineExceededError",
    "UnauthenticatedError",
    "ResourceExhaustedError",
]

_HOME = {
    "open": "database",
    "Database": "database",
    "Collection": "collection",
    "connect": "client",
    "Index": "index.raw",
    "estimate": "estimates",
    "warmup": "kernels._jit",
    "RemoteDatabase": "client",
    "RemoteCollection": "client",
    **dict.fromkeys(
        ["Hit", "Record", "Page", "WriteResult", "CollectionInfo", "Stats", "Finding", "Estimate"], "types"
    ),
    **dict.fromkeys(["Clustering", "DuplicateGroup"], "types"),
    **dict.fromkeys(["HNSW", "IVF", "Flat", "Int8", "Int4", "Binary"], "types"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vecstore' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vecstore.{_HOME.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
