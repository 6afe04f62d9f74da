"""The keys of data.mdb: one constructor per kind, its decoder beside it. All integers are big-endian,
so that LMDB's byte order is the order of the values."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from vecstore.errors import CorruptionError
from vecstore.types import Id

INT_TAG: Final = 1
STR_TAG: Final = 2

_INT_ID = struct.Struct(">BQ")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")

block_key = chunk_key = slot_key = _U32.pack
"""The number of a block, of a chunk of live bits, or a slot: 4 bytes."""

lsn_key = _U64.pack
"""A log sequence number: 8 bytes."""


def id_keys(ids: Sequence[Id]) -> list[bytes]:
    """A key for each id: a tag byte, then 8 bytes of an int or the UTF-8 of a str. All ints sort before all strs."""
    if set(map(type, ids)) == {str}:
        return [b"\x02" + key for key in map(str.encode, cast(Sequence[str], ids))]
    return [_INT_ID.pack(INT_TAG, one) if isinstance(one, int) else b"\x02" + one.encode() for one in ids]


def key_id(key: bytes) -> Id:
    """The id that `id_keys` encoded."""
    if key[0] == INT_TAG:
        number: int = _INT_ID.unpack(key)[1]
        return number
    if key[0] == STR_TAG:
        return key[1:].decode()
    raise ValueError(f"unknown id tag {key[0]}")


def id_of(key: bytes | memoryview, path: Path) -> Id:
    """`key_id` of a key that stands in a file; CorruptionError where it is none."""
    try:
        return key_id(bytes(key))
    except (ValueError, IndexError, struct.error):
        raise CorruptionError(f"{path}: the key of an id is damaged", path=str(path)) from None


def number(key: bytes | memoryview) -> int:
    """The number that `block_key`, `chunk_key`, `slot_key` or `lsn_key` encoded."""
    return int.from_bytes(key, "big")
