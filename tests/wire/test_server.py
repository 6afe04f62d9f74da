"""The server as a process among others: it starts, is healthy, refuses what it must, and stops cleanly."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from vecstore_server import Config, Server

import vecstore
from vecstore.v1 import vecstore_pb2 as pb
from vecstore.v1 import vecstore_pb2_grpc

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def start() -> Callable[[Path], tuple[subprocess.Popen[str], str]]:
    """Start `vecstore serve` on a folder: the process, and its HOST:PORT."""

    def go(folder: Path) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "vecstore_server", "--data", str(folder), "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:  # it may tell first that it compiles its kernels
            found = re.search(r"serving .* on (\S+:\d+)", line)
            if found is not None:
                return process, found.group(1)
        raise AssertionError("the server did not start")

    return go


def test_health_and_reflection(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "vecstore.v1.VecstoreService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        [listed] = reflection.ServerReflectionInfo(iter([request]))
        assert "vecstore.v1.VecstoreService" in [service.name for service in listed.list_services_response.service]


def test_a_client_written_by_hand_may_send_repeated_floats(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = vecstore_pb2_grpc.VecstoreServiceStub(channel)
        stub.CreateCollection(pb.CreateCollectionRequest(info=pb.CollectionInfo(name="docs", dim=2)))
        ids = pb.Ids(numbers=[7], texts=["7"], text_places=[1])
        rows = pb.Rows(ids=ids, vectors=pb.Vectors(values=[1, 0, 0, 1], dim=2))
        stub.Insert(pb.InsertRequest(collection="docs", rows=rows))
        query = pb.Vectors(values=[0, 2], dim=2)
        [hits] = stub.Search(pb.SearchRequest(collection="docs", queries=query, k=1)).results
        assert list(hits.rows.ids.texts) == ["7"] and list(hits.scores) == [1.0] and not hits.rows.payloads


def test_a_client_written_by_hand_may_leave_out_how_to_index(server: Server) -> None:
    def made(name: str, **fields: Any) -> pb.CollectionInfo:
        info = pb.CollectionInfo(name=name, dim=2, **fields)
        return stub.CreateCollection(pb.CreateCollectionRequest(info=info, exist_ok=True)).info

    with grpc.insecure_channel(server.address) as channel:
        stub = vecstore_pb2_grpc.VecstoreServiceStub(channel)
        whole = pb.Hnsw(m=24, ef_construction=128, ef=64, alpha=1.05, seed=1)
        for info in (made("a"), made("a", hnsw=pb.Hnsw()), made("a", hnsw=whole)):
            assert info.hnsw == whole and info.quantization == pb.QUANTIZATION_INT8
        assert stub.GetCollection(pb.GetCollectionRequest(collection="a")).info == info
        some = made("b", hnsw=pb.Hnsw(m=16, seed=0), quantization=pb.QUANTIZATION_NONE)
        assert some.hnsw == pb.Hnsw(m=16, ef_construction=128, ef=64, alpha=1.05, seed=0)
        assert some.quantization == pb.QUANTIZATION_NONE
        flat = made("c", flat=pb.Flat())
        assert flat.WhichOneof("index") == "flat" and flat.quantization == pb.QUANTIZATION_NONE
        for wrong in ({"hnsw": pb.Hnsw(m=0)}, {"hnsw": pb.Hnsw(alpha=float("nan"))}, {"quantization": 9}):
            with pytest.raises(grpc.RpcError) as error:
                made("d", **wrong)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_wait_without_deadline_ends_within_the_hour(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(vecstore.Collection, "_wait_indexed", lambda self, timeout: seen.append(timeout))
    with grpc.insecure_channel(server.address) as channel:
        stub = vecstore_pb2_grpc.VecstoreServiceStub(channel)
        stub.CreateCollection(pb.CreateCollectionRequest(info=pb.CollectionInfo(name="docs", dim=2)))
        stub.WaitIndexed(pb.WaitIndexedRequest(collection="docs"))
        stub.WaitIndexed(pb.WaitIndexedRequest(collection="docs", timeout=9000))
        for wrong in (-1.0, float("nan")):
            with pytest.raises(grpc.RpcError) as error:
                stub.WaitIndexed(pb.WaitIndexedRequest(collection="docs", timeout=wrong))
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert seen == [3600, 9000]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_code_0_and_the_folder_has_the_rows(
    tmp_path: Path, start: Callable[[Path], tuple[subprocess.Popen[str], str]], stop: signal.Signals
) -> None:
    process, address = start(tmp_path / "db")
    with vecstore.connect(address) as db:
        db.create_collection("docs", 2).insert([1], [[1, 0]], [{"a": 1}])
        with pytest.raises(vecstore.DatabaseLockedError) as locked:
            vecstore.open(tmp_path / "db")
        assert locked.value.pid == process.pid
        process.send_signal(stop)
        assert process.wait() == 0
        with pytest.raises(vecstore.UnavailableError):
            db.get_collection("docs").count()
    with vecstore.open(tmp_path / "db") as db:
        assert db.get_collection("docs").get(1) == vecstore.Record(1, {"a": 1})
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_a_port_that_is_taken_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match=f"listen.*{re.escape(server.address)}: address.*in use"):
        Server(Config(tmp_path / "other", listen=server.address))
    vecstore.open(tmp_path / "other").close()  # and the folder is free again


@pytest.mark.parametrize(
    "wrong",
    [
        {"listen": "6333"},
        {"listen": "localhost:"},
        {"listen": "localhost:65536"},
        {"max_workers": 0},
        {"max_waiting": -1},
        {"max_message_bytes": 2**31},
        {"grace": -1},
    ],
)
def test_a_config_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match=next(iter(wrong))):
        Config(Path("data"), **wrong)


def test_a_server_syncs_at_an_interval_if_it_is_told_to(tmp_path: Path) -> None:
    config = Config(tmp_path, listen="127.0.0.1:0", durability="interval", sync_interval=60)
    record = tmp_path / "collections" / "docs" / "data.mdb-synced"
    with Server(config) as server, vecstore.connect(server.address) as db:
        db.create_collection("docs", 2).insert(1, [1, 0])
        assert record.exists()
    assert not record.exists()
    with pytest.raises(vecstore.InvalidArgumentError, match="sync_interval has no effect"):
        Server(Config(tmp_path, listen="127.0.0.1:0", sync_interval=60))


def test_stopping_tells_watchers_first_and_waits_for_running_calls(
    server: Server, held: tuple[threading.Semaphore, threading.Event]
) -> None:
    begun, go_on = held
    with vecstore.connect(server.address) as db, grpc.insecure_channel(server.address) as channel:
        docs = db.create_collection("docs", 2)
        watch = iter(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with ThreadPoolExecutor(2) as pool:
            running = pool.submit(docs.count)
            assert begun.acquire(timeout=30)
            stopping = pool.submit(server.stop)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            go_on.set()
            assert running.result(30) == 0
            stopping.result(30)
        with pytest.raises(vecstore.UnavailableError):
            docs.count()


def test_more_calls_than_may_wait_are_refused(
    tmp_path: Path, held: tuple[threading.Semaphore, threading.Event]
) -> None:
    begun, go_on = held
    config = Config(tmp_path / "db", listen="127.0.0.1:0", max_workers=1, max_waiting=1, grace=1)
    with Server(config) as server, vecstore.connect(server.address) as db, ThreadPoolExecutor(9) as pool:
        docs = db.create_collection("docs", 2)
        first = pool.submit(docs.count)
        assert begun.acquire(timeout=30)
        others = [pool.submit(docs.count) for _ in range(8)]
        while sum(other.done() for other in others) < 7:
            time.sleep(0.01)
        go_on.set()
        outcomes = [other.exception() for other in others]
        assert first.result() == 0 and outcomes.count(None) == 1
        assert {type(error) for error in outcomes if error} == {vecstore.ResourceExhaustedError}


def test_a_write_whose_caller_has_given_up_does_not_come_later(
    tmp_path: Path, held: tuple[threading.Semaphore, threading.Event]
) -> None:
    begun, go_on = held
    config = Config(tmp_path / "db", listen="127.0.0.1:0", max_workers=1, grace=1)
    with Server(config) as server, vecstore.connect(server.address) as db, ThreadPoolExecutor(1) as pool:
        docs = db.create_collection("docs", 2)
        with vecstore.connect(server.address, timeout=0.3) as impatient:
            theirs = impatient.get_collection("docs")
            running = pool.submit(docs.count)
            assert begun.acquire(timeout=30)
            with pytest.raises(vecstore.DeadlineExceededError):
                theirs.insert(1, [1, 1])
            # An answer to what came after on the same connection: the server has seen that they gave up.
            with pytest.raises(grpc.RpcError) as refused:
                impatient._connection.channel.unary_unary("/no/such")(b"", timeout=30)
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        go_on.set()
        assert running.result() == 0 and docs.get(1) is None and docs.count() == 0


def test_a_database_that_closes_under_a_call_is_unavailable(
    server: Server, remote: vecstore.RemoteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = remote.create_collection("docs", 2)

    def closed(*_: object) -> None:
        raise vecstore.ClosedError('collection "docs" is closed')

    monkeypatch.setattr(vecstore.Collection, "_count", closed)
    with pytest.raises(vecstore.UnavailableError, match="stopping"):
        docs.count()


def test_a_request_beyond_the_limit_is_resource_exhausted(tmp_path: Path) -> None:
    config = Config(tmp_path / "db", listen="127.0.0.1:0", max_message_bytes=100_000, grace=1)
    with Server(config) as server, vecstore.connect(server.address) as db:
        docs = db.create_collection("docs", 64)
        with pytest.raises(vecstore.ResourceExhaustedError):
            docs.insert(range(1000), np.ones((1000, 64)))
        docs.insert(range(100), np.ones((100, 64)))
        assert docs.count() == 100


def test_an_answer_beyond_the_limit_is_resource_exhausted(tmp_path: Path) -> None:
    config = Config(tmp_path / "db", listen="127.0.0.1:0", max_message_bytes=100_000, grace=1)
    with Server(config) as server, vecstore.connect(server.address) as db:
        docs = db.create_collection("docs", 64)
        for start in range(0, 1000, 200):
            docs.insert(range(start, start + 200), np.ones((200, 64)))
        with pytest.raises(vecstore.ResourceExhaustedError):
            docs.scroll(limit=1000, with_vectors=True)
        assert len(docs.scroll(limit=200, with_vectors=True).records) == 200
