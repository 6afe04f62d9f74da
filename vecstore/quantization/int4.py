"""Int4: half a byte per dim, 8 for 0, the range clipped at 2.5 standard deviations of the coordinates.

That is about where 16 levels of one step have the least squared error on Gaussian coordinates (Max,
Quantizing for minimum distortion, 1960).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels.scans import INT4
from vecstore.quantization.rotation import Floats
from vecstore.quantization.uniform import Uniform

_CLIP = 2.5


class Int4(Uniform):
    """In each block of 64 bytes the low nibbles are dims 0-63 of 128, the high ones 64-127."""

    kind = "int4"
    _dims_multiple = 128
    zero = 8
    _kernel_kind = INT4

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._query_bytes = self.dims
        self.code_bytes = self.dims // 2

    @classmethod
    def _step(cls, coordinates: Floats, sigma: float) -> float:
        del coordinates
        return _CLIP * sigma / 7.5

    def levels(self, codes: NDArray[np.uint8]) -> NDArray[np.int32]:
        blocks = codes.reshape(len(codes), -1, 1, 64)
        both = np.concatenate((blocks & 15, blocks >> 4), axis=2)
        return both.reshape(len(codes), -1).astype(np.int32)
