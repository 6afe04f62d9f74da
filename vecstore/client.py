"""`connect()`: the remote twin of Database and Collection, with the same verbs, results and errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from vecstore.arguments import MAX_SECONDS, Rows
from vecstore.errors import ClosedError, DeadlineExceededError, InvalidArgumentError, UnavailableError
from vecstore.keywords import verb
from vecstore.types import (
    Clustering,
    CollectionInfo,
    DuplicateGroup,
    Estimate,
    Filter,
    Finding,
    Hit,
    Id,
    IndexConfig,
    Page,
    Quantization,
    Record,
    Stats,
    WriteResult,
)
from vecstore.verbs.checks import Progress
from vecstore.verbs.collection import CollectionVerbs, Operation
from vecstore.verbs.database import DatabaseVerbs
from vecstore.verbs.query import Query

try:
    import grpc

    from vecstore import wire
    from vecstore.v1 import vecstore_pb2 as pb
    from vecstore.v1 import vecstore_pb2_grpc
except ImportError as error:
    raise ImportError(f'the client needs more packages ({error}); run: pip install "vecstore[client]"') from error

CONNECT_SECONDS: Final = 10.0
OPTIONS: Final = (
    # The server's limit is the one that counts: it refuses what is too large, in both directions.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", wire.MAX_TRAILER_BYTES),
    ("grpc.absolute_max_metadata_size", wire.MAX_TRAILER_BYTES),
    # A call whose server has vanished without a word ends after a minute instead of at its deadline; a long one
    # (check) is not ended by its own pings. The server allows a ping each 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A server that comes back is found within seconds, not after gRPC's two minutes.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A proxy for the web is not on the way to a database.
    ("grpc.enable_http_proxy", 0),
    # A connection of its own: a new connect() tries at once, whatever an older one to that address waits for.
    ("grpc.use_local_subchannel_pool", 1),
)

Answer = TypeVar("Answer")


@verb
def connect(address: str, *, timeout: float = 60.0) -> RemoteDatabase:
    """Connect to a server at "HOST:PORT"; a call that takes longer than `timeout` seconds raises.

    Raises UnavailableError at once if nobody answers there.
    """
    if not isinstance(address, str) or not _is_address(address):
        raise InvalidArgumentError(f'address: expected "HOST:PORT", such as "localhost:6333", got {address!r}')
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_SECONDS:
        raise InvalidArgumentError(f"timeout: expected a positive number of seconds up to 10^6, got {timeout!r}")
    connection = _Connection(address, float(timeout))
    seconds = min(CONNECT_SECONDS, timeout)
    try:
        connection.call(connection.stub.ListCollections, pb.ListCollectionsRequest(), seconds)
    except DeadlineExceededError:
        connection.close()
        raise UnavailableError(
            f"{address}: no answer within {seconds:g} s; does a vecstore server run there?"
        ) from None
    except BaseException:
        connection.close()
        raise
    return RemoteDatabase(connection)


def _is_address(address: str) -> bool:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})", address)
    return found is not None and 0 < int(found[2]) < 65536


class _Connection:
    """A channel, shared by a database and its collections."""

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.closed = False
        self.channel = grpc.insecure_channel(address, options=OPTIONS)
        self.stub = vecstore_pb2_grpc.VecstoreServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def call(self, method: Callable[..., Answer], request: Any, timeout: float | None = None) -> Answer:
        """Call a method of the stub; what it raises is a VecstoreError."""
        self.refuse_closed(self.address)
        try:
            return method(request, timeout=timeout or self.timeout)
        except grpc.RpcError as error:
            self.refuse_closed(self.address)  # closing cancels the calls of other threads
            raise wire.read_error(error, self.address) from None
        except ValueError:  # the channel was closed since we looked
            self.refuse_closed(self.address)
            raise

    def refuse_closed(self, what: str) -> None:
        if self.closed:
            raise ClosedError(f"{what} is closed")

    def close(self) -> None:
        self.closed = True
        self.channel.close()


class RemoteDatabase(DatabaseVerbs):
    """A database behind a server; made by `vecstore.connect()`, safe to use from many threads."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def _create(self, info: CollectionInfo, exist_ok: bool) -> RemoteCollection:
        request = pb.CreateCollectionRequest(info=wire.write_info(info), exist_ok=exist_ok)
        answer = self._connection.call(self._connection.stub.CreateCollection, request)
        return RemoteCollection(wire.read_info(answer.info), self._connection)

    def _open(self, name: str) -> RemoteCollection:
        request = pb.GetCollectionRequest(collection=name)
        answer = self._connection.call(self._connection.stub.GetCollection, request)
        return RemoteCollection(wire.read_info(answer.info), self._connection)

    def list_collections(self) -> list[str]:
        """The names of all collections, sorted."""
        answer = self._connection.call(self._connection.stub.ListCollections, pb.ListCollectionsRequest())
        return list(answer.names)

    def _drop(self, name: str) -> None:
        self._connection.call(self._connection.stub.DropCollection, pb.DropCollectionRequest(collection=name))

    def close(self) -> None:
        """Close the connection, also for the collections that came from it; closing twice is allowed."""
        self._connection.close()

    def __repr__(self) -> str:
        return f"<RemoteDatabase {self._connection.address!r}>"


