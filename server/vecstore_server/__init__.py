"""A thin gRPC face on a vecstore database."""

from vecstore_server.config import Config
from vecstore_server.lifecycle import Server, serve

__all__ = ["Config", "Server", "serve"]
