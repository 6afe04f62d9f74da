"""`connect()`: the remote twin of Database and Collection, with the same verbs, results and errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from vecstore.arguments import Rows, verb
from vecstore.errors import ClosedError, InvalidArgumentError, VecstoreError
from vecstore.types import CollectionInfo, Filter, Finding, Hit, Id, Page, Record, Stats, WriteResult
from vecstore.verbs import CollectionVerbs, DatabaseVerbs, Operation, Query

try:
    import grpc

    from vecstore import wire
    from vecstore.v1 import vecstore_pb2 as pb
    from vecstore.v1 import vecstore_pb2_grpc
except ImportError as error:
    raise ImportError(f'the client needs more packages ({error}); run: pip install "vecstore[client]"') from error

KEEPALIVE_MS: Final = 30_000
CONNECT_SECONDS: Final = 10.0

Answer = TypeVar("Answer")


@verb
def connect(address: str, *, timeout: float = 60.0) -> RemoteDatabase:
    """Connect to a server at "HOST:PORT"; a call that takes longer than `timeout` seconds raises.

    Raises UnavailableError at once if nobody answers there.
    """
    if not isinstance(address, str) or not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}", address):
        raise InvalidArgumentError(f'address: expected "HOST:PORT", such as "localhost:6333", got {address!r}')
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise InvalidArgumentError(f"timeout: expected a positive number of seconds, got {timeout!r}")
    connection = _Connection(address, float(timeout))
    try:
        connection.call(connection.stub.ListCollections, pb.ListCollectionsRequest(), CONNECT_SECONDS)
    except BaseException:
        connection.close()
        raise
    return RemoteDatabase(connection)


class _Connection:
    """A channel, shared by a database and its collections."""

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.closed = False
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", -1),  # the server's limit is the one that counts
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                # Connections of their own, so that closing one database leaves another to the same address alone.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.stub = vecstore_pb2_grpc.VecstoreServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def call(self, method: Callable[..., Answer], request: Any, timeout: float | None = None) -> Answer:
        """Call a method of the stub; what it raises is a VecstoreError."""
        if self.closed:
            raise ClosedError(f"the connection to {self.address} is closed")
        try:
            return method(request, timeout=min(timeout or self.timeout, self.timeout))
        except grpc.RpcError as error:
            raise self._translate(error) from None
        except ValueError as error:  # the channel was closed by another thread
            raise ClosedError(f"the connection to {self.address} is closed") from error

    def _translate(self, error: grpc.RpcError) -> VecstoreError:
        if self.closed:
            return ClosedError(f"the connection to {self.address} is closed")
        return wire.read_error(error, self.address)

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
    """A collection behind a server; made by a RemoteDatabase, safe to use from many threads."""

    def __init__(self, info: CollectionInfo, connection: _Connection) -> None:
        self.info = info
        self._connection = connection
        self._stub = connection.stub
        self._closed = False

    def _call(self, method: Callable[..., Answer], request: Any) -> Answer:
        if self._closed:
            raise ClosedError(f'collection "{self.name}" is closed')
        return self._connection.call(method, request)

    def _write(self, operation: Operation, rows: Rows, merge: bool = True) -> WriteResult:
        columns = pb.Rows(ids=wire.write_ids(rows.ids))
        if rows.vectors is not None:
            columns.vectors.CopyFrom(wire.write_vectors(rows.vectors))
        if rows.payloads is not None:
            columns.payloads.extend([packed or b"" for packed in rows.payloads])
        if operation == "insert":
            return wire.read_result(
                self._call(self._stub.Insert, pb.InsertRequest(collection=self.name, rows=columns)).result
            )
        if operation == "upsert":
            return wire.read_result(
                self._call(self._stub.Upsert, pb.UpsertRequest(collection=self.name, rows=columns)).result
            )
        request = pb.UpdateRequest(collection=self.name, rows=columns, replace_payloads=not merge)
        return wire.read_result(self._call(self._stub.Update, request).result)

    def _delete(self, ids: list[Id] | None, filter: Filter | None) -> WriteResult:
        request = pb.DeleteRequest(collection=self.name, filter=wire.write_filter(filter))
        if ids is not None:
            request.ids.CopyFrom(pb.IdList(ids=wire.write_ids(ids)))
        return wire.read_result(self._call(self._stub.Delete, request).result)

    def _get(self, ids: list[Id], with_payload: bool, with_vectors: bool) -> list[Record | None]:
        request = pb.GetRequest(
            collection=self.name, ids=wire.write_ids(ids), with_payload=with_payload, with_vectors=with_vectors
        )
        return wire.read_records(self._call(self._stub.Get, request).rows)

    def _search(self, query: Query) -> list[list[Hit]]:
        request = pb.SearchRequest(
            collection=self.name,
            queries=wire.write_vectors(query.queries),
            k=query.k,
            filter=wire.write_filter(query.filter),
            score_threshold=query.score_threshold,
            with_payload=query.with_payload,
            with_vectors=query.with_vectors,
        )
        return [wire.read_hits(hits) for hits in self._call(self._stub.Search, request).results]

    def _scroll(
        self, filter: Filter | None, limit: int, cursor: str | None, with_payload: bool, with_vectors: bool
    ) -> Page:
        request = pb.ScrollRequest(
            collection=self.name,
            filter=wire.write_filter(filter),
            limit=limit,
            cursor=cursor,
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        answer = self._call(self._stub.Scroll, request)
        records = [record for record in wire.read_records(answer.rows) if record is not None]
        return Page(records, answer.cursor if answer.HasField("cursor") else None)

    def _count(self, filter: Filter | None) -> int:
        request = pb.CountRequest(collection=self.name, filter=wire.write_filter(filter))
        return int(self._call(self._stub.Count, request).count)

    def stats(self) -> Stats:
        """Counts and sizes."""
        return wire.read_stats(self._call(self._stub.Stats, pb.StatsRequest(collection=self.name)))

    def check(self) -> list[Finding]:
        """Read and verify everything that is stored; what is wrong, or an empty list."""
        answer = self._call(self._stub.Check, pb.CheckRequest(collection=self.name))
        return [wire.read_finding(finding) for finding in answer.findings]

    def close(self) -> None:
        """Let go of the collection; the connection stays open. Closing twice is allowed."""
        self._closed = True
