"""Levels of one step for all dims: what Int8 and Int4 have in common.

level_j = clip(round(w_j / step) + zero, 0, 2**bits - 1), where w is the rotated row less the centre, divided
by its length where the codes have terms. Without terms (cosine) the sum of a scan is the whole estimate, and
codes compare with each other: step**2 * l2sq of two codes is the squared distance of the two directions.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from vecstore.quantization.quantizer import Quantizer, QueryCodes, normal_form, padded, parts_of
from vecstore.quantization.rotation import Floats, Rotation

# Cosines of rows that differ by less than this are nothing that a float32 score could tell apart anyway.
_LEAST_SPREAD = 1e-3
# A mean direction of at most this length leaves codes without terms as good as those with them.
_SHORT_MEAN = 0.5


class Uniform(Quantizer):
    """Codes of levels; subclasses say how many bits, their layout, and how wide the range is."""

    zero: ClassVar[int]
    """The level of 0."""

    @classmethod
    @abstractmethod
    def _step(cls, coordinates: Floats, sigma: float) -> float:
        """The step for `coordinates` (n, D), whose standard deviation is `sigma`; n may be 0."""

    @classmethod
    def _fit(cls, some: Floats, metric: str, seed: int, centre: Floats, terms: bool | None, *, unit: float) -> Self:
        rotation = Rotation(some.shape[1], padded(some.shape[1], cls._dims_multiple), seed)
        if terms is None:
            terms = metric != "cosine" or float(np.linalg.norm(centre.astype(np.float64))) > _SHORT_MEAN
        terms = terms or metric != "cosine"
        lengths, coordinates = np.zeros(0), [np.zeros((0, rotation.size), np.float32)]
        for part in parts_of(some):
            residuals = normal_form(part, metric) - centre
            own = np.sqrt(np.einsum("ij,ij->i", residuals, residuals))
            lengths = np.concatenate([lengths, own])
            if terms:
                # A length of rounding errors tells no direction.
                kept = own > 1e-6 * np.sqrt(np.einsum("ij,ij->i", residuals + centre, residuals + centre))
                residuals = residuals[kept] / own[kept, None]
            coordinates.append(rotation.apply(residuals.astype(np.float32)))
        if terms:
            sigma = 1 / np.sqrt(rotation.size)
        else:
            # The rows took the centre with them: (n - 1) / n of the variance is left.
            few = len(some) / max(len(some) - 1, 1)
            spread = float(np.sqrt(few * np.mean(lengths**2))) if len(some) > 1 else 1.0
            sigma = max(spread, _LEAST_SPREAD) / np.sqrt(rotation.size)
        return cls(metric, seed, centre, cls._step(np.concatenate(coordinates), sigma), 2 if terms else 0, unit=unit)

    @classmethod
    def _terms_allowed(cls, metric: str) -> tuple[int, ...]:
        return (0, 2) if metric == "cosine" else (2,)

    @abstractmethod
    def levels(self, codes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The levels of codes (n, code_bytes): (n, code dims) int32."""

    def _query_codes(self, codes: NDArray[np.uint8]) -> NDArray[np.int8]:
        return codes.view(np.int8)

    def _sums(self, query: QueryCodes, codes: NDArray[np.uint8]) -> Floats:
        totals = query.queries.astype(np.int32) @ self.levels(codes).T
        return totals.astype(np.float32) * query.factors[:, :1] + query.factors[:, 1:2]

    def decode(self, codes: NDArray[np.uint8], terms: Floats) -> Floats:
        """Rows (n, dim) float32 about as they were coded, of length 1 under cosine. For tests and repairs."""
        rotated = (self.levels(codes) - self.zero) * np.float64(self.step)
        if self.terms_count:
            rotated *= terms[:, :1] * (0.5 if self.metric == "l2" else 1.0)
        return self.rotation.apply_inverse((rotated / self.unit).astype(np.float32)) + self.centre
