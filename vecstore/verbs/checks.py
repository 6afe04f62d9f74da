"""Checks of arguments that verbs share, and that are more than a form: filters, progress, names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from vecstore.errors import InvalidArgumentError
from vecstore.filters import compile_filter
from vecstore.types import HNSW, IVF, CollectionInfo, Filter

Progress: TypeAlias = Callable[[int, int], None]


def checked(filter: Filter | None) -> Filter | None:
    """A filter that compiles, or the error that names what is wrong with it."""
    if filter is not None:
        compile_filter(filter)
    return filter


def search_options(info: CollectionInfo, oversampling: Any, ef: Any, nprobe: Any, exact: Any) -> None:
    """InvalidArgumentError for the first option of a search that has no effect on such a collection; None is none."""
    own = info.index
    others = {HNSW: "; use ef", IVF: "; use nprobe"}.get(type(own), "")
    if oversampling is not None and (info.quantization is None or exact):
        reason = "exact=True rescores nothing" if exact else "this collection has no quantization"
        raise InvalidArgumentError(f"oversampling has no effect: {reason}; leave it out")
    for name, value, kind, lacking in (("ef", ef, HNSW, "graph"), ("nprobe", nprobe, IVF, "lists")):
        if value is not None and (exact or not isinstance(own, kind)):
            reason = f"this collection has no {lacking}, its index is {type(own).__name__}(){others}"
            reason = "exact=True scans the rows" if exact else reason
            raise InvalidArgumentError(f"{name} has no effect: {reason}; leave it out")


def reported(progress: Any) -> Progress:
    """Check a `progress` argument; without one nothing is told."""
    if progress is None:
        return lambda _done, _total: None
    if not callable(progress):
        raise InvalidArgumentError(f"progress: expected a function of done and total, got {progress!r}")
    told: Progress = progress
    return told


def collection_name(name: Any) -> str:
    """Check the name of a collection."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise InvalidArgumentError(
            f"name: expected 1 to 128 letters, digits, dots, dashes and underscores, "
            f"the first a letter or digit, got {name!r}"
        )
    return name
