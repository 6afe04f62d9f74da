"""What the wire costs: each encoding beside the one not taken, and calls beside embedded ones and a bare echo.

The bar: a remote search takes at most two echoes of the same bytes longer than the same search embedded.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgpack
from google.protobuf import json_format, struct_pb2
from vecstore_server import Config, Server

import vecstore
from bench.data import Data, arguments, load
from vecstore import wire
from vecstore.v1 import vecstore_pb2 as pb

ROWS = 2000


def main() -> None:
    """Print every figure."""
    parser = arguments(__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    data = load(options.data)
    payloads(data)
    ids(data)
    vectors(data)
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        searches(data, Path(scratch), options.calls)
        writes(data, Path(scratch))


def microseconds(action: Callable[[], object], repeat: int = 200) -> float:
    """Median wall time of one call."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def compare(what: str, rows: int, **ways: tuple[Callable[[], bytes], Callable[[bytes], Any]]) -> None:
    """Print size, and time there and back, a row; the first way is ours."""
    print(what)
    times = {}
    for name, (encode, decode) in ways.items():
        packed = encode()
        there, back = microseconds(encode, 50) / rows, microseconds(lambda: decode(packed), 50) / rows  # noqa: B023
        times[name] = there + back
        print(f"  {name:10} {len(packed) / rows:8.1f} bytes {there:8.3f} us there {back:8.3f} us back, a row")
    ours, *others = times
    print("  " + ", ".join(f"{ours} takes {times[ours] / times[name]:.3f} of the time of {name}" for name in others))


def filled(message: Any, write: Callable[[Any, Any], None], value: Any) -> bytes:
    """A message as it travels, filled in by one of wire's functions."""
    write(value, message)
    packed: bytes = message.SerializeToString()
    return packed


def payloads(data: Data) -> None:
    """Payloads as msgpack, or as google.protobuf.Struct."""
    sample = data.payloads[:1000]

    def structs() -> bytes:
        there = struct_pb2.ListValue()
        for payload in sample:
            there.values.add().struct_value.update(payload)
        return there.SerializeToString()

    compare(
        "payloads",
        len(sample),
        msgpack=(
            lambda: pb.Rows(payloads=wire.write_payloads(sample)).SerializeToString(),
            lambda packed: wire.read_payloads(pb.Rows.FromString(packed).payloads),
        ),
        Struct=(structs, lambda packed: json_format.MessageToDict(struct_pb2.ListValue.FromString(packed))),
    )
    odd = {"large": 2**60 + 1, "int": 1, "bytes": b"\xff"}
    print(
        f"  msgpack keeps large ints, ints apart from floats, and bytes: {msgpack.unpackb(msgpack.packb(odd)) == odd}"
    )


def ids(data: Data) -> None:
    """Ids in columns, or as a message each; google.protobuf.Value stands for the latter."""
    sample: list[Any]
    for what, sample in (("ids that are str", data.ids[:5000]), ("ids that are int", list(range(5000)))):
        field = f"{'string' if isinstance(sample[0], str) else 'number'}_value"
        compare(
            what,
            len(sample),
            columns=(
                lambda sample=sample: filled(pb.Ids(), wire.write_ids, sample),
                lambda packed: wire.read_ids(pb.Ids.FromString(packed)),
            ),
            messages=(
                lambda sample=sample, field=field: struct_pb2.ListValue(
                    values=[struct_pb2.Value(**{field: one}) for one in sample]
                ).SerializeToString(),
                lambda packed, field=field: [
                    getattr(one, field) for one in struct_pb2.ListValue.FromString(packed).values
                ],
            ),
        )


def vectors(data: Data) -> None:
    """Vectors as bytes, or as repeated floats."""
    sample = data.vectors[:1000]
    compare(
        f"vectors of {sample.shape[1]} dimensions",
        len(sample),
        bytes=(
            lambda: filled(pb.Vectors(), wire.write_vectors, sample),
            lambda packed: wire.read_vectors(pb.Vectors.FromString(packed)),
        ),
        floats=(
            lambda: pb.Vectors(values=sample.ravel().tolist(), dim=sample.shape[1]).SerializeToString(),
            lambda packed: wire.read_vectors(pb.Vectors.FromString(packed)),
        ),
    )


