"""Every error that vecstore raises, as one tree.

    VecstoreError
      InvalidArgumentError (ValueError)          the call is wrong; nothing was changed
        DimensionMismatchError                   a vector has another dimension than the collection
        UnknownArgumentError (TypeError)         no such argument, or it has no effect in this call
      NotFoundError (LookupError)                no such row
        CollectionNotFoundError                  no such collection
      AlreadyExistsError (ValueError)            a row or a collection of that name is there already
      StateError (RuntimeError)                  the object cannot do that now
        ClosedError                              it was closed
        ReadOnlyError                            it was opened with read_only=True
      StorageError (OSError)                     the folder and its files
        DatabaseFullError                        max_size is reached
          DiskFullError                          the disk, a quota or a file-size limit is
        DatabaseLockedError                      another process writes to this folder
        CorruptionError                          bytes on disk are not those that were written
        FormatVersionError                       written by a newer vecstore
        NotADatabaseError                        not written by vecstore at all
      RemoteError (OSError)                      the server or the way to it
        UnavailableError (ConnectionError)       no connection
        DeadlineExceededError (TimeoutError)     no answer in time; also of a wait in this process
        UnauthenticatedError (PermissionError)   no valid credentials
        ResourceExhaustedError                   the server is overloaded, or a message is too large

Each is also the builtin that a Python user would catch. Each has a `reason` in UPPER_SNAKE that never
changes, and the attributes named in its `fields`; `reason` and fields are what travels over the wire.
"""

from __future__ import annotations

from typing import Any, ClassVar


class VecstoreError(Exception):
    """Base of all errors of vecstore. Keyword arguments are the attributes named in `fields`."""

    reason: ClassVar[str] = "INTERNAL"
    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        unknown = fields.keys() - set(self.fields)
        assert not unknown, f"{type(self).__name__} has no {unknown}"
        for name in self.fields:
            setattr(self, name, fields.get(name))

    def __str__(self) -> str:
        return self.message


class InvalidArgumentError(VecstoreError, ValueError):
    """The call is wrong as it stands; nothing was changed."""

    reason = "INVALID_ARGUMENT"


class DimensionMismatchError(InvalidArgumentError):
    """A vector has another dimension than the collection: `expected`, `received`."""

    reason = "DIMENSION_MISMATCH"
    fields: ClassVar[tuple[str, ...]] = ("expected", "received")
    expected: int
    received: int


class UnknownArgumentError(InvalidArgumentError, TypeError):
    """An `argument` that does not exist, or has no effect in this call."""

    reason = "UNKNOWN_ARGUMENT"
    fields: ClassVar[tuple[str, ...]] = ("argument",)
    argument: str


class NotFoundError(VecstoreError, LookupError):
    """There is no row with these `ids` (at most the first ten)."""

    reason = "NOT_FOUND"
    fields: ClassVar[tuple[str, ...]] = ("ids",)
    ids: list[int | str] | None


class CollectionNotFoundError(NotFoundError):
    """There is no collection of this `name`, or no longer."""

    reason = "COLLECTION_NOT_FOUND"
    fields: ClassVar[tuple[str, ...]] = ("name",)
    name: str


class AlreadyExistsError(VecstoreError, ValueError):
    """Rows with these `ids` (at most the first ten), or a collection of this `name`, are there already."""

    reason = "ALREADY_EXISTS"
    fields: ClassVar[tuple[str, ...]] = ("ids", "name")
    ids: list[int | str] | None
    name: str | None


class StateError(VecstoreError, RuntimeError):
    """The object cannot do that in its present state."""

    reason = "STATE"


class ClosedError(StateError):
    """The database or collection was closed."""

    reason = "CLOSED"


class ReadOnlyError(StateError):
    """A write through a database that was opened with read_only=True."""

    reason = "READ_ONLY"


class StorageError(VecstoreError, OSError):
    """The folder and its files; `path` where one is known."""

    reason = "STORAGE"
    fields: ClassVar[tuple[str, ...]] = ("path",)
    path: str | None


class DatabaseFullError(StorageError):
    """The write did not fit into max_size bytes; nothing of it was kept: `path`, `limit`."""

    reason = "DATABASE_FULL"
    fields: ClassVar[tuple[str, ...]] = ("path", "limit")
    limit: int | None


class DiskFullError(DatabaseFullError):
    """The disk is full, or a quota or file-size limit is reached; nothing of the write was kept."""

    reason = "DISK_FULL"


class DatabaseLockedError(StorageError):
    """Another process, `pid`, has this folder open for writing."""

    reason = "DATABASE_LOCKED"
    fields: ClassVar[tuple[str, ...]] = ("path", "pid")
    pid: int | None


class CorruptionError(StorageError):
    """Bytes on disk are not those that were written."""

    reason = "CORRUPTION"


class FormatVersionError(StorageError):
    """Written in a format this version does not know: `path`, `found`, `supported`."""

    reason = "FORMAT_VERSION"
    fields: ClassVar[tuple[str, ...]] = ("path", "found", "supported")
    found: int | None
    supported: int | None


class NotADatabaseError(StorageError):
    """The file or folder was not written by vecstore; it is left untouched."""

    reason = "NOT_A_DATABASE"


class RemoteError(VecstoreError, OSError):
    """The server, or the way to it."""

    reason = "REMOTE"


class UnavailableError(RemoteError, ConnectionError):
    """The server cannot be reached; whether a write arrived is unknown."""

    reason = "UNAVAILABLE"


class DeadlineExceededError(RemoteError, TimeoutError):
    """No answer within the timeout; whether a write arrived is unknown. Or `wait_indexed` has waited that long."""

    reason = "DEADLINE_EXCEEDED"


class UnauthenticatedError(RemoteError, PermissionError):
    """The server does not accept these credentials."""

    reason = "UNAUTHENTICATED"


class ResourceExhaustedError(RemoteError):
    """The server is overloaded, or a message exceeds its limit."""

    reason = "RESOURCE_EXHAUSTED"


def _tree(cls: type[VecstoreError]) -> list[type[VecstoreError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in _tree(child))]


BY_REASON: dict[str, type[VecstoreError]] = {cls.reason: cls for cls in _tree(VecstoreError)}
"""Each error class by its `reason`."""


def shown(value: Any) -> str:
    """A value that was refused, as the error shows it: its type, and the beginning of its repr."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
