"""A search, once its arguments are checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vecstore.types import Filter


class Query(NamedTuple):
    """A checked search: `queries` is `(n, dim) float32`."""

    queries: npt.NDArray[np.float32]
    k: int
    filter: Filter | None = None
    score_threshold: float | None = None
    with_payload: bool = True
    with_vectors: bool = False
    oversampling: float | None = None
    ef: int | None = None
    nprobe: int | None = None
    exact: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it asks for the nearest rows and nothing else."""
        return self.filter is None and self.score_threshold is None and self.oversampling is None and not self.exact

    @property
    def has_options(self) -> bool:
        """Whether it has options that not every index takes."""
        return self.oversampling is not None or self.ef is not None or self.nprobe is not None

    @property
    def effort(self) -> int | None:
        """How far the search goes, in the terms of the collection's index."""
        return self.ef or self.nprobe
