"""An inverted file: rows in lists by the nearest of some centroids, which grow, split and merge while searches run.

New rows are a tail that searches scan, until `put` has them in lists. Lists that grow too long are split,
rows of lists nearby that are nearer to the new centroids move there, and short lists are dissolved (SPFresh / LIRE: Xu
et al., SOSP 2023), so that lists follow the data and nothing is ever trained anew.

Searches take the current `Lists` and no lock. Whatever moves rows writes new blocks, and puts them in the place of the
old ones at once with new `Lists`; old blocks are used again when nobody holds `Lists` that know them. `_changing` is
held for changes of rows, `_filing` for changes of lists; whoever takes both takes `_filing` first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.index import kept_lists
from vecstore.index.arrays import Coder, Codes, Floats, Ints, aligned
from vecstore.index.blocks import Allocate, Blocks, ListRoom, Lists, Longs
from vecstore.index.chains import Chains, blocks_for
from vecstore.index.coding import centroids_of, encoded
from vecstore.index.flat import METRICS, Rows, gathered, part_rows
from vecstore.index.parallel import over_ranges
from vecstore.kernels import lists as kernels
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.types import IVF, Metric

# Bytes of codes, and rows, that are made before they are put into blocks.
AT_ONCE_BYTES, AT_ONCE = 16 << 20, 1 << 17
# Blocks whose slots are numbered anew at once.
BLOCKS_AT_ONCE: Final = 1 << 12
NOWHERE: Final = -1
IN_TAIL: Final = -2
"""The place of row i of the tail is IN_TAIL - i; of a row in a list, 32 * block + row."""

ENTRIES: Final = {
    "list-binary": kernels.search_listed,
    "int8": kernels.search_int8,
    "int4": kernels.search_int4,
    "float32": kernels.search_float32,
}


class InvertedFile:
    """Rows of a collection in lists; see the module."""

    def __init__(self, config: IVF, coder: Coder, metric: Metric, fitted_on: int, allocate: Allocate = aligned) -> None:
        self.config, self.metric, self.fitted_on = config, metric, fitted_on
        self._search = ENTRIES[coder.kind].compiled()
        self._rooms: deque[ListRoom] = deque(maxlen=64)
        self._changing = threading.RLock()
        self._filing = threading.Lock()
        self._places = np.full(0, NOWHERE, np.int32)
        """By slot."""
        self.dead: Ints = np.zeros(0, np.int32)
        """Places of each list whose rows are gone."""
        self.limits: Ints = np.zeros(0, np.int32)
        """How long each list may be at least: more than others, where a split did not part its rows."""
        self.numbering = 0
        """Differs whenever slots were numbered anew."""
        self._chains = Chains()
        nothing = np.zeros(0, np.int32)
        self.arrays = Lists.of(
            coder=coder, pool=Blocks.empty(coder, 0, allocate), chain=nothing, heads=nothing, lasts=nothing,
            sizes=nothing, tail=Blocks.empty(coder, 0, allocate), tail_size=0,
            **centroids_of(coder, np.zeros((0, coder.dim), np.float32)),
        )  # fmt: skip

    # -- rows that come and go -------------------------------------------------------------------------------

    def add(self, rows: Rows, slots: Longs, threads: int) -> None:
        """Rows that have no place, at the end of the tail: searches that begin from now on find them."""
        if not len(slots):
            return
        with self._changing:
            arrays, n = self.arrays, len(slots)
            coder, first = arrays.coder, arrays.tail_size
            needed = -(-(first + n) // BLOCK_ROWS)
            tail = arrays.tail
            if needed > len(tail):
                tail = tail.grown(max(needed, len(tail) * 5 // 4))
            chunk = part_rows(rows.dim)
            room = min(n, AT_ONCE, max(chunk, AT_ONCE_BYTES // (coder.code_bytes + 4 * coder.terms_count)))
            codes, terms = np.empty((room, coder.code_bytes), np.uint8), np.empty((room, coder.terms_count), np.float32)
            places = first + np.arange(n, dtype=np.int64)
            for base in range(0, n, room):
                part = slots[base : base + room]

                def work(start: int, stop: int, part: Longs = part) -> None:
                    for begin in range(start, stop, chunk):
                        some = slice(begin, min(begin + chunk, stop))
                        vectors, norms = gathered(rows, part[some])
                        codes[some], terms[some] = encoded(coder, vectors, norms, None, arrays.offsets)

                over_ranges(len(part), chunk, threads if len(part) > chunk else 1, work)
                tail.put(coder, places[base : base + room], codes[: len(part)], terms[: len(part)])
            tail.slots.reshape(-1)[places] = slots
            self._know(int(slots.max()) + 1)
            self._places[slots] = IN_TAIL - places
            self._become(arrays.changed(tail=tail, tail_size=first + n))

    def remove(self, slots: Longs) -> None:
        """The rows of some slots are gone from now on; slots without a row are passed over."""
        with self._changing:
            slots = slots[slots < len(self._places)]
            places = self._places[slots].astype(np.int64)
            self._places[slots] = NOWHERE
            arrays = self.arrays
            arrays.tail.slots.reshape(-1)[IN_TAIL - places[places <= IN_TAIL]] = -1
            filed = places[places >= 0]
            arrays.pool.slots.reshape(-1)[filed] = -1
            np.add.at(self.dead, self._chains.owners[filed // BLOCK_ROWS], 1)

    def _know(self, slots: int) -> None:
        if slots > len(self._places):
            grown = np.full(max(slots, len(self._places) * 5 // 4), NOWHERE, np.int32)
            grown[: len(self._places)] = self._places
            self._places = grown

    def recode(self, coder: Coder, rows: Rows, fitted_on: int) -> None:
        """Code all rows anew, in the places that they have, by a coder of the same kind, not relative to centroids."""
        with self._filing, self._changing:
            arrays = self.arrays
            pool, tail = (
                dataclasses.replace(Blocks.empty(coder, len(old), old.allocate), slots=old.slots)
                for old in (arrays.pool, arrays.tail)
            )
            slots, part = np.flatnonzero(self._places != NOWHERE), part_rows(rows.dim)
            for first in range(0, len(slots), part):
                some = slots[first : first + part]
                codes, terms = encoded(coder, *gathered(rows, some), None, arrays.offsets)
                places = self._places[some].astype(np.int64)
                filed = places >= 0
                pool.put(coder, places[filed], codes[filed], terms[filed])
                tail.put(coder, IN_TAIL - places[~filed], codes[~filed], terms[~filed])
            self.fitted_on = fitted_on
            self._rooms.clear()
            kept = centroids_of(coder, arrays.centroids)
            self._become(arrays.changed(coder=coder, pool=pool, tail=tail, **kept))

    def changing(self) -> contextlib.AbstractContextManager[Any]:
        """Rows come and go only by this thread."""
        return self._changing

    def renumber_slots(self, numbers: Longs) -> None:
        """The row of slot s has the slot `numbers[s]` from now on; -1 for slots without a row."""
        with self._changing:
            arrays = self.arrays
            made = []
            for old in (arrays.pool, arrays.tail):
                slots = old.allocate(old.slots.shape, np.int32, -1)
                for first in range(0, len(old), BLOCKS_AT_ONCE):
                    some = old.slots[first : first + BLOCKS_AT_ONCE]
                    # Blocks that are in no list any more may name slots that are gone.
                    known = (some >= 0) & (some < len(numbers))
                    slots[first : first + BLOCKS_AT_ONCE][known] = numbers[some[known]]
                made.append(Blocks(old.codes, old.terms, slots, old.allocate))
            self._become(arrays.changed(pool=made[0], tail=made[1]))
            self._find_places()
            self.numbering += 1

    def _find_places(self) -> None:
        arrays = self.arrays
        slots, waiting = arrays.pool.slots.reshape(-1), arrays.tail.slots.reshape(-1)[: arrays.tail_size]
        self._places = np.full(1 + max(slots.max(initial=-1), waiting.max(initial=-1)), NOWHERE, np.int32)
        for places in self._filed():
            own = slots[places]
            self._places[own[own >= 0]] = places[own >= 0]
        there = np.flatnonzero(waiting >= 0)
        self._places[waiting[there]] = IN_TAIL - there

    def _filed(self) -> Iterator[Longs]:
        """The places of each list."""
        return (self.arrays.places(one) for one in range(len(self.arrays.heads)))

    def slots_in_order(self) -> Longs:
        """The slots of all rows, those of one list next to each other."""
        with self._changing:
            arrays = self.arrays
            slots, waiting = arrays.pool.slots.reshape(-1), arrays.tail.slots.reshape(-1)[: arrays.tail_size]
            parts = [*(slots[places] for places in self._filed()), waiting]
            return np.concatenate([part[part >= 0] for part in parts]).astype(np.int64)

    def owners(self, places: Longs) -> Ints:
        """The lists of some places of theirs."""
        return self._chains.owners[places // BLOCK_ROWS]

    # -- lists -----------------------------------------------------------------------------------------------

    @property
    def trained(self) -> bool:
        """Whether there are lists."""
        return len(self.arrays.heads) > 0

    def begin_lists(self, centroids: Floats) -> None:
        """Empty lists of some centroids `(lists, dim)`, where there are none yet."""
        with self._changing:
            none = np.full(len(centroids), -1, np.int32)
            self.dead, self.limits = (np.zeros(len(centroids), np.int32) for _ in range(2))
            arrays = self.arrays
            self._become(
                arrays.changed(
                    heads=none, lasts=none.copy(), sizes=np.zeros(len(centroids), np.int32),
                    **centroids_of(arrays.coder, centroids),
                )
            )  # fmt: skip

    @property
    def gone(self) -> int:
        """Places of lists whose rows have gone."""
        return int(self.dead.sum())

    def places_of(self, slots: Longs) -> Longs:
        """The places of some slots, NOWHERE for those without a row."""
        known = slots < len(self._places)
        return np.where(known, self._places[np.where(known, slots, 0)], NOWHERE).astype(np.int64)

    @property
    def known(self) -> int:
        """Slots that have a place."""
        return int(np.count_nonzero(self._places != NOWHERE))

    def filing(self) -> contextlib.AbstractContextManager[Any]:
        """Lists change only by this thread."""
        return self._filing

    def members(self, one: int) -> tuple[Longs, Longs]:
        """Slots of the rows of a list, and their places."""
        with self._changing:
            places = self.arrays.places(one)
            slots = self.arrays.pool.slots.reshape(-1)[places].astype(np.int64)
            return slots[slots >= 0], places[slots >= 0]

    def waiting(self, most: int) -> tuple[Longs, Longs, int]:
        """Slots and places of the first rows of the tail, and how much of it they are."""
        with self._changing:
            arrays = self.arrays
            n = arrays.tail_size if arrays.tail_size <= most else most // BLOCK_ROWS * BLOCK_ROWS
            slots = arrays.tail.slots.reshape(-1)[:n].astype(np.int64)
            there = np.flatnonzero(slots >= 0)
            return slots[there], IN_TAIL - there, n

    def put(
        self,
        slots: Longs,
        places: Longs,
        numbering: int,
        lists: Ints,
        codes: Codes,
        terms: Floats,
        *,
        of_tail: int = 0,
        emptied: list[int] | None = None,
        centroids: dict[str, Any] | None = None,
        dropped: int | None = None,
    ) -> bool:
        """Rows that had `places` into lists, as codes relative to them, in one step; whether it was done.

        Rows that have gone meanwhile are left out, and nothing is done where slots were numbered anew since
        `numbering`. `of_tail` places of the tail are gone then, and the blocks of the lists `emptied`, whose rows must
        be among those given. `centroids`, by `centroids_of`, are those of all lists from now on; the last list takes
        the number of one that is `dropped`. `lists` are new numbers.
        """
        with self._changing:
            self._chains.reclaim(self.arrays.pool.slots)
            if numbering != self.numbering:
                return False
            alive = np.flatnonzero(self._places[slots] == places)
            order = alive[np.argsort(lists[alive], kind="stable")]
            slots, lists, codes, terms = slots[order], lists[order].astype(np.int64), codes[order], terms[order]
            arrays = self.arrays
            heads, lasts, sizes = arrays.heads.copy(), arrays.lasts.copy(), arrays.sizes.copy()
            dead, limits, retired = self.dead.copy(), self.limits.copy(), []
            for one in emptied or []:
                retired += (arrays.places(one)[::BLOCK_ROWS] // BLOCK_ROWS).tolist()
                heads[one] = lasts[one] = -1
                sizes[one] = dead[one] = 0
            new = 0 if centroids is None else len(centroids["centroids"])
            if dropped is not None:
                for of in (heads, lasts, sizes, dead, limits):
                    of[dropped] = of[-1]
                self._chains.rename(len(heads) - 1, dropped)
            if centroids is not None:
                heads, lasts, sizes, dead, limits = (
                    np.concatenate([of[:new], np.full(max(0, new - len(of)), fill, np.int32)])
                    for of, fill in ((heads, -1), (lasts, -1), (sizes, 0), (dead, 0), (limits, 0))
                )
            wanted = np.bincount(lists, minlength=len(heads))
            arrays = self._with_blocks(int(blocks_for(sizes, wanted).sum()))
            pool = arrays.pool
            into = self._chains.append(arrays.chain, heads, lasts, sizes, wanted)
            pool.put(arrays.coder, into, codes, terms)
            pool.slots.reshape(-1)[into] = slots
            changes: dict[str, Any] = {"heads": heads, "lasts": lasts, "sizes": sizes}
            if of_tail:
                changes |= self._rest_of_tail(arrays, of_tail)
            if centroids is not None:
                changes |= centroids
            self._places[slots] = into
            self.dead, self.limits = dead, limits
            self._become(arrays.changed(**changes), retired)
            return True

    def _rest_of_tail(self, arrays: Lists, gone: int) -> dict[str, Any]:
        """The tail without its first places."""
        left, last = arrays.tail_size - gone, -(-arrays.tail_size // BLOCK_ROWS)
        if gone % BLOCK_ROWS and left:  # rows have come since it was the whole tail
            tail = Blocks.empty(arrays.coder, -(-left // BLOCK_ROWS) + 8)
            rest = np.arange(gone, arrays.tail_size)
            tail.put(arrays.coder, rest - gone, *arrays.tail.taken(arrays.coder, rest))
            tail.slots.reshape(-1)[:left] = arrays.tail.slots.reshape(-1)[rest]
        else:
            tail = arrays.tail.behind(arrays.coder, min(-(-gone // BLOCK_ROWS), last), last)
        moved = tail.slots.reshape(-1)[:left]
        there = np.flatnonzero(moved >= 0)
        self._places[moved[there]] = IN_TAIL - there
        return {"tail": tail, "tail_size": left}

    def _with_blocks(self, more: int) -> Lists:
        """The lists with so many free blocks at least."""
        arrays, size = self.arrays, self._chains.size_for(more)
        if size > len(arrays.pool):
            pool, owners = arrays.pool.grown(size), self._chains.owners_of(size)
            none = np.full(size - len(arrays.chain), -1, np.int32)
            self._become(arrays.changed(pool=pool, chain=np.concatenate([arrays.chain, none])))
            self._chains.grow(owners)
        return self.arrays

    def _become(self, arrays: Lists, retired: list[int] | None = None) -> None:
        self._chains.replaced(self.arrays, retired or [])
        self.arrays = arrays
        self._chains.reclaim(arrays.pool.slots)

    # -- searching -------------------------------------------------------------------------------------------

    def search(
        self,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        queries: Floats,
        k: int,
        probes: int,
        depth: int,
        least: int,
        sure: float,
        threads: int,
    ) -> tuple[Ints, Floats, Longs]:
        """Slots and exact scores `(n, k)` of the best rows, and their number and that of the places scanned, `(n, 2)`.

        Only slots whose bit in `allowed` is set are found, in the tail and in the `probes` lists of the nearest
        centroids. At least `least`, and up to `depth`, at least k, are rescored; or, with codes
        of one bit and `sure` above 0, all whose score may be among the k best if its estimate is off by so many
        standard deviations.
        """
        arrays, n = self.arrays, len(queries)
        slots, scores = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
        counts = np.empty((n, 2), np.int64)
        metric = METRICS[self.metric]
        if n == 1:  # without what a call with slices costs
            room = self._room(arrays, depth, k)
            self._search(
                arrays.fields, allowed, queries, *arrays.query_options, *room.arrays, rows.blocks, rows.shift, rows.dim,
                metric, k, probes, depth, least, sure, room.best, slots, scores, counts,
            )  # fmt: skip
            self._rooms.append(room)
            return slots, scores, counts

        def work(first: int, last: int) -> None:
            some, room = slice(first, last), self._room(arrays, depth, k)
            self._search(
                arrays.fields, allowed, queries[some], *arrays.query_options, *room.arrays, rows.blocks, rows.shift,
                rows.dim, metric, k, probes, depth, least, sure, room.best, slots[some], scores[some], counts[some],
            )  # fmt: skip
            self._rooms.append(room)

        over_ranges(n, 1, threads, work)
        return slots, scores, counts

    def _room(self, arrays: Lists, depth: int, k: int) -> ListRoom:
        lists = len(arrays.heads)
        try:
            room = self._rooms.pop()
        except IndexError:
            return ListRoom(arrays.coder, lists, depth, k)
        # The kernel gathers as many candidates as there is room for, so that the room for them is of one size.
        if room.lists < lists or room.depth != depth or len(room.best) < 2 * k or room.coder is not arrays.coder:
            return ListRoom(arrays.coder, lists, depth, k)
        return room

    # -- files and figures -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self) -> Iterator[dict[str, Any]]:
        """All that has to be kept, in arrays that stay as they are within the block: rows may come and go meanwhile,
        lists wait."""
        with self._filing:
            with self._changing:
                parts = kept_lists.parts_of(self.arrays, self.dead)
            yield parts

    def restore(self, parts: dict[str, Any], slots: int) -> None:
        """Become the lists that `held` gave, of so many slots; ValueError if the parts do not fit together."""
        self.arrays, owners, self.dead = kept_lists.restored(parts, slots, self.arrays.coder, self.arrays.pool)
        self._chains, self.limits = Chains(owners), np.zeros(len(self.dead), np.int32)
        self._find_places()
        pool, tail = self.arrays.pool, self.arrays.tail
        gone = [int(np.count_nonzero(pool.slots.reshape(-1)[places] < 0)) for places in self._filed()]
        waiting = np.count_nonzero(tail.slots.reshape(-1)[: self.arrays.tail_size] >= 0)
        if self.known != int(self.arrays.sizes.sum()) - sum(gone) + waiting:
            raise ValueError("rows have two places")
        if self.dead.tolist() != gone:
            raise ValueError("rows that are gone are counted otherwise")

    def figures(self) -> dict[str, Any]:
        """What `stats()` tells: counts, and bytes by part."""
        with self._changing:
            arrays = self.arrays
            dead, tail = int(self.dead.sum()), arrays.tail.slots.reshape(-1)[: arrays.tail_size]
            code_bytes = sum(of.codes.nbytes + of.terms.nbytes for of in (arrays.pool, arrays.tail))
            rest = [arrays.chain, self._places, arrays.centroids, arrays.offsets]
            in_ram = 0
            if self.config.resident:
                in_ram, rest = code_bytes, [*rest, arrays.pool.slots, arrays.tail.slots]
            return {
                "linked": arrays.linked - dead,
                "tail": int(np.count_nonzero(tail >= 0)),
                "tombstones": dead,
                "lists": len(arrays.heads),
                "code_bytes": code_bytes,
                "index_bytes": in_ram + sum(of.nbytes for of in rest) + arrays.coarse.codes.nbytes,
            }
