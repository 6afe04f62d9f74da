"""`vecstore.Index`: an index by itself, NumPy in and out, in RAM; for users who come from hnswlib or FAISS."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from vecstore import arguments
from vecstore.errors import InvalidArgumentError
from vecstore.index import saved
from vecstore.index.answering import NO_FIGURES
from vecstore.index.flat import Floats
from vecstore.index.following import Change
from vecstore.index.kinds import index_of
from vecstore.index.parallel import cpus
from vecstore.index.slabs import NONE, Ids, Slabs
from vecstore.keywords import verb
from vecstore.types import HNSW, IVF, Flat, Metric, Quantization

# A tail of so few rows costs a search a microsecond or two; linking rows one by one costs more than in batches.
MIN_TAIL: Final = 128
# The option of a search that each index has, and the one that it has not.
EFFORTS: Final[dict[type, tuple[str, str]]] = {HNSW: ("ef", "nprobe"), IVF: ("nprobe", "ef")}


class Index:
    """Vectors of `dim` numbers under int ids, searched by a graph or lists; everything in RAM, nothing durable.

    `metric` is cosine, dot or l2; `index` the parameters of HNSW, a graph, or IVF, lists; `quantization` "auto", None,
    Int8(), Int4() or Binary(): the codes that are searched, rescored from the rows. What `add` returns from is found by
    the next search, and there is nothing to build or train. Any number of threads may search while one adds or removes.
    """

    @verb
    def __init__(
        self,
        dim: int,
        metric: Metric = "cosine",
        *,
        index: HNSW | IVF | None = None,
        quantization: Quantization | Literal["auto"] | None = "auto",
    ) -> None:
        config = arguments.index_config(HNSW() if index is None else index)
        if isinstance(config, Flat):
            raise InvalidArgumentError(f"index: expected vecstore.HNSW() or IVF(), got {index!r}")
        if isinstance(config, IVF) and not config.resident:
            raise InvalidArgumentError("index: resident=False has no effect: an Index has no folder; leave it out")
        self.dim = arguments.dimension(dim)
        self.metric: Metric = arguments.metric_name(metric)
        self.config = config
        self.quantization = arguments.quantization_kind(quantization, config, self.dim)
        self._index = index_of(config, self.quantization, self.dim, self.metric)
        self._writing = threading.Lock()
        self._slabs = Slabs(self.dim, self.metric)
        self._lsn = 0

    def __len__(self) -> int:
        return self._slabs.count

    def __repr__(self) -> str:
        return f"<Index of {len(self):,} vectors of {self.dim} dims, {self.metric}>"

    # -- writing ---------------------------------------------------------------------------------------------

    @verb
    def add(
        self,
        vectors: Any,
        ids: Any = None,
        *,
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Ids:
        """Add vectors `(n, dim)`, or one `(dim,)`, under ints from 0 to 2^63 - 1; returns their ids `(n,)`.

        Without `ids` they are numbered on from the highest. A vector whose id is there already takes the place of the
        old one. `threads` build at the same time (all CPUs by default); the graph does not depend on how many.
        `progress(done, total)` is called now and then. Refused as a whole: NaN, infinity, a wrong dimension, a zero
        vector under cosine, an id given twice.
        """
        matrix = arguments.as_floats(vectors, "vectors")
        matrix, norms = arguments.vector_rows(matrix[None] if matrix.ndim == 1 else matrix, None, self.dim, self.metric)
        count = cpus() if threads is None else arguments.whole_number(threads, "threads", 1, 1024)
        with self._writing:
            numbers = self._slabs.next_ids(len(matrix)) if ids is None else _numbers(ids, len(matrix))
            slots, removed = self._slabs.put(numbers, matrix, norms)
            self._follow(slots, removed, count)
            self._slabs.freed(removed)
            self._link(count, progress)
        return numbers

    @verb
    def remove(self, ids: Any) -> int:
        """Remove the vectors of some ids, or of one; ids that are not there are passed over. Returns how many were."""
        with self._writing:
            slots = self._slabs.remove(np.unique(_int_ids(ids)))
            if len(slots):
                self._follow(np.zeros(0, np.int64), slots, 1)
                self._slabs.freed(slots)
                self._link(cpus(), None)
            return len(slots)

    @verb
    def rebuild(self, *, seed: int | None = None, threads: int | None = None) -> None:
        """Build the index anew; the same seed gives the same links, or lists, for any number of threads."""
        if seed is not None:
            seed = arguments.whole_number(seed, "seed", 0, 2**31 - 1)
        with self._writing:
            self._index.rebuild(self._slabs.rows(), self._lsn, self._slabs.live_slots(), seed, threads=threads)

    def _follow(self, added: Ids, removed: Ids, threads: int) -> None:
        self._lsn += 1
        change = Change(added, removed)
        self._index.follow(self._slabs.rows(), self._lsn, self._slabs.live_slots, lambda _: change, threads=threads)

    def _link(self, threads: int, progress: Callable[[int, int], None] | None) -> None:
        index, slabs, total = self._index, self._slabs, self._index.to_link
        while True:
            index.prepare(slabs.rows(), self._lsn, slabs.count, slabs.live_slots)
            if not (total >= MIN_TAIL and index.to_link) and not index.uneven:
                break
            index.step(threads)
            if progress is not None and index.to_link:
                progress(max(0, total - index.to_link), total)
        if progress is not None:
            progress(total, total)

    # -- reading ---------------------------------------------------------------------------------------------

    @verb
    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        ef: int | None = None,
        nprobe: int | None = None,
        filter: Any = None,
        threads: int = 1,
    ) -> tuple[Ids, Floats]:
        """Ids and scores of the k nearest vectors, best first: `(n, k)` for queries `(n, dim)`, `(k,)` for one.

        Scores are exact and higher for nearer vectors: the cosine, the inner product, or minus the distance. `ef`
        candidates are kept on the way through a graph, `nprobe` lists are scanned of an IVF: more find more of the true
        nearest, and take longer. `filter` names the ids that may be found, as an array, or a function of an id that
        tells. Where there are fewer than k, id -1 and score -inf fill the end.
        """
        k = arguments.whole_number(k, "k", 1, arguments.MAX_K)
        effort = None if ef is None and nprobe is None else self._effort(ef, nprobe)
        if filter is None and threads == 1 and (one := arguments.plain_query(queries, self.dim)) is not None:
            slabs = self._slabs
            reuses, ids, live = slabs.reuses, slabs.ids, slabs.live
            found = self._index.nearest(slabs.rows(), live, slabs.count, one, k, effort, ids)
            if found is not None and slabs.reuses == reuses:
                return found[0][0], found[1][0]
        matrix, single = arguments.query_rows(queries, self.dim, self.metric)
        if threads != 1:
            threads = arguments.whole_number(threads, "threads", 1, 1024)
        reuses = self._slabs.reuses
        slots, ids, scores = self._best(matrix, k, effort, filter, threads)
        if self._slabs.reused_since(reuses, slots):
            with self._writing:
                slots, ids, scores = self._best(matrix, k, effort, filter, threads)
        return (ids[0], scores[0]) if single else (ids, scores)

    def _effort(self, ef: Any, nprobe: Any) -> int:
        """How far a search goes, in the terms of the index."""
        name, other = EFFORTS[type(self.config)]
        given = {"ef": ef, "nprobe": nprobe}
        if given[other] is not None:
            index = type(self.config).__name__
            raise InvalidArgumentError(f"{other} has no effect: the index is {index}(); use {name}, or leave it out")
        return arguments.whole_number(given[name], name, 1, arguments.MAX_LISTS)

    def _best(self, matrix: Floats, k: int, effort: int | None, filter: Any, threads: int) -> tuple[Any, Ids, Floats]:
        """Slots, ids and scores `(n, k)`, with -1 and -inf where there are fewer."""
        slabs = self._slabs
        allowed, matches = slabs.live, slabs.count
        if filter is not None:
            allowed, matches = self._allowed(filter)
        if filter is None and matches >= k and self._index.structure is not None:
            slots, scores = self._index.arrays_of_best(slabs.rows(), allowed, matches, matrix, k, effort, threads)
        else:
            found = self._index.search(slabs.rows(), allowed, matches, matrix, k, effort=effort, threads=threads)
            slots, scores = np.full((len(matrix), k), NONE, np.int32), np.full((len(matrix), k), -np.inf, np.float32)
            for i, (some, best) in enumerate(found):
                slots[i, : len(some)], scores[i, : len(best)] = some, best
        return slots, slabs.ids.take(slots) if slabs.size else slots.astype(np.int64), scores

    def _allowed(self, filter: Any) -> tuple[npt.NDArray[np.uint8], int]:
        live = self._slabs.live  # a writer may put a longer one in its place
        if callable(filter):
            slots = np.flatnonzero(np.unpackbits(live, bitorder="little"))
            slots = slots[[bool(filter(one)) for one in self._slabs.ids[slots].tolist()]]
        else:
            slots = self._slabs.found(np.unique(_int_ids(filter)))
            slots = slots[(slots >= 0) & (slots < len(live) * 8)]
        bits = np.zeros(len(live) * 8, np.uint8)
        bits[slots] = 1
        packed = np.packbits(bits, bitorder="little") & live
        return packed, int(np.bitwise_count(packed).sum(dtype=np.int64))

    @verb
    def get(self, ids: Any) -> Floats:
        """The vectors of some ids `(n, dim)`, bit for bit as they were added; InvalidArgumentError if one is not
        there."""
        numbers = _int_ids(ids)
        reuses = self._slabs.reuses
        found = self._slabs.vectors(numbers)
        if self._slabs.reuses != reuses:  # a slot may have got another row meanwhile
            with self._writing:
                found = self._slabs.vectors(numbers)
        return found

    def stats(self) -> dict[str, Any]:
        """Counts, and bytes by part: linked, tail, tombstones, pilots, degree, lists, code_bytes, link_bytes,
        index_bytes, row_bytes."""
        return {"count": len(self), **NO_FIGURES, **self._index.figures(), "row_bytes": self._slabs.nbytes}

    # -- files -----------------------------------------------------------------------------------------------

    @verb
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything into one file (a zip of NumPy arrays), which is replaced whole or not at all."""
        slabs = self._slabs
        with self._writing, contextlib.ExitStack() as block:
            structure = self._index.structure
            config = self.config if structure is None else structure.config
            parts = saved.of_index(config, self.metric, self.quantization, self.dim)
            parts |= {"rows": slabs.matrix(), "ids": slabs.ids[: slabs.size], "live": slabs.live_slots()}
            if structure is not None:
                parts |= saved.of_coder(structure.arrays.coder, structure.fitted_on)
                parts |= block.enter_context(structure.held())
            saved.write(path, parts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The index that `save` wrote. FileNotFoundError, NotADatabaseError (another file), FormatVersionError (of a
        newer vecstore), CorruptionError."""
        with saved.opened(path) as parts:
            config, metric, quantization, dim = saved.index_of(parts)
            made = cls(dim, metric, index=config, quantization=quantization)  # type: ignore[arg-type]
            matrix, live = np.ascontiguousarray(parts["rows"], np.float32), parts["live"].astype(np.int64)
            if (
                matrix.shape[1:] != (made.dim,)
                or len(parts["ids"]) != len(matrix)
                or (len(live) and not 0 <= live.min() <= live.max() < len(matrix))
            ):
                raise ValueError("rows and ids do not fit together")
            made._slabs = Slabs.restored(made.metric, matrix, parts["ids"], live)
            if "coder" in parts:
                coder, fitted_on = saved.coder_of(parts, made.dim, made.metric)
                made._index.take_over(coder, config, fitted_on, parts, len(matrix))
            made._index._lsn = made._lsn
            return made


def _numbers(ids: Any, n: int) -> Ids:
    numbers = _int_ids(ids)
    if len(numbers) != n:
        raise InvalidArgumentError(f"ids: expected one for each of {n} vectors, got {len(numbers)}")
    if len(np.unique(numbers)) != n:
        raise InvalidArgumentError("ids: one of them is given twice")
    return numbers


def _int_ids(ids: Any) -> Ids:
    """Ids as `(n,) int64`: ints from 0 to 2^63 - 1."""
    try:
        numbers = np.atleast_1d(np.asarray(ids))
    except ValueError as error:
        raise InvalidArgumentError(f"ids: expected ints from 0 to 2^63 - 1 ({error})") from None
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
        raise InvalidArgumentError(f"ids: expected ints from 0 to 2^63 - 1, got an array of {numbers.dtype}")
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) > arguments.MAX_INT_ID):
        raise InvalidArgumentError("ids: an id lies between 0 and 2^63 - 1")
    return numbers.astype(np.int64)
