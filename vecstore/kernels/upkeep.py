# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Upkeep of a graph: which nodes can be reached, edges for those that cannot, and new numbers for all."""

from __future__ import annotations

from numba.core.types import int32, int64, uint8, void

from vecstore.kernels._jit import const, kernel


@kernel(int64(const(int32[:, ::1]), const(int32[::1]), int64, uint8[::1], int32[::1]))
def reach(links, starts, found, reached, order):
    """Walk breadth first; nodes in the order in which they are met go to `order` (n,), from place `found` on.

    `reached` (n,) marks those that were met before. Returns how many nodes there are in `order`.
    """
    following = found
    for i in range(starts.shape[0]):
        if not reached[starts[i]]:
            reached[starts[i]] = 1
            order[found] = starts[i]
            found += 1
    while following < found:
        node = order[following]
        following += 1
        for i in range(links.shape[1]):
            other = links[node, i]
            if other < 0:
                break
            if not reached[other]:
                reached[other] = 1
                order[found] = other
                found += 1
    return found


@kernel(int64(int32[:, ::1], const(int32[::1]), const(uint8[::1]), uint8[::1]))
def adopt(links, orphans, reached, adopted):
    """Give each orphan an edge from the nearest reached node that it is linked to and that has room; where none has,
    from one that such a node is linked to, or from an orphan before it that is linked to the same nearest one; none
    without room is ever chosen.
    `adopted` (orphans,) marks those that have one. Returns how many.

    No link is taken away for it: that would make an orphan of another node. Orphans come in the order of their first
    links: of thousands of equal rows, all are linked to the same few.
    """
    count = 0
    width = links.shape[1]
    sibling = -1
    for i in range(orphans.shape[0]):
        node = orphans[i]
        chosen = -1
        if sibling >= 0 and (links[sibling, 0] != links[node, 0] or links[sibling, width - 1] >= 0):
            sibling = -1
            before = orphans[max(i - 1, 0)]
            if i > 0 and adopted[i - 1] and links[before, 0] == links[node, 0] and links[before, width - 1] < 0:
                sibling = before
        for j in range(width):
            other = links[node, j]
            if other < 0 or chosen >= 0:
                break
            if reached[other] and links[other, width - 1] < 0:
                chosen = other
        for j in range(width):
            other = links[node, j]
            if other < 0 or chosen >= 0:
                break
            if not reached[other]:
                continue
            for at in range(width):
                third = links[other, at]
                if third < 0:
                    break
                if third != node and reached[third] and links[third, width - 1] < 0:
                    chosen = third
                    break
        if chosen < 0:
            chosen = sibling
        if chosen < 0:
            continue
        if sibling < 0:
            sibling = node
        place = 0
        while links[chosen, place] >= 0:
            place += 1
        links[chosen, place] = node
        adopted[i] = 1
        count += 1
    return count


@kernel(void(const(int32[:, ::1]), const(int32[::1]), const(int32[::1]), int32[:, ::1]))
def renumber(links, order, numbers, out):
    """Row i of `out` becomes the links of node order[i], each by its new number, without those that have none."""
    for i in range(order.shape[0]):
        place = 0
        for j in range(links.shape[1]):
            other = links[order[i], j]
            if other < 0:
                break
            if numbers[other] >= 0:
                out[i, place] = numbers[other]
                place += 1
        for j in range(place, links.shape[1]):
            out[i, j] = -1
