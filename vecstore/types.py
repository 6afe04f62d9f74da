"""The values that go into the verbs and come out of them: frozen dataclasses and named tuples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from vecstore.keywords import named

Id: TypeAlias = int | str
"""What names a row: an int from 0 to 2^63 - 1, or a str of 1 to 480 bytes of UTF-8. 7 and "7" differ."""

Payload: TypeAlias = dict[str, Any]
"""What a row carries beside its vector: None, bool, int, float, str, bytes, and lists and dicts of them."""

Filter: TypeAlias = dict[str, Any]
"""A condition on payloads in the style of MongoDB, such as `{"year": {"$gte": 2020}}`."""

Metric: TypeAlias = Literal["cosine", "dot", "l2"]
"""How near two vectors are: cosine similarity, inner product, or minus the Euclidean distance."""

Vector: TypeAlias = npt.NDArray[np.float32]


class Hit(NamedTuple):
    """One answer of a search; a higher `score` is nearer. `vector` is `(dim,) float32` or None, and not compared.

    A tuple, since a search makes many of them: one is made in a quarter of the time of a frozen dataclass.
    """

    id: Id
    score: float
    payload: Payload | None = None
    vector: Vector | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hit) and self[:3] == other[:3]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:2])


def hits_of(ids: Iterable[Id], scores: Iterable[float]) -> list[Hit]:
    """Hits without payload and vector: the quickest way to make many."""
    none = repeat(None)
    return list(map(tuple.__new__, repeat(Hit), zip(ids, scores, none, none, strict=False)))


@dataclass(frozen=True, slots=True)
class Record:
    """One stored row. `vector` is `(dim,) float32`, bit for bit what was written, or None."""

    id: Id
    payload: Payload | None = None
    vector: Vector | None = field(default=None, compare=False)


class Page(NamedTuple):
    """One step of a scroll: some records, and the cursor that continues behind them (None at the end)."""

    records: list[Record]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did. Each write has the next `lsn` (log sequence number) of its collection."""

    lsn: int
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@named
@dataclass(frozen=True, slots=True)
class HNSW:
    """A navigable small world graph, as on the base layer of HNSW (Malkov and Yashunin 2018), pruned with the alpha of
    DiskANN (Subramanya et al. 2019): a search visits some of the rows instead of all of them.
    """

    m: int = 24
    """Links of a row in the paper's sense: on the base layer it has room for 2 * m. A multiple of 8 from 8 to 128."""
    ef_construction: int = 128
    """Candidates among which a new row finds its links, 16 to 2000."""
    ef: int = 64
    """Candidates that a search keeps unless it says otherwise, 10 to 10,000."""
    alpha: float = 1.05
    """How much longer than the way round a link may be and stay, 1.0 to 2.0: larger keeps more long links."""
    seed: int = 1
    """Of all that is drawn at random, 0 to 2^31 - 1."""


@named
@dataclass(frozen=True, slots=True)
class Flat:
    """No graph: every search reads every row, or the code of every row. Right up to some 100,000 rows."""


@named
@dataclass(frozen=True, slots=True)
class IVF:
    """An inverted file: rows in lists by the nearest of some centroids, of which a search scans a few. Built in
    seconds, small in memory with Binary codes, and quick to change; lists split and merge as the rows do.
    """

    nlist: int | None = None
    """Lists to begin with, 1 to 65,536; None for twice the square root of the number of rows."""
    nprobe: int = 32
    """Lists that a search scans unless it says otherwise, 1 to 65,536."""
    seed: int = 1
    """Of all that is drawn at random, 0 to 2^31 - 1."""
    resident: bool = True
    """Whether codes are in RAM, or else in a file without a name beside the rows, of which the system keeps in RAM what
    it has room for: for collections that are larger than it."""


IndexConfig: TypeAlias = HNSW | IVF | Flat
"""How searches find their way to the nearest rows."""


@dataclass(frozen=True, slots=True)
class Int8:
    """Codes of 8 bits a dimension: a quarter of the row, and practically all of its recall."""


@dataclass(frozen=True, slots=True)
class Int4:
    """Codes of 4 bits a dimension: an eighth of the row."""


@dataclass(frozen=True, slots=True)
class Binary:
    """Codes of 1 bit a dimension (RaBitQ): a thirty-second of the row, for 256 dimensions and more."""


Quantization: TypeAlias = Int8 | Int4 | Binary
"""Codes that are kept in RAM and scanned instead of the rows; the best candidates are rescored from the rows."""


INDEX_KINDS: Final[dict[str, type[IndexConfig]]] = {"hnsw": HNSW, "ivf": IVF, "flat": Flat}
"""The kinds of indexes by their names, as they are stored."""


