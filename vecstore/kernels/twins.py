"""What each instruction means, in plain Python and NumPy: tests compare them, NUMBA_DISABLE_JIT runs them.

Addresses are integers that point to readable memory; no alignment is asked for.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray


def view(address: int, dtype: type | str, count: int) -> NDArray:  # type: ignore[type-arg]
    """The `count` elements at `address`, as an array that does not own them and can be written to."""
    size = int(count) * np.dtype(dtype).itemsize
    memory: Any = (ctypes.c_char * size).from_address(int(address))
    return np.frombuffer(memory, np.dtype(dtype))


def address_of(array: NDArray) -> int:  # type: ignore[type-arg]
    """Address of the first element of a C-contiguous array."""
    return int(array.ctypes.data)


def dot_f32(a: int, b: int, dim: int) -> np.float32:
    """Sum of a[i] * b[i] over `dim` float32."""
    return np.float32(np.dot(view(a, np.float32, dim), view(b, np.float32, dim)))


def l2sq_f32(a: int, b: int, dim: int) -> np.float32:
    """Sum of (a[i] - b[i])**2 over `dim` float32."""
    difference = view(a, np.float32, dim) - view(b, np.float32, dim)
    return np.float32(np.dot(difference, difference))


def dot_u8s8(codes: int, query: int, size: int) -> int:
    """Sum of codes[i] * query[i]: uint8 codes, int8 query, `size` bytes, a multiple of 64. int32."""
    return int(np.dot(view(codes, np.uint8, size).astype(np.int64), view(query, np.int8, size)))


def dots_f32(rows: int, stride: int, query: int, dim: int, out: int) -> None:
    """Store `dot_f32` of eight rows, `stride` bytes apart, with the query: eight float32 at `out`."""
    view(out, np.float32, 8)[:] = [dot_f32(rows + j * stride, query, dim) for j in range(8)]


def dots_u8s8(rows: int, stride: int, query: int, size: int, out: int) -> None:
    """Store `dot_u8s8` of eight rows of codes, `stride` bytes apart, with the query: eight int32 at `out`."""
    view(out, np.int32, 8)[:] = [dot_u8s8(rows + j * stride, query, size) for j in range(8)]


def _nibbles(codes: int, size: int) -> NDArray[np.int64]:
    """The values of Int4 codes by dim: of 64 bytes, the low nibbles are dims 0-63, the high ones 64-127."""
    blocks = view(codes, np.uint8, size).reshape(-1, 1, 64)
    return np.concatenate((blocks & 15, blocks >> 4), axis=1).astype(np.int64).ravel()


def dot_u4s8(codes: int, query: int, size: int) -> int:
    """Sum of nibble[i] * query[i]: `size` bytes of Int4 codes, a multiple of 64, and 2 * size int8. int32."""
    return int(np.dot(_nibbles(codes, size), view(query, np.int8, 2 * size)))


def dot_u8u8(a: int, b: int, size: int) -> int:
    """Sum of (a[i] - 128) * (b[i] - 128) over `size` bytes, a multiple of 64. int32."""
    left, right = (view(x, np.uint8, size).astype(np.int64) - 128 for x in (a, b))
    return int(np.dot(left, right))


def l2sq_u8u8(a: int, b: int, size: int) -> int:
    """Sum of (a[i] - b[i])**2 over `size` bytes, a multiple of 64. int32."""
    difference = view(a, np.uint8, size).astype(np.int64) - view(b, np.uint8, size)
    return int(np.dot(difference, difference))


def dot_u4u4(a: int, b: int, size: int) -> int:
    """Sum of (a[i] - 8) * (b[i] - 8) over the nibbles of `size` bytes, a multiple of 64. int32."""
    return int(np.dot(_nibbles(a, size) - 8, _nibbles(b, size) - 8))


def l2sq_u4u4(a: int, b: int, size: int) -> int:
    """Sum of (a[i] - b[i])**2 over the nibbles of `size` bytes, a multiple of 64. int32."""
    difference = _nibbles(a, size) - _nibbles(b, size)
    return int(np.dot(difference, difference))


def expand_u8(codes: int, out: int, size: int) -> None:
    """Int8 codes as a query: code - 128 as int8, `size` bytes, a multiple of 64."""
    view(out, np.int8, size)[:] = view(codes, np.uint8, size).astype(np.int64) - 128


def expand_u4(codes: int, out: int, size: int) -> None:
    """Int4 codes as a query: nibble - 8 as int8 by dim; `size` bytes, a multiple of 64, become 2 * size."""
    view(out, np.int8, 2 * size)[:] = _nibbles(codes, size) - 8


def hamming(a: int, b: int, size: int) -> int:
    """Number of bits in which `size` bytes differ; `size` is a multiple of 64. int32."""
    return int(np.bitwise_count(view(a, np.uint8, size) ^ view(b, np.uint8, size)).sum(dtype=np.int64))


def popcount(a: int, size: int) -> int:
    """Number of set bits in `size` bytes, a multiple of 64. int32."""
    return int(np.bitwise_count(view(a, np.uint8, size)).sum(dtype=np.int64))


def dot_planes(code: int, planes: int, size: int) -> int:
    """Sum over j of 2**j * popcount(code & plane j): 4 planes in a row of `size` bytes each. int32."""
    bits = view(code, np.uint8, size)
    rows = view(planes, np.uint8, 4 * size).reshape(4, size)
    return sum(int(np.bitwise_count(bits & row).sum(dtype=np.int64)) << j for j, row in enumerate(rows))


def prefetch(address: int, size: int) -> None:
    """Ask for the cache lines of `size` bytes (at least one line); no effect on results."""
    del address, size


def load_f32(address: int) -> np.float32:
    """The float32 at `address`."""
    return np.float32(view(address, np.float32, 1)[0])


def load_i64(address: int) -> int:
    """The int64 at `address`."""
    return int(view(address, np.int64, 1)[0])


def load_i32(address: int) -> int:
    """The int32 at `address`."""
    return int(view(address, np.int32, 1)[0])


def load_u8(address: int) -> int:
    """The byte at `address`, 0-255."""
    return int(view(address, np.uint8, 1)[0])


def load_u16(address: int) -> int:
    """The 16 bits at `address`, 0-65535."""
    return int(view(address, np.uint16, 1)[0])


def store_u16(address: int, value: int) -> None:
    """Write the lower 16 bits of a number at `address`."""
    view(address, np.uint16, 1)[0] = value & 0xFFFF


def store_i64(address: int, value: int) -> None:
    """Write an int64 at `address`."""
    view(address, np.int64, 1)[0] = value


def store_i32(address: int, value: int) -> None:
    """Write an int32 at `address`."""
    view(address, np.int32, 1)[0] = value


def store_u8(address: int, value: int) -> None:
    """Write a byte at `address`."""
    view(address, np.uint8, 1)[0] = value


def store_f32(address: int, value: float) -> None:
    """Write a float32 at `address`."""
    view(address, np.float32, 1)[0] = value


def copy_bytes(target: int, source: int, size: int) -> None:
    """Copy `size` bytes; the two ranges may overlap."""
    ctypes.memmove(int(target), int(source), int(size))


def pack_key(score: float, slot: int) -> int:
    """The int64 that sorts as (score descending, slot ascending) when keys sort descending.

    Upper half: the bits of the float32 score, mapped to an integer of the same order. Lower half: the
    inverted slot, so that of equal scores the lower slot has the larger key. -0.0 counts as 0.0.
    """
    bits = int((np.float32(score) + np.float32(0)).view(np.int32))
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) << 32) | (0xFFFFFFFF ^ int(slot))


def key_slot(key: int) -> int:
    """The slot in a packed key. int32."""
    return (int(key) & 0xFFFFFFFF) ^ 0xFFFFFFFF


def key_score(key: int) -> np.float32:
    """The score in a packed key. float32."""
    order = int(key) >> 32
    return np.int32(order ^ ((order >> 31) & 0x7FFFFFFF)).view(np.float32)


def count_greater(keys: int, size: int, key: int) -> int:
    """How many of `size` int64 keys are greater than `key`: its rank in a pool sorted descending."""
    return int(np.count_nonzero(view(keys, np.int64, size) > key))


TILE_ROWS, TILE_QUERIES = 8, 32
BLOCK_ROWS = 32


def _tile(rows: int, stride: int, panel: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    each = [view(rows + i * stride, np.float32, dim) for i in range(TILE_ROWS)]
    return np.stack(each), view(panel, np.float32, TILE_QUERIES * dim).reshape(dim, TILE_QUERIES)


def tile_dot(rows: int, stride: int, panel: int, dim: int, out: int) -> None:
    """Dot products of 8 rows, `stride` bytes apart, with 32 queries.

    Panel (dim, 32) float32, out (8, 32) float32.
    """
    block, queries = _tile(rows, stride, panel, dim)
    view(out, np.float32, TILE_ROWS * TILE_QUERIES)[:] = (block @ queries).ravel()


def tile_l2sq(rows: int, stride: int, panel: int, dim: int, out: int) -> None:
    """Squared distances of 8 rows, `stride` bytes apart, to 32 queries.

    Panel (dim, 32) float32, out (8, 32) float32.
    """
    block, queries = _tile(rows, stride, panel, dim)
    squares = ((block[:, :, None] - queries[None]) ** 2).sum(axis=1)
    view(out, np.float32, TILE_ROWS * TILE_QUERIES)[:] = squares.ravel()


NEAREST_ROWS, NEAREST_CENTROIDS = 12, 16


def _tile_nearest(places: int, rows: int, panel: int, dim: int, biases: int, number: int, kept: int) -> None:
    columns = view(panel, np.float32, NEAREST_CENTROIDS * dim).reshape(dim, NEAREST_CENTROIDS)
    # The sum of a row and a centroid must not depend on what stands beside them, as that of a matrix product does.
    factors = view(rows, np.float32, NEAREST_ROWS * dim).reshape(NEAREST_ROWS, dim)
    products = (factors[:, :, None] * columns[None]).sum(axis=1)
    products += view(biases, np.float32, NEAREST_CENTROIDS)
    count = NEAREST_ROWS * places * 2 * NEAREST_CENTROIDS
    shape = NEAREST_ROWS, places, 2, NEAREST_CENTROIDS
    scores, numbers = view(kept, np.float32, count).reshape(shape), view(kept, np.int32, count).reshape(shape)
    values, owners, better = products, np.full(products.shape, number, np.int32), np.zeros(products.shape, bool)
    for place in range(places):
        best, best_numbers = scores[:, place, 0].copy(), numbers[:, place, 1].copy()
        better = better | (values > best)
        scores[:, place, 0] = np.where(better, values, best)
        numbers[:, place, 1] = np.where(better, owners, best_numbers)
        values, owners = np.where(better, best, values), np.where(better, best_numbers, owners)


def tile_nearest(rows: int, panel: int, dim: int, biases: int, number: int, kept: int) -> None:
    """Products of 12 rows and 16 centroids plus the centroids' biases, held against the best so far of each lane.

    Rows (12, dim), panel (dim, 16), biases (16,), all float32. `kept` (12, 2, 16) has for each row and lane the best
    score, float32, and the `number` of the panel that it was met in, int32; equals stay with the first.
    """
    _tile_nearest(1, rows, panel, dim, biases, number, kept)


def tile_nearest_two(rows: int, panel: int, dim: int, biases: int, number: int, kept: int) -> None:
    """`tile_nearest` that keeps the two best of each lane: `kept` (12, 2, 2, 16), the best first."""
    _tile_nearest(2, rows, panel, dim, biases, number, kept)


def scale_and_compare(scores: int, scale: float, bounds: int) -> int:
    """Multiply 32 float32 scores by `scale` in place; bit j of the result says that score j >= bound j."""
    row = view(scores, np.float32, TILE_QUERIES)
    row *= np.float32(scale)
    reached = row >= view(bounds, np.float32, TILE_QUERIES)
    return sum(1 << j for j in range(TILE_QUERIES) if reached[j])


def trailing_zeros(value: int) -> int:
    """Index of the lowest set bit of a value that is not 0."""
    value = int(value)
    return (value & -value).bit_length() - 1


def gather(row: int, row_bytes: int, limit: int, visited: int, places: int, out: int) -> int:
    """The nodes in the row of links at `row` that were not visited yet, to address `out`; returns how many.

    A place of the table of visited nodes, of a power of two, holds the upper bits of the last node that fell on it.
    Nodes from `limit` on are passed over: linked since the caller took its arrays, where they are of the tail.
    """
    count = 0
    for i in range(0, row_bytes, 4):
        node = load_i32(row + i)
        place = visited + 2 * (node & (places - 1))
        tag = ((node & 0xFFFFFFFF) // places) & 0xFFFF
        new = load_u16(place) != tag and 0 <= node < limit
        store_u16(place, tag)
        store_i32(out + 4 * count, node)
        count += new
    return count


def table_sums(block: int, table: int, size: int, out: int) -> None:
    """Sums of 32 rows: of each group of four dims the entry in the table for the row's bits; 32 uint16 at `out`.

    A block of `size` bytes, a multiple of 256: 16 for each group, whose byte r has the bits of row r in its lower half
    and those of row r + 16 in its upper half. The table has 16 uint8 for each group, at most 63.
    """
    codes, entries = (view(x, np.uint8, size).reshape(-1, 16) for x in (block, table))
    places = np.concatenate((codes & 15, codes >> 4), axis=1)
    view(out, np.uint16, BLOCK_ROWS)[:] = np.take_along_axis(entries, places, axis=1).sum(axis=0, dtype=np.int64)


def block_estimates(
    sums: int, terms: int, scale: float, shift: float, base: float, reach: float, bound: float, out: int
) -> int:
    """Estimates of 32 rows, (scale * sum + shift) * terms[0] + terms[1] + base, as 32 float32 at `out`.

    `sums` are 32 uint16, terms (3, 32) float32. Returns a bit for each row whose estimate, or that and `reach` times
    terms[2], is at least `bound`. int64.
    """
    times, plus, deviations = view(terms, np.float32, 3 * BLOCK_ROWS).reshape(3, BLOCK_ROWS)
    product = view(sums, np.uint16, BLOCK_ROWS).astype(np.float32) * np.float32(scale) + np.float32(shift)
    scores = product * times + (plus + np.float32(base))
    view(out, np.float32, BLOCK_ROWS)[:] = scores
    return int(
        sum(1 << i for i in np.flatnonzero(scores + deviations * np.float32(reach) >= np.float32(bound)).tolist())
    )
