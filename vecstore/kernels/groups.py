# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Union-find: which things hang together, by pairs of them. The root of a group is its smallest member."""

from __future__ import annotations

from numba.core.types import int32, void

from vecstore.kernels._jit import const, inlined, kernel


@inlined
def root_of(parents, one):
    """The root of a thing; the way to it is halved."""
    while parents[one] != one:
        parents[one] = parents[parents[one]]
        one = parents[one]
    return one


@kernel(void(int32[::1], const(int32[::1]), const(int32[::1])))
def unite(parents, first, second):
    """Join the groups of `first[i]` and `second[i]` for all i; `parents` (n,) begins as 0 to n - 1."""
    for i in range(first.shape[0]):
        one, other = root_of(parents, first[i]), root_of(parents, second[i])
        if one < other:
            parents[other] = one
        else:
            parents[one] = other


@kernel(void(int32[::1]))
def flatten(parents):
    """Let every parent be the root."""
    for i in range(parents.shape[0]):
        parents[i] = root_of(parents, i)
