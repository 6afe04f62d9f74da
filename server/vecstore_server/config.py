"""What a server is told when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import vecstore
from vecstore import wire


@dataclass(frozen=True)
class Config:
    """Everything a server can be told; InvalidArgumentError if it makes no sense."""

    data: Path
    """The database folder; created if it is not there."""
    listen: str = "127.0.0.1:6333"
    """HOST:PORT; port 0 takes a free one."""
    durability: Literal["commit", "interval"] = "commit"
    """Whether a write is on the disk when it returns, or within `sync_interval`, as for `vecstore.open`."""
    sync_interval: float | None = None
    """Seconds between syncs with durability="interval"."""
    memory_limit: int | None = None
    """Bytes of RAM that all indexes together may take, as for `vecstore.open`."""
    max_workers: int = field(default_factory=lambda: max(4, 2 * (os.cpu_count() or 1)))
    """Threads that answer calls."""
    max_waiting: int = 256
    """Calls that may wait for a thread; beyond, a call is refused with RESOURCE_EXHAUSTED."""
    max_message_bytes: int = wire.MAX_MESSAGE_BYTES
    """The largest request, and the largest answer."""
    grace: float = 10.0
    """Seconds that running calls have to finish when the server stops."""

    def __post_init__(self) -> None:
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise vecstore.InvalidArgumentError(
                f'listen: expected "HOST:PORT", such as "127.0.0.1:6333", got {self.listen!r}'
            )
        for name, low, high in (
            ("max_workers", 1, 1024),
            ("max_waiting", 0, 1_000_000),
            ("max_message_bytes", 1024, 2**31 - 1),  # protobuf's own limit
            ("grace", 0, 86_400),
        ):
            if not low <= getattr(self, name) <= high:
                raise vecstore.InvalidArgumentError(f"{name}: lies between {low} and {high}, got {getattr(self, name)}")
