"""Binary: one bit per dim by RaBitQ, an unbiased estimate and a bound on its error.

Code: bit_j = r_j >= 0, that is y = (2 * bit - 1) / sqrt(D). The query side is P(q - c) in 4 bits, as bit
planes: u_j = round((q_j - least) / step), so that with S the sum of least + step * u_j over the set bits

    S         = step * sum over j of 2**j * popcount(code & plane_j) + least * popcount(code)
    <y, q>    = (2 * S - sum of all least + step * u_j) / sqrt(D)

The error of F * <y, q> has the standard deviation |r| * |q - c| * sqrt((1 - a**2) / a**2) / sqrt(D - 1), with
a = <r, y> / |r|, about 0.8; rounding the query adds at most F * step / sqrt(12) to it. (Gao and Long, RaBitQ,
SIGMOD 2024.)
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels.gathering import LISTED
from vecstore.kernels.listing import encode_listed
from vecstore.kernels.scans import BINARY
from vecstore.quantization.quantizer import METRICS, Quantizer, QueryCodes
from vecstore.quantization.rotation import Floats

PLANES = 4


class Binary(Quantizer):
    """Bit j & 7 of byte j >> 3 is the sign of dim j, 1 from 0 up. Three terms a row.

    Rows are rotated to a multiple of 512 dims, which fills the 64 bytes that a code of fewer takes up anyway:
    at 384 dims recall@10 on real embeddings rises from .968 to .982 with 50 rows rescored, .990 to .996 with
    100.

    terms[:, 2] is the standard deviation of a raw estimate for a query at distance 1 from the centre.
    """

    kind = "binary"
    _dims_multiple = 512
    _kernel_kind = BINARY
    _factors_count = 3

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.code_bytes = self.dims // 8
        self._query_bytes = PLANES * self.code_bytes

    @classmethod
    def _fit(cls, some: Floats, metric: str, seed: int, centre: Floats, terms: bool | None, *, unit: float) -> Self:
        del some, terms
        return cls(metric, seed, centre, 1.0, 3, unit=unit)

    @classmethod
    def _terms_allowed(cls, metric: str) -> tuple[int, ...]:
        del metric
        return (3,)

    def _query_codes(self, codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
        return codes.view(np.uint64).reshape(len(codes), PLANES, self.code_bytes // 8)

    def _sums(self, query: QueryCodes, codes: NDArray[np.uint8]) -> Floats:
        planes = query.queries.view(np.uint8).reshape(len(query.factors), PLANES, -1)
        bits = np.unpackbits(codes, axis=1, bitorder="little").astype(np.int32)
        units = sum(np.unpackbits(planes[:, j], axis=1, bitorder="little").astype(np.int32) << j for j in range(4))
        a, b, c = query.factors.T[:, :, None]
        sums: Floats = (units @ bits.T).astype(np.float32) * a + b + c * bits.sum(axis=1).astype(np.float32)
        return sums

    def bound(self, query: QueryCodes, terms: Floats, eps: float = 1.9) -> Floats:
        """What the errors of raw estimates stay within: (queries, rows) float32, for 95 % of rows at eps 1.9.

        In the units of raw estimates: of the squared distance under l2. Clustered data need eps 2.5.
        """
        terms = terms.astype(np.float64)
        error = query.lengths[:, None] * terms[:, 2] + query.steps[:, None] / np.sqrt(12) * terms[:, 0]
        rounding = 4e-7 * (np.abs(query.offsets)[:, None] + np.abs(terms[:, 1]))
        bound: Floats = (eps * error + rounding).astype(np.float32)
        return bound


class ListBinary(Binary):
    """One bit per dim relative to the centroid of a row's list, for lists: `centre` is only what all have in common.

    Codes of D / 8 bytes, D a multiple of 64, as kernels/listing.py makes and kernels/lists.py scans them.
    """

    kind = "list-binary"
    _dims_multiple = 64
    _kernel_kind = LISTED

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._query_bytes = 4 * self.dims

    def offsets(self, centroids: Floats) -> tuple[Floats, Floats]:
        """Centroids (n, dim), of length 1 under cosine, less the centre and rotated, (n, D); and (n, 2) what their
        products with a query lack then, and their squared lengths."""
        wide = np.zeros((len(centroids), self.dims), np.float32)
        wide[:, : self.dim] = centroids.astype(np.float64) * self.unit - self._centres[0, : self.dim]
        made: Floats = self.rotation.apply(np.ascontiguousarray(wide[:, : self.dim]))
        exact = made.astype(np.float64)
        terms = np.stack([exact @ self._centres[1], np.einsum("ij,ij->i", exact, exact)], axis=1)
        return made, terms.astype(np.float32)

    def encode_listed(
        self, rows: Floats, norms: Floats, lists: NDArray[np.int32], offsets: Floats
    ) -> tuple[NDArray[np.uint8], Floats]:
        """Codes (n, D / 8) and terms (n, 3) of rows (n, dim) with norms (n,) in lists of some `offsets`."""
        codes = np.empty((len(rows), self.code_bytes), np.uint8)
        terms = np.empty((len(rows), 3), np.float32)
        scratch = np.empty((2, self.dims), np.float32)
        encode_listed(
            METRICS[self.metric], rows, norms, lists, self._centres, offsets, self.rotation.table, self.unit, codes,
            terms, scratch,
        )  # fmt: skip
        return codes, terms
