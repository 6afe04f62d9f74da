# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""What k-means is made of: the nearest of some candidate centroids for each row, rows sorted by centroid, and means.

Rows come in groups; the rows of a group are held against the same candidates, which are laid out once for all of them
as panels of 16 centroids, dim by dim. Scores and labels of a row depend on nothing but the row, its candidates and
their order, so that groups may be cut anywhere and shared out over threads.
"""

from __future__ import annotations

import numpy as np
from numba.core.types import float32, float64, int32, int64, void

from vecstore.kernels._jit import const, inlined, kernel
from vecstore.kernels.floats import dot_f32, l2sq_f32
from vecstore.kernels.memory import address_of, load_f32, load_i32, prefetch, store_f32, store_i32
from vecstore.kernels.rows import COSINE, DOT
from vecstore.kernels.tiles import tile_nearest, tile_nearest_two
from vecstore.kernels.twins import NEAREST_CENTROIDS, NEAREST_ROWS

# Rows that are copied side by side and held against panel after panel: with one panel they fit the second-level cache.
_BLOCK_FLOATS = 24_576
_MAX_BLOCK = 96


def block_rows(dim: int) -> int:
    """Rows of a block, a multiple of the rows of a tile."""
    return max(1, min(_MAX_BLOCK, _BLOCK_FLOATS // dim) // NEAREST_ROWS) * NEAREST_ROWS


def scratch_size(dim: int, width: int) -> int:
    """Float32 that `nearest_centroids` needs for groups of up to `width` candidates."""
    panels = -(-width // NEAREST_CENTROIDS)
    return block_rows(dim) * (dim + 4 * NEAREST_CENTROIDS) + panels * NEAREST_CENTROIDS * (dim + 1)


@inlined
def pack_panels(candidates, centroids, biases, centre, panels, panel_biases):
    """Lay the centroids of `candidates` (those before the first -1) out as panels; returns how many panels.

    A panel that is not full has columns of zeros with a bias of minus infinity, which are never the best.
    """
    dim = centroids.shape[1]
    count = 0
    while count < candidates.shape[0] and candidates[count] >= 0:
        count += 1
    whole = (count + NEAREST_CENTROIDS - 1) // NEAREST_CENTROIDS
    for position in range(whole * NEAREST_CENTROIDS):
        column = panels + 4 * ((position // NEAREST_CENTROIDS) * dim * NEAREST_CENTROIDS + position % NEAREST_CENTROIDS)
        if position < count:
            number = candidates[position]
            store_f32(panel_biases + 4 * position, biases[number])
            for i in range(dim):
                store_f32(column + 4 * NEAREST_CENTROIDS * i, centroids[number, i] - centre[i])
        else:
            store_f32(panel_biases + 4 * position, np.float32(-np.inf))
            for i in range(dim):
                store_f32(column + 4 * NEAREST_CENTROIDS * i, np.float32(0))
    return whole


@inlined
def best_position(kept, depth):
    """Position of the best that is kept (equals: the first), which is taken out, and its score; -1 if none is left."""
    best, best_at, best_number = np.float32(-np.inf), np.int64(-1), np.int64(0)
    for d in range(depth):
        scores = kept + 8 * NEAREST_CENTROIDS * d
        numbers = scores + 4 * NEAREST_CENTROIDS
        for lane in range(NEAREST_CENTROIDS):
            number = np.int64(load_i32(numbers + 4 * lane))
            if number < 0:
                continue
            score = load_f32(scores + 4 * lane)
            position = number * NEAREST_CENTROIDS + lane
            if best_at < 0 or score > best or (score == best and position < best_at):
                best, best_at, best_number = score, position, numbers + 4 * lane
    if best_at >= 0:
        store_i32(best_number, -1)
    return best_at, best


@kernel(
    void(
        const(float32[:, ::1]), const(int32[::1]), const(int64[::1]), const(int32[:, ::1]),
        const(float32[:, ::1]), const(float32[::1]), const(float32[::1]), int64, int64, int64, int64,
        float32[::1], int32[:, ::1], float32[:, ::1],
    )
)  # fmt: skip
def nearest_centroids(
    rows, order, bounds, candidates, centroids, biases, centre, metric, first, last, size, scratch, labels, scores
):
    """The nearest centroids of the rows `order[first:last]`, as many as `labels` (n, places) has places.

    Group g is `order[bounds[g]:bounds[g + 1]]`, its candidates the row g of `candidates` up to the first -1. What is
    greatest is the product of row and centroid, both minus `centre` (dim,), plus the centroid's bias: 0 for products,
    minus half of the squared norm for Euclidean distances. `scores` (n, places or 0) are those of `metric`, of rows and
    centroids as they stand (under cosine both have unit norm). One or two are the nearest; of more, candidates whose
    positions are equal modulo 16 stand in each other's way, and no more than two of them are found. Where there are not
    as many the label is -1. `size` is `block_rows`, and `scratch` holds `scratch_size` float32.
    """
    dim = rows.shape[1]
    places = labels.shape[1]
    depth = 1 if places == 1 else 2
    kept_bytes = 8 * depth * NEAREST_CENTROIDS
    packed = address_of(scratch)
    kept = packed + 4 * size * dim
    panels = kept + size * kept_bytes
    panel_biases = panels + 4 * ((candidates.shape[1] + NEAREST_CENTROIDS - 1) // NEAREST_CENTROIDS) * (
        NEAREST_CENTROIDS * dim
    )
    for group in range(candidates.shape[0]):
        begin, end = max(first, bounds[group]), min(last, bounds[group + 1])
        if begin >= end:
            continue
        whole = pack_panels(candidates[group], centroids, biases, centre, panels, panel_biases)
        for start in range(begin, end, size):
            count = min(size, end - start)
            tiles = (count + NEAREST_ROWS - 1) // NEAREST_ROWS
            for i in range(tiles * NEAREST_ROWS):
                if start + i + 8 < last:
                    prefetch(address_of(rows) + 4 * dim * np.int64(order[start + i + 8]), 4 * dim)
                number = np.int64(order[start + min(i, count - 1)])
                for j in range(dim):
                    store_f32(packed + 4 * (i * dim + j), rows[number, j] - centre[j])
                for lane in range(depth * 2 * NEAREST_CENTROIDS):
                    place = kept + i * kept_bytes + 4 * lane
                    if (lane // NEAREST_CENTROIDS) & 1:
                        store_i32(place, -1)
                    else:
                        store_f32(place, np.float32(-np.inf))
            for p in range(whole):
                panel = panels + 4 * p * dim * NEAREST_CENTROIDS
                panel_bias = panel_biases + 4 * p * NEAREST_CENTROIDS
                for t in range(tiles):
                    tile = packed + 4 * t * NEAREST_ROWS * dim
                    if places == 1:
                        tile_nearest(tile, panel, dim, panel_bias, p, kept + t * NEAREST_ROWS * kept_bytes)
                    else:
                        tile_nearest_two(tile, panel, dim, panel_bias, p, kept + t * NEAREST_ROWS * kept_bytes)
            for i in range(count):
                number = np.int64(order[start + i])
                for place in range(places):
                    position, best = best_position(kept + i * kept_bytes, depth)
                    if position < 0:
                        labels[number, place] = candidates[group, 0] if place == 0 else -1
                    else:
                        labels[number, place] = candidates[group, position]
                    if place >= scores.shape[1]:
                        continue
                    if metric == COSINE:
                        scores[number, place] = best
                        continue
                    label = np.int64(max(0, labels[number, place]))
                    row, centroid = address_of(rows) + 4 * dim * number, address_of(centroids) + 4 * dim * label
                    if metric == DOT:
                        scores[number, place] = dot_f32(row, centroid, dim)
                    else:
                        scores[number, place] = -np.sqrt(l2sq_f32(row, centroid, dim))


@kernel(
    void(
        const(float32[:, ::1]), const(int32[::1]), const(int32[:, ::1]), const(float32[:, ::1]), int64, int64, int64,
        int32[:, ::1],
    )
)  # fmt: skip
def nearest_of_lists(rows, order, lists, centroids, metric, first, last, labels):
    """The nearest of the centroids that `lists` (n, m) has for each of the rows `order[first:last]`, to `labels`
    (n, 1). -1 in a list is passed over; by the product under cosine, else by Euclidean distance."""
    dim = rows.shape[1]
    for position in range(first, last):
        if position + 2 < last:
            prefetch(address_of(rows) + 4 * dim * np.int64(order[position + 2]), 4 * dim)
        number = np.int64(order[position])
        row = address_of(rows) + 4 * dim * number
        best, label = np.float32(-np.inf), lists[number, 0]
        for i in range(lists.shape[1]):
            candidate = np.int64(lists[number, i])
            if candidate < 0:
                continue
            centroid = address_of(centroids) + 4 * dim * candidate
            if metric == COSINE:
                score = dot_f32(row, centroid, dim)
            else:
                score = -l2sq_f32(row, centroid, dim)
            if score > best:
                best, label = score, np.int32(candidate)
        labels[number, 0] = label


@kernel(void(const(int32[::1]), int32[::1], int64[::1]))
def sort_by_label(labels, order, bounds):
    """The numbers of the rows by label and then by number to `order` (n,); label l has those from `bounds[l]` (k + 1,)
    on. Rows with a label of -1 are left out."""
    bounds[:] = 0
    for i in range(labels.shape[0]):
        if labels[i] >= 0:
            bounds[labels[i] + 1] += 1
    for label in range(bounds.shape[0] - 1):
        bounds[label + 1] += bounds[label]
    for i in range(labels.shape[0]):
        label = labels[i]
        if label >= 0:
            order[bounds[label]] = i
            bounds[label] += 1
    for label in range(bounds.shape[0] - 1, 0, -1):
        bounds[label] = bounds[label - 1]
    bounds[0] = 0


@kernel(
    void(
        const(float32[:, ::1]), const(int32[::1]), const(int64[::1]), int64, int64, int64,
        float64[::1], float32[:, ::1],
    )
)  # fmt: skip
def means_of_groups(rows, order, bounds, metric, first, last, sums, centroids):
    """The mean of the rows of each of the groups first..last to `centroids` (groups, dim), of unit norm under cosine.

    A group without rows keeps its centroid, and so does one whose rows cancel out. `sums` (dim,) is scratch.
    """
    dim = rows.shape[1]
    for group in range(first, last):
        count = bounds[group + 1] - bounds[group]
        if count == 0:
            continue
        sums[:] = 0
        for position in range(bounds[group], bounds[group + 1]):
            if position + 4 < order.shape[0]:
                prefetch(address_of(rows) + 4 * dim * np.int64(order[position + 4]), 4 * dim)
            number = np.int64(order[position])
            for j in range(dim):
                sums[j] += np.float64(rows[number, j])
        scale = 1 / np.float64(count)
        if metric == COSINE:
            square = 0.0
            for j in range(dim):
                square += sums[j] * sums[j]
            if square <= 0:
                continue
            scale = 1 / np.sqrt(square)
        for j in range(dim):
            centroids[group, j] = np.float32(sums[j] * scale)
