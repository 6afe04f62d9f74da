"""The engines that `bench.ann` runs side by side, a small class for each: build, the sweep of its knob, one search.

Each runs in a process of its own (`bench.worker`) and gets the fastest call that its documentation has for one query.
Rows and queries have unit norm under cosine, so that engines search them by inner product. Graphs have 16 links a node
(32 on the ground level) and are built with 200 candidates; what else an engine needs is what its authors use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bench.engine import EF_CONSTRUCTION, PROBES, Calls, Engine, Floats, Knobs, M, block_of, in_rows, lists_for


class Vecstore(Engine):
    package = "vecstore"

    def _index(self) -> Any:
        import vecstore

        graph = vecstore.HNSW(m=self.task.m) if self.task.m else vecstore.HNSW()
        return vecstore.Index(self.task.dim, metric=self.task.metric, index=graph, quantization="auto")

    def warm(self) -> None:
        import vecstore

        vecstore.warmup()
        few = np.random.default_rng(0).standard_normal((300, self.task.dim), np.float32)
        index = self._index()
        index.add(few, threads=self.task.build_threads)
        index.search(few[0], self.task.k, ef=self.task.k, threads=self.task.threads)

    def build(self, rows: Floats) -> None:
        self.index = self._index()
        self.index.add(rows, threads=self.task.build_threads)

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        search, k, threads, (ef,) = self.index.search, self.task.k, self.task.threads, knobs
        return lambda query: search(query, k, ef=ef, threads=threads), list(queries)

    def ids(self, result: Any) -> Sequence[int]:
        return result[0]


class VecstoreIvf(Vecstore):
    """Lists of 1-bit codes, by default, rescored from the rows."""

    knobs = ("nprobe",)

    def _index(self) -> Any:
        import vecstore

        return vecstore.Index(self.task.dim, metric=self.task.metric, index=vecstore.IVF(), quantization="auto")

    def warm(self) -> None:
        import vecstore

        vecstore.warmup()

    def sweep(self) -> list[Knobs]:
        return [(nprobe,) for nprobe in PROBES]

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        search, k, threads, (nprobe,) = self.index.search, self.task.k, self.task.threads, knobs
        return lambda query: search(query, k, nprobe=nprobe, threads=threads), list(queries)


class Hnswlib(Engine):
    package = "hnswlib"

    def warm(self) -> None:
        import hnswlib  # noqa: F401

    def build(self, rows: Floats) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip" if self.task.by_product else "l2", self.task.dim)
        self.index.init_index(len(rows), M=M, ef_construction=EF_CONSTRUCTION)
        self.index.add_items(rows, num_threads=self.task.build_threads)

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        search, k, threads = self.index.knn_query, self.task.k, self.task.threads
        self.index.set_ef(knobs[0])
        return lambda query: search(query, k, threads), list(queries)

    def ids(self, result: Any) -> Sequence[int]:
        return result[0][0]


class Faiss(Engine):
    """A string of faiss's index factory."""

    package = "faiss-cpu"

    def factory(self) -> str:
        raise NotImplementedError

    def prepare(self, index: Any) -> None:
        """Set what the factory string cannot."""

    def turn(self, knobs: Knobs) -> None:
        raise NotImplementedError

    def warm(self) -> None:
        import faiss

        faiss.omp_set_num_threads(self.task.build_threads)

    def build(self, rows: Floats) -> None:
        import faiss

        metric = faiss.METRIC_INNER_PRODUCT if self.task.by_product else faiss.METRIC_L2
        self.index = faiss.index_factory(self.task.dim, self.factory(), metric)
        self.prepare(self.index)
        self.index.train(rows)
        self.index.add(rows)

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        import faiss

        faiss.omp_set_num_threads(self.task.threads)
        self.turn(knobs)
        search, k = self.index.search, self.task.k
        return lambda query: search(query, k), in_rows(queries)

    def ids(self, result: Any) -> Sequence[int]:
        return result[1][0]


