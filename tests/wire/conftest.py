"""A server in this process, on a free port."""

from collections.abc import Iterator
from pathlib import Path

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
