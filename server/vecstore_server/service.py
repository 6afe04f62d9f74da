"""The calls: a request becomes a public verb of vecstore, its result a response, its error a status."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Final, TypeVar

import grpc

import vecstore
from vecstore import wire
from vecstore.v1 import vecstore_pb2 as pb
from vecstore.v1 import vecstore_pb2_grpc

log = logging.getLogger("vecstore.server")

MAX_WAIT_SECONDS: Final = 3600.0

S = TypeVar("S")
Request = TypeVar("Request")
Response = TypeVar("Response")


def answered(
    method: Callable[[S, Request], Response],
) -> Callable[[S, Request, grpc.ServicerContext], Response]:
    """`answered_in_context` of a method that needs only the request."""

    @functools.wraps(method)
    def call(self: S, request: Request, context: grpc.ServicerContext) -> Response:  # noqa: ARG001
        return method(self, request)

    return answered_in_context(call)


def answered_in_context(
    method: Callable[[S, Request, grpc.ServicerContext], Response],
) -> Callable[[S, Request, grpc.ServicerContext], Response]:
    """Turn what a call raises into a status; what was not foreseen is logged and told as INTERNAL."""

    @functools.wraps(method)
    def call(self: S, request: Request, context: grpc.ServicerContext) -> Response:
        try:
            return method(self, request, context)
        except vecstore.ClosedError:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        except vecstore.VecstoreError as error:
            context.abort_with_status(wire.write_error(error))
        except Exception:
            log.exception("%s failed", method.__name__)
            context.abort(grpc.StatusCode.INTERNAL, "internal error; the log of the server tells more")
        raise AssertionError("abort() raises")

    return call


class Service(vecstore_pb2_grpc.VecstoreServiceServicer):
    """VecstoreService on an open database."""

    def __init__(self, db: vecstore.Database) -> None:
        self._db = db

    @answered
    def CreateCollection(self, request: pb.CreateCollectionRequest) -> pb.CreateCollectionResponse:  # noqa: N802
        made = self._db.create_collection(**wire.read_creation(request.info), exist_ok=request.exist_ok)
        return pb.CreateCollectionResponse(info=wire.write_info(made.info))

    @answered
    def GetCollection(self, request: pb.GetCollectionRequest) -> pb.GetCollectionResponse:  # noqa: N802
        return pb.GetCollectionResponse(info=wire.write_info(self._db.get_collection(request.collection).info))

    @answered
    def ListCollections(self, request: pb.ListCollectionsRequest) -> pb.ListCollectionsResponse:  # noqa: N802, ARG002
        return pb.ListCollectionsResponse(names=self._db.list_collections())

    @answered
    def DropCollection(self, request: pb.DropCollectionRequest) -> pb.DropCollectionResponse:  # noqa: N802
        self._db.drop_collection(request.collection)
        return pb.DropCollectionResponse()

    @answered
    def Insert(self, request: pb.InsertRequest) -> pb.InsertResponse:  # noqa: N802
        result = self._db.get_collection(request.collection).insert(**wire.read_rows(request.rows))
        return pb.InsertResponse(result=wire.write_result(result))

    @answered
    def Upsert(self, request: pb.UpsertRequest) -> pb.UpsertResponse:  # noqa: N802
        result = self._db.get_collection(request.collection).upsert(**wire.read_rows(request.rows))
        return pb.UpsertResponse(result=wire.write_result(result))

    @answered
    def Update(self, request: pb.UpdateRequest) -> pb.UpdateResponse:  # noqa: N802
        collection = self._db.get_collection(request.collection)
        result = collection.update(**wire.read_rows(request.rows), merge=not request.replace_payloads)
        return pb.UpdateResponse(result=wire.write_result(result))

    @answered
    def Delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:  # noqa: N802
        collection = self._db.get_collection(request.collection)
        if request.HasField("ids"):
            result = collection.delete(wire.read_ids(request.ids))
        else:
            result = collection.delete(filter=wire.filter_of(request))
        return pb.DeleteResponse(result=wire.write_result(result))

    @answered
    def Get(self, request: pb.GetRequest) -> pb.GetResponse:  # noqa: N802
        flags = _flags(request)
        records = self._db.get_collection(request.collection).get(wire.read_ids(request.ids), **flags)
        return wire.write_found(records, **flags)

    @answered
    def Search(self, request: pb.SearchRequest) -> pb.SearchResponse:  # noqa: N802
        flags = _flags(request)
        found = self._db.get_collection(request.collection).search(
            wire.read_vectors(request.queries),
            request.k,
            filter=wire.filter_of(request),
            score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
            oversampling=request.oversampling if request.HasField("oversampling") else None,
            ef=request.ef if request.HasField("ef") else None,
            nprobe=request.nprobe if request.HasField("nprobe") else None,
            exact=request.exact,
            **flags,
        )
        return wire.write_hits(found, **flags)

    @answered
    def Scroll(self, request: pb.ScrollRequest) -> pb.ScrollResponse:  # noqa: N802
        flags = _flags(request)
        records, cursor = self._db.get_collection(request.collection).scroll(
            filter=wire.filter_of(request),
            limit=request.limit,
            cursor=request.cursor if request.HasField("cursor") else None,
            **flags,
        )
        response = pb.ScrollResponse(cursor=cursor)
        wire.write_records(records, response.rows, **flags)
        return response

    @answered
    def Count(self, request: pb.CountRequest) -> pb.CountResponse:  # noqa: N802
        return pb.CountResponse(count=self._db.get_collection(request.collection).count(wire.filter_of(request)))

    @answered_in_context
    def WaitIndexed(  # noqa: N802
        self, request: pb.WaitIndexedRequest, context: grpc.ServicerContext
    ) -> pb.WaitIndexedResponse:
        """No longer than the caller waits, who may be gone: a wait keeps a thread."""
        timeout = request.timeout if request.HasField("timeout") else MAX_WAIT_SECONDS
        self._db.get_collection(request.collection).wait_indexed(min(timeout, context.time_remaining()))
        return pb.WaitIndexedResponse()

    @answered
    def Rebuild(self, request: pb.RebuildRequest) -> pb.RebuildResponse:  # noqa: N802
        seed = request.seed if request.HasField("seed") else None
        self._db.get_collection(request.collection).rebuild(seed=seed)
        return pb.RebuildResponse()

    @answered
    def Compact(self, request: pb.CompactRequest) -> pb.CompactResponse:  # noqa: N802
        self._db.get_collection(request.collection).compact()
        return pb.CompactResponse()

    @answered
    def Cluster(self, request: pb.ClusterRequest) -> pb.ClusterResponse:  # noqa: N802
        given = {name: getattr(request, name) for name in ("iterations", "seed") if request.HasField(name)}
        collection = self._db.get_collection(request.collection)
        return wire.write_clustering(collection.cluster(request.n, filter=wire.filter_of(request), **given))

    @answered
    def NearDuplicates(self, request: pb.NearDuplicatesRequest) -> pb.NearDuplicatesResponse:  # noqa: N802
        groups = self._db.get_collection(request.collection).near_duplicates(
            request.threshold, filter=wire.filter_of(request), exact=request.exact
        )
        return wire.write_groups(groups)

    @answered
    def Outliers(self, request: pb.OutliersRequest) -> pb.OutliersResponse:  # noqa: N802
        hits = self._db.get_collection(request.collection).outliers(
            request.n,
            k=request.k,
            filter=wire.filter_of(request),
            with_payload=request.with_payload,
            with_vectors=request.with_vectors,
        )
        response = pb.OutliersResponse()
        wire.write_hit_list(hits, response.hits, **_flags(request))
        return response

    @answered
    def Stats(self, request: pb.StatsRequest) -> pb.StatsResponse:  # noqa: N802
        collection = self._db.get_collection(request.collection)
        return wire.write_stats(collection.stats(), collection.info)

    @answered
    def Check(self, request: pb.CheckRequest) -> pb.CheckResponse:  # noqa: N802
        response = pb.CheckResponse()
        for finding in self._db.get_collection(request.collection).check():
            wire.write_finding(finding, response.findings.add())
        return response


def _flags(request: pb.GetRequest | pb.SearchRequest | pb.ScrollRequest | pb.OutliersRequest) -> dict[str, bool]:
    return {"with_payload": request.with_payload, "with_vectors": request.with_vectors}