class RemoteCollection(CollectionVerbs):
    """A collection behind a server; made by a RemoteDatabase, safe to use from many threads.

    It goes by its name: where the collection was dropped and created anew, it reaches the new one.
    """

    def __init__(self, info: CollectionInfo, connection: _Connection) -> None:
        self._info = info
        self._connection = connection
        self._stub = connection.stub
        self._closed = False

    @property
    def info(self) -> CollectionInfo:
        return self._info

    def _info_now(self) -> CollectionInfo:
        answer = self._call(self._stub.GetCollection, pb.GetCollectionRequest(collection=self.name))
        self._info = wire.read_info(answer.info)
        return self._info

    def _call(self, method: Callable[..., Answer], request: Any, timeout: float | None = None) -> Answer:
        if self.closed:
            raise ClosedError(f'collection "{self.name}" is closed')
        return self._connection.call(method, request, timeout)

    def _write(self, operation: Operation, rows: Rows, merge: bool = True) -> WriteResult:
        request: Any
        if operation == "update":
            method, request = self._stub.Update, pb.UpdateRequest(collection=self.name, replace_payloads=not merge)
        elif operation == "insert":
            method, request = self._stub.Insert, pb.InsertRequest(collection=self.name)
        else:
            method, request = self._stub.Upsert, pb.UpsertRequest(collection=self.name)
        wire.write_rows(rows, request.rows)
        return wire.read_result(self._call(method, request).result)

    def _delete(self, ids: list[Id] | None, filter: Filter | None) -> WriteResult:
        request = pb.DeleteRequest(collection=self.name, filter=wire.write_filter(filter))
        if ids is not None:
            request.ids.SetInParent()  # also where there are none
            wire.write_ids(ids, request.ids)
        return wire.read_result(self._call(self._stub.Delete, request).result)

    def _get(self, ids: list[Id], with_payload: bool, with_vectors: bool) -> list[Record | None]:
        request = pb.GetRequest(collection=self.name, with_payload=with_payload, with_vectors=with_vectors)
        wire.write_ids(ids, request.ids)
        return wire.read_found(self._call(self._stub.Get, request))

    def _search(self, query: Query) -> list[list[Hit]]:
        request = pb.SearchRequest(
            collection=self.name,
            k=query.k,
            filter=wire.write_filter(query.filter),
            score_threshold=query.score_threshold,
            with_payload=query.with_payload,
            with_vectors=query.with_vectors,
            oversampling=query.oversampling,
            ef=query.ef,
            nprobe=query.nprobe,
            exact=query.exact,
        )
        wire.write_vectors(query.queries, request.queries)
        return wire.read_hits(self._call(self._stub.Search, request))

    def _scroll(
        self, filter: Filter | None, limit: int, cursor: str | None, with_payload: bool, with_vectors: bool
    ) -> Page:
        if cursor is not None and not cursor.isascii():
            raise InvalidArgumentError(f"cursor: expected one that scroll() returned, got {cursor!r}")
        request = pb.ScrollRequest(
            collection=self.name,
            filter=wire.write_filter(filter),
            limit=limit,
            cursor=cursor,
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        answer = self._call(self._stub.Scroll, request)
        return Page(wire.read_records(answer.rows), answer.cursor if answer.HasField("cursor") else None)

    def _count(self, filter: Filter | None) -> int:
        request = pb.CountRequest(collection=self.name, filter=wire.write_filter(filter))
        return int(self._call(self._stub.Count, request).count)

    def _wait_indexed(self, timeout: float | None) -> None:
        request = pb.WaitIndexedRequest(collection=self.name, timeout=timeout)
        # The server tells that the time is over, and has the time of any call for that.
        deadline = None if timeout is None else timeout + self._connection.timeout
        self._call(self._stub.WaitIndexed, request, deadline)

    def _compact(self) -> None:
        self._call(self._stub.Compact, pb.CompactRequest(collection=self.name))

    def _rebuild(self, seed: int | None) -> None:
        self._call(self._stub.Rebuild, pb.RebuildRequest(collection=self.name, seed=seed))

    def _set_index(
        self,
        index: IndexConfig,
        quantization: Quantization | Literal["same"] | None,
        progress: Callable[[int, int], None],
    ) -> None:
        progress(0, 1)
        request = pb.SetIndexRequest(collection=self.name)
        wire.write_index(index, request)
        if quantization != "same":
            request.quantization = wire.write_quantization(quantization)
        self._info = wire.read_info(self._call(self._stub.SetIndex, request).info)
        progress(1, 1)

    def _estimate(
        self, count: int | None, index: IndexConfig | None, quantization: Quantization | Literal["same"] | None
    ) -> Estimate:
        request = pb.EstimateRequest(collection=self.name, count=count)
        if index is not None:
            wire.write_index(index, request)
        if quantization != "same":
            request.quantization = wire.write_quantization(quantization)
        return wire.read_estimate(self._call(self._stub.Estimate, request))

    def _cluster(self, n: int, filter: Filter | None, iterations: int, seed: int, progress: Progress) -> Clustering:
        progress(0, 1)
        request = pb.ClusterRequest(
            collection=self.name, n=n, filter=wire.write_filter(filter), iterations=iterations, seed=seed
        )
        found = wire.read_clustering(self._call(self._stub.Cluster, request))
        progress(1, 1)
        return found

    def _near_duplicates(
        self, threshold: float, filter: Filter | None, exact: bool, progress: Progress
    ) -> list[DuplicateGroup]:
        progress(0, 1)
        request = pb.NearDuplicatesRequest(
            collection=self.name, threshold=threshold, filter=wire.write_filter(filter), exact=exact
        )
        found = wire.read_groups(self._call(self._stub.NearDuplicates, request))
        progress(1, 1)
        return found

    def _outliers(
        self, n: int, k: int, filter: Filter | None, with_payload: bool, with_vectors: bool, progress: Progress
    ) -> list[Hit]:
        progress(0, 1)
        request = pb.OutliersRequest(
            collection=self.name,
            n=n,
            k=k,
            filter=wire.write_filter(filter),
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        found = wire.read_hit_list(self._call(self._stub.Outliers, request).hits)
        progress(1, 1)
        return found

    def stats(self) -> Stats:
        """Counts and sizes."""
        answer = self._call(self._stub.Stats, pb.StatsRequest(collection=self.name))
        self._info = wire.read_info(answer.info)  # its index may be another by now
        return wire.read_stats(answer)

    def _check(self, progress: Progress) -> list[Finding]:
        progress(0, 1)
        answer = self._call(self._stub.Check, pb.CheckRequest(collection=self.name))
        progress(1, 1)
        return [wire.read_finding(finding) for finding in answer.findings]

    @property
    def closed(self) -> bool:
        """Whether it was closed, by itself or with its database."""
        return self._closed or self._connection.closed

    def close(self) -> None:
        """Let go of the collection; the connection stays open. Closing twice is allowed."""
        self._closed = True