class FaissHnsw(Faiss):
    def factory(self) -> str:
        return f"HNSW{M},Flat"

    def prepare(self, index: Any) -> None:
        index.hnsw.efConstruction = EF_CONSTRUCTION

    def turn(self, knobs: Knobs) -> None:
        self.index.hnsw.efSearch = knobs[0]


class FaissHnswSq8(FaissHnsw):
    def factory(self) -> str:
        return f"HNSW{M},SQ8"


class FaissIvfPq(Faiss):
    """Four bits for each block of dimensions, scanned in registers, the best rescored from full rows."""

    knobs = ("nprobe", "k_factor")

    def factory(self) -> str:
        blocks = self.task.dim // block_of(self.task.dim)
        while self.task.dim % blocks:
            blocks -= 1
        return f"IVF{lists_for(self.task.rows)},PQ{blocks}x4fs,RFlat"

    def sweep(self) -> list[Knobs]:
        return [(1 << i, factor) for i in range(9) if 1 << i <= lists_for(self.task.rows) for factor in (4, 20)]

    def turn(self, knobs: Knobs) -> None:
        import faiss

        faiss.extract_index_ivf(self.index).nprobe, self.index.k_factor = knobs


class Usearch(Engine):
    """Rows in the type that usearch itself chooses for the machine."""

    package = "usearch"
    dtype: ClassVar[str | None] = None

    def warm(self) -> None:
        import usearch.index  # noqa: F401

    def build(self, rows: Floats) -> None:
        import usearch.index

        self.index = usearch.index.Index(
            ndim=self.task.dim,
            metric="ip" if self.task.by_product else "l2sq",
            dtype=self.dtype,
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
        )
        self.index.add(np.arange(len(rows)), rows, threads=self.task.build_threads)

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        search, k, threads = self.index.search, self.task.k, self.task.threads
        self.index.expansion_search = knobs[0]
        return lambda query: search(query, k, threads=threads), list(queries)

    def ids(self, result: Any) -> Sequence[int]:
        return result.keys


class UsearchInt8(Usearch):
    dtype = "i8"

    def build(self, rows: Floats) -> None:
        if self.task.metric != "cosine":
            raise ValueError("its codes of 8 bits are for vectors of unit norm")
        super().build(rows)


class Rabitq(Engine):
    """An index of rabitqlib, which takes 64 dimensions or more; the zeros that fill shorter rows change no score."""

    package = "rabitqlib"

    def warm(self) -> None:
        import rabitqlib  # noqa: F401

    def wide(self, rows: Floats) -> Floats:
        return rows if self.task.dim >= 64 else np.pad(rows, ((0, 0), (0, 64 - self.task.dim)))

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        search, k, threads, (ef,) = self.index.search, self.task.k, self.task.threads, knobs
        return lambda query: search(query, k, ef, threads), in_rows(self.wide(queries))

    def ids(self, result: Any) -> Sequence[int]:
        return result[0][0]


class RabitqHnsw(Rabitq):
    """HNSW over codes of one and eight bits a dimension; full rows are not kept."""

    def build(self, rows: Floats) -> None:
        import rabitqlib

        rows, threads = self.wide(rows), self.task.build_threads
        exact = rabitqlib.FinalAssignmentMode.Exact
        means = rabitqlib.RaBitQKMeans(rows.shape[1], 16, num_threads=threads, final_assignment=exact)
        means.train(rows)
        self.index = rabitqlib.HnswIndex(
            dim=rows.shape[1],
            max_elements=len(rows),
            M=M,
            ef_construction=EF_CONSTRUCTION,
            nbits=9,
            metric="ip" if self.task.by_product else "l2",
        )
        self.index.build(rows, means.centroids, means.assignments, num_threads=threads)


