"""The server's life: listen, load the graphs, serve, and stop in good order."""

import asyncio
import gc
import ipaddress
import logging
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from ovms_local.graph import Graph
from ovms_local.grpc_server import start_grpc_server
from ovms_local.kserve import DataPlane
from ovms_local.loader import GraphLoadError, load_graph
from ovms_local.rest_server import RestApi, RestServer
from ovms_local.server_config import GraphEntry

_log = logging.getLogger(__name__)

# A call of a node holds a thread for as long as it takes, minutes perhaps; threads are made when they are needed.
_MAX_WORKERS = 1024
# Seconds for nodes to come back from a call, once their client has been cut off.
_LAST_CALL = 1.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where to listen (port None: not at all), and how many seconds running requests have when the server stops."""

    grpc_address: str
    grpc_port: int | None
    rest_address: str
    rest_port: int | None
    metrics: bool
    shutdown_timeout: float


class Server:
    """Serves graphs until a signal comes; to be made within an event loop."""

    def __init__(self, entries: tuple[GraphEntry, ...], settings: ServerSettings) -> None:
        self._entries = entries
        self._settings = settings
        self._workers = ThreadPoolExecutor(_MAX_WORKERS, thread_name_prefix="worker")
        self._data_plane = DataPlane([entry.name for entry in entries], self._workers)
        self._graphs: list[Graph] = []
        self._stop = asyncio.Event()
        self._grpc: grpc.aio.Server | None = None
        self._rest: RestServer | None = None
        self._rest_task: asyncio.Task | None = None

    async def run(self) -> bool:
        """Serve until SIGINT or SIGTERM; whether all nodes have come back from their last call.

        Raises:
            OSError: an address can't be listened on.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            await self._listen()
            loading = loop.run_in_executor(self._workers, self._load)
            await self._stop.wait()
            _log.info("stopping: running requests have %g s to end", self._settings.shutdown_timeout)
            self._data_plane.drain()
            return await self._wind_down(loading)
        finally:
            for graph in self._graphs:
                graph.finalize()
            _log.info("stopped")

    def _on_signal(self) -> None:
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()

    async def _listen(self) -> None:
        settings = self._settings
        if settings.rest_port is not None:
            listener = _listen_tcp(settings.rest_address, settings.rest_port)
            api = RestApi(self._data_plane, self._workers, settings.metrics)
            self._rest = RestServer(api, settings.shutdown_timeout)
            self._rest_task = asyncio.create_task(self._rest.serve([listener]))
            _announce("REST", settings.rest_address, settings.rest_port)
        if settings.grpc_port is not None:
            # Found out here, since gRPC's own answer does not say why it can't listen.
            _listen_tcp(settings.grpc_address, settings.grpc_port).close()
            target = f"{_bracketed(settings.grpc_address)}:{settings.grpc_port}"
            self._grpc = await start_grpc_server(self._data_plane, self._workers, [target], {}, None)
            _announce("gRPC", settings.grpc_address, settings.grpc_port)

    def _load(self) -> None:
        for entry in self._entries:
            if self._stop.is_set():
                return
            try:
                graph = load_graph(entry)
            except GraphLoadError as error:
                _log.error("graph %s is not available: %s", entry.name, error)
                continue
            self._graphs.append(graph)
            self._data_plane.load(graph)
            _log.info("graph %s is ready", entry.name)
        # What is loaded stays: Python's collector need not go through it again, which at the end takes over a second.
        gc.freeze()
        self._data_plane.ready = not self._stop.is_set()
        _log.info("server is ready")

    async def _wind_down(self, loading: asyncio.Future) -> bool:
        """End the transports, then wait for worker threads; False where some are still in a node."""
        transports = []
        if self._grpc:
            transports.append(asyncio.create_task(self._grpc.stop(self._settings.shutdown_timeout)))
        if self._rest:
            self._rest.should_exit = True
            transports.append(self._rest_task)
        timeout = self._settings.shutdown_timeout
        _, still_loading = await asyncio.wait([loading, *transports], timeout=timeout + _LAST_CALL)
        idle = await self._data_plane.wait_idle(_LAST_CALL)
        return idle and not still_loading


def _announce(protocol: str, address: str, port: int) -> None:
    _log.info("%s listens on %s:%d", protocol, _bracketed(address), port)
    if not _is_loopback(address):
        _log.warning("%s is open to other machines: without authentication, without encryption", protocol)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _listen_tcp(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=1024)
    except OSError as error:
        raise OSError(f"can't listen on {_bracketed(address)}:{port}: {error.strerror}") from error
