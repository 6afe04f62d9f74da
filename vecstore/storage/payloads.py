"""How a payload stands in data.mdb: a 4-byte checksum, then msgpack."""

from __future__ import annotations

from pathlib import Path

import xxhash

from vecstore.errors import CorruptionError


def seal_payload(packed: bytes, slot: int) -> bytes:
    """The value to store: XXH32 of the bytes, seeded with the slot, so that a misplaced one is noticed too."""
    return xxhash.xxh32_digest(packed, slot) + packed


def open_payload(value: memoryview, slot: int, path: Path) -> bytes:
    """The msgpack bytes that `seal_payload` sealed."""
    packed = bytes(value[4:])
    if xxhash.xxh32_digest(packed, slot) != value[:4]:
        raise CorruptionError(f"{path}: the payload of slot {slot} is damaged", path=str(path))
    return packed