def searches(data: Data, folder: Path, calls: int) -> None:
    """The same search embedded and remote, and an echo of its request and response, call by call in turn."""
    with Server(Config(folder / "db", listen="127.0.0.1:0")) as server, vecstore.connect(server.address) as db:
        db.create_collection("docs", data.vectors.shape[1], index=vecstore.Flat()).insert(
            data.ids[:ROWS], data.vectors[:ROWS], data.payloads[:ROWS]
        )
        remote = db.get_collection("docs")
        # The database that the server has open, so that both sides search the same collection in one process.
        embedded = vecstore.open(folder / "db", read_only=True).get_collection("docs")
        for with_payload in (True, False):
            measure(data, embedded, remote, with_payload, calls)


def measure(data: Data, embedded: Any, remote: Any, with_payload: bool, calls: int) -> None:
    """Print one comparison."""
    hits = embedded.search(data.queries[0], with_payload=with_payload)
    response = wire.write_hits([hits], with_payload=with_payload, with_vectors=False)
    message = pb.SearchRequest(collection="docs", k=10, with_payload=with_payload)
    wire.write_vectors(data.queries[:1], message.queries)
    request = message.SerializeToString()
    server, echo = echo_of(response.SerializeToString())
    times: dict[str, list[float]] = {"embedded": [], "remote": [], "echo": []}
    for i in range(calls):
        query = data.queries[i % len(data.queries)]
        for name, call in (
            ("embedded", lambda query=query: embedded.search(query, with_payload=with_payload)),
            ("remote", lambda query=query: remote.search(query, with_payload=with_payload)),
            ("echo", lambda: echo(request)),
        ):
            times[name].append(microseconds(call, 1))
    server.stop(0)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    added = medians["remote"] - medians["embedded"]
    what = f"search {'with' if with_payload else 'without'} payload"
    print(f"{what:24} " + ", ".join(f"{name} {value:.0f} us" for name, value in medians.items()))
    print(f"{'':24} the wire adds {added:.0f} us: {added / medians['echo']:.2f} echoes (bar 2)")


def writes(data: Data, folder: Path) -> None:
    """The same rows inserted embedded and remote, in turn, durably."""
    n, dim = data.vectors.shape
    n = min(n, 5000)
    times: dict[str, list[float]] = {"embedded": [], "remote": []}
    with (
        Server(Config(folder / "served", listen="127.0.0.1:0")) as server,
        vecstore.connect(server.address) as remote,
        vecstore.open(folder / "embedded") as embedded,
    ):
        for turn in range(7):
            for name, db in (("embedded", embedded), ("remote", remote)):
                docs = db.create_collection(f"docs-{turn}", dim, index=vecstore.Flat())
                times[name].append(
                    microseconds(lambda: docs.insert(data.ids[:n], data.vectors[:n], data.payloads[:n]), 1)  # noqa: B023
                )
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"insert of {n:,} rows     " + ", ".join(f"{name} {value / 1000:.1f} ms" for name, value in medians.items()))
    print(f"{'':24} the wire adds {(medians['remote'] - medians['embedded']) / n:.1f} us a row")


def echo_of(response: bytes) -> tuple[grpc.Server, Callable[[bytes], bytes]]:
    """A bare server that answers any bytes with `response`, and how to call it."""
    server = grpc.server(ThreadPoolExecutor(4))
    method = grpc.unary_unary_rpc_method_handler(lambda request, context: response)  # noqa: ARG005
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Echo", {"Call": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    call: Callable[[bytes], bytes] = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/Echo/Call")
    call(b"")
    return server, call


if __name__ == "__main__":
    main()
