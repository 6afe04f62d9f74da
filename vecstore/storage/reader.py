"""What a transaction lets one read, whether it is a view or a write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import keys
from vecstore.storage.environment import Environment
from vecstore.storage.log import Slots
from vecstore.storage.payloads import open_payload


class Reader:
    """Ids and payloads of one state; what it hands out is copied."""

    def __init__(self, txn: Any, env: Environment) -> None:
        self.txn = txn
        self.env = env

    def slots(self, id_keys: Sequence[bytes]) -> Slots:
        """The slot of each id key, -1 where there is none, `(n,) int64`."""
        get, db = self.txn.get, self.env.db("slot")
        found = [get(key, db=db) for key in id_keys]
        return np.array([-1 if value is None else keys.number(value) for value in found], np.int64)

    def key(self, slot: int) -> bytes:
        """The id key of a live slot."""
        value = self.txn.get(keys.slot_key(slot), db=self.env.db("id"))
        if value is None:
            raise CorruptionError(f"{self.env.path}: slot {slot} has no id", path=str(self.env.path))
        return bytes(value)

    def payload(self, slot: int) -> bytes | None:
        """The msgpack bytes of a row's payload, or None."""
        value = self.txn.get(keys.slot_key(slot), db=self.env.db("payload"))
        return None if value is None else open_payload(value, slot, self.env.path)

    def ids(self, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Pairs of id key and slot in the order of the keys, behind the key `after`."""
        with self.txn.cursor(self.env.db("slot")) as cursor:
            found = cursor.set_range(after) if after else cursor.first()
            if found and bytes(cursor.key()) == after:
                found = cursor.next()
            while found:
                yield bytes(cursor.key()), keys.number(cursor.value())
                found = cursor.next()

    def payloads(self) -> Iterator[tuple[int, bytes | None]]:
        """Pairs of slot and msgpack bytes of every live row, in the order of the slots."""
        with self.txn.cursor(self.env.db("payload")) as cursor:
            found = cursor.first()
            for key in self.txn.cursor(self.env.db("id")).iternext(values=False):
                if found and cursor.key() == key:
                    slot = keys.number(key)
                    yield slot, open_payload(cursor.value(), slot, self.env.path)
                    found = cursor.next()
                else:
                    yield keys.number(key), None
