"""Whether a graph hangs together, and finds what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecstore.index import flat
from vecstore.index.arrays import Arrays
from vecstore.index.coding import encoded
from vecstore.index.flat import Rows, gathered
from vecstore.index.graph import Graph
from vecstore.index.kinds import GraphOrLists
from vecstore.index.lists import InvertedFile
from vecstore.index.nodes import Slots
from vecstore.index.places import IN_TAIL
from vecstore.kernels import upkeep

SAMPLE: Final = 256
LINKS_AT_ONCE: Final = 65_536
# Rows of a sample that may be missed: the graph is an approximation, and near it more candidates would find them.
MISSED_SHARE, LOST_SHARE = 0.02, 0.01

Problem = tuple[str, Slots]
"""A sentence, and the slots of the rows it harms."""


def check_graph(graph: Graph) -> Iterator[Problem]:
    """Links in range, nodes and slots that lead to each other, counters, reachability. Linking waits meanwhile."""
    with graph._linking:
        with graph._changing:
            arrays, dead_linked = graph.arrays, graph.dead_linked
            slots, dead = arrays.slots[: arrays.count].copy(), graph._dead[: arrays.count].copy()
            nodes, settled = graph._nodes.copy(), graph._checked == arrays.linked
        linked, live = arrays.linked, np.flatnonzero(slots >= 0)
        if not 0 <= linked <= min(arrays.count, len(arrays.links)):
            yield f"{linked} nodes are linked of {arrays.count}, with links for {len(arrays.links)}", _none()
            return
        if len(wrong := np.flatnonzero((slots >= 0) == (dead != 0))):
            yield f"{len(wrong)} nodes are dead and have a slot, or have none and live", _of(slots, wrong)
        if dead_linked != (found := int(np.count_nonzero(dead[:linked]))):
            yield f"{dead_linked} linked nodes are counted as dead, and {found} are", _none()
        there = live[slots[live] < len(nodes)]
        wrong = np.union1d(np.setdiff1d(live, there), there[nodes[slots[there]] != there])
        if len(wrong):
            yield f"{len(wrong)} nodes have a slot that does not lead to them", _of(slots, wrong)
        if (found := int(np.count_nonzero(nodes >= 0))) != len(live):
            yield f"{found} slots lead to nodes, and {len(live)} nodes have a slot", _none()
        pilots = arrays.pilots.nodes
        if len(pilots) and not 0 <= pilots.min() <= pilots.max() < linked:
            yield "searches would start outside of the graph", _none()
            return
        sound = True
        for first in range(0, linked, LINKS_AT_ONCE):
            links = arrays.links[first : min(first + LINKS_AT_ONCE, linked)]
            own = np.arange(first, first + len(links))[:, None]
            for what, bad in (
                ("links that lead out of the graph", (links < -1) | (links >= linked)),
                ("links to themselves", links == own),
            ):
                if len(wrong := first + np.flatnonzero(bad.any(axis=1))):
                    sound = sound and "out" not in what
                    yield f"{len(wrong)} nodes have {what}", _of(slots, wrong)
        if sound and settled and not dead[:linked].any():
            yield from _out_of_reach(arrays, slots)


def _out_of_reach(arrays: Arrays, slots: npt.NDArray[np.int32]) -> Iterator[Problem]:
    """Nodes that nobody links to, and nodes that no walk comes to, if they are more than a few."""
    linked, links, pilots = arrays.linked, arrays.links, arrays.pilots.nodes
    known = np.zeros(linked, bool)
    known[pilots] = True
    for first in range(0, linked, LINKS_AT_ONCE):
        some = links[first : min(first + LINKS_AT_ONCE, linked)]
        known[some[some >= 0]] = True
    reached = np.zeros(linked, np.uint8)
    upkeep.reach(links, pilots, 0, reached, np.empty(linked, np.int32))
    for missing, what in ((~known, "have no link to them"), (reached == 0, "cannot be reached")):
        nodes = np.flatnonzero(missing)
        if len(nodes) > LOST_SHARE * linked:
            yield f"{len(nodes)} of {linked} linked nodes {what}", _of(slots, nodes)


def check_sample(
    index: GraphOrLists, rows: Rows, live: Slots, allowed: npt.NDArray[np.uint8], lsn: int
) -> list[Problem]:
    """Rows drawn at random have the codes that they would be given, and find themselves, at the write `lsn`."""
    graph = index.structure
    if graph is None or not len(live):
        return []
    sample = np.sort(np.random.default_rng(lsn).choice(live, min(SAMPLE, len(live)), replace=False))
    vectors, norms = gathered(rows, sample)
    problems = []
    with graph._changing:  # or they might be numbered or coded anew meanwhile
        if index.lsn == lsn:
            kept, codes = _codes_of(graph, sample, vectors, norms)
            if len(wrong := sample[(kept != codes).any(axis=1)]):
                problems.append((f"{len(wrong)} of {len(sample)} rows have no code, or that of another row", wrong))
    if index.metric == "dot":
        return problems  # a longer row may well be nearer to it than itself
    # However few lists a search scans unless it says otherwise, and however few candidates it keeps and rescores.
    if isinstance(graph, InvertedFile):
        wide, deep = max(128, 4 * index.config.nprobe), 100
    else:
        wide, deep = max(256, 4 * index.config.ef), None
    found = index.search(rows, allowed, len(live), vectors, 10, effort=min(10_000, wide), oversampling=deep, lsn=lsn)
    missed = []
    for slot, vector, (slots, scores) in zip(sample.tolist(), vectors, found, strict=True):
        if slot not in slots:
            own = flat.best_of(rows, vector, np.array([slot], np.int32), 1, None)[1][0]
            if not len(scores) or scores[-1] < own - 1e-6 * abs(own):
                missed.append(slot)
    if len(missed) > MISSED_SHARE * len(sample):
        problems.append((f"{len(missed)} of {len(sample)} rows do not find themselves", np.array(missed, np.int64)))
    return problems


def _codes_of(graph: Graph | InvertedFile, slots: Slots, vectors: Any, norms: Any) -> tuple[Any, Any]:
    """The codes that some rows have, and those that they should have; where a row has none, they differ."""
    coder = graph.arrays.coder
    if isinstance(graph, InvertedFile):
        arrays = graph.arrays
        places = graph.places_of(slots)
        filed, waiting = places >= 0, places <= IN_TAIL
        kept = np.zeros((len(slots), coder.code_bytes), np.uint8)
        kept[filed] = arrays.pool.taken(coder, places[filed])[0]
        kept[waiting] = arrays.tail.taken(coder, IN_TAIL - places[waiting])[0]
        # Rows of the tail are relative to the centre alone, as those of one more list.
        lists = np.full(len(slots), len(arrays.offsets), np.int32)
        lists[filed] = graph.owners(places[filed])
        offsets = np.concatenate([arrays.offsets, np.zeros((1, arrays.offsets.shape[1]), np.float32)])
        made, _ = encoded(coder, vectors, norms, lists, offsets)
        kept[~filed & ~waiting] = ~made[~filed & ~waiting]
        return kept, made
    nodes = graph._nodes[slots]
    made, terms = np.zeros((len(slots), coder.code_bytes), np.uint8), np.zeros_like(graph.arrays.terms[nodes])
    coder.encode(vectors, norms, made, terms)
    kept = graph.arrays.codes[nodes].copy()
    kept[nodes < 0] = ~made[nodes < 0]
    return kept, made


def check_lists(lists: InvertedFile) -> Iterator[Problem]:
    """Chains that hang together, places and slots that lead to each other, counters. Filing waits meanwhile."""
    with lists.filing(), lists.changing():
        arrays = lists.arrays
        try:
            filed = np.concatenate([np.zeros(0, np.int64), *(arrays.places(i) for i in range(len(arrays.heads)))])
        except IndexError:
            yield "lists lead out of their blocks", _none()
            return
        slots = arrays.pool.slots.reshape(-1)[filed]
        waiting = arrays.tail.slots.reshape(-1)[: arrays.tail_size]
        both = np.concatenate([slots, waiting]).astype(np.int64)
        places = np.concatenate([filed, IN_TAIL - np.arange(len(waiting))])
        live = np.flatnonzero(both >= 0)
        if len(np.unique(filed)) != len(filed):
            yield f"{len(filed) - len(np.unique(filed))} places are in two lists", _none()
        if len(wrong := live[lists.places_of(both[live]) != places[live]]):
            yield f"{len(wrong)} places have a slot that does not lead to them", both[wrong]
        if (found := lists.known) != len(live):
            yield f"{found} slots lead to places, and {len(live)} places have a slot", _none()
        if (found := int(np.count_nonzero(slots < 0))) != (counted := int(lists.dead.sum())):
            yield f"{counted} places of lists are counted as dead, and {found} are", _none()


def _of(slots: npt.NDArray[np.int32], nodes: npt.NDArray[np.int64]) -> Slots:
    some = slots[nodes[nodes < len(slots)]].astype(np.int64)
    return some[some >= 0]


def _none() -> Slots:
    return np.empty(0, np.int64)
