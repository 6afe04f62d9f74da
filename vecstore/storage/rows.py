"""What stands in data.mdb beside a vector: the row's id and its payload, in one value per slot.

    0          4           6                    6 + n
    | checksum | n: uint16 | id key of n bytes  | msgpack of the payload, nothing without one |

The checksum is XXH32 of all that follows, seeded with the slot, so that a misplaced value is noticed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import xxhash

from vecstore.errors import CorruptionError

_digest = xxhash.xxh32_digest
# The lengths that occur, as bytes: a table is twice as fast as packing.
_LENGTHS: Final = [n.to_bytes(2, "little") for n in range(512)]


def seal_rows(slots: Sequence[int], id_keys: Sequence[bytes], payloads: Sequence[bytes | None]) -> list[bytes]:
    """The value to store for each slot."""
    bodies = [_LENGTHS[len(key)] + key + (payload or b"") for key, payload in zip(id_keys, payloads, strict=True)]
    return [digest + body for digest, body in zip(map(xxhash.xxh32_digest, bodies, slots), bodies, strict=True)]


def open_row(value: memoryview, slot: int, path: Path) -> tuple[bytes, bytes | None]:
    """The id key, and the msgpack bytes or None, that `seal_rows` sealed."""
    whole = bytes(value)
    body = whole[4:]
    if len(body) < 2 or whole[:4] != _digest(body, slot) or (end := 2 + body[0] + (body[1] << 8)) > len(body):
        raise CorruptionError(f"{path}: the id and payload of slot {slot} are damaged", path=str(path))
    return body[2:end], body[end:] or None
