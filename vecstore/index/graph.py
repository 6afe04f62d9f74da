"""A graph of codes that grows, loses nodes and is searched at the same time.

New nodes are a tail that searches scan, until `link` has linked them (HNSW's base layer: Malkov and Yashunin 2018;
pruning: kernels/linking.py). In place of upper layers a walk starts at the best of some pilots, drawn at random: in
high dimension that is as good (Munyampirwa et al., Down with the Hierarchy, 2024), and there is nothing to mend when
rows go. Dead nodes serve as bridges until the next `settle`.

Searches take the current `Arrays` and no lock.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.index.arrays import Arrays, Coder, Floats, Ints, LinkRoom, SearchRoom, aligned
from vecstore.index.calls import NO_IDS, NO_NAMES, Call
from vecstore.index.flat import METRICS, Rows
from vecstore.index.nodes import Nodes, Slots, changed, columns, grown, pilots_of
from vecstore.index.parallel import over_ranges
from vecstore.kernels import linking, upkeep, walks
from vecstore.types import HNSW, Metric

# Nodes linked at once: a share of the graph that they are linked to, at least and at most so many. They find each other
# by comparing all with all, which costs a tenth of the walks at most.
BATCH_SHARE, MIN_BATCH, MAX_BATCH = 0.02, 512, 4096
# Links that are kept of a list that is pruned: the rest is room for nodes that come later.
KEPT_SHARE: Final = 0.8
PILOTS_PER_ROOT: Final = 0.6
MIN_PILOTS, MAX_PILOTS = 64, 4096
# Of so many nodes that are linked together one becomes a pilot at once: they may be far from all others, and linked to
# nobody but each other.
NODES_PER_PILOT: Final = 64
# Nodes that at most so many links lead to may be pilots for that.
RARE_LINKS: Final = 3
# Pilots are drawn from so many nodes at least: most of those may be equal.
LEAST_DRAWN: Final = 4096
# Groups of nodes that no walk can reach get a pilot each, so many at a time.
MAX_GROUPS: Final = 64
# Each node can be reached again when so many of all were linked: to walk over all links takes a hundredth of what
# linking these took.
LOOK_SHARE: Final = 1 / 64
# Pilots are drawn anew when the graph has grown by so much, nodes renumbered in the order of a walk when by so much.
PILOT_GROWTH, ORDER_GROWTH = 1.3, 2.0
# A walk ends when the next candidate is so much farther than the k-th best (Al-Jazzazi et al., Distance Adaptive Beam
# Search, 2025), at least the 32nd: fewer say little of an outlier, from which all others are about as far. Wider for
# more candidates, which are asked for to find more: 3.6 % at 64, 4.8 % at 256. At recall@10 0.99 on text embeddings a
# sixth fewer rows are scored, at 0.997 a third.
STOP_AT: Final = 32

ENTRIES: Final[dict[str, tuple[Any, Any, Any, Any]]] = {
    kind: tuple(
        getattr(module, f"{name}_{kind}")
        for module, name in ((walks, "search"), (linking, "link"), (linking, "link_back"), (linking, "sweep"))
    )
    for kind in ("int8", "int4", "binary", "float32")
}


@functools.cache
def stretch_of(ef: int) -> np.float32:
    """How much farther squared a candidate may be than the k-th best."""
    gamma = 0.006 * np.log2(max(ef, 16))
    return np.float32((1 + gamma) ** 2)


class Graph(Nodes):
    """Nodes that are linked, looked after and searched; see the module."""

    def __init__(self, config: HNSW, coder: Coder, metric: Metric, fitted_on: int) -> None:
        super().__init__(config, coder, metric, fitted_on)
        search, self._link, self._link_back, self._sweep = ENTRIES[coder.kind]
        self._search = search.compiled()
        self._rooms: deque[SearchRoom] = deque(maxlen=64)

    # -- links -----------------------------------------------------------------------------------------------

    def link(self, threads: int) -> int:
        """Link the next nodes of the tail; how many of it are left. Which are linked together does not depend on
        threads."""
        with self._linking:
            with self._changing:
                arrays = self.arrays
                size = min(max(MIN_BATCH, int(arrays.linked * BATCH_SHARE)), MAX_BATCH)
                last = min(arrays.linked + size, arrays.count)
                if last > len(arrays.links):
                    links = aligned(
                        (max(last, min(len(arrays.codes), max(1024, last * 5 // 4))), arrays.width), np.int32, -1
                    )
                    links[: arrays.linked] = arrays.links[: arrays.linked]
                    arrays = self.arrays = changed(arrays, links=links)
                batch = np.arange(arrays.linked, last, dtype=np.int32)
                batch = np.ascontiguousarray(batch[self._dead[batch] == 0])
            if len(batch):
                self._link_batch(arrays, batch, threads)
            with self._changing:
                self.dead_linked += int(np.count_nonzero(self._dead[arrays.linked : last]))
                arrays = self.arrays = self._with_pilots(changed(self.arrays, linked=last), batch)
                dead = self._dead.copy()
            if last - self._looked >= LOOK_SHARE * last:
                self._reachable(arrays, dead, threads, since=self._looked)
                self._looked = last
            return self.arrays.count - last

    def _link_batch(self, arrays: Arrays, batch: Ints, threads: int) -> None:
        config, width = self.config, arrays.width
        most, alpha2 = max(1, int(KEPT_SHARE * width)), np.float32(config.alpha**2)
        codes, pairs = arrays.codes[batch], arrays.pairs[batch]

        def forward(first: int, last: int) -> None:
            room = LinkRoom(arrays, config.ef_construction)
            self._link(
                arrays.fields, batch, codes, pairs, first, last, config.ef_construction, most, alpha2, room.query,
                room.beam, room.visited, room.candidates, room.kept, room.facts,
            )  # fmt: skip

        over_ranges(len(batch), 16, threads if len(batch) >= 64 else 1, forward)
        made = arrays.links[batch]
        there = made >= 0
        sources = np.broadcast_to(batch[:, None], made.shape)
        edges = np.sort((made[there].astype(np.int64) << 32) | sources[there])
        cuts = np.concatenate(([0], np.flatnonzero(np.diff(edges >> 32)) + 1, [len(edges)])) if len(edges) else [0]

        def backward(first: int, last: int) -> None:
            room = LinkRoom(arrays, 0)
            self._link_back(
                arrays.fields, edges, cuts[first], cuts[last], most, alpha2, room.query, room.beam[: 3 * width],
                room.kept, room.facts,
            )  # fmt: skip

        over_ranges(len(cuts) - 1, 16, threads if len(batch) >= 64 else 1, backward)

    def _with_pilots(self, arrays: Arrays, batch: Ints | None) -> Arrays:
        """With some of a batch among the pilots; with all drawn anew if there is none, and where there are too few, too
        many or too many dead."""
        live = int(np.count_nonzero(self._dead[: arrays.linked] == 0))
        wanted = min(max(MIN_PILOTS, int(PILOTS_PER_ROOT * live**0.5)), MAX_PILOTS, live)
        random = np.random.default_rng((self.config.seed, arrays.linked))
        if batch is None:
            return _piloted(arrays, self._drawn(arrays, wanted, random))
        batch = batch[self._dead[batch] == 0]
        some = random.choice(batch, -(-len(batch) // NODES_PER_PILOT), replace=False) if len(batch) else batch
        nodes = np.concatenate([arrays.pilots.nodes, some])
        dead = int(np.count_nonzero(self._dead[nodes]))
        if not wanted / PILOT_GROWTH**0.5 <= len(nodes) - dead <= 2 * wanted + MAX_GROUPS or dead * 4 > len(nodes):
            nodes = np.union1d(self._drawn(arrays, wanted, random), some)
        elif not len(some):
            return arrays
        return _piloted(arrays, nodes)

    def _drawn(self, arrays: Arrays, wanted: int, random: np.random.Generator) -> Ints:
        """Pilots at random, and as many at most of the nodes that the fewest links lead to: outliers, which a walk from
        elsewhere may pass by. Of equal rows one, so that many of them leave room for others."""
        alive = self._dead[: arrays.linked] == 0
        candidates = np.flatnonzero(alive)
        degrees = np.bincount(arrays.links[: arrays.linked].ravel() + 1, minlength=arrays.linked + 1)[1:]
        rare = np.flatnonzero(alive & (degrees <= RARE_LINKS))
        some = random.choice(candidates, min(max(4 * wanted, LEAST_DRAWN), len(candidates)), replace=False)
        chosen = []
        for nodes in (some, rare[np.argsort(degrees[rare], kind="stable")][:LEAST_DRAWN]):
            chosen.append(_unequal(arrays, nodes)[:wanted])
        return np.union1d(*chosen).astype(np.int32)

    # -- upkeep ----------------------------------------------------------------------------------------------

    @property
    def gone(self) -> int:
        """Linked nodes whose rows have gone."""
        return self.dead_linked

    def unsettled(self) -> bool:
        """Whether `settle` is worth its while: a tenth of the nodes is dead, or an eighth of them is new."""
        linked = self.arrays.linked
        return self.dead_linked * 10 > linked or linked > self._checked + self._checked // 8

    def settle(self, threads: int) -> None:
        """Take dead nodes out, see to it that every node can be reached, and number nodes in the order of a walk."""
        with self._linking:
            with self._changing:
                arrays, dead = self.arrays, self._dead.copy()
            if not arrays.linked:
                return
            if dead[: arrays.linked].any():
                self._sweep_dead(arrays, dead, threads)
            with self._changing:
                arrays = self.arrays = self._with_pilots(self.arrays, None)
            order = self._reachable(arrays, dead, threads)
            if dead[: arrays.linked].any() or arrays.linked >= self._ordered * ORDER_GROWTH:
                self._renumber(order)
            self._checked = self._looked = self.arrays.linked

    def _sweep_dead(self, arrays: Arrays, dead: npt.NDArray[np.uint8], threads: int) -> None:
        most, alpha2 = max(1, int(KEPT_SHARE * arrays.width)), np.float32(self.config.alpha**2)

        def work(first: int, last: int) -> None:
            room = LinkRoom(arrays, 0)
            self._sweep(
                arrays.fields, dead, first, last, most, alpha2, room.query, room.beam[: 4 * arrays.width], room.added,
                room.kept, room.facts,
            )  # fmt: skip

        over_ranges(arrays.linked, 256, threads, work)

    def _reachable(
        self, arrays: Arrays, dead: npt.NDArray[np.uint8], threads: int, *, since: int | None = None
    ) -> Ints:
        """All linked nodes that live, those that can be reached first, in the order of a walk from the pilots.

        With `since`, the first node that was linked since it was last seen to that they can be, dead ones lead on, as
        they do until links to them have been swept, and may be among them.
        """
        bridges = since is not None
        linked, links = arrays.linked, arrays.links
        order = np.empty(linked, np.int32)
        pilots = arrays.pilots.nodes
        reached = np.zeros(linked, np.uint8) if bridges else dead[:linked].copy()
        found = upkeep.reach(links, pilots if bridges else pilots[dead[pilots] == 0], 0, reached, order)

        def lost() -> Ints:
            return np.flatnonzero((reached | dead[:linked]) == 0).astype(np.int32)

        starts: list[int] = [] if since is None else self._rare_since(arrays, dead, since, lost())
        for _ in range(8):
            orphans = lost()
            if not len(orphans):
                break
            orphans = orphans[np.argsort(links[orphans, 0], kind="stable")]
            adopted = np.zeros(len(orphans), np.uint8)
            # Those that are linked to nobody but each other begin anew.
            if not upkeep.adopt(links, orphans, reached, adopted):
                self._link_batch(arrays, orphans[:MAX_BATCH], threads)
                upkeep.adopt(links, orphans[:MAX_BATCH], reached, adopted)
            found = upkeep.reach(links, orphans[adopted == 1], found, reached, order)
        while len(starts) < MAX_GROUPS and len(rest := lost()):
            starts.append(int(rest[0]))
            found = upkeep.reach(links, rest[:1], found, reached, order)
        if starts:
            with self._changing:
                nodes = np.union1d(self.arrays.pilots.nodes, np.array(starts, np.int32))
                self.arrays = _piloted(self.arrays, nodes)
        return np.concatenate([order[:found], lost()])

    @staticmethod
    def _rare_since(arrays: Arrays, dead: npt.NDArray[np.uint8], since: int, lost: Ints) -> list[int]:
        """Nodes that will be pilots until the next `settle` draws them: `lost` ones, and those since `since` that the
        fewest links lead to, by which few walks would find them."""
        links = arrays.links[: arrays.linked]
        degrees = np.bincount(links[links >= since] - since, minlength=arrays.linked - since)
        rare = np.argsort(degrees, kind="stable")[: -(-len(degrees) // NODES_PER_PILOT)]
        rare = rare[(degrees[rare] <= RARE_LINKS) & (dead[since : arrays.linked][rare] == 0)] + since
        chosen: list[int] = _unequal(arrays, np.concatenate([lost, rare]))[:MAX_GROUPS].tolist()
        return chosen

    def _renumber(self, order: Ints) -> None:
        with self._changing:
            old = self.arrays
            tail = np.arange(old.linked, old.count, dtype=np.int32)
            order = np.concatenate([order, tail[self._dead[tail] == 0]])
            linked = int(np.count_nonzero(order < old.linked))
            numbers = np.full(old.count, -1, np.int32)
            numbers[order] = np.arange(len(order), dtype=np.int32)
            codes, terms, pairs = columns(old.coder, old.pairs.shape[1], len(old.codes))
            slots = aligned((len(old.codes),), np.int32, -1)
            n = len(order)
            codes[:n], terms[:n], pairs[:n], slots[:n] = (
                x[order] for x in (old.codes, old.terms, old.pairs, old.slots)
            )
            links = aligned(old.links.shape, np.int32, -1)
            upkeep.renumber(old.links, order[:linked], numbers, links[:linked])
            self._dead = grown(self._dead[order], len(old.codes), 0)
            self.dead_linked = int(np.count_nonzero(self._dead[:linked]))
            alive = slots[:n] >= 0
            self._nodes[slots[:n][alive]] = np.flatnonzero(alive)
            pilots = numbers[old.pilots.nodes]
            pilots = np.sort(pilots[pilots >= 0])
            fresh = changed(
                old, codes=codes, terms=terms, pairs=pairs, slots=slots, links=links, count=n, linked=linked,
                pilots=pilots_of(pilots, codes, terms, pairs),
            )  # fmt: skip
            self.arrays = fresh  # with the pilots from which all can be reached
            self._ordered = linked

    def recode(self, coder: Coder, rows: Rows, fitted_on: int) -> None:
        """Code all rows anew; the links stay, as they are about the rows."""
        with self._linking, self._changing:
            old = self.arrays
            slots, count = old.slots[: old.count].copy(), old.count
            codes, terms, pairs = columns(coder, old.pairs.shape[1], len(old.codes))
            fresh = Graph(self.config, coder, self.metric, fitted_on)
            live = np.flatnonzero(slots >= 0)
            fresh.add(rows, slots[live].astype(np.int64), 2)
            made = fresh.arrays
            codes[live], terms[live], pairs[live] = (x[: len(live)] for x in (made.codes, made.terms, made.pairs))
            pilots = pilots_of(old.pilots.nodes, codes, terms, pairs)
            self.fitted_on = fitted_on
            self._rooms.clear()
            self.arrays = changed(
                old, coder=coder, codes=codes, terms=terms, pairs=pairs, pilots=pilots, top=made.top, count=count
            )

    # -- searching -------------------------------------------------------------------------------------------

    def search(
        self,
        rows: Rows,
        allowed: npt.NDArray[np.uint8],
        queries: Floats,
        k: int,
        scan: bool,
        ef: int,
        depth: int,
        least: int,
        threads: int,
    ) -> tuple[Ints, Floats, Slots]:
        """Slots and exact scores `(n, k)` of the best rows, and their number and that of the codes scored, `(n, 2)`.

        Only slots whose bit in `allowed` is set are found. At least `least`, and up to `depth`, at least k, are
        rescored. With `scan` all codes are scored instead of a walk.
        """
        arrays, n = self.arrays, len(queries)
        ef = max(ef, depth)
        slots, scores = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
        counts = np.empty((n, 2), np.int64)
        fields, blocks, shift, dim = arrays.scan if scan else arrays.fields, rows.blocks, rows.shift, rows.dim
        metric, stretch = METRICS[self.metric], stretch_of(ef)
        stop_at = min(max(k, STOP_AT), ef)

        def work(first: int, last: int) -> None:
            some = slice(first, last)
            room = self._room(arrays, ef, k)
            self._search(
                fields, allowed, *arrays.query_options, *room.arrays, blocks, shift, dim, metric, k, ef, depth, least,
                stop_at, stretch, room.best, NO_NAMES, queries[some], slots[some], NO_IDS, scores[some], counts[some],
            )  # fmt: skip
            self._rooms.append(room)

        over_ranges(n, 1, threads, work)
        return slots, scores, counts

    def call(self, arrays: Arrays, rows: Rows, allowed: npt.NDArray[np.uint8], asked: Any, plan: Any) -> Call:
        """A walk for one query at a time."""
        k, ef = asked[0], max(plan.ef, plan.depth)
        room = self._room(arrays, ef, k)
        options = (k, ef, plan.depth, plan.least, min(max(k, STOP_AT), ef), stretch_of(ef))
        return Call(self._search, arrays, room, rows, allowed, asked, options)

    def give_back(self, room: SearchRoom) -> None:
        """A room that is not needed any more."""
        self._rooms.append(room)

    def _room(self, arrays: Arrays, ef: int, k: int) -> SearchRoom:
        try:
            room = self._rooms.pop()
        except IndexError:
            return SearchRoom(arrays.coder, arrays.width, ef, k)
        if room.ef < ef or len(room.best) < k or room.coder is not arrays.coder:
            return SearchRoom(arrays.coder, arrays.width, ef, k)
        return room

    # -- figures ---------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """What `stats()` tells: counts, and bytes by part."""
        arrays = self.arrays
        dead = self._dead[: arrays.count]
        linked = arrays.links[: arrays.linked][dead[: arrays.linked] == 0]
        return {
            "linked": len(linked),
            "tail": int(np.count_nonzero(dead[arrays.linked :] == 0)),
            "tombstones": int(np.count_nonzero(dead[: arrays.linked])),
            "pilots": len(arrays.pilots.nodes),
            "degree": float(np.count_nonzero(linked >= 0) / len(linked)) if len(linked) else 0.0,
            "code_bytes": arrays.codes.nbytes + arrays.terms.nbytes,
            "link_bytes": arrays.links.nbytes,
            "index_bytes": sum(
                x.nbytes
                for x in (
                    arrays.codes, arrays.terms, arrays.pairs, arrays.slots, arrays.links, self._nodes, self._dead,
                    arrays.pilots.codes, arrays.cosines,
                )
            ),
        }  # fmt: skip


def _piloted(arrays: Arrays, nodes: Ints) -> Arrays:
    """With these nodes as pilots."""
    nodes = np.sort(nodes).astype(np.int32)
    return changed(arrays, pilots=pilots_of(nodes, arrays.codes, arrays.terms, arrays.pairs))


def _unequal(arrays: Arrays, nodes: Any) -> Any:
    """The first of all nodes with the same code, in the order of `nodes`."""
    codes = arrays.codes[nodes].view(np.dtype((np.void, arrays.codes.shape[1])))[:, 0]
    return nodes[np.sort(np.unique(codes, return_index=True)[1])]
