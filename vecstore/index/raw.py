"""`vecstore.Index`: the graph index by itself, NumPy in and out, in RAM; for users who come from hnswlib or FAISS."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from vecstore import arguments
from vecstore.errors import CorruptionError, FormatVersionError, InvalidArgumentError, NotADatabaseError
from vecstore.index.answering import NO_FIGURES
from vecstore.index.arrays import aligned
from vecstore.index.flat import Floats, Rows, gathered
from vecstore.index.following import Change
from vecstore.index.kinds import index_of
from vecstore.index.parallel import cpus
from vecstore.keywords import verb
from vecstore.quantization import Quantizer
from vecstore.quantization.whole import Whole
from vecstore.types import HNSW, INDEX_KINDS, IVF, KIND_NAMES, Flat, IndexConfig, Metric, Quantization

Ids = npt.NDArray[np.int64]

FORMAT: Final = 2
SHIFT: Final = 6
# A tail of so few rows costs a search a microsecond or two; linking rows one by one costs more than in batches.
MIN_TAIL: Final = 128
NONE: Final = -1


class Index:
    """Vectors of `dim` numbers under int ids, searched by a graph; everything in RAM, nothing durable.

    `metric` is cosine, dot or l2; `index` the parameters of the graph; `quantization` "auto", None, Int8(), Int4() or
    Binary(): the codes it walks over, rescored from the rows. What `add` returns from is found by the next search, and
    there is nothing to build or train. Any number of threads may search while one adds or removes.
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
        self._slabs: list[Floats] = []
        self._blocks = np.zeros(0, np.int64)
        self._slots = 0
        self._kept = Rows(self._blocks, SHIFT, self.dim, 0, self.metric)
        self._ids = np.zeros(0, np.int64)
        self._live = np.zeros(0, np.uint8)
        self._free: list[int] = []
        # How often slots were used again, and for each slot when: a search that was going on may have met two rows.
        self._reuses = 0
        self._stamps = np.zeros(0, np.int64)
        self._count = 0
        # Slots by id, from the first id on that is not its row's number.
        self._slot_of: dict[int, int] | None = None
        self._lsn = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Index of {self._count:,} vectors of {self.dim} dims, {self.metric}>"

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
            numbers = self._numbers(ids, len(matrix))
            replaced = self._found(numbers)
            slots = self._take(len(matrix))
            self._store(slots, matrix, norms)
            self._ids[slots] = numbers
            self._remember(numbers, slots)
            removed = replaced[replaced >= 0]
            self._mark(removed, slots)
            self._follow(slots, removed, count)
            self._free.extend(removed.tolist())
            self._link(count, progress)
        return numbers

    @verb
    def remove(self, ids: Any) -> int:
        """Remove the vectors of some ids, or of one; ids that are not there are passed over. Returns how many were."""
        with self._writing:
            slots = self._found(np.unique(_int_ids(ids)))
            slots = slots[slots >= 0]
            if len(slots):
                known = self._known()
                for one in self._ids[slots].tolist():
                    del known[one]
                self._mark(slots, np.zeros(0, np.int64))
                self._follow(np.zeros(0, np.int64), slots, 1)
                self._free.extend(slots.tolist())
                self._link(cpus(), None)
            return len(slots)

    @verb
    def rebuild(self, *, seed: int | None = None, threads: int | None = None) -> None:
        """Build the graph anew; the same seed gives the same links for any number of threads."""
        if seed is not None:
            seed = arguments.whole_number(seed, "seed", 0, 2**31 - 1)
        with self._writing:
            self._index.rebuild(self._rows(), self._lsn, self._live_slots(), seed, threads=threads)

    def _numbers(self, ids: Any, n: int) -> Ids:
        if ids is None:
            first = 0 if not self._count else int(self._ids[self._live_slots()].max()) + 1
            if first + n - 1 > arguments.MAX_INT_ID:
                raise InvalidArgumentError("ids: the highest is too near to 2^63 - 1 to number on; give ids")
            return np.arange(first, first + n, dtype=np.int64)
        numbers = _int_ids(ids)
        if len(numbers) != n:
            raise InvalidArgumentError(f"ids: expected one for each of {n} vectors, got {len(numbers)}")
        if len(np.unique(numbers)) != n:
            raise InvalidArgumentError("ids: one of them is given twice")
        return numbers

    def _found(self, numbers: Ids) -> Ids:
        """The slots of ids, -1 for those that are not there."""
        if self._slot_of is None:
            return np.where(numbers < self._slots, numbers, NONE)
        return np.array([self._slot_of.get(one, NONE) for one in numbers.tolist()], np.int64)

    def _known(self) -> dict[int, int]:
        if self._slot_of is None:
            self._slot_of = dict(zip(self._ids[: self._slots].tolist(), range(self._slots), strict=True))
        return self._slot_of

    def _remember(self, numbers: Ids, slots: Ids) -> None:
        if self._slot_of is None and np.array_equal(numbers, slots):
            return
        if self._slot_of is None:
            before = self._slots - int(np.count_nonzero(slots >= self._slots - len(slots)))
            self._slot_of = dict(zip(self._ids[:before].tolist(), range(before), strict=True))
        self._slot_of.update(zip(numbers.tolist(), slots.tolist(), strict=True))

    def _take(self, n: int) -> Ids:
        """Free slots first, then new ones."""
        reused = [self._free.pop() for _ in range(min(n, len(self._free)))]
        first = self._slots
        more = n - len(reused)
        self._slots = first + more
        self._make_room()
        if reused:
            self._stamps[reused] = self._reuses + 1
            self._reuses += 1
        return np.concatenate([np.array(reused, np.int64), np.arange(first, first + more, dtype=np.int64)])

    def _make_room(self) -> None:
        block = 1 << SHIFT
        have, needed = len(self._blocks), -(-self._slots // block)
        if needed <= have:
            return
        size = max(needed - have, have // 4)
        slab = aligned((size, block * (self.dim + 1)), np.float32)
        self._slabs.append(slab)
        self._blocks = np.concatenate([self._blocks, slab.ctypes.data + np.arange(size) * slab.strides[0]])
        total = len(self._blocks) * block
        ids = _grown(self._ids, total + 1)
        ids[-1] = NONE  # of slot -1, where a search finds fewer than it asked for
        self._stamps = _grown(self._stamps, total)
        self._ids, self._live = ids, _grown(self._live, total // 8)

    def _store(self, slots: Ids, matrix: Floats, norms: Floats) -> None:
        block, first = 1 << SHIFT, 0
        for slab in self._slabs:
            last = first + len(slab) * block
            here = np.flatnonzero((slots >= first) & (slots < last))
            if len(here):
                at, within = np.divmod(slots[here] - first, block)
                slab[:, : block * self.dim].reshape(len(slab), block, self.dim)[at, within] = matrix[here]
                slab[:, block * self.dim :][at, within] = norms[here]
            first = last

    def _mark(self, removed: Ids, added: Ids) -> None:
        bits = np.unpackbits(self._live, bitorder="little")
        bits[removed] = 0
        bits[added] = 1
        self._live = np.packbits(bits, bitorder="little")
        self._count += len(added) - len(removed)

    def _follow(self, added: Ids, removed: Ids, threads: int) -> None:
        self._lsn += 1
        change = Change(added, removed)
        self._index.follow(self._rows(), self._lsn, self._live_slots, lambda _: change, threads=threads)

    def _link(self, threads: int, progress: Callable[[int, int], None] | None) -> None:
        index, total = self._index, self._index.to_link
        index.prepare(self._rows(), self._lsn, self._count, self._live_slots)
        while (total >= MIN_TAIL and index.to_link) or index.uneven:
            index.prepare(self._rows(), self._lsn, self._count, self._live_slots)
            index.link(threads)
            if progress is not None and index.to_link:
                progress(max(0, total - index.to_link), total)
        if progress is not None:
            progress(total, total)
        index.settle(threads)

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
            reuses, ids, live = self._reuses, self._ids, self._live
            found = self._index.nearest(self._rows(), live, self._count, one, k, effort, ids)
            if found is not None and self._reuses == reuses:
                return found[0][0], found[1][0]
        matrix, single = arguments.query_rows(queries, self.dim, self.metric)
        if threads != 1:
            threads = arguments.whole_number(threads, "threads", 1, 1024)
        reuses = self._reuses
        slots, ids, scores = self._best(matrix, k, effort, filter, threads)
        if self._reuses != reuses and (self._stamps[slots[slots >= 0]] > reuses).any():
            with self._writing:
                slots, ids, scores = self._best(matrix, k, effort, filter, threads)
        return (ids[0], scores[0]) if single else (ids, scores)

    def _effort(self, ef: Any, nprobe: Any) -> int:
        """How far a search goes, in the terms of the index."""
        (name, value), (other, unwanted) = ("ef", ef), ("nprobe", nprobe)
        if not isinstance(self.config, HNSW):
            (name, value), (other, unwanted) = (other, unwanted), (name, value)
        if unwanted is not None:
            raise InvalidArgumentError(
                f"{other} has no effect: the index is {type(self.config).__name__}(); leave it out"
            )
        return arguments.whole_number(value, name, 1, arguments.MAX_LISTS)

    def _best(self, matrix: Floats, k: int, effort: int | None, filter: Any, threads: int) -> tuple[Any, Ids, Floats]:
        """Slots, ids and scores `(n, k)`, with -1 and -inf where there are fewer."""
        allowed, matches = self._live, self._count
        if filter is not None:
            allowed, matches = self._allowed(filter)
        if filter is None and matches >= k and self._index.graph is not None:
            slots, scores = self._index.arrays_of_best(self._rows(), allowed, matches, matrix, k, effort, threads)
        else:
            found = self._index.search(self._rows(), allowed, matches, matrix, k, effort=effort, threads=threads)
            slots, scores = np.full((len(matrix), k), NONE, np.int32), np.full((len(matrix), k), -np.inf, np.float32)
            for i, (some, best) in enumerate(found):
                slots[i, : len(some)], scores[i, : len(best)] = some, best
        return slots, self._ids.take(slots) if self._slots else slots.astype(np.int64), scores

    def _allowed(self, filter: Any) -> tuple[npt.NDArray[np.uint8], int]:
        live = self._live  # a writer may put a longer one in its place
        if callable(filter):
            slots = np.flatnonzero(np.unpackbits(live, bitorder="little"))
            slots = slots[[bool(filter(one)) for one in self._ids[slots].tolist()]]
        else:
            slots = self._found(np.unique(_int_ids(filter)))
            slots = slots[(slots >= 0) & (slots < len(live) * 8)]
        bits = np.zeros(len(live) * 8, np.uint8)
        bits[slots] = 1
        packed = np.packbits(bits, bitorder="little") & live
        return packed, int(np.bitwise_count(packed).sum(dtype=np.int64))

    @verb
    def get(self, ids: Any) -> Floats:
        """The vectors of some ids `(n, dim)`, bit for bit as they were added; NotFound ids raise."""
        numbers = _int_ids(ids)
        reuses = self._reuses
        found = self._gathered(numbers)
        if self._reuses != reuses:  # a slot may have got another row meanwhile
            with self._writing:
                found = self._gathered(numbers)
        return found

    def _gathered(self, numbers: Ids) -> Floats:
        slots, live = self._found(numbers), self._live
        there = (slots >= 0) & (slots < len(live) * 8)
        there[there] = (live[slots[there] >> 3] >> (slots[there] & 7).astype(np.uint8)) & 1 != 0
        if not there.all():
            raise InvalidArgumentError(f"ids: {int(numbers[~there][0])} is not there")
        return gathered(self._rows(), slots)[0]

    def stats(self) -> dict[str, Any]:
        """Counts, and bytes by part: linked, tail, tombstones, pilots, degree, code_bytes, link_bytes, index_bytes."""
        return {
            "count": self._count,
            **NO_FIGURES,
            **self._index.figures(),
            "row_bytes": sum(slab.nbytes for slab in self._slabs),
        }

    def _rows(self) -> Rows:
        kept = self._kept  # most searches see what the last one did
        if kept.blocks is not self._blocks or kept.slots != self._slots:
            kept = self._kept = Rows(self._blocks, SHIFT, self.dim, self._slots, self.metric)
        return kept

    def _live_slots(self) -> Ids:
        return np.flatnonzero(np.unpackbits(self._live, bitorder="little"))

    def _matrix(self) -> Floats:
        block = 1 << SHIFT
        parts = [slab[:, : block * self.dim].reshape(-1, self.dim) for slab in self._slabs]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts])[: self._slots]

    # -- files -----------------------------------------------------------------------------------------------

    @verb
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything into one file (a zip of NumPy arrays), which is replaced whole or not at all."""
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with self._writing, contextlib.ExitStack() as block:
            graph = self._index.graph
            config = self.config if graph is None else graph.config
            parts: dict[str, Any] = {
                "format": np.array(FORMAT),
                "index": np.array([_kind_of(config), json.dumps(dataclasses.asdict(config))]),
                "kind": np.array([self.metric, self._index.kind]),
                "dim": np.array(self.dim),
                "rows": self._matrix(),
                "ids": self._ids[: self._slots],
                "live": self._live_slots(),
            }
            if graph is not None:
                coder = graph.arrays.coder
                blob = b"" if isinstance(coder, Whole) else coder.to_bytes()
                parts |= {"coder": np.frombuffer(blob, np.uint8), "fitted_on": np.array(graph.fitted_on)}
                parts |= block.enter_context(graph.held())
            try:
                with unfinished.open("wb") as file:
                    np.savez(file, **parts)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(target)
            finally:
                unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The index that `save` wrote. FileNotFoundError, NotADatabaseError (another file), CorruptionError."""
        where = str(path)
        try:
            with Path(path).open("rb") as opened:
                zipped = opened.read(2) == b"PK"
                opened.seek(0)
                try:
                    file = np.load(opened, allow_pickle=False)
                    parts = {name: file[name] for name in file.files} if zipped else {}
                except (OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
                    if zipped:
                        raise CorruptionError(f"{where}: the file is damaged ({error})", path=where) from None
        except IsADirectoryError:
            zipped = False
        if not zipped or "format" not in parts:
            raise NotADatabaseError(f"{where} is no saved index", path=where)
        if parts["format"].dtype.kind != "i" or parts["format"].shape:
            raise CorruptionError(f"{where}: the file is damaged", path=where)
        if (found := int(parts["format"])) > FORMAT:
            raise FormatVersionError(
                f"{where} has format {found}, and this version of vecstore reads up to {FORMAT}; upgrade vecstore",
                path=where,
                found=found,
                supported=FORMAT,
            )
        try:
            return cls._loaded(parts)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise CorruptionError(f"{where}: the file is not complete ({error!r})", path=where) from None

    @classmethod
    def _loaded(cls, parts: dict[str, Any]) -> Self:
        if "index" in parts:
            kept, text = (str(x) for x in parts["index"])
            config: IndexConfig = INDEX_KINDS[kept](**json.loads(text))
        else:  # format 1 knew only graphs
            m, ef_construction, ef, seed = (int(x) for x in parts["config"])
            config = HNSW(m=m, ef_construction=ef_construction, ef=ef, alpha=float(parts["alpha"]), seed=seed)
        metric, kind = (str(x) for x in parts["kind"])
        quantization = next((cls_() for cls_, name in KIND_NAMES.items() if name == kind), None)
        if quantization is None and kind != "float32":
            raise ValueError(f"{kind!r} are no codes")
        made = cls(int(parts["dim"]), metric, index=config, quantization=quantization)  # type: ignore[arg-type]
        rows, live = np.ascontiguousarray(parts["rows"], np.float32), parts["live"].astype(np.int64)
        if (
            rows.shape[1:] != (made.dim,)
            or len(parts["ids"]) != len(rows)
            or (len(live) and not 0 <= live.min() <= live.max() < len(rows))
        ):
            raise ValueError("rows and ids do not fit together")
        made._slots = len(rows)
        made._make_room()
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        made._store(np.arange(len(rows)), rows, norms)
        made._ids[: len(rows)] = parts["ids"]
        made._mark(np.zeros(0, np.int64), live)
        made._free = np.setdiff1d(np.arange(len(rows)), live).tolist()
        if not (len(live) == len(rows) and np.array_equal(parts["ids"], np.arange(len(rows)))):
            made._slot_of = dict(zip(parts["ids"][live].tolist(), live.tolist(), strict=True))
        if "coder" in parts:
            blob = parts["coder"].tobytes()
            coder = Quantizer.from_bytes(blob) if blob else Whole(made.dim, made.metric)
            made._index.take_over(coder, config, int(parts["fitted_on"]), parts, len(rows))
        made._index._lsn = made._lsn
        return made


def _kind_of(config: IndexConfig) -> str:
    return next(name for name, kind in INDEX_KINDS.items() if isinstance(config, kind))


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


def _grown(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    made = np.zeros(size, array.dtype)
    made[: len(array)] = array
    return made
