"""What the wire costs: a remote search beside a bare echo of the same bytes, and payloads as msgpack beside Struct.

The bar: a remote search takes at most two echoes longer than the same search embedded.
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
    with tempfile.TemporaryDirectory(prefix="vecstore-bench-", dir=".") as scratch:
        searches(data, Path(scratch), options.calls)


def microseconds(action: Callable[[], object], repeat: int = 200) -> float:
    """Median wall time of one call."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def payloads(data: Data) -> None:
    """Encoding and decoding a payload, either way."""
    sample = data.payloads[:100]

    def as_struct() -> list[Any]:
        there = []
        for payload in sample:
            struct = struct_pb2.Struct()
            struct.update(payload)
            there.append(struct.SerializeToString())
        return [json_format.MessageToDict(struct_pb2.Struct.FromString(packed)) for packed in there]

    def as_msgpack() -> list[Any]:
        return [msgpack.unpackb(packed) for packed in [msgpack.packb(payload) for payload in sample]]

    ours, theirs = microseconds(as_msgpack) / len(sample), microseconds(as_struct) / len(sample)
    kept = as_msgpack() == sample
    numbers = msgpack.unpackb(msgpack.packb({"n": 2**60 + 1}))["n"] == 2**60 + 1
    print(f"payload there and back   msgpack {ours:.2f} us, Struct {theirs:.2f} us: {ours / theirs:.3f} of it")
    print(f"                         msgpack keeps every payload: {kept}, and large ints: {numbers}")


def searches(data: Data, folder: Path, calls: int) -> None:
    """The same search embedded and remote, and an echo of its request and response, call by call in turn."""
    with Server(Config(folder / "db", listen="127.0.0.1:0")) as server, vecstore.connect(server.address) as db:
        db.create_collection("docs", data.vectors.shape[1]).insert(
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
    response = pb.SearchResponse(results=[wire.write_hits(hits, with_payload, False)]).SerializeToString()
    request = pb.SearchRequest(
        collection="docs", queries=wire.write_vectors(data.queries[:1]), k=10
    ).SerializeToString()
    server, echo = echo_of(response)
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
