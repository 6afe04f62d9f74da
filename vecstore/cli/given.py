"""What is given to a command: its common arguments, and what their words stand for."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import vecstore
from vecstore.errors import InvalidArgumentError, NotADatabaseError
from vecstore.storage.folder import check_marker
from vecstore.types import INDEX_KINDS, KIND_NAMES
from vecstore.verbs.database import DatabaseVerbs

QUANTIZATIONS = "auto, int8, int4, binary or none"

Target = Annotated[str, typer.Argument(help="A database folder, or the HOST:PORT of a server.", show_default=False)]
Name = Annotated[str | None, typer.Argument(help="A collection; all of them if left out.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
IndexOption = Annotated[
    str, typer.Option("--index", help="hnsw, ivf or flat, perhaps with parameters: hnsw:m=32,ef=100.")
]
Only = Annotated[str | None, typer.Option("--filter", help="A filter as JSON: only the rows that match.")]


@contextlib.contextmanager
def database(target: str, *, write: bool = False) -> Iterator[DatabaseVerbs]:
    """A folder, opened so that a live writer is not in the way unless one has to `write`; or a connection."""
    host, colon, port = target.rpartition(":")
    db: DatabaseVerbs
    if colon and host and port.isdigit() and not Path(target).exists():
        db = vecstore.connect(target)
    else:
        if not Path(target).exists():
            raise NotADatabaseError(f"there is no folder {target}", path=target)
        if write:
            check_marker(Path(target))  # it is not the command to create one
        db = vecstore.open(target, read_only=not write)
    with db:
        yield db


def names(db: DatabaseVerbs, collection: str | None) -> list[str]:
    """The collection that was named, or all."""
    return db.list_collections() if collection is None else [collection]


def vector_of(rows: Any, like: str) -> Any:
    """The vector of a row; the id is taken as it stands, else as a number."""
    for one in [like, *([int(like)] if like.isdigit() else [])]:
        record = rows.get(one, with_payload=False, with_vectors=True)
        if record is not None:
            return record.vector
    raise vecstore.NotFoundError(f"--like: no row with id {like!r}", ids=[like])


def read_vector(source: str) -> Any:
    """A vector in a file, in JSON, or on standard input."""
    import numpy as np

    if source.endswith(".npy"):
        try:
            return np.load(source)
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(f"--vector: cannot read {source}: {error}") from None
    return _json(sys.stdin.read() if source == "-" else source, "--vector")


def index(text: str) -> Any:
    """HNSW(m=32) of "hnsw:m=32"."""
    kind, _, rest = text.partition(":")
    if kind not in INDEX_KINDS:
        raise InvalidArgumentError(f"--index: expected hnsw, ivf or flat, got {text!r}")
    options = dict(one.partition("=")[::2] for one in rest.split(",") if one)
    return INDEX_KINDS[kind](**{name: _json(value, f"--index: {name}") for name, value in options.items()})


def quantization(text: str) -> Any:
    """Int8() of "int8"."""
    kinds = {"auto": "auto", "none": None, **{name: kind() for kind, name in KIND_NAMES.items()}}
    if text not in kinds:
        raise InvalidArgumentError(f"--quantization: expected {QUANTIZATIONS}, got {text!r}")
    return kinds[text]


def condition(text: str | None) -> Any:
    """A filter."""
    return None if text is None else _json(text, "--filter")


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{option}: expected JSON ({error}), got {text[:60]!r}") from None
