"""The server's life: listen, keep the graphs as the configuration wants them, serve, and stop in good order."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from ovms_local.configuration import ConfigSource, Configuration
from ovms_local.graphs import Graphs
from ovms_local.grpc_server import start_grpc_server
from ovms_local.kserve import DataPlane
from ovms_local.metrics import Metrics
from ovms_local.rest_server import RestApi, RestServer
from ovms_local.server_config import Monitoring, ServerConfigError

_log = logging.getLogger(__name__)

# A call of a node holds a thread for as long as it takes, minutes perhaps; threads are made when they are needed.
_MAX_WORKERS = 1024
# Seconds for nodes to come back from a call, once their client has been cut off.
_LAST_CALL = 1.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server is started with.

    A port of None: that transport is off. `grpc_max_threads` is how many calls and open streams there are at once, None
    for any number. Times are in seconds: `poll_interval` (0: never) between looks at the configuration, and
    `shutdown_timeout` for running requests when the server stops.
    """

    grpc_addresses: tuple[str, ...]
    grpc_port: int | None
    grpc_channel_arguments: Mapping[str, int | str]
    grpc_max_threads: int | None
    rest_addresses: tuple[str, ...]
    rest_port: int | None
    rest_headers: tuple[tuple[str, str], ...]
    monitoring: Monitoring
    poll_interval: int
    shutdown_timeout: float


class Server:
    """Serves graphs until a signal comes; to be made within an event loop."""

    def __init__(self, source: ConfigSource, settings: ServerSettings) -> None:
        self._settings = settings
        self._workers = ThreadPoolExecutor(_MAX_WORKERS, thread_name_prefix="worker")
        metrics = Metrics(settings.monitoring.families)
        self._graphs = Graphs(metrics)
        self._configuration = Configuration(source, self._graphs)
        self._data_plane = DataPlane(self._graphs, self._workers, metrics)
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
            keeping = asyncio.create_task(self._keep_graphs())
            await self._stop.wait()
            _log.info("stopping: running requests have %g s to end", self._settings.shutdown_timeout)
            self._data_plane.drain()
            return await self._wind_down(keeping)
        finally:
            self._graphs.finalize()
            _log.info("stopped")

    def _on_signal(self) -> None:
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()

    async def _listen(self) -> None:
        settings = self._settings
        if settings.rest_port is not None:
            listeners = [_listen_tcp(address, settings.rest_port) for address in settings.rest_addresses]
            serve_metrics = settings.monitoring.enabled
            api = RestApi(self._data_plane, self._graphs, self._configuration, self._workers, serve_metrics)
            self._rest = RestServer(api, settings.rest_headers, settings.shutdown_timeout)
            self._rest_task = asyncio.create_task(self._rest.serve(listeners))
            _announce("REST", settings.rest_addresses, settings.rest_port)
        if settings.grpc_port is not None:
            for address in settings.grpc_addresses:
                # Found out here, since gRPC's own answer does not say why it can't listen.
                _listen_tcp(address, settings.grpc_port).close()
            targets = [f"{_bracketed(address)}:{settings.grpc_port}" for address in _grpc_addresses(settings)]
            self._grpc = await start_grpc_server(
                self._data_plane, self._workers, targets, settings.grpc_channel_arguments, settings.grpc_max_threads
            )
            _announce("gRPC", settings.grpc_addresses, settings.grpc_port)

    async def _keep_graphs(self) -> None:
        """Load the graphs, and look again and again what has become of the configuration."""
        await self._apply_configuration()
        self._data_plane.ready = not self._stop.is_set()
        _log.info("server is ready")
        interval = self._settings.poll_interval
        while interval and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), interval)
                return
            await self._apply_configuration()

    async def _apply_configuration(self) -> None:
        # It has said so in the log, and is looked at again.
        with contextlib.suppress(ServerConfigError):
            await asyncio.get_running_loop().run_in_executor(self._workers, self._configuration.apply)

    async def _wind_down(self, keeping: asyncio.Task) -> bool:
        """End the transports, then wait for worker threads; False where some are still in a node."""
        transports = []
        if self._grpc:
            transports.append(asyncio.create_task(self._grpc.stop(self._settings.shutdown_timeout)))
        if self._rest and self._rest_task:
            self._rest.should_exit = True
            transports.append(self._rest_task)
        timeout = self._settings.shutdown_timeout
        _, still_running = await asyncio.wait([keeping, *transports], timeout=timeout + _LAST_CALL)
        idle = await asyncio.to_thread(self._graphs.wait_idle, _LAST_CALL)
        return idle and not still_running


def _grpc_addresses(settings: ServerSettings) -> list[str]:
    """The addresses without a second wildcard: gRPC takes 0.0.0.0 for all addresses of IPv6, too, and :: likewise."""
    wildcards = [address for address in settings.grpc_addresses if address in ("0.0.0.0", "::")]
    return [address for address in settings.grpc_addresses if address not in wildcards[1:]]


def _announce(protocol: str, addresses: tuple[str, ...], port: int) -> None:
    for address in addresses:
        _log.info("%s listens on %s:%d", protocol, _bracketed(address), port)
    if not all(map(_is_loopback, addresses)):
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
