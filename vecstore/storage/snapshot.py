"""What a reader needs to know of one commit to read rows in place: where each block stands, and which slots live.

A `Table` belongs to one commit and never changes. The next one is made from it by the log, touching only the
blocks that were written since, in the writer and in processes that follow it alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError
from vecstore.storage import blocks, keys, log, tree
from vecstore.storage.environment import Environment
from vecstore.storage.log import State

CHUNK_SLOTS: Final = 8192  # slots in one value of live bits: 1 KiB


@dataclass(frozen=True, slots=True)
class Table:
    """`rows[b]` is the address of the first row of block b, 0 where there is none, as of transaction `txn_id`;
    `live` holds one bit a slot, least significant first; `sound[b]` is set once the block's checksum was seen."""

    state: State
    txn_id: int
    rows: npt.NDArray[np.int64]
    live: npt.NDArray[np.uint8]
    sound: npt.NDArray[np.uint8]

    def alive(self, slot: int) -> bool:
        """Whether a slot holds a row."""
        return bool(self.live[slot >> 3] >> (slot & 7) & 1)

    def alive_all(self, slots: log.Slots) -> npt.NDArray[np.bool_]:
        """Which of some slots hold a row."""
        alive: npt.NDArray[np.bool_] = (self.live[slots >> 3] >> (slots & 7).astype(np.uint8)) & 1 != 0
        return alive

    def live_slots(self, first: int = 0, last: int | None = None) -> log.Slots:
        """The slots from `first` (a multiple of 8) up to `last` that hold rows, ascending."""
        last = self.state.slots if last is None else min(last, self.state.slots)
        bits = np.unpackbits(self.live[first >> 3 : (last + 7) >> 3], bitorder="little", count=max(0, last - first))
        return np.flatnonzero(bits) + first


def load(txn: Any, env: Environment, layout: blocks.Layout) -> Table:
    """The table of a commit, from the whole of it."""
    state = log.last(txn, env.db("log"))
    count, n_bytes = _sizes(state, layout)
    rows = np.zeros(count, np.int64)
    numbers, at = tree.large_values(txn, env, "vector:vector", layout.size)
    known = numbers < count
    rows[numbers[known]] = at[known] + blocks.HEADER_SIZE
    live = np.zeros(n_bytes, np.uint8)
    for chunk in range(-(-state.slots // CHUNK_SLOTS)):
        _copy_chunk(txn, env, live, chunk)
    return Table(state, txn.id(), rows, live, np.zeros(count, np.uint8))


def advance(table: Table, txn: Any, env: Environment, layout: blocks.Layout) -> Table:
    """The table of a later commit: by the log where it reaches back far enough, else from the whole."""
    state = log.last(txn, env.db("log"))
    entries = log.since(txn, env.db("log"), table.state.lsn, state.lsn)
    if entries is None:
        return load(txn, env, layout)
    env.fetching.grown(layout.bytes_of(state.slots))
    count, n_bytes = _sizes(state, layout)
    rows, live, sound = (_grown(old, size) for old, size in
                         ((table.rows, count), (table.live, n_bytes), (table.sound, count)))  # fmt: skip
    for number in _parts([entry.added for entry in entries], layout.rows):
        value = txn.get(keys.block_key(number), db=env.db("vector:vector"))
        if value is None:
            raise CorruptionError(f"{env.path}: block {number} of vectors is missing", path=str(env.path))
        rows[number] = blocks.address(value) + blocks.HEADER_SIZE
        sound[number] = 0
    for chunk in _parts([slots for entry in entries for slots in (entry.added, entry.removed)], CHUNK_SLOTS):
        _copy_chunk(txn, env, live, chunk)
    return Table(state, txn.id(), rows, live, sound)


def _sizes(state: State, layout: blocks.Layout) -> tuple[int, int]:
    return -(-state.slots // layout.rows), -(-state.slots // 8)


def _grown(old: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    new = np.zeros(size, old.dtype)
    new[: len(old)] = old[:size]
    return new


def _parts(slot_lists: list[log.Slots], size: int) -> list[int]:
    """The numbers of the parts of `size` slots that the slots fall into."""
    if not slot_lists:
        return []
    found: list[int] = np.unique(np.concatenate(slot_lists) // size).tolist()
    return found


def _copy_chunk(txn: Any, env: Environment, live: npt.NDArray[np.uint8], chunk: int) -> None:
    value = txn.get(keys.chunk_key(chunk), db=env.db("live"))
    if value is None or len(value) != CHUNK_SLOTS // 8:
        raise CorruptionError(f"{env.path}: live bits {chunk} are missing or damaged", path=str(env.path))
    part = live[chunk * (CHUNK_SLOTS // 8) :][: CHUNK_SLOTS // 8]
    part[:] = np.frombuffer(value, np.uint8)[: len(part)]
