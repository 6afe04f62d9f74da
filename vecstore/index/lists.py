"""An inverted file: rows in lists by the nearest of some centroids, which grow, split and merge while searches run.

New rows are a tail that searches scan, until `put` has them in lists. Lists that grow too long are split,
rows of lists nearby that are nearer to the new centroids move there, and short lists are dissolved (SPFresh / LIRE: Xu
et al., SOSP 2023), so that lists follow the data and nothing is ever trained anew.

How rows come and go, and which lock is for what, is told in places.py. Whatever moves rows here writes new blocks, and
puts them in the place of the old ones at once with new `Lists`.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from vecstore.index.places import IN_TAIL, NOWHERE, Places
from vecstore.kernels import lists as kernels
from vecstore.kernels.twins import BLOCK_ROWS
from vecstore.types import IVF, Metric

ENTRIES: Final = {
    "list-binary": kernels.search_listed,
    "int8": kernels.search_int8,
    "int4": kernels.search_int4,
    "float32": kernels.search_float32,
}


class InvertedFile(Places):
    """Rows of a collection in lists; see the module."""

    def __init__(self, config: IVF, coder: Coder, metric: Metric, fitted_on: int, allocate: Allocate = aligned) -> None:
        super().__init__(config, coder, metric, fitted_on, allocate)
        self._search = ENTRIES[coder.kind].compiled()
        self._rooms: deque[ListRoom] = deque(maxlen=64)

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
