"""Checks of arguments that verbs share, and that are more than a form: filters, progress, names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from vecstore.errors import InvalidArgumentError
from vecstore.filters import compile_filter
from vecstore.types import Filter

Progress: TypeAlias = Callable[[int, int], None]


def checked(filter: Filter | None) -> Filter | None:
    """A filter that compiles, or the error that names what is wrong with it."""
    if filter is not None:
        compile_filter(filter)
    return filter


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
