"""The server's life: listen, load the graphs, serve, and stop in good order."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ovms_local.graph import Graph
from ovms_local.grpc_server import start_grpc_server
from ovms_local.kserve import DataPlane
from ovms_local.loader import GraphLoadError, load_graph, unload_nodes
from ovms_local.rest_server import RestServer, make_app
from ovms_local.server_config import GraphEntry

_log = logging.getLogger(__name__)

# A call of a node holds a thread for as long as it takes, minutes perhaps; threads are made when they are needed.
_MAX_WORKERS = 1024


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where to listen (None: not at all) and how long to wait for running requests when stopping, in seconds."""

    grpc_address: str
    grpc_port: int | None
    rest_address: str
    rest_port: int | None
    shutdown_timeout: float


class Server:
    """Serves graphs until a signal comes."""

    def __init__(self, entries: tuple[GraphEntry, ...], settings: ServerSettings) -> None:
        self._entries = entries
        self._settings = settings
        self._workers = ThreadPoolExecutor(_MAX_WORKERS, thread_name_prefix="worker")
        self._data_plane = DataPlane([entry.name for entry in entries], self._workers)
        self._graphs: list[Graph] = []
        self._stop = asyncio.Event()
        self._grpc = None
        self._rest: RestServer | None = None
        self._rest_task: asyncio.Task | None = None

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            OSError: a port can't be listened on.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        await self._listen()
        loading = loop.run_in_executor(self._workers, self._load)
        await self._stop.wait()
        await self._shut_down(loading)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()

    async def _listen(self) -> None:
        settings = self._settings
        if settings.grpc_port is not None:
            self._grpc = await start_grpc_server(
                self._data_plane, self._workers, settings.grpc_address, settings.grpc_port
            )
            _announce("gRPC", settings.grpc_address, settings.grpc_port)
        if settings.rest_port is not None:
            listener = _listen_tcp(settings.rest_address, settings.rest_port)
            self._rest = RestServer(make_app(self._data_plane, self._workers))
            self._rest_task = asyncio.create_task(self._rest.serve([listener]))
            _announce("REST", settings.rest_address, settings.rest_port)

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
        self._data_plane.ready = True
        _log.info("server is ready")

    async def _shut_down(self, loading: asyncio.Future) -> None:
        _log.info("stopping: running requests have %g s to end", self._settings.shutdown_timeout)
        self._data_plane.unload_all()
        if self._grpc:
            await self._grpc.stop(self._settings.shutdown_timeout)
        with contextlib.suppress(asyncio.CancelledError):
            await loading
        for graph in self._graphs:
            unload_nodes(graph.nodes)
        _log.info("stopped")


def _announce(protocol: str, address: str, port: int) -> None:
    _log.info("%s listens on %s:%d", protocol, address, port)
    if address not in ("127.0.0.1", "localhost", "::1"):
        _log.warning("%s is open to other machines: there is no authentication and no encryption", protocol)


def _listen_tcp(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port), backlog=1024)
    except OSError as error:
        raise OSError(f"can't listen on {address}:{port} for REST: {error.strerror}") from error
