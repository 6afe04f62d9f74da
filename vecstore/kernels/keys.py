# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The largest of many packed keys (memory.pack_key) in an array of int64: selected, and sorted."""

from __future__ import annotations

import numpy as np

from vecstore.kernels._jit import inlined


@inlined
def keep_best(keys, count, wanted):
    """Bring the `wanted` largest of the first `count` keys to the front, in any order (quickselect)."""
    first, last = np.int64(0), np.int64(count - 1)
    while first < last:
        middle = (first + last) >> 1
        a, b, c = keys[first], keys[middle], keys[last]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = first, last
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if wanted - 1 <= j:
            last = j
        elif wanted - 1 >= i:
            first = i
        else:
            return


@inlined
def sort_keys(keys, count):
    """The first `count` keys, the largest first (heapsort: no room, and never quadratic)."""
    start, end = count >> 1, count
    while end > 1:
        if start > 0:
            start -= 1
        else:
            end -= 1
            keys[0], keys[end] = keys[end], keys[0]
        at = start
        key = keys[at]
        child = 2 * at + 1
        while child < end:
            if child + 1 < end and keys[child + 1] < keys[child]:
                child += 1
            if keys[child] >= key:
                break
            keys[at] = keys[child]
            at, child = child, 2 * child + 1
        keys[at] = key
