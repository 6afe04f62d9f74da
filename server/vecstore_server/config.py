"""What a server is told when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vecstore import wire


@dataclass(frozen=True)
class Config:
    """Everything a server can be told."""

    data: Path
    """The database folder; created if it is not there."""
    listen: str = "127.0.0.1:6333"
    """HOST:PORT; port 0 takes a free one."""
    workers: int = field(default_factory=lambda: max(4, 2 * (os.cpu_count() or 1)))
    """Threads that answer calls."""
    max_waiting: int = 256
    """Calls that may wait for a thread; beyond, a call is refused with RESOURCE_EXHAUSTED."""
    max_message_bytes: int = wire.MAX_MESSAGE_BYTES
    """The largest request."""
    grace: float = 10.0
    """Seconds that running calls have to finish when the server stops."""
