"""A random rotation of any dimension, made from a seed: O(D log D), and nothing to store but the seed.

Rows are filled up with zeros to D dims, a multiple of 64. Four rounds of random sign flips and a fast Hadamard
transform over the largest power of two of dims, the first ones in even rounds and the last ones in odd rounds;
where D is no power of two, a butterfly (x + y, x - y) / sqrt(2) across the halves follows each round but the
last. Each step is orthogonal, so norms and inner products stay, and the coordinates of any row come to look
like Gaussian ones of one variance, which lets one step size serve all of them. (Ailon and Chazelle, The fast
Johnson-Lindenstrauss transform, 2009; Gao and Long, RaBitQ, 2024.)
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import InvalidArgumentError
from vecstore.kernels.rotate import rotate_rows

ROUNDS = 4
MAX_DIM = 65536
_MASK = (1 << 64) - 1


def padded(dim: int, multiple: int = 64) -> int:
    """`dim` rounded up to a multiple."""
    return -(-dim // multiple) * multiple


def random_bits(seed: int, count: int) -> NDArray[np.uint8]:
    """`count` bits of SplitMix64, the low bit of each word first: (count,) uint8. The same on every platform.

    (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.)
    """
    words = np.empty(-(-count // 64), "<u8")
    state = seed & _MASK
    for i in range(len(words)):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        words[i] = z ^ (z >> 31)
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:count]


class Rotation:
    """The rotation of `dim` dims that belongs to `seed`; `dims` is D, the dims of its results."""

    def __init__(self, dim: int, seed: int) -> None:
        if not 1 <= dim <= MAX_DIM:
            raise InvalidArgumentError(f"dim must be 1 to {MAX_DIM}, not {dim}")
        self.dim, self.seed, self.dims = dim, seed, padded(dim)
        self.size = 1 << (self.dims.bit_length() - 1)

    @cached_property
    def signs(self) -> NDArray[np.float32]:
        """What each round multiplies by: (ROUNDS, D) float32, the scaling of its later steps included."""
        table = 1.0 - 2.0 * random_bits(self.seed, ROUNDS * self.dims).reshape(ROUNDS, self.dims)
        for i in range(ROUNDS):
            table[i, self._part(i)] /= np.sqrt(self.size)
        if self.size != self.dims:
            table[1:] /= np.sqrt(2.0)
        return table.astype(np.float32)

    def _part(self, i: int) -> slice:
        return slice(0, self.size) if i % 2 == 0 else slice(self.dims - self.size, self.dims)

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows (n, dim) float32, rotated: (n, D) float32."""
        out = np.empty((len(rows), self.dims), np.float32)
        rotate_rows(np.ascontiguousarray(rows, np.float32), self.signs, out)
        return out

    def invert(self, rotated: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows (n, dim) float32 that `apply` made `rotated` (n, D) of; plain NumPy.

        Each step is its own inverse but for the scaling, which is in the sign flips and is undone there.
        """
        values = np.array(rotated, np.float64)
        for i in reversed(range(ROUNDS)):
            if self.size != self.dims and i + 1 < ROUNDS:
                _butterfly(values, self.dims // 2)
                values /= 2
            part = values[:, self._part(i)]
            step = 1
            while step < self.size:
                _butterfly(part, step)
                step *= 2
            part /= self.size
            values /= self.signs[i]
        return values[:, : self.dim].astype(np.float32)


def _butterfly(values: NDArray[np.float64], step: int) -> None:
    """(x, y) to (x + y, x - y) for the pairs `step` apart in each row, in place."""
    for start in range(0, values.shape[1], 2 * step):
        x, y = values[:, start : start + step], values[:, start + step : start + 2 * step]
        x[:], y[:] = x + y, x - y