class RabitqIvf(Rabitq):
    """Lists of codes of five bits a dimension; full rows are not kept."""

    knobs = ("nprobe",)

    def build(self, rows: Floats) -> None:
        import rabitqlib

        rows, threads = self.wide(rows), self.task.build_threads
        lists = lists_for(self.task.rows)
        means = rabitqlib.RaBitQKMeans(rows.shape[1], lists, num_threads=threads)
        means.train(rows)
        self.index = rabitqlib.IvfIndex(
            dim=rows.shape[1],
            max_elements=len(rows),
            num_clusters=lists,
            nbits=5,
            metric="ip" if self.task.by_product else "l2",
        )
        self.index.build(rows, means.centroids, means.assignments, num_threads=threads)

    def sweep(self) -> list[Knobs]:
        return [(nprobe,) for nprobe in PROBES]


class SymphonyQg(Rabitq):
    """A graph of degree 32 whose nodes carry one-bit codes of their neighbours beside their full rows."""

    def build(self, rows: Floats) -> None:
        import rabitqlib

        rows, metric = self.wide(rows), "ip" if self.task.by_product else "l2"
        self.index = rabitqlib.SymqgIndex(dim=rows.shape[1], max_degree=32, metric=metric)
        self.index.build(rows, ef_construction=EF_CONSTRUCTION, num_threads=self.task.build_threads)


class Scann(Engine):
    """A tree of one level with spilling (SOAR), anisotropic hashing, and rescoring."""

    package = "scann"
    knobs = ("leaves", "reorder")

    def warm(self) -> None:
        import scann  # noqa: F401

    def leaves(self) -> int:
        return round(2 * math.sqrt(self.task.rows))

    def build(self, rows: Floats) -> None:
        import scann

        product = self.task.by_product
        builder = scann.scann_ops_pybind.builder(rows, self.task.k, "dot_product" if product else "squared_l2")
        builder.set_n_training_threads(self.task.build_threads)
        spilling = {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if product else {}
        builder.tree(self.leaves(), self.leaves() // 10, training_sample_size=min(len(rows), 250_000), **spilling)
        builder.score_ah(block_of(self.task.dim), anisotropic_quantization_threshold=0.2 if product else math.nan)
        self.index = builder.reorder(100).build()

    def sweep(self) -> list[Knobs]:
        leaves = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
        return [(some, reorder) for some in leaves if some <= self.leaves() for reorder in (50, 200)]

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        search, k, (leaves, reorder) = self.index.search, self.task.k, knobs
        return lambda query: search(query, k, reorder, leaves), list(queries)

    def ids(self, result: Any) -> Sequence[int]:
        return result[0]


class Voyager(Engine):
    package = "voyager"

    def warm(self) -> None:
        import voyager  # noqa: F401

    def build(self, rows: Floats) -> None:
        import voyager

        # Its inner product adds a dimension; over five builds of the sample recall ended at 0.995 to 1, not 0.999 to 1.
        spaces = {"cosine": voyager.Space.Cosine, "dot": voyager.Space.InnerProduct, "l2": voyager.Space.Euclidean}
        self.index = voyager.Index(
            spaces[self.task.metric], self.task.dim, M=M, ef_construction=EF_CONSTRUCTION, max_elements=len(rows)
        )
        self.index.add_items(rows, num_threads=self.task.build_threads)

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        search, k, threads, (ef,) = self.index.query, self.task.k, self.task.threads, knobs
        return lambda query: search(query, k, threads, ef), list(queries)

    def ids(self, result: Any) -> Sequence[int]:
        return result[0]


ENGINES: dict[str, type[Engine]] = {
    "vecstore": Vecstore,
    "vecstore-ivf": VecstoreIvf,
    "hnswlib": Hnswlib,
    "faiss-hnsw": FaissHnsw,
    "faiss-hnsw-sq8": FaissHnswSq8,
    "faiss-ivf-pq": FaissIvfPq,
    "usearch": Usearch,
    "usearch-i8": UsearchInt8,
    "rabitq-hnsw": RabitqHnsw,
    "rabitq-ivf": RabitqIvf,
    "symphonyqg": SymphonyQg,
    "scann": Scann,
    "voyager": Voyager,
}
