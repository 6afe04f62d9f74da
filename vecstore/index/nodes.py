"""The nodes of a graph: their arrays, how they come and go, and how they are kept in files.

Nodes are numbered in the order in which they came, and a slot that is used again gets a new node; the old one is dead:
it hides from results at once, serves as a bridge, and goes when the graph settles.

Readers take the current `Arrays` and no lock. `_changing` is held for changes of nodes, `_linking` for changes of
links; whoever takes both takes `_linking` first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.index.arrays import Arrays, Coder, Floats, Ints, Pilots, aligned, cosine_table, owned
from vecstore.index.flat import METRICS, Rows, gathered, part_rows
from vecstore.index.parallel import over_ranges
from vecstore.kernels import linking
from vecstore.kernels.encode import LONGEST
from vecstore.types import HNSW, Metric

Slots = npt.NDArray[np.int64]


class Nodes:
    """Nodes for the slots of a collection; see the module."""

    def __init__(self, config: HNSW, coder: Coder, metric: Metric, fitted_on: int) -> None:
        self.config = config
        self.metric: Metric = metric
        self.fitted_on = fitted_on
        self._changing = threading.RLock()
        self._linking = threading.Lock()
        self._nodes = np.full(0, -1, np.int32)
        self._dead = np.zeros(0, np.uint8)
        self._ordered, self._checked, self._looked = 0, 0, 0
        self.dead_linked = 0
        width = 3 if metric == "dot" else 2
        pilots = pilots_of(np.zeros(0, np.int32), *columns(coder, width, 0))
        codes, terms, pairs = columns(coder, width, 0)
        self.arrays = Arrays.of(
            coder=coder, codes=codes, terms=terms, pairs=pairs, slots=np.zeros(0, np.int32),
            links=np.zeros((0, 2 * config.m), np.int32), pilots=pilots, cosines=cosine_table(coder.dims),
            top=np.zeros(1, np.float32), count=0, linked=0,
        )  # fmt: skip

    def add(self, rows: Rows, slots: Slots, threads: int) -> None:
        """Nodes for slots that have none, at the end of the tail: searches that begin from now on find them."""
        if not len(slots):
            return
        with self._changing:
            arrays = self._with_room(len(slots))
            first, coder = arrays.count, arrays.coder
            kind, metric = coder.kernel_kind, METRICS[self.metric]
            centre_square = float((coder.centres[0].astype(np.float64) ** 2).sum())

            part = part_rows(rows.dim)

            def work(start: int, stop: int) -> float:
                longest = 0.0
                for begin in range(start, stop, part):
                    some = slots[begin : min(begin + part, stop)]
                    vectors, norms = gathered(rows, some)
                    at = slice(first + begin, first + begin + len(some))
                    coder.encode(vectors, norms, arrays.codes[at], arrays.terms[at])
                    linking.pair_rows(
                        kind, metric, arrays.codes[at], arrays.terms[at], norms, coder.unit, np.float32(coder.step),
                        centre_square, arrays.pairs[at],
                    )  # fmt: skip
                    longest = max(longest, min(float(norms.max()) * coder.unit, LONGEST))
                return longest

            longest = max(over_ranges(len(slots), part, threads if len(slots) > part else 1, work))
            arrays.top[0] = max(arrays.top[0], longest * longest)
            arrays.slots[first : first + len(slots)] = slots
            self._dead[first : first + len(slots)] = 0
            most = int(slots.max()) + 1
            if most > len(self._nodes):
                self._nodes = grown(self._nodes, max(most, len(self._nodes) * 5 // 4), -1)
            self._nodes[slots] = np.arange(first, first + len(slots), dtype=np.int32)
            self.arrays = changed(arrays, count=first + len(slots))

    def remove(self, slots: Slots) -> None:
        """The nodes of some slots are dead from now on; slots without a node are passed over."""
        with self._changing:
            slots = slots[slots < len(self._nodes)]
            nodes = self._nodes[slots]
            nodes = nodes[nodes >= 0]
            self._nodes[slots] = -1
            self.arrays.slots[nodes] = -1
            self._dead[nodes] = 1
            self.dead_linked += int(np.count_nonzero(nodes < self.arrays.linked))

    def _with_room(self, more: int) -> Arrays:
        arrays = self.arrays
        needed, have = arrays.count + more, len(arrays.codes)
        if needed <= have:
            return arrays
        size = max(needed, have * 5 // 4)
        codes, terms, pairs = columns(arrays.coder, arrays.pairs.shape[1], size)
        slots = aligned((size,), np.int32, -1)
        n = arrays.count
        codes[:n], terms[:n], pairs[:n], slots[:n] = (
            arrays.codes[:n],
            arrays.terms[:n],
            arrays.pairs[:n],
            arrays.slots[:n],
        )
        self._dead = grown(self._dead, size, 0)
        self.arrays = changed(arrays, codes=codes, terms=terms, pairs=pairs, slots=slots)
        return self.arrays

    def changing(self) -> contextlib.AbstractContextManager[Any]:
        """Nodes come, go and are numbered anew only by this thread."""
        return self._changing

    def slots_in_order(self) -> Slots:
        """The slots of all rows, neighbours near each other."""
        with self._changing:
            slots = self.arrays.slots[: self.arrays.count]
            return slots[slots >= 0].astype(np.int64)

    def renumber_slots(self, numbers: Slots) -> None:
        """The row of slot s has the slot `numbers[s]` from now on; -1 for slots without a row."""
        with self._changing:
            old = self.arrays
            slots = aligned((len(old.codes),), np.int32, -1)
            nodes = np.flatnonzero(old.slots[: old.count] >= 0)
            slots[nodes] = numbers[old.slots[nodes]]
            self._nodes = np.full(int(slots.max(initial=-1)) + 1, -1, np.int32)
            self._nodes[slots[nodes]] = nodes
            self.arrays = changed(old, slots=slots)

    # -- files -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self) -> Iterator[dict[str, Any]]:
        """All that has to be kept of the graph, in arrays that stay as they are within the block: rows may come and go
        meanwhile, links wait."""
        with self._linking:
            with self._changing:
                arrays, n = self.arrays, self.arrays.count
                parts = {
                    "codes": arrays.codes[:n], "terms": arrays.terms[:n], "pairs": arrays.pairs[:n],
                    "nodes": arrays.slots[:n].copy(), "links": arrays.links[: arrays.linked],
                    "pilots": arrays.pilots.nodes, "top": arrays.top.copy(),
                    "upkeep": np.array([self._ordered, self._checked], np.int64),
                }  # fmt: skip
            yield parts

    def restore(self, parts: dict[str, Any], slots: int) -> None:
        """Become the graph that `held` gave, of so many slots; ValueError if the parts do not fit together.

        It keeps arrays that are `aligned`, and copies others.
        """
        arrays, n = self.arrays, len(parts["nodes"])
        codes, terms, pairs = (
            owned(parts[name], now.dtype)
            for name, now in (("codes", arrays.codes), ("terms", arrays.terms), ("pairs", arrays.pairs))
        )
        links, nodes = owned(parts["links"], np.int32), owned(parts["nodes"], np.int32)
        pilots = parts["pilots"].astype(np.int32)
        if [x.shape for x in (codes, terms, pairs)] != [
            (n, now.shape[1]) for now in (arrays.codes, arrays.terms, arrays.pairs)
        ]:
            raise ValueError("codes are not those of the nodes")
        if (
            links.ndim != 2
            or links.shape[1] != arrays.width
            or len(links) > n
            or not all(
                len(x) == 0 or (x.min() >= -1 and x.max() < bound)
                for x, bound in ((links, len(links)), (nodes, slots), (pilots, len(links)))
            )
        ):
            raise ValueError("links lead out of the graph")
        if len(pilots) and pilots.min() < 0:
            raise ValueError("pilots are no nodes")
        self._dead = (nodes < 0).astype(np.uint8)
        self.dead_linked = int(np.count_nonzero(self._dead[: len(links)]))
        self._nodes = np.full(slots, -1, np.int32)
        alive = np.flatnonzero(nodes >= 0)
        self._nodes[nodes[alive]] = alive
        # How many nodes were there when they were last numbered in order, and when they were last looked through.
        self._ordered, self._checked = (int(x) for x in parts.get("upkeep", (len(links), len(links))))
        self._looked = self._checked
        self.arrays = changed(
            arrays, codes=codes, terms=terms, pairs=pairs, slots=nodes, links=links, count=n, linked=len(links),
            pilots=pilots_of(pilots, codes, terms, pairs), top=np.array(parts["top"], np.float32),
        )  # fmt: skip

    def links_by_slot(self) -> dict[int, list[int]]:
        """The links of each linked row as slots, in their order: for tests, and to compare graphs."""
        arrays = self.arrays
        return {
            int(slot): [int(arrays.slots[node]) for node in row if node >= 0]
            for slot, row in zip(arrays.slots[: arrays.linked], arrays.links[: arrays.linked], strict=True)
            if slot >= 0
        }


def columns(coder: Coder, pair_columns: int, size: int) -> tuple[npt.NDArray[np.uint8], Floats, Floats]:
    """Codes, terms and pairs of so many nodes, not filled in."""
    return (
        aligned((size, coder.code_bytes), np.uint8),
        aligned((size, coder.terms_count), np.float32),
        aligned((size, pair_columns), np.float32),
    )


def pilots_of(nodes: Ints, codes: npt.NDArray[np.uint8], terms: Floats, pairs: Floats) -> Pilots:
    """Some nodes as pilots, with copies of what is read of them."""
    near = aligned((len(nodes), codes.shape[1]), np.uint8)
    near[...] = codes[nodes]
    return Pilots(nodes, near, terms[nodes], pairs[nodes])


def changed(arrays: Arrays, **changes: Any) -> Arrays:
    """The same arrays but for some."""
    parts = {field.name: getattr(arrays, field.name) for field in dataclasses.fields(arrays)}
    del parts["fields"], parts["scan"], parts["query_options"], parts["serial"]
    return Arrays.of(**{**parts, **changes})


def grown(array: npt.NDArray[Any], size: int, fill: int) -> npt.NDArray[Any]:
    """A copy with room for so many, filled up."""
    made = np.full(size, fill, array.dtype)
    made[: len(array)] = array[:size]
    return made
