"""The random rotation that goes before every code.

A rotation makes the coordinates of any row alike (nearly Gaussian of variance |x|**2 / size), so that one
range serves all of them, and makes the errors of a code independent of the data. A dense random matrix costs
O(size**2) per row; sign flips and Hadamard transforms cost O(size log size) and their state is the seed.
Recall after a dense matrix from a QR decomposition is the same within noise at 64, 96, 128 and 384
dims, so there is one kind only. (Ailon and Chazelle 2006; the rounds of Gao and Long, RaBitQ, SIGMOD 2024.)
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import InvalidArgumentError
from vecstore.kernels.rotate import rotate_rows

ROUNDS = 4
MIN_DIM, MAX_DIM = 1, 8192

Floats = NDArray[np.float32]


def random_words(seed: int, count: int) -> NDArray[np.uint64]:
    """`count` uint64 of the SplitMix64 generator (Steele, Lea and Flood 2014), the same everywhere."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed % 2**64) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


class Rotation:
    """An orthonormal map of `dim` dims, padded with zeros, to `size` dims, a multiple of 64."""

    def __init__(self, dim: int, size: int, seed: int) -> None:
        if not MIN_DIM <= dim <= MAX_DIM:
            raise InvalidArgumentError(f"dim must be from {MIN_DIM} to {MAX_DIM}, not {dim}")
        if size % 64 or size < dim:
            raise InvalidArgumentError(f"size must be a multiple of 64 and at least {dim}, not {size}")
        self.dim = dim
        self.size = size
        self.seed = seed

    @cached_property
    def table(self) -> Floats:
        """(ROUNDS, size) float32: the signs of each round, times what makes the round orthonormal."""
        words = random_words(self.seed, ROUNDS * self.size // 64)
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")
        table = 1.0 - 2.0 * bits.reshape(ROUNDS, self.size)
        power = 1 << (self.size.bit_length() - 1)
        rest = self.size - power
        for r, line in enumerate(table):
            start = rest if r & 1 else 0
            line[start : start + power] /= math.sqrt(power)
            if rest and r and not r & 1:
                table[r] /= math.sqrt(2)
        return table.astype(np.float32)

    def apply(self, rows: Floats) -> Floats:
        """Rotate rows (n, dim) float32 to (n, size) float32."""
        out = np.empty((len(rows), self.size), np.float32)
        rotate_rows(np.ascontiguousarray(rows, np.float32), self.table, False, out)
        return out

    def apply_inverse(self, rows: Floats) -> Floats:
        """Rotate rows (n, size) float32 back to (n, dim) float32, dropping what the padding became."""
        out = np.empty((len(rows), self.size), np.float32)
        rotate_rows(np.ascontiguousarray(rows, np.float32), self.table, True, out)
        return out[:, : self.dim].copy()
