"""Starting, being healthy, and stopping without losing a call."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import vecstore
from vecstore.v1 import vecstore_pb2, vecstore_pb2_grpc
from vecstore_server.config import Config
from vecstore_server.service import Service

log = logging.getLogger("vecstore.server")

SERVICE: Final = vecstore_pb2.DESCRIPTOR.services_by_name["VecstoreService"].full_name


class Server:
    """A running server: it listens from construction to `stop()`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._db = vecstore.open(
            config.data,
            durability=config.durability,
            sync_interval=config.sync_interval,
            memory_limit=config.memory_limit,
        )
        try:
            self._health = health.HealthServicer()
            self._grpc = self._build()
            port = self._bind()
            vecstore.warmup()  # so that no call waits for a compiler
            self._grpc.start()
        except BaseException:
            self._db.close()
            raise
        self.address = f"{config.listen.rpartition(':')[0]}:{port}"
        """HOST:PORT, with the port that was taken."""
        for service in ("", SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def _build(self) -> grpc.Server:
        config = self._config
        server = grpc.server(
            ThreadPoolExecutor(config.max_workers, thread_name_prefix="vecstore-call"),
            maximum_concurrent_rpcs=config.max_workers + config.max_waiting,
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a rival
                # Clients may ask each 10 s whether we are there, and we ask each minute whether they are.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
            ],
        )
        vecstore_pb2_grpc.add_VecstoreServiceServicer_to_server(Service(self._db), server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    def _bind(self) -> int:
        listen = self._config.listen
        try:
            port = self._grpc.add_insecure_port(listen)
        except RuntimeError:
            port = 0
        if port == 0:
            raise vecstore.InvalidArgumentError(f"listen: cannot listen on {listen}: {_why_not(listen)}")
        return port

    def stop(self) -> None:
        """Take no new calls, let running ones finish within the grace, and close the database."""
        self._health.enter_graceful_shutdown()
        self._grpc.stop(self._config.grace).wait()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _why_not(listen: str) -> str:
    """The reason why an address cannot be listened on, which gRPC keeps to itself."""
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "the system refuses it"


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit code of the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stopping = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server = Server(config)
    # What was imported stays: a full collection, of which one may come in any call, need not look at it.
    gc.collect()
    gc.freeze()
    log.info("serving %s on %s", config.data, server.address)
    stopping.wait()
    log.info("stopping: running calls have %g s", config.grace)
    server.stop()
    log.info("stopped")
    return 0
