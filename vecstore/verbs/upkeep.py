"""Verbs about the index and the file of a collection: figures, checks, and making them anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from vecstore import arguments
from vecstore.errors import InvalidArgumentError
from vecstore.keywords import verb
from vecstore.types import CollectionInfo, Estimate, Finding, Flat, IndexConfig, Quantization, Stats
from vecstore.verbs.checks import Progress, reported


class UpkeepVerbs(ABC):
    """None of them changes a row, and searches go on meanwhile."""

    @property
    @abstractmethod
    def info(self) -> CollectionInfo:
        """What the collection is."""

    def _info_now(self) -> CollectionInfo:
        """`info`, looked up where another process may have changed it."""
        return self.info

    @property
    @abstractmethod
    def dim(self) -> int:
        """Numbers in each vector."""

    @abstractmethod
    def stats(self) -> Stats:
        """Counts and sizes."""

    @verb
    def check(self, *, progress: Progress | None = None) -> list[Finding]:
        """Read and verify everything that is stored, and the index: what is wrong, or an empty list. Others read and
        write meanwhile.

        `progress(done, total)` is called now and then.
        """
        return self._check(reported(progress))

    @verb
    def compact(self) -> None:
        """Write the collection anew with nothing but its rows: the file shrinks to them, and neighbours in the
        graph or the lists come to lie near each other. Meanwhile searches go on, and writers wait. It takes as much
        room on the disk again as the rows do. If the timeout of a connection ends first, the caller gets
        DeadlineExceededError, and the server goes on.
        """
        self._compact()

    @verb
    def wait_indexed(self, timeout: float | None = None) -> None:
        """Return when the index holds every committed row; DeadlineExceededError if `timeout` seconds end before.

        No search needs it: a row that graph or lists do not hold yet is found all the same. It is for measurements.
        """
        seconds = None if timeout is None else arguments.number(timeout, "timeout", 0, arguments.MAX_SECONDS)
        self._wait_indexed(seconds)

    @verb
    def rebuild(self, *, seed: int | None = None) -> None:
        """Build the index anew from the rows, and return when it is done; searches go on meanwhile.

        Whatever is drawn at random is drawn with `seed` (0 to 2^31 - 1), or else with the seed of the collection's
        index. If the timeout of a connection ends first, the caller gets DeadlineExceededError, and the server builds
        on.
        """
        if has_none(self.info) and has_none(self._info_now()):
            raise InvalidArgumentError("rebuild() has no effect: this collection has neither graph, lists nor codes")
        self._rebuild(None if seed is None else arguments.whole_number(seed, "seed", 0, arguments.MAX_SEED))

    @verb
    def set_index(
        self,
        index: IndexConfig,
        *,
        quantization: Quantization | Literal["same", "auto"] | None = "same",
        progress: Progress | None = None,
    ) -> None:
        """Give the collection another index, other parameters of it, or other codes, and return when that is done.

        The new index is built beside the old one, which takes memory for both; searches and writes go on with the old
        one until then. What fails or is killed before leaves the old one. Parameters that only searches go by (`ef`,
        `nprobe`) change at once, and what is there already is left alone. `quantization` stays the "same" unless it is
        given; "auto" is what `create_collection` would take. `progress(done, total)` is called now and then. If the
        timeout of a connection ends first, the caller gets DeadlineExceededError, and the server goes on.
        """
        if index is None:
            raise InvalidArgumentError("index: expected vecstore.HNSW(), IVF() or Flat(), got None")
        config = arguments.index_config(index)
        same = isinstance(quantization, str) and quantization == "same"
        codes = "same" if same else arguments.quantization_kind(quantization, config, self.dim)
        self._set_index(config, codes, reported(progress))  # type: ignore[arg-type]

    @verb
    def estimate(
        self,
        count: int | None = None,
        *,
        index: IndexConfig | None = None,
        quantization: Quantization | Literal["same", "auto"] | None = "same",
    ) -> Estimate:
        """About what the collection takes in RAM and on the disk with `count` rows (by default those that it has), or
        would with another index or other codes (see `set_index`). Nothing is changed."""
        config = None if index is None else arguments.index_config(index)
        rows = None if count is None else arguments.whole_number(count, "count", 0, arguments.MAX_ROWS)
        same = isinstance(quantization, str) and quantization == "same"
        codes = (
            "same" if same else arguments.quantization_kind(quantization, config or self._info_now().index, self.dim)
        )
        return self._estimate(rows, config, codes)  # type: ignore[arg-type]

    @abstractmethod
    def _wait_indexed(self, timeout: float | None) -> None: ...

    @abstractmethod
    def _check(self, progress: Progress) -> list[Finding]: ...

    @abstractmethod
    def _compact(self) -> None: ...

    @abstractmethod
    def _rebuild(self, seed: int | None) -> None: ...

    @abstractmethod
    def _estimate(
        self, count: int | None, index: IndexConfig | None, quantization: Quantization | Literal["same"] | None
    ) -> Estimate: ...

    @abstractmethod
    def _set_index(
        self,
        index: IndexConfig,
        quantization: Quantization | Literal["same"] | None,
        progress: Progress,
    ) -> None: ...


def has_none(info: CollectionInfo) -> bool:
    """Whether a collection has neither graph, lists nor codes."""
    return isinstance(info.index, Flat) and info.quantization is None
