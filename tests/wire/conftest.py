"""A server in this process, on a free port."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vecstore_server import Config, Server

import vecstore


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(Config(tmp_path / "served", listen="127.0.0.1:0", grace=1)) as running:
        yield running


@pytest.fixture
def remote(server: Server) -> Iterator[vecstore.RemoteDatabase]:
    with vecstore.connect(server.address) as db:
        yield db


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Semaphore, threading.Event]]:
    """Counting takes until the event: what is released when a count begins, and the event."""
    begun, go_on = threading.Semaphore(0), threading.Event()
    count = vecstore.Collection._count

    def wait_first(self: vecstore.Collection, filter: Any) -> int:
        begun.release()
        assert go_on.wait(30)
        return count(self, filter)

    monkeypatch.setattr(vecstore.Collection, "_count", wait_first)
    yield begun, go_on
    go_on.set()
