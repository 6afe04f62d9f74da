"""What a transaction lets one read, whether it is a view or a write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import keys
from vecstore.storage.environment import Environment
from vecstore.storage.log import Slots
from vecstore.storage.pace import paced
from vecstore.storage.rows import open_row
from vecstore.types import Id


class Reader:
    """Ids and payloads of one state; what it hands out is copied."""

    def __init__(self, txn: Any, env: Environment) -> None:
        self.txn = txn
        self.env = env

    def slots(self, id_keys: Sequence[bytes]) -> Slots:
        """The slot of each id key, -1 where there is none, `(n,) int64`."""
        with self.txn.cursor(self.env.db("slot")) as cursor:
            found = {bytes(key): keys.number(value) for key, value in cursor.getmulti(id_keys)}
        return np.array([found.get(key, -1) for key in id_keys], np.int64)

    def row(self, slot: int) -> tuple[bytes, bytes | None]:
        """The id key of a live slot, and the msgpack bytes of its payload or None."""
        value = self.txn.get(keys.slot_key(slot), db=self.env.db("row"))
        if value is None:
            raise CorruptionError(f"{self.env.path}: slot {slot} has no row", path=str(self.env.path))
        return open_row(value, slot, self.env.path)

    def rows_of(self, slots: Sequence[int]) -> tuple[list[Id], list[bytes | None]]:
        """The ids of some live slots, and the msgpack bytes of their payloads or None: `row` for many."""
        with self.txn.cursor(self.env.db("row")) as cursor:
            found = cursor.getmulti(list(map(keys.slot_key, slots)))
        if len(found) != len(slots):
            for slot in slots:
                self.row(slot)  # tells which
        opened = [open_row(value, slot, self.env.path) for (_, value), slot in zip(found, slots, strict=True)]
        return [keys.key_id(key) for key, _ in opened], [payload for _, payload in opened]

    def rows(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Slot, id key and msgpack bytes (or None) of every live row, in the order of the slots."""
        with self.txn.cursor(self.env.db("row")) as cursor:
            for key, value in paced(cursor):
                slot = keys.number(key)
                yield slot, *open_row(value, slot, self.env.path)

    def ids(self, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Pairs of id key and slot in the order of the keys, behind the key `after`."""
        with self.txn.cursor(self.env.db("slot")) as cursor:
            found = cursor.set_range(after) if after else cursor.first()
            if found and bytes(cursor.key()) == after:
                found = cursor.next()
            while found:
                yield bytes(cursor.key()), keys.number(cursor.value())
                found = cursor.next()