KIND_NAMES: Final[dict[type[Quantization], str]] = {Int8: "int8", Int4: "int4", Binary: "binary"}
"""The names of the kinds of codes, as they are stored."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection was created with, and its index and codes, which `set_index` may have changed since."""

    name: str
    dim: int
    metric: Metric = "cosine"
    index: IndexConfig = field(default_factory=HNSW)
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and sizes of one collection; all sizes in bytes."""

    name: str
    dim: int
    metric: Metric
    index: str
    """HNSW, IVF or Flat."""
    quantization: str | None
    """The kind of codes: int8, int4, binary or None."""
    count: int
    """Rows that a search can find."""
    linked: int
    """Rows that the graph or the lists hold."""
    tail: int
    """Rows that each search scans, because graph or lists do not hold them yet."""
    tombstones: int
    """Places of removed rows that graph or lists still hold."""
    pilots: int
    """Rows among which a search of the graph finds its start."""
    degree: float
    """Links of a linked row, on average."""
    lists: int
    """Lists of an IVF."""
    dead: int
    """Slots of deleted or replaced rows, which later writes use again."""
    lsn: int
    """Log sequence number of the last write."""
    durability: str | None
    """When a write is on the disk: commit (as it returns), interval (a moment later), or None where this only reads."""
    synced_lsn: int | None
    """The last write that is on the disk, or None as above."""
    checkpoint_lsn: int
    """The write up to which the index is kept in index.mdb: later ones are followed when it is opened. 0 for none."""
    vector_bytes: int
    """Blocks of vectors, dead rows among them."""
    row_bytes: int
    """Ids and payloads by slot."""
    id_bytes: int
    """The map from ids to slots."""
    log_bytes: int
    free_bytes: int
    """Pages of the file that the next writes use again."""
    file_bytes: int
    """The whole data file."""
    code_bytes: int
    """Codes: in RAM, but for those of an IVF with `resident=False`. Of a Flat, once a search has made them."""
    link_bytes: int
    """Links in RAM."""
    index_bytes: int
    """All of the index in RAM: codes, links, and what else it keeps."""
    index_error: str | None
    """What indexing in the background last failed with, or why there is no room for the index; or None."""


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """What `cluster()` made of m rows: entry i of `ids`, `labels` and `scores` belongs to one of them."""

    ids: list[Id]
    """In the order in which the rows are stored."""
    labels: npt.NDArray[np.int32]
    """`(m,)`: the number of the cluster that each row belongs to, from 0."""
    scores: npt.NDArray[np.float32]
    """`(m,)`: of each row and the centroid of its cluster, as a search would score them: higher is nearer."""
    centroids: npt.NDArray[np.float32]
    """`(n, dim)`: the means of the clusters, with unit norm under cosine."""
    sizes: npt.NDArray[np.int64]
    """`(n,)`: how many rows belong to each cluster."""

    def members(self, label: int) -> list[Id]:
        """The ids of one cluster's rows, those nearest to its centroid first."""
        rows = np.flatnonzero(self.labels == label)
        return [self.ids[row] for row in rows[np.argsort(-self.scores[rows], kind="stable")]]


class DuplicateGroup(NamedTuple):
    """Rows that `near_duplicates()` found to be nearly equal, the representative first, the others by their score."""

    ids: list[Id]
    scores: list[float]
    """Of each row and the representative, as a search would score them; the first is its own."""

    @property
    def representative(self) -> Id:
        """The row to keep: the one with the most near duplicates."""
        return self.ids[0]

    @property
    def duplicates(self) -> list[Id]:
        """All the others."""
        return self.ids[1:]


@dataclass(frozen=True, slots=True)
class Estimate:
    """About what a collection of so many rows takes, in bytes: the index in RAM, and its files."""

    count: int
    dim: int
    index: str
    """HNSW, IVF or Flat."""
    quantization: str | None
    """The kind of codes: int8, int4, binary or None."""
    code_bytes: int
    """Codes in RAM, with what is kept of each."""
    link_bytes: int
    """Links in RAM."""
    index_bytes: int
    """All of the index in RAM: codes, links or lists, maps between rows and them, and ids."""
    peak_bytes: int
    """What RAM the index takes while it is built and grows, at the most."""
    file_bytes: int
    """data.mdb, whose pages are in RAM as far as the system has room for them."""
    checkpoint_bytes: int
    """index.mdb."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `check()` found wrong: which `part`, a sentence, and the `ids` of the rows it harms."""

    part: str
    message: str
    ids: tuple[Id, ...] = ()
