"""Int8: a byte per dim, 128 for 0, the range at the 0.9999 quantile of the absolute coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels.scans import INT8
from vecstore.quantization.rotation import Floats
from vecstore.quantization.uniform import Uniform

_QUANTILE = 0.9999
# That quantile of a Gaussian, in standard deviations: what counts until the sample has enough coordinates.
_GAUSSIAN, _ENOUGH = 3.89, 100_000


class Int8(Uniform):
    """Byte j of a code is the level of dim j. D bytes a row."""

    kind = "int8"
    zero = 128
    _kernel_kind = INT8

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.code_bytes = self._query_bytes = self.dims

    @classmethod
    def _step(cls, coordinates: Floats, sigma: float) -> float:
        reach = _GAUSSIAN * sigma
        if coordinates.size:
            quantile = float(np.quantile(np.abs(coordinates), _QUANTILE))
            reach = quantile if coordinates.size >= _ENOUGH and quantile > 0 else max(quantile, reach)
        return max(reach, sigma) / 127

    def levels(self, codes: NDArray[np.uint8]) -> NDArray[np.int32]:
        return codes.astype(np.int32)
