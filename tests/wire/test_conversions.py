"""Everything that travels arrives as it was sent; what is malformed is refused."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import grpc
import msgpack
import numpy as np
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vecstore import arguments, errors, wire
from vecstore.errors import InvalidArgumentError, VecstoreError
from vecstore.types import (
    HNSW,
    Binary,
    Clustering,
    CollectionInfo,
    DuplicateGroup,
    Finding,
    Flat,
    Hit,
    Int4,
    Int8,
    Record,
    Stats,
    WriteResult,
)
from vecstore.v1 import vecstore_pb2 as pb

IDS = st.one_of(st.integers(0, 2**63 - 1), st.text(min_size=1, max_size=30))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary()
)
PAYLOADS = st.dictionaries(
    st.text(max_size=9),
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        max_leaves=10,
    ),
    max_size=4,
)


def sent(message: Any) -> Any:
    """The message after a journey."""
    return type(message).FromString(message.SerializeToString())


@given(st.lists(IDS))
def test_ids(ids: list[int | str]) -> None:
    message = pb.Ids()
    wire.write_ids(ids, message)
    back = wire.read_ids(sent(message))
    assert back == ids and list(map(type, back)) == list(map(type, ids))


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)))
def test_vectors_bit_for_bit(vectors: np.ndarray) -> None:
    message = pb.Vectors()
    wire.write_vectors(vectors, message)
    back = wire.read_vectors(sent(message))
    assert back.dtype == np.float32 and back.shape == vectors.shape and back.tobytes() == vectors.tobytes()


@given(st.lists(st.none() | PAYLOADS, max_size=4))
def test_payloads(payloads: list[dict[str, Any] | None]) -> None:
    assert wire.read_payloads(wire.write_payloads(payloads)) == payloads


@given(PAYLOADS)
def test_filters(filter: dict[str, Any]) -> None:
    message = sent(pb.CountRequest(filter=wire.write_filter(filter)))
    assert wire.filter_of(message) == filter


def test_no_filter_and_the_empty_filter_differ() -> None:
    assert wire.filter_of(sent(pb.CountRequest(filter=wire.write_filter(None)))) is None
    assert wire.filter_of(sent(pb.CountRequest(filter=wire.write_filter({})))) == {}


@given(st.dictionaries(IDS, st.none() | PAYLOADS, max_size=5), st.booleans(), st.booleans())
def test_the_rows_of_a_write(rows: dict[Any, Any], with_vectors: bool, with_payloads: bool) -> None:
    ids, payloads = list(rows), list(rows.values()) if with_payloads else None
    vectors = np.arange(1, 3 * len(ids) + 1, dtype=np.float32).reshape(-1, 3) if with_vectors else None
    message = pb.Rows()
    wire.write_rows(arguments.rows(ids, vectors, payloads, 3, "dot"), message)
    back = wire.read_rows(sent(message))
    assert back["ids"] == ids and back["payloads"] == (payloads if ids else [])
    assert (back["vectors"] is None) == (vectors is None)
    assert vectors is None or np.array_equal(back["vectors"], vectors)


@given(st.lists(st.none() | st.tuples(IDS, st.none() | PAYLOADS), max_size=5), st.booleans(), st.booleans())
def test_records_with_gaps(rows: list[Any], with_payload: bool, with_vectors: bool) -> None:
    records = [
        row
        and Record(row[0], row[1] if with_payload else None, np.full(3, number, np.float32) if with_vectors else None)
        for number, row in enumerate(rows)
    ]
    back = wire.read_found(sent(wire.write_found(records, with_payload=with_payload, with_vectors=with_vectors)))
    assert back == records
    for one, other in zip(back, records, strict=True):
        if one is not None and with_vectors:
            assert one.vector.dtype == np.float32 and np.array_equal(one.vector, other.vector)
            one.vector[:] = 0  # the caller's own
        elif one is not None:
            assert one.vector is None


def test_hits_keep_the_scores_that_a_float32_holds() -> None:
    hits = [Hit(1, float(np.float32(0.1)), {"a": 1}), Hit("1", -2.5, None)]
    found = [hits, [], hits[:1]]
    assert wire.read_hits(sent(wire.write_hits(found, with_payload=True, with_vectors=False))) == found


def test_small_messages() -> None:
    result = WriteResult(9, inserted=1, updated=2, deleted=3)
    assert wire.read_result(sent(wire.write_result(result))) == result
    finding = Finding("rows", "damaged", (1, "1", 2))
    message = pb.Finding()
    wire.write_finding(finding, message)
    assert wire.read_finding(sent(message)) == finding


def test_clusters_and_groups() -> None:
    labels, scores = np.array([1, 0, 1], np.int32), np.array([0.1, -2.5, 1], np.float32)
    made = Clustering(["a", 1, "b"], labels, scores, np.ones((3, 2), np.float32), np.array([1, 2, 0]))
    found = wire.read_clustering(sent(wire.write_clustering(made)))
    for field in fields(Clustering):
        ours, theirs = np.asarray(getattr(made, field.name)), np.asarray(getattr(found, field.name))
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
    groups = [DuplicateGroup(["a", 1], [1.0, 0.5]), DuplicateGroup([2, 3], [1.0, 0.25])]
    assert wire.read_groups(sent(wire.write_groups(groups))) == groups


@pytest.mark.parametrize("text", [None, "", "int4"])
def test_stats(text: str | None) -> None:
    numbers = {field.name: number + 2**40 for number, field in enumerate(fields(Stats), 1)}
    names = {"name": "docs", "dim": 3, "metric": "dot", "index": "HNSW", "quantization": text, "index_error": text}
    names |= {"durability": text, "synced_lsn": None if text is None else 2**40}
    stats = Stats(**{**numbers, **names, "degree": 40.625})  # type: ignore[arg-type]
    info = CollectionInfo("docs", 3, "dot", HNSW(m=16), Int4())
    message = sent(wire.write_stats(stats, info))
    assert wire.read_stats(message) == stats and wire.read_info(message.info) == info


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("index", [Flat(), HNSW(), HNSW(8, 16, 10, 1.0, 0), HNSW(128, 2000, 10_000, 1.1, 2**31 - 1)])
@pytest.mark.parametrize("quantization", [None, Int8(), Int4(), Binary()])
def test_what_a_collection_was_created_with(metric: Any, index: Any, quantization: Any) -> None:
    info = CollectionInfo("docs", 3, metric, index, quantization)
    message = sent(wire.write_info(info))
    assert wire.read_info(message) == info
    assert CollectionInfo(**wire.read_creation(message)) == info
    # An answer says everything, so that a client need not know the defaults.
    assert message.WhichOneof("index") and message.quantization != pb.QUANTIZATION_UNSPECIFIED
    if isinstance(index, HNSW):
        assert {name.name for name, _ in message.hnsw.ListFields()} == {"m", "ef_construction", "ef", "alpha", "seed"}


def test_what_a_request_leaves_out_has_its_default() -> None:
    def read(**fields: Any) -> dict[str, Any]:
        return wire.read_creation(sent(pb.CollectionInfo(name="docs", dim=3, **fields)))

    assert read() == {"name": "docs", "dim": 3, "metric": "cosine", "index": None, "quantization": "auto"}
    assert read(hnsw=pb.Hnsw())["index"] == HNSW()
    assert read(hnsw=pb.Hnsw(m=16, alpha=1.5))["index"] == HNSW(m=16, alpha=1.5)
    assert read(hnsw=pb.Hnsw(m=0, seed=0))["index"] == HNSW(m=0, seed=0)  # said, and for the verb to refuse
    assert read(flat=pb.Flat())["index"] == Flat()
    assert read(quantization=pb.QUANTIZATION_NONE)["quantization"] is None
    assert read(quantization=pb.QUANTIZATION_INT4)["quantization"] == Int4()


def test_the_numbers_on_the_wire_are_those_of_the_contract() -> None:
    info = CollectionInfo("d", 3, "dot", HNSW(32, 128, 64, 1.2, 1), Int8())
    packed = b"\n\x01d\x10\x03\x18\x02 \x012\x12\x08 \x10\x80\x01\x18@!333333\xf3?(\x01"
    assert wire.write_info(info).SerializeToString(deterministic=True) == packed
    flat = CollectionInfo("d", 3, "cosine", Flat(), None)
    assert wire.write_info(flat).SerializeToString(deterministic=True) == b"\n\x01d\x10\x03\x18\x01 \x04*\x00"


FIELDS: dict[str, Any] = {
    "ids": [1, "1", "\0é" * 160], "name": "docs", "path": "a/b", "pid": 7, "limit": 2**40, "expected": 3,
    "received": 4, "argument": "top_k", "found": 2, "supported": 1,
}  # fmt: skip


def _status(text: str, *details: Any) -> wire.Status:
    status = status_pb2.Status(code=3, message="what", details=[any_pb2.Any() for _ in details])
    for packed, detail in zip(status.details, details, strict=True):
        packed.Pack(detail)
    return wire.Status(
        grpc.StatusCode.INVALID_ARGUMENT, text, (("grpc-status-details-bin", status.SerializeToString()),)
    )


SENT: dict[str, wire.Status] = {
    **{
        reason: wire.write_error(kind("what, with ünicode\n\0%", **{name: FIELDS[name] for name in kind.fields}))
        for reason, kind in errors.BY_REASON.items()
    },
    **{f"bare {code.name}": wire.Status(code, "in their words", ()) for code in grpc.StatusCode if code.value[0]},
    "ten long ids": wire.write_error(errors.AlreadyExistsError("\\x00" * 4800, ids=["\0" * 480] * 10)),
    "long": wire.write_error(InvalidArgumentError("got " + "ü" * 100_000)),
    "damaged": wire.Status(grpc.StatusCode.NOT_FOUND, "text", (("grpc-status-details-bin", b"\xff\xff"),)),
    "no JSON": _status(
        "text", error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="vecstore", metadata={"ids": "["})
    ),
    "foreign": _status("text", error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="elsewhere")),
    "newer": _status("text", error_details_pb2.ErrorInfo(reason="OF_A_LATER_VERSION", domain="vecstore")),
}


@pytest.fixture(scope="module")
def received() -> Iterator[Any]:
    """What the client makes of a status of SENT that came over a real connection."""

    def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(SENT[request.decode()])
        raise AssertionError

    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(fail)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Test", {"Fail": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    from vecstore.client import OPTIONS

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        call = channel.unary_unary("/Test/Fail")

        def receive(name: str) -> VecstoreError:
            with pytest.raises(grpc.RpcError) as caught:
                call(name.encode(), timeout=30)
            return wire.read_error(caught.value, "somewhere:1")

        yield receive
    server.stop(0).wait()


@pytest.mark.parametrize("kind", errors.BY_REASON.values(), ids=lambda kind: kind.reason)
def test_every_error_arrives_as_itself(kind: type[VecstoreError], received: Any) -> None:
    back = received(kind.reason)
    assert type(back) is kind and back.message == "what, with ünicode\n\0%"
    assert {name: getattr(back, name) for name in kind.fields} == {name: FIELDS[name] for name in kind.fields}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]], ids=lambda code: code.name)
def test_a_status_that_is_not_ours_is_a_remote_error(code: grpc.StatusCode, received: Any) -> None:
    kinds = {
        "UNAVAILABLE": errors.UnavailableError,
        "DEADLINE_EXCEEDED": errors.DeadlineExceededError,
        "UNAUTHENTICATED": errors.UnauthenticatedError,
        "RESOURCE_EXHAUSTED": errors.ResourceExhaustedError,
    }
    back = received(f"bare {code.name}")
    assert type(back) is kinds.get(code.name, errors.RemoteError)
    assert "somewhere:1" in str(back) and ("in their words" in str(back) or code.name == "UNIMPLEMENTED")


def test_an_error_that_names_ten_long_ids_arrives_whole(received: Any) -> None:
    assert received("ten long ids").ids == ["\0" * 480] * 10


def test_a_message_without_end_arrives_shortened(received: Any) -> None:
    back = received("long")
    assert type(back) is InvalidArgumentError and back.message.endswith("ü ...") and 4000 < len(back.message) < 10_000


@pytest.mark.parametrize("name", ["damaged", "no JSON", "foreign", "newer"])
def test_details_that_we_cannot_read_are_a_remote_error(name: str, received: Any) -> None:
    assert type(received(name)) is errors.RemoteError


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (wire.read_ids, pb.Ids(numbers=[1], texts=["a"])),
        (wire.read_ids, pb.Ids(numbers=[1], texts=["a"], text_places=[2])),
        (wire.read_ids, pb.Ids(numbers=[1], texts=["a", "b"], text_places=[1, 1])),
        (wire.read_ids, pb.Ids(numbers=[1], texts=["a", "b"], text_places=[2, 0])),
        (wire.read_ids, pb.Ids(texts=["a"], text_places=[0])),
        (wire.read_vectors, pb.Vectors(data=b"\0" * 7, rows=1, dim=2)),
        (wire.read_vectors, pb.Vectors(data=b"\0" * 8, rows=2, dim=2)),
        (wire.read_vectors, pb.Vectors(data=b"\0" * 8, rows=1, dim=2, values=[1, 2])),
        (wire.read_vectors, pb.Vectors(values=[1, 2], rows=2, dim=2)),
        (wire.read_vectors, pb.Vectors(values=[1, 2, 3], dim=2)),
        (wire.read_vectors, pb.Vectors(values=[1, 2, 3])),
        (wire.read_payloads, [b"\xc1"]),
        (wire.read_payloads, [msgpack.packb([1])]),
        (wire.read_payloads, [msgpack.packb({1: 2})]),
        (wire.read_payloads, [msgpack.packb({"a": 1})[:-1]]),
        (wire.read_payloads, [msgpack.packb({"a": 1}) + b"\x01"]),
        (wire.read_payloads, [b"\x81\xa1a" + b"\x91" * 5000]),
        (wire.read_payloads, [b"\x81\xa1\xff\x01"]),
        (wire.read_filter, b""),
        (wire.write_filter, {"a": "\ud800"}),
        (wire.write_filter, {"a": 2**64}),
        (wire.write_filter, {"a": object()}),
        (wire.read_creation, pb.CollectionInfo(name="x", dim=2, metric=77)),  # type: ignore[arg-type]
        (wire.read_creation, pb.CollectionInfo(name="x", dim=2, quantization=77)),  # type: ignore[arg-type]
        (wire.read_info, pb.CollectionInfo(name="x", dim=2, quantization=pb.QUANTIZATION_NONE)),
        (wire.read_info, pb.CollectionInfo(name="x", dim=2, flat=pb.Flat())),
        (wire.read_info, pb.CollectionInfo(name="x", dim=2, flat=pb.Flat(), quantization=77)),  # type: ignore[arg-type]
        (wire.read_hits, pb.SearchResponse(results=[pb.Hits(scores=[1])])),
        (wire.read_records, pb.Rows(ids=pb.Ids(numbers=[1, 2]), payloads=[b""])),
        (wire.read_clustering, pb.ClusterResponse(ids=pb.Ids(numbers=[1]), labels=[0])),
        (wire.read_clustering, pb.ClusterResponse(ids=pb.Ids(numbers=[1]), labels=[0], scores=[1])),
        (wire.read_groups, pb.NearDuplicatesResponse(groups=[pb.DuplicateGroup(scores=[1])])),
    ],
)
def test_what_is_malformed_is_an_invalid_argument(read: Any, message: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        read(message)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_that(packed: bytes) -> None:
    for read in (wire.read_filter, lambda one: wire.read_payloads([one])):
        with contextlib.suppress(InvalidArgumentError):
            read(packed)
