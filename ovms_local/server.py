"""The server: listens, keeps the graphs in line with the configuration, serves, and shuts down cleanly."""

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

# A node's call holds a thread for its whole duration, possibly minutes; threads are created only when needed.
_MAX_WORKERS = 1024
# Seconds for nodes to return from a call after their client has been cut off.
_LAST_CALL = 1.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The server's settings.

    A port of None turns a transport off. `grpc_max_threads` is the maximum number of calls and open streams, None for
    no limit. Times are in seconds: `poll_interval` between checks of the configuration (0: never), and
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
    """Serves graphs until a signal arrives; must be created within an event loop."""

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
        """Serve until SIGINT or SIGTERM; return whether all nodes have returned from their last call.

        Raises:
            OSError: the server can't listen on an address.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        await self._listen()
        try:
            keeping = asyncio.create_task(self._keep_graphs())
            await self._stop.wait()
            _log.info("stopping: running requests have %g s to finish", self._settings.shutdown_timeout)
            self._data_plane.drain()
            return await self._wind_down(keeping)
        finally:
            await asyncio.to_thread(self._graphs.finalize)  # so that a second signal is heard meanwhile
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
                # Check the port here, since gRPC's error does not say why it can't listen.
                _listen_tcp(address, settings.grpc_port).close()
            targets = [f"{_bracketed(address)}:{settings.grpc_port}" for address in _grpc_addresses(settings)]
            self._grpc = await start_grpc_server(
                self._data_plane, self._workers, targets, settings.grpc_channel_arguments, settings.grpc_max_threads
            )
            _announce("gRPC", settings.grpc_addresses, settings.grpc_port)

    async def _keep_graphs(self) -> None:
        """Load the graphs, and check the configuration for changes periodically."""
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
        try:
            await asyncio.get_running_loop().run_in_executor(self._workers, self._configuration.apply)
        except ServerConfigError:
            pass  # it has been logged, and the configuration will be checked again
        except Exception:
            _log.exception("the configuration could not be applied")

    async def _wind_down(self, keeping: asyncio.Task) -> bool:
        """Stop the transports, then wait for worker threads; return False if some are still in a node."""
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
    """Return the addresses without a second wildcard: gRPC takes both 0.0.0.0 and :: as all IPv4 and IPv6 addresses."""
    wildcards = [address for address in settings.grpc_addresses if address in ("0.0.0.0", "::")]
    return [address for address in settings.grpc_addresses if address not in wildcards[1:]]


def _announce(protocol: str, addresses: tuple[str, ...], port: int) -> None:
    for address in addresses:
        _log.info("%s listens on %s:%d", protocol, _bracketed(address), port)
    if not all(map(_is_loopback, addresses)):
        _log.warning("%s is open to other machines, without authentication or encryption", protocol)


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
