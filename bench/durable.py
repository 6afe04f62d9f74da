"""The durable collections that `bench.ann --collection` runs side by side: vecstore's, and a shard of Qdrant Edge."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from bench.engine import EF_CONSTRUCTION, Calls, Engine, Floats, Knobs, M, in_rows


class Collection(Engine):
    """A durable collection of vecstore with the index that it has by default."""

    package = "vecstore"
    batches = (1, 100)

    def warm(self) -> None:
        import vecstore

        vecstore.warmup()

    def build(self, rows: Floats) -> None:
        import vecstore

        db = vecstore.open(self.task.scratch / "vecstore")
        self.docs = db.create_collection("bench", self.task.dim, self.task.metric)
        for first in range(0, len(rows), 1000):
            some = rows[first : first + 1000]
            self.docs.insert(list(range(first, first + len(some))), some)
        self.docs.wait_indexed()

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        search, k, (ef,) = self.docs.search, self.task.k, knobs
        return lambda query: search(query, k, ef=ef, with_payload=False), list(queries)

    def batched(self, queries: Floats, knobs: Knobs, batch: int) -> Calls:
        search, k, (ef,) = self.docs.search, self.task.k, knobs

        def on_few_cpus(some: Floats) -> Any:
            with cpus(self.task.threads):
                return search(some, k, ef=ef, with_payload=False)

        return on_few_cpus, in_rows(queries, batch)

    def ids(self, result: Any) -> Sequence[int]:
        return [hit.id for hit in result]


class QdrantEdge(Engine):
    """A durable shard of Qdrant: HNSW over codes of 8 bits in RAM, the best rescored from full rows."""

    package = "qdrant-edge-py"
    knobs = ("ef", "oversampling")
    batches = (1, 100)

    def warm(self) -> None:
        import qdrant_edge  # noqa: F401

    def build(self, rows: Floats) -> None:
        import qdrant_edge as edge

        distance = {"cosine": edge.Distance.Cosine, "dot": edge.Distance.Dot, "l2": edge.Distance.Euclid}
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=self.task.dim, distance=distance[self.task.metric]),
            hnsw_config=edge.HnswIndexConfig(
                m=M,
                ef_construct=EF_CONSTRUCTION,
                full_scan_threshold=10,
                max_indexing_threads=self.task.build_threads,
            ),
            quantization_config=edge.ScalarQuantizationConfig(
                type=edge.ScalarType.Int8, quantile=0.99, always_ram=True
            ),
            # One segment however many rows there are, indexed however few.
            optimizers=edge.EdgeOptimizersConfig(
                default_segment_number=1, max_segment_size=1 << 30, indexing_threshold=100
            ),
            max_search_threads=self.task.threads,
        )
        folder = self.task.scratch / "qdrant"
        folder.mkdir()
        self.shard = edge.EdgeShard.create(str(folder), config)
        for first in range(0, len(rows), 1000):
            some = enumerate(rows[first : first + 1000].tolist(), first)
            points = [edge.Point(i, vector) for i, vector in some]
            self.shard.update(edge.UpdateOperation.upsert_points(points))
        self.shard.flush()
        self.shard.optimize()
        indexed = self.shard.info().indexed_vectors_count
        if indexed < len(rows):
            raise RuntimeError(f"Qdrant indexed {indexed} of {len(rows)} rows")

    def sweep(self) -> list[Knobs]:
        return [(ef, oversampling) for (ef,) in super().sweep() for oversampling in (1, 2)]

    def calls(self, queries: Floats, knobs: Knobs) -> Calls:
        from qdrant_edge import SearchRequest

        return self.shard.search, self._requests(SearchRequest, queries, knobs)

    def batched(self, queries: Floats, knobs: Knobs, batch: int) -> Calls:
        from qdrant_edge import QueryBatchRequest, QueryRequest

        some = self._requests(QueryRequest, queries, knobs)
        return self.shard.query_batch, [QueryBatchRequest(some[i : i + batch]) for i in range(0, len(some), batch)]

    def _requests(self, kind: Any, queries: Floats, knobs: Knobs) -> list[Any]:
        """Requests made beforehand, as the queries of other engines are arrays beforehand."""
        import qdrant_edge as edge

        ef, oversampling = knobs
        codes = edge.QuantizationSearchParams(rescore=True, oversampling=oversampling)
        params = edge.SearchParams(hnsw_ef=ef, quantization=codes)
        options = {"limit": self.task.k, "params": params, "with_payload": False, "with_vector": False}
        return [kind(query=edge.Query.Nearest(query.tolist()), **options) for query in queries]

    def ids(self, result: Any) -> Sequence[int]:
        return [point.id for point in result]


COLLECTIONS: dict[str, type[Engine]] = {"collection": Collection, "qdrant-edge": QdrantEdge}


@contextlib.contextmanager
def cpus(count: int) -> Iterator[None]:
    """Run on `count` CPUs, where the system lets a thread choose: what has no option for threads asks for these."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
