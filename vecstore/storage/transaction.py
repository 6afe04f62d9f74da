"""One write: rows added and removed, payloads changed, all in a single LMDB transaction.

A slot's vector never changes while the slot lives: a new vector takes a new slot, and the old one is removed. So
whatever reads a slot reads either all of the row it knew, or, once a later commit has reused it, a newer one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.errors import CorruptionError, DatabaseFullError
from vecstore.storage import blocks, keys, log
from vecstore.storage.blocks import Block, Layout
from vecstore.storage.environment import Environment
from vecstore.storage.failpoints import reach
from vecstore.storage.log import NO_SLOTS, Slots
from vecstore.storage.reader import Reader
from vecstore.storage.rows import seal_rows
from vecstore.storage.snapshot import CHUNK_SLOTS, Table

MAX_SLOTS: Final = 2**31 - 1

# A block is filled up again once this share of it is free: then a row written costs at most four rows rewritten,
# and dead rows take at most a third of what live ones do.
REUSE_SHARE: Final = 4

# Blocks in memory before they are stored: 8 MiB at most, beside what LMDB keeps of a transaction.
BLOCKS_AT_ONCE: Final = 64


class Allocator:
    """Which slots the next rows take. It follows the writes of a transaction; if that is not committed, it is void."""

    def __init__(self, table: Table, layout: Layout) -> None:
        self.layout = layout
        self.slots = table.state.slots
        n = -(-self.slots // layout.rows)
        self.live = np.zeros((n, layout.rows), bool)
        self.live.reshape(-1)[table.live_slots()] = True
        self.sparse: set[int] = set()
        self._sort_in(range(n))

    def take(self, n: int) -> Slots:
        """`n` free slots, ascending: those of blocks with room first, then new ones at the end."""
        taken: list[Slots] = []
        for block in sorted(self.sparse):
            if n <= 0:
                break
            free = (~self.live[block, : self._filled(block)]).nonzero()[0][:n] + block * self.layout.rows
            taken.append(free)
            n -= len(free)
        if n > 0:
            if self.slots + n > MAX_SLOTS:
                raise DatabaseFullError(f"a collection holds at most {MAX_SLOTS} rows", limit=MAX_SLOTS)
            taken.append(np.arange(self.slots, self.slots + n))
        return taken[0] if len(taken) == 1 else np.concatenate([NO_SLOTS, *taken])

    def follow(self, write: Transaction) -> None:
        """Take in what a finished write has done."""
        added, removed = write.entry.added, write.entry.removed
        self.slots = write.state.slots
        n = -(-self.slots // self.layout.rows)
        if n > len(self.live):  # grown by half at a time, so that appending stays cheap
            grown = np.zeros((max(n, len(self.live) * 3 // 2), self.layout.rows), bool)
            grown[: len(self.live)] = self.live
            self.live = grown
        flat = self.live.reshape(-1)
        flat[added] = True
        flat[removed] = False
        shift = self.layout.shift
        self._sort_in({*(added >> shift).tolist(), *(removed >> shift).tolist()})

    def _filled(self, block: int) -> int:
        return min(self.layout.rows, self.slots - block * self.layout.rows)

    def _sort_in(self, numbers: Iterable[int]) -> None:
        for block in numbers:
            free = self._filled(block) - int(np.count_nonzero(self.live[block]))
            if free * REUSE_SHARE >= self.layout.rows:
                self.sparse.add(block)
            else:
                self.sparse.discard(block)


class Turn:
    """One LMDB transaction, in which several writes may run, one after another.

    Blocks of vectors and chunks of live bits that several of them change are stored once, by `flush`, which so comes
    last. What a write looks up (rows and ids) stands in the transaction at once.
    """

    def __init__(
        self, txn: Any, env: Environment, layout: Layout, allocator: Allocator, log_kept_from: int | None = None
    ) -> None:
        self.txn = txn
        self.env = env
        self.layout = layout
        self.allocator = allocator
        self.log_kept_from = log_kept_from
        self.state = log.last(txn, env.db("log"))
        self._blocks: dict[int, Block] = {}
        self._lsns: dict[int, int] = {}  # of the last write to each
        self._chunks: dict[int, bytearray] = {}

    def block(self, number: int, lsn: int, whole: bool) -> Block:
        """A block that the write `lsn` is to change, with what it held before unless the `whole` of it is new."""
        block = self._blocks.get(number)
        if block is None:
            if len(self._blocks) == BLOCKS_AT_ONCE:
                self.flush()
            old = None if whole else self.txn.get(keys.block_key(number), db=self.env.db("vector:vector"))
            if old is not None:
                self._verify(old, number)
            block = self._blocks[number] = Block(self.layout, number, old)
        self._lsns[number] = lsn
        return block

    def chunk(self, number: int) -> bytearray:
        """A chunk of live bits to change."""
        chunk = self._chunks.get(number)
        if chunk is None:
            old = self.txn.get(keys.chunk_key(number), db=self.env.db("live"))
            chunk = self._chunks[number] = bytearray(CHUNK_SLOTS // 8 if old is None else old)
        return chunk

    def flush(self) -> None:
        """Store what has gathered."""
        db = self.env.db("vector:vector")
        for number in list(self._blocks):
            block = self._blocks.pop(number)  # LMDB has a copy then
            self.txn.put(keys.block_key(number), block.seal(self._lsns[number]), db=db)
            reach("write.block")
        db = self.env.db("live")
        for number, chunk in self._chunks.items():
            self.txn.put(keys.chunk_key(number), chunk, db=db)
        self._chunks.clear()

    def _verify(self, value: memoryview, number: int) -> None:
        try:
            blocks.verify(value, self.layout, number)
        except CorruptionError as error:
            raise CorruptionError(f"{self.env.path}: {error}", path=str(self.env.path)) from None


class Transaction(Reader):
    """The verbs of storage inside one write; ids come as keys, and rows are removed before added.

    Once it has `touched` anything, an error leaves it half done, and the whole transaction is of no use.
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn.txn, turn.env)
        self.turn = turn
        self.layout = turn.layout
        self.state = turn.state
        self.entry = log.Entry(NO_SLOTS, NO_SLOTS, NO_SLOTS)
        self.touched = False

    @property
    def lsn(self) -> int:
        """The log sequence number of this write, or of the last one if this has changed nothing yet."""
        parts = (self.entry.added, self.entry.removed, self.entry.changed)
        return self.state.lsn + any(len(part) for part in parts)

    def add(
        self,
        id_keys: Sequence[bytes],
        vectors: npt.NDArray[np.float32],
        norms: npt.NDArray[np.float32],
        payloads: Sequence[bytes | None],
    ) -> None:
        """Store new rows; an id that was there before moves to its new slot. Once per transaction."""
        assert not len(self.entry.added)
        slots = self.turn.allocator.take(len(id_keys))
        self.touched = True
        self._write_vectors(slots, vectors, norms)
        numbers = slots.tolist()
        at_end = not numbers or numbers[0] >= self.state.slots
        slot_keys = list(map(keys.slot_key, numbers))
        values = seal_rows(numbers, id_keys, payloads)
        self._put_many("row", list(zip(slot_keys, values, strict=True)), at_end)
        # In the order of the keys, so that neighbours in the tree are written together.
        self._put_many("slot", sorted(zip(id_keys, slot_keys, strict=True)), False)
        self._mark(slots, True)
        slots_now = max(self.state.slots, int(slots[-1]) + 1 if len(slots) else 0)
        self.state = dataclasses.replace(self.state, slots=slots_now, count=self.state.count + len(slots))
        self.entry = log.Entry(slots, self.entry.removed, self.entry.changed)

    def remove(self, slots: Slots, id_keys: Sequence[bytes], *, replaced: bool = False) -> None:
        """Take rows away; `replaced` ones keep their id, which `add` then points elsewhere. Once per transaction."""
        assert not len(self.entry.removed)
        if not len(slots):
            return
        self.touched = True
        for slot, key in zip(slots.tolist(), id_keys, strict=True):
            self.txn.delete(keys.slot_key(slot), db=self.env.db("row"))
            if not replaced:
                self.txn.delete(key, db=self.env.db("slot"))
        slots = np.sort(slots)
        self._mark(slots, False)
        self.state = dataclasses.replace(self.state, count=self.state.count - len(slots))
        self.entry = log.Entry(self.entry.added, slots, self.entry.changed)

    def set_payloads(self, slots: Slots, id_keys: Sequence[bytes], payloads: Sequence[bytes | None]) -> None:
        """Give rows another payload. Once per transaction."""
        assert not len(self.entry.changed)
        self.touched = True
        numbers = slots.tolist()
        values = seal_rows(numbers, id_keys, payloads)
        self._put_many("row", list(zip(map(keys.slot_key, numbers), values, strict=True)), False)
        self.entry = log.Entry(self.entry.added, self.entry.removed, np.sort(slots))

    def finish(self) -> None:
        """Write the log record and the counters, if anything was changed."""
        if self.lsn == self.state.lsn:
            return
        self.state = self.state.next()
        log.append(self.txn, self.env.db("log"), self.state, self.entry, self.turn.log_kept_from)
        self.turn.state = self.state

    def _put_many(self, db: str, items: list[tuple[bytes, bytes]], append: bool) -> None:
        with self.txn.cursor(self.env.db(db)) as cursor:
            cursor.putmulti(items, append=append)

    def _write_vectors(self, slots: Slots, vectors: npt.NDArray[np.float32], norms: npt.NDArray[np.float32]) -> None:
        rows = self.layout.rows
        if not len(slots):
            return
        numbers = slots >> self.layout.shift
        inner = () if numbers[0] == numbers[-1] else (np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()
        for first, last in itertools.pairwise([0, *inner, len(slots)]):
            block = self.turn.block(int(numbers[first]), self.state.lsn + 1, last - first == rows)
            within = slots[first:last] & (rows - 1)
            block.vectors[within] = vectors[first:last]
            block.norms[within] = norms[first:last]

    def _mark(self, slots: Slots, alive: bool) -> None:
        """Set or clear the live bits of some ascending slots."""
        if not len(slots):
            return
        first, last = int(slots[0]) // CHUNK_SLOTS, int(slots[-1]) // CHUNK_SLOTS
        for chunk in range(first, last + 1):
            here = slots if first == last else slots[slots // CHUNK_SLOTS == chunk]
            if len(here):
                _set_bits(self.turn.chunk(chunk), here - chunk * CHUNK_SLOTS, alive)


def _set_bits(bits: bytearray, positions: Slots, value: bool) -> None:
    if len(positions) < 64:  # below, NumPy's overhead is more than the work
        for position in positions.tolist():
            mask = 1 << (position & 7)
            bits[position >> 3] = bits[position >> 3] | mask if value else bits[position >> 3] & ~mask
        return
    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    unpacked[positions] = value
    bits[:] = np.packbits(unpacked, bitorder="little").tobytes()
