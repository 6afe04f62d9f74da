"""The client among others: it finds its server or says why not, and shares it with others without harm."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from vecstore_server import Config, Server

import vecstore
from vecstore.verbs.query import Query

ROOT = Path(__file__).parent.parent.parent


def test_nobody_there_is_unavailable_and_names_the_address() -> None:
    with pytest.raises(vecstore.UnavailableError, match=r"127\.0\.0\.1:1"):
        vecstore.connect("127.0.0.1:1")


def test_somebody_who_does_not_answer_is_unavailable_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(vecstore.UnavailableError, match=re.escape(address)):
            vecstore.connect(address, timeout=0.3)


def test_another_kind_of_server_is_told_apart() -> None:
    other = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{other.add_insecure_port('127.0.0.1:0')}"
    other.start()
    with pytest.raises(vecstore.RemoteError, match=f"{address}.*vecstore"):
        vecstore.connect(address)
    other.stop(0).wait()


@pytest.mark.parametrize(
    "address",
    ["localhost", "", ":1", "a b:1", 6333, "http://localhost:1", "localhost:0", "localhost:65536", "::1:6333"],
)
def test_a_bad_address_is_an_invalid_argument(address: object) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match="HOST:PORT"):
        vecstore.connect(address)  # type: ignore[arg-type]


def test_connect_names_the_right_argument() -> None:
    with pytest.raises(vecstore.UnknownArgumentError, match="address"):
        vecstore.connect(host="localhost:1")  # type: ignore[call-arg]
    for timeout in (0, -1, float("nan"), float("inf"), True, "1"):
        with pytest.raises(vecstore.InvalidArgumentError, match="timeout"):
            vecstore.connect("localhost:1", timeout=timeout)  # type: ignore[arg-type]


def test_clients_that_drop_and_create_at_once_meet_only_the_right_errors(server: Server) -> None:
    surprises: list[BaseException] = []

    def client(number: int) -> None:
        expected = (vecstore.AlreadyExistsError, vecstore.CollectionNotFoundError)
        with vecstore.connect(server.address) as db:
            for turn in range(15):
                for call in (
                    lambda: db.create_collection("docs", 2),
                    lambda: db.get_collection("docs").upsert([number], [[1, 1]], [{"turn": turn}]),  # noqa: B023
                    lambda: db.get_collection("docs").search([1, 1], filter={"turn": {"$gte": 0}}),
                    lambda: db.drop_collection("docs"),
                ):
                    try:
                        call()
                    except expected:
                        pass
                    except BaseException as error:
                        surprises.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not surprises
    with vecstore.connect(server.address) as db:
        assert db.create_collection("after", 2).insert(1, [1, 1]).inserted == 1


def test_a_client_killed_while_it_writes_leaves_whole_batches(server: Server) -> None:
    code = (
        "import sys, numpy as np, vecstore\n"
        "docs = vecstore.connect(sys.argv[1]).create_collection('docs', 64)\n"
        "for batch in range(10_000):\n"
        "    docs.insert(range(batch * 500, batch * 500 + 500), np.ones((500, 64)), [{'batch': batch}] * 500)\n"
        "    print(batch, flush=True)\n"
    )
    with vecstore.connect(server.address) as db:
        client = subprocess.Popen([sys.executable, "-c", code, server.address], stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        with client.stdout:
            for _ in range(3):
                acknowledged = int(client.stdout.readline())
            client.kill()
            acknowledged = max([acknowledged, *map(int, client.stdout.read().split())])
        assert client.wait() == -signal.SIGKILL
        docs = db.get_collection("docs")
        docs.upsert(0, np.ones(64), {"batch": 0})  # a write in flight is before this one, or is not at all
        assert docs.count() % 500 == 0 and docs.count() >= (acknowledged + 1) * 500
        assert docs.count({"batch": acknowledged}) == 500 and docs.check() == []


def test_a_client_finds_a_server_that_comes_back(tmp_path: Path) -> None:
    with Server(Config(tmp_path / "db", listen="127.0.0.1:0", grace=1)) as server:
        address = server.address
        db = vecstore.connect(address)
        docs = db.create_collection("docs", 2)
    with pytest.raises(vecstore.UnavailableError):
        docs.insert(1, [1, 1])
    with Server(Config(tmp_path / "db", listen=address, grace=1)), db:
        vecstore.connect(address).close()  # at once, though the older connection waits before it tries again
        for _ in range(100):
            try:
                assert docs.insert(1, [1, 1]).inserted == 1
                break
            except vecstore.UnavailableError:
                time.sleep(0.1)
        assert docs.count() == 1


def test_closing_a_connection_ends_its_running_calls(
    server: Server, held: tuple[threading.Semaphore, threading.Event]
) -> None:
    begun, _ = held
    db = vecstore.connect(server.address)
    docs = db.create_collection("docs", 2)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(docs.count)
        assert begun.acquire(timeout=30)
        db.close()
        assert isinstance(running.exception(30), vecstore.ClosedError)
    assert docs.closed


def test_a_call_that_takes_too_long_raises_and_the_server_goes_on(
    server: Server, held: tuple[threading.Semaphore, threading.Event]
) -> None:
    with vecstore.connect(server.address, timeout=0.3) as impatient, vecstore.connect(server.address) as patient:
        docs = patient.create_collection("docs", 2)
        with pytest.raises(vecstore.DeadlineExceededError):
            impatient.get_collection("docs").count()
        held[1].set()
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


def test_the_client_loads_neither_numba_nor_lmdb_and_goes_through_no_proxy(server: Server) -> None:
    code = (
        "import sys, vecstore\n"
        "assert 'grpc' not in sys.modules\n"
        "docs = vecstore.connect(sys.argv[1]).create_collection('docs', 2)\n"
        "docs.insert([1], [[1, 0]], [{'a': 1}])\n"
        "assert docs.search([1, 0], filter={'a': 1})[0].id == 1 and docs.check() == []\n"
        "print([name for name in ('numba', 'lmdb') if name in sys.modules])\n"
    )
    proxy = {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, server.address],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **proxy},
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("options", [{"oversampling": 2.5, "ef": 99}, {"ef": 1}, {"nprobe": 5}, {"exact": True}, {}])
def test_every_option_of_a_search_arrives(
    remote: vecstore.RemoteDatabase, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    seen: list[Query] = []

    def search(self: vecstore.Collection, query: Query) -> list[list[vecstore.Hit]]:
        seen.append(query)
        return [[]]

    monkeypatch.setattr(vecstore.Collection, "_search", search)
    index = vecstore.IVF() if "nprobe" in options else vecstore.HNSW()
    docs = remote.create_collection("docs", 2, index=index)
    others = {"filter": {"a": 1}, "score_threshold": 0.5, "with_payload": False, "with_vectors": True}
    assert docs.search([1, 0], 7, **others, **options) == []
    expected = {"k": 7, "oversampling": None, "ef": None, "nprobe": None, "exact": False, **others, **options}
    assert {name: value for name, value in seen[0]._asdict().items() if name != "queries"} == expected
    assert seen[0].queries.tolist() == [[1, 0]]


def test_a_wait_has_its_own_timeout_and_the_call_that_of_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def wait(self: vecstore.Collection, timeout: float) -> None:
        seen.append(timeout)
        time.sleep(min(timeout, 1.2))
        raise vecstore.DeadlineExceededError(f"not indexed within {timeout:g} s")

    monkeypatch.setattr(vecstore.Collection, "_wait_indexed", wait)
    with vecstore.connect(server.address, timeout=30) as db:
        docs = db.create_collection("docs", 2)
        with pytest.raises(TimeoutError, match="within 0 s"):
            docs.wait_indexed(0)
        with pytest.raises(vecstore.DeadlineExceededError, match=r"within 0\.25 s"):
            docs.wait_indexed(0.25)
        with pytest.raises(vecstore.DeadlineExceededError, match="not indexed"):
            docs.wait_indexed()
    assert seen[:2] == [0, 0.25] and 0 < seen[2] <= 30.5
    with vecstore.connect(server.address, timeout=1) as db:
        docs = db.get_collection("docs")
        with pytest.raises(vecstore.DeadlineExceededError, match=r"within 1\.2 s"):
            docs.wait_indexed(1.2)


def test_the_seed_of_a_rebuild_arrives(remote: vecstore.RemoteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []
    monkeypatch.setattr(vecstore.Collection, "_rebuild", lambda self, seed: seen.append(seed))
    docs = remote.create_collection("docs", 2)
    docs.rebuild()
    docs.rebuild(seed=0)
    docs.rebuild(seed=2**31 - 1)
    assert seen == [None, 0, 2**31 - 1]


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf", "google.rpc"])
def test_without_its_packages_the_client_tells_how_to_install_them(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import vecstore; vecstore.connect('localhost:1')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'pip install "vecstore[client]"' in done.stderr.splitlines()[-1]


def test_the_client_example_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    embedded, *_ = [block for block in blocks if "vecstore.open(" in block]
    [client] = [block for block in blocks if "vecstore.connect(" in block]
    subprocess.run([sys.executable, "-c", embedded], cwd=tmp_path, check=True)
    with Server(Config(tmp_path / "my-database", listen="127.0.0.1:0", grace=1)) as server:
        code = client.replace("localhost:6333", server.address)
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(out.splitlines()) == 4 and "nouns" in out
