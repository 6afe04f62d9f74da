"""The server as a process among others: it starts, is healthy, refuses what it must, and stops cleanly."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

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
        found = re.search(r"serving .* on (\S+:\d+)", process.stderr.readline())
        assert found is not None
        return process, found.group(1)

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
        rows = pb.Rows(ids=[pb.Id(number=7), pb.Id(text="7")], vectors=pb.Vectors(values=[1, 0, 0, 1], dim=2))
        stub.Insert(pb.InsertRequest(collection="docs", rows=rows))
        query = pb.Vectors(values=[0, 2], dim=2)
        [hits] = stub.Search(pb.SearchRequest(collection="docs", queries=query, k=1)).results
        assert hits.rows.ids[0].text == "7" and list(hits.scores) == [1.0] and not hits.rows.payloads


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


def test_nobody_there_is_unavailable_and_names_the_address() -> None:
    with pytest.raises(vecstore.UnavailableError, match=r"127\.0\.0\.1:1"):
        vecstore.connect("127.0.0.1:1")


@pytest.mark.parametrize("address", ["localhost", "", ":1", "a b:1", 6333, "http://localhost:1"])
def test_a_bad_address_is_an_invalid_argument(address: object) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match="HOST:PORT"):
        vecstore.connect(address)  # type: ignore[arg-type]


def test_connect_names_the_right_argument() -> None:
    with pytest.raises(vecstore.UnknownArgumentError, match="address"):
        vecstore.connect(host="localhost:1")  # type: ignore[call-arg]
    with pytest.raises(vecstore.InvalidArgumentError, match="timeout"):
        vecstore.connect("localhost:1", timeout=0)


def test_a_port_that_is_taken_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match=r"listen.*" + re.escape(server.address)):
        Server(Config(tmp_path / "other", listen=server.address))
    vecstore.open(tmp_path / "other").close()  # and the folder is free again


def test_a_request_beyond_the_limit_is_resource_exhausted(tmp_path: Path) -> None:
    config = Config(tmp_path / "db", listen="127.0.0.1:0", max_message_bytes=100_000, grace=1)
    with Server(config) as server, vecstore.connect(server.address) as db:
        docs = db.create_collection("docs", 64)
        with pytest.raises(vecstore.ResourceExhaustedError):
            docs.insert(range(1000), np.ones((1000, 64)))
        docs.insert(range(100), np.ones((100, 64)))
        assert docs.count() == 100


def test_a_call_that_takes_too_long_raises_and_the_server_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    with vecstore.connect(server.address, timeout=0.2) as impatient, vecstore.connect(server.address) as patient:
        docs = patient.create_collection("docs", 2)
        theirs = impatient.get_collection("docs")
        monkeypatch.setattr(vecstore.Collection, "_count", lambda *_: held.wait() and 0)
        with pytest.raises(vecstore.DeadlineExceededError):
            theirs.count()
        held.set()
        monkeypatch.undo()
        assert docs.count() == 0


def test_a_fault_of_the_server_is_a_remote_error_without_its_insides(
    server: Server, remote: vecstore.RemoteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = remote.create_collection("docs", 2)
    monkeypatch.setattr(vecstore.Collection, "_count", lambda *_: 1 / 0)
    with pytest.raises(vecstore.RemoteError) as error:
        docs.count()
    assert type(error.value) is vecstore.RemoteError
    assert "ZeroDivision" not in str(error.value) and "log" in str(error.value)


def test_many_clients_at_once(server: Server) -> None:
    with vecstore.connect(server.address) as db:
        db.create_collection("docs", 2)
    failures: list[BaseException] = []

    def client(number: int) -> None:
        try:
            with vecstore.connect(server.address) as db:
                docs = db.get_collection("docs")
                for i in range(20):
                    docs.insert([number * 100 + i], [[1, number]], [{"client": number}])
                    assert docs.count({"client": number}) == i + 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with vecstore.connect(server.address) as db:
        assert db.get_collection("docs").count() == 120
        assert db.get_collection("docs").check() == []


def test_the_client_loads_neither_numba_nor_lmdb() -> None:
    code = "import sys, vecstore; vecstore.connect; print([m for m in ('numba', 'lmdb') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_client_example_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    embedded, client = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", embedded], cwd=tmp_path, check=True)
    with Server(Config(tmp_path / "my-database", listen="127.0.0.1:0", grace=1)) as server:
        code = client.replace("localhost:6333", server.address)
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(out.splitlines()) == 4 and "nouns" in out
