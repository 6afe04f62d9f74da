"""No codes: rows as float32 in RAM, of length 1 under cosine, in the form that quantizers have."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels.graph import FLOAT
from vecstore.quantization.rotation import Floats

_LINE: Final = 16


class Whole:
    """What a graph walks over where a collection has no quantization: exact distances, and as much RAM as the rows."""

    kind = "float32"
    kernel_kind = FLOAT
    terms_count = 0
    unit = 1.0
    step = 1.0

    def __init__(self, dim: int, metric: str) -> None:
        self.dim, self.metric = dim, metric
        self.dims = -(-dim // _LINE) * _LINE
        self.code_bytes = self.query_bytes = 4 * self.dims
        self.factors_count = 2
        self.centres: Floats = np.zeros((2, self.dims), np.float32)
        self.signs: Floats = np.ones((1, self.dims), np.float32)

    def encode(self, rows: Floats, norms: Floats, codes_out: NDArray[np.uint8], terms_out: Floats) -> None:
        """Rows (n, dim), whose L2 norms are `norms` (n,), into codes of n rows."""
        del terms_out
        into: Any = codes_out.view(np.float32)
        into[:, : self.dim] = rows
        into[:, self.dim :] = 0
        if self.metric == "cosine":
            into /= np.where(norms > 0, norms, np.float32(1))[:, None]
