"""The verbs of a database."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from vecstore import arguments
from vecstore.keywords import verb
from vecstore.types import HNSW, CollectionInfo, IndexConfig, Metric, Quantization
from vecstore.verbs.checks import collection_name
from vecstore.verbs.closing import Closing
from vecstore.verbs.collection import CollectionVerbs


class DatabaseVerbs(Closing):
    """A set of collections."""

    @verb
    def create_collection(
        self,
        name: str,
        dim: int,
        metric: Metric = "cosine",
        *,
        index: IndexConfig | None = None,
        quantization: Quantization | Literal["auto"] | None = "auto",
        exist_ok: bool = False,
    ) -> CollectionVerbs:
        """Create a collection for vectors of `dim` numbers (1 to 8192), compared by cosine, dot or l2.

        AlreadyExistsError if there is one of that name; with `exist_ok=True` it is returned instead, provided
        it was created alike. A name has 1 to 128 letters, digits, dots, dashes and underscores.

        `index` is `HNSW()`, a graph, unless it is `IVF()`, lists, which are built sooner and take less memory, or
        `Flat()`, where every search reads every row. With `quantization`
        (`Int8()`, `Int4()` or `Binary()`) a search reads codes in RAM instead of the rows, which is several times as
        fast, and rescores the best candidates from the rows. "auto" is `Int4()` for 192 dimensions and more, `Int8()`
        for fewer, `Binary()` with `IVF()` from 256 on, and None with `Flat()`, which so stays exact.
        """
        name, dim = collection_name(name), arguments.dimension(dim)
        metric = arguments.metric_name(metric)
        config = HNSW() if index is None else arguments.index_config(index)
        codes = arguments.quantization_kind(quantization, config, dim)
        wanted = CollectionInfo(name, dim, metric, config, codes)
        return self._create(wanted, arguments.flag(exist_ok, "exist_ok"))

    @verb
    def get_collection(self, name: str) -> CollectionVerbs:
        """Open a collection; CollectionNotFoundError if there is none of that name."""
        return self._open(collection_name(name))

    @abstractmethod
    def list_collections(self) -> list[str]:
        """The names of all collections, sorted."""

    @verb
    def drop_collection(self, name: str) -> None:
        """Delete a collection with all its rows, for good; CollectionNotFoundError if there is none."""
        self._drop(collection_name(name))

    @abstractmethod
    def _create(self, info: CollectionInfo, exist_ok: bool) -> CollectionVerbs: ...

    @abstractmethod
    def _open(self, name: str) -> CollectionVerbs: ...

    @abstractmethod
    def _drop(self, name: str) -> None: ...
