"""Payloads as msgpack and back: what may be stored is checked as it is packed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgpack
import numpy as np

from vecstore.errors import InvalidArgumentError, shown
from vecstore.types import Payload

MAX_DEPTH: Final = 64

_STR: Final = {str}
_LEAVES: Final = {type(None), bool, int, float, str, bytes}


def pack_payloads(payloads: Any, n: int) -> list[bytes | None]:
    """n payloads, None for a row without; InvalidArgumentError names the row that cannot be stored."""
    if isinstance(payloads, dict | str | bytes) or not isinstance(payloads, Iterable):
        raise InvalidArgumentError(f"payloads: expected a list of {n} dicts, got {shown(payloads)}")
    listed = list(payloads)
    if len(listed) != n:
        raise InvalidArgumentError(f"payloads: expected one for each of {n} ids, got {len(listed)}")
    pack = _packer()
    if set(map(type, listed)) == {dict} and not (
        set(map(type, itertools.chain.from_iterable(listed))) - _STR
        or set(map(type, itertools.chain.from_iterable(map(dict.values, listed)))) - _LEAVES
    ):
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # whose row is told below
            return list(map(pack, listed))
        pack = _packer()
    return [None if payload is None else pack_payload(payload, row, pack) for row, payload in enumerate(listed)]


def _packer() -> Callable[[Any], bytes]:
    # One for a call, not one for all: a Packer must not be entered by two threads.
    return msgpack.Packer(default=_plain).pack  # type: ignore[no-any-return]


def pack_payload(payload: Any, row: int = 0, pack: Callable[[Any], bytes] | None = None) -> bytes:
    """A payload as a msgpack map; NumPy scalars become Python's, tuples become lists."""
    if not isinstance(payload, dict):
        raise InvalidArgumentError(f"payloads: row {row}: expected a dict or None, got {shown(payload)}")
    try:
        if set(map(type, payload)) - _STR or set(map(type, payload.values())) - _LEAVES:
            _refuse_odd_parts(payload, 0)
        return (pack or _packer())(payload)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"payloads: row {row}: {error}") from None


def unpack_payload(packed: bytes | memoryview | None) -> Payload | None:
    """The payload that `pack_payload` packed."""
    return None if packed is None else msgpack.unpackb(packed)


def _refuse_odd_parts(value: Any, depth: int) -> None:
    """Keys are str, nesting is shallow enough for every reader, and msgpack's own extensions are no payload."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, msgpack.ExtType | msgpack.Timestamp):
        _plain(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the keys of a payload are str, got {shown(key)}")
            _refuse_odd_parts(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_odd_parts(inner, depth + 1)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(
        f"cannot store {shown(value)}; a payload holds None, bool, int, float, str, bytes, and lists and dicts "
        "of them (write a date as an ISO 8601 str or a number)"
    )
