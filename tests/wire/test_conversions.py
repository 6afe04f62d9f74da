"""Everything that travels arrives as it was sent; what is malformed is refused."""

from typing import Any

import grpc
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vecstore import errors, wire
from vecstore.errors import InvalidArgumentError, VecstoreError
from vecstore.types import CollectionInfo, Finding, Hit, Record, Stats, WriteResult
from vecstore.v1 import vecstore_pb2 as pb

IDS = st.one_of(st.integers(0, 2**63 - 1), st.text(min_size=1, max_size=30))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary()
)
PAYLOADS = st.dictionaries(
    st.text(), st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)


def sent(message: Any) -> Any:
    """The message after a journey."""
    return type(message).FromString(message.SerializeToString())


@given(st.lists(IDS))
def test_ids(ids: list[int | str]) -> None:
    assert wire.read_ids(sent(pb.IdList(ids=wire.write_ids(ids))).ids) == ids


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)))
def test_vectors_bit_for_bit(vectors: np.ndarray) -> None:
    back = wire.read_vectors(sent(wire.write_vectors(vectors)))
    assert back.dtype == np.float32 and back.shape == vectors.shape and back.tobytes() == vectors.tobytes()
    back[:] = 0  # the caller's own


@given(st.none() | PAYLOADS)
def test_payloads(payload: dict[str, Any] | None) -> None:
    assert wire.read_payload(wire.write_payload(payload)) == payload


@given(st.lists(st.none() | st.tuples(IDS, st.none() | PAYLOADS), max_size=5), st.booleans(), st.booleans())
def test_records_with_gaps(rows: list[Any], with_payload: bool, with_vectors: bool) -> None:
    vector = np.arange(3, dtype=np.float32)
    records = [
        row and Record(row[0], row[1] if with_payload else None, vector if with_vectors else None) for row in rows
    ]
    back = wire.read_records(sent(wire.write_records(records, with_payload, with_vectors)))
    assert back == records
    assert all((record.vector is not None) == with_vectors for record in back if record is not None)


def test_hits_keep_the_scores_that_a_float32_holds() -> None:
    hits = [Hit(1, float(np.float32(0.1)), {"a": 1}), Hit("1", -2.5, None)]
    assert wire.read_hits(sent(wire.write_hits(hits, True, False))) == hits


def test_small_messages() -> None:
    info = CollectionInfo("docs", 3, "l2")
    assert wire.read_info(sent(wire.write_info(info))) == info
    assert wire.read_info(pb.CollectionInfo(name="docs", dim=3)).metric == "cosine"
    result = WriteResult(9, inserted=1, updated=2, deleted=3)
    assert wire.read_result(sent(wire.write_result(result))) == result
    stats = Stats("docs", 3, "dot", "Flat", *range(1, 10))
    assert wire.read_stats(sent(wire.write_stats(stats))) == stats
    finding = Finding("rows", "damaged", (1, "1"))
    assert wire.read_finding(sent(wire.write_finding(finding))) == finding


@pytest.mark.parametrize("kind", errors.BY_REASON.values(), ids=lambda kind: kind.reason)
def test_every_error_arrives_as_itself(kind: type[VecstoreError]) -> None:
    values: dict[str, Any] = {
        "ids": [1, "1"], "name": "docs", "path": "a/b", "pid": 7, "limit": 2**40, "expected": 3, "received": 4,
        "argument": "top_k", "found": 2, "supported": 1,
    }  # fmt: skip
    error = kind("what happened, with ünicode", **{name: values[name] for name in kind.fields})
    status = wire.write_error(error)

    class Call(grpc.RpcError, grpc.Call):  # type: ignore[misc]
        def code(self) -> Any:
            return status.code

        def details(self) -> Any:
            return status.details

        def trailing_metadata(self) -> Any:
            return status.trailing_metadata

    Call.__abstractmethods__ = frozenset()
    back = wire.read_error(Call(), "somewhere:1")
    assert type(back) is kind and back.message == error.message
    assert {name: getattr(back, name) for name in kind.fields} == {name: values[name] for name in kind.fields}
    assert status.code is not grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda m: wire.read_ids([m]), pb.Id()),
        (wire.read_vectors, pb.Vectors(data=b"\0" * 7, rows=1, dim=2)),
        (wire.read_vectors, pb.Vectors(data=b"\0" * 8, rows=2, dim=2)),
        (wire.read_vectors, pb.Vectors(data=b"\0" * 8, rows=1, dim=2, values=[1, 2])),
        (wire.read_vectors, pb.Vectors(values=[1, 2, 3], dim=2)),
        (wire.read_vectors, pb.Vectors(values=[1, 2, 3])),
        (wire.read_payload, b"\xc1"),
        (wire.read_payload, msgpack.packb([1])),
        (wire.read_payload, msgpack.packb({1: 2})),
        (wire.read_payload, msgpack.packb({"a": 1})[:-1]),
        (wire.read_payload, msgpack.packb({"a": 1}) + b"\x01"),
        (wire.read_filter, b""),
        (wire.read_info, pb.CollectionInfo(name="x", dim=2, metric=77)),
    ],
)
def test_what_is_malformed_is_an_invalid_argument(read: Any, message: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        read(message)
