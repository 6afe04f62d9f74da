"""No index: the exact scan over every row, block by block where it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from vecstore.types import Metric

Floats = npt.NDArray[np.float32]
Blocks = Iterable[tuple[int, Floats, Floats]]
"""First slot, rows `(R, dim)`, L2 norms `(R,)`."""

# Scores gathered before the best of them are chosen: some chunks of this fit the second-level cache.
CHUNK = 16_384


def search(
    blocks: Blocks,
    allowed: npt.NDArray[np.uint8],
    queries: Floats,
    k: int,
    metric: Metric,
    threshold: float | None,
) -> list[tuple[npt.NDArray[np.int64], Floats]]:
    """For each of `(n, dim)` queries the slots and scores of its k best rows, best first, equals by slot.

    `allowed` has one bit a slot, least significant first; rows without theirs are passed over.
    """
    score = _SCORES[metric]
    prepared = _prepare(queries, metric)
    found = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    for slots, scores in _chunks(blocks, allowed, prepared, score):
        for i in range(len(queries)):
            found[i] = _best(*found[i], slots, scores[i], k, threshold)
    return found


def _chunks(
    blocks: Blocks,
    allowed: npt.NDArray[np.uint8],
    queries: Floats,
    score: Callable[[Floats, Floats, Floats], Floats],
) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Slots `(m,)` and scores `(n, m)` of the allowed rows, some blocks at a time."""
    slots: list[npt.NDArray[np.int64]] = []
    scores: list[Floats] = []
    gathered = 0
    for first, rows, norms in blocks:
        bits = np.unpackbits(allowed[first >> 3 : (first + len(rows)) >> 3], bitorder="little")
        here = np.flatnonzero(bits)
        if not len(here):
            continue
        slots.append(here + first)
        scores.append(score(queries, rows, norms)[:, here])
        gathered += len(here)
        if gathered >= CHUNK:
            yield np.concatenate(slots), np.concatenate(scores, axis=1)
            slots, scores, gathered = [], [], 0
    if gathered:
        yield np.concatenate(slots), np.concatenate(scores, axis=1)


def _best(
    slots: npt.NDArray[np.int64],
    scores: Floats,
    more_slots: npt.NDArray[np.int64],
    more_scores: Floats,
    k: int,
    threshold: float | None,
) -> tuple[npt.NDArray[np.int64], Floats]:
    if threshold is not None:
        enough = more_scores >= threshold
        more_slots, more_scores = more_slots[enough], more_scores[enough]
    if len(more_scores) > k:
        top = np.argpartition(more_scores, -k)[-k:]
        more_slots, more_scores = more_slots[top], more_scores[top]
    slots, scores = np.concatenate([slots, more_slots]), np.concatenate([scores, more_scores])
    order = np.lexsort((slots, -scores))[:k]
    return slots[order], scores[order]


def _prepare(queries: Floats, metric: Metric) -> Floats:
    if metric != "cosine":
        return queries
    normed = queries.astype(np.float64)
    normed /= np.linalg.norm(normed, axis=1, keepdims=True)
    return normed.astype(np.float32)


def _dot(queries: Floats, rows: Floats, norms: Floats) -> Floats:  # noqa: ARG001
    return queries @ rows.T


def _cosine(queries: Floats, rows: Floats, norms: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):  # slots that never held a row have norm 0
        return (queries @ rows.T) / norms


def _l2(queries: Floats, rows: Floats, norms: Floats) -> Floats:  # noqa: ARG001
    # From the differences themselves: |q|^2 + |x|^2 - 2<q,x> cancels for near rows far from the origin.
    return np.stack([-np.linalg.norm(rows - query, axis=1) for query in queries])


_SCORES = {"cosine": _cosine, "dot": _dot, "l2": _l2}
