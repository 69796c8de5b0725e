"""Runs a server for tests of Python nodes:

with serve("my_servable") as server:
    client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

READY = "server is ready"  # as the log says it
_POLL_INTERVAL = 0.02  # seconds
_claims: list[socket.socket] = []


class ServerDied(RuntimeError):
    """The server ended or was not ready in time; the message contains its log."""


class RunningServer:
    """A server process, its addresses and its log."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes], grpc_port: int, rest_port: int) -> None:
        """`output` is the file to which the server and its nodes write."""
        self.process = process
        self.grpc_port = grpc_port
        self.rest_port = rest_port
        self._output = output
        self._final_log: str | None = None

    @property
    def grpc_url(self) -> str:
        """`host:port`, as expected by tritonclient's gRPC client."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        """`http://host:port`; tritonclient's HTTP client expects it without the scheme."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def log(self) -> str:
        """The output of the server and its nodes so far."""
        if self._final_log is not None:
            return self._final_log
        output = self._output.fileno()
        return os.pread(output, os.fstat(output).st_size, 0).decode(errors="replace")

    def wait_for_log(self, text: str, timeout: float = 60) -> None:
        """Wait until the log contains this text.

        Raises:
            ServerDied: the server ended without it, or the timeout in seconds has expired.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = self.process.poll() is not None
            log = self.log
            if text in log:
                return
            if ended or time.monotonic() > deadline:
                reason = "ended" if ended else f"took more than {timeout} s"
                raise ServerDied(f"the server {reason} without {text!r} in its log:\n{log}")
            time.sleep(_POLL_INTERVAL)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send the signal, wait for the server to end, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def close(self) -> None:
        """Stop the server, by force if it does not end; its log remains."""
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._final_log = self.log


@contextlib.contextmanager
def serve(
    servable: str | Path,
    *,
    env: Mapping[str, str | None] | None = None,
    args: Sequence[str] = (),
    ready_timeout: float = 120,
) -> Iterator[RunningServer]:
    """Run the server on free ports of localhost for the duration of the `with` block.

    Args:
        servable: a folder with a config.json, or the path of such a file.
        env: variables to set in the server's environment, on top of this process's own; None unsets one.
        args: further command line arguments.
        ready_timeout: maximum time to load, in seconds.

    Raises:
        ServerDied: the server did not become ready. (It does so even if a graph fails to load: check the log.)
    """
    path = Path(servable)
    (grpc_port, grpc_claim), (rest_port, rest_claim) = _claim_port(), _claim_port()
    command = [
        sys.executable,
        "-m",
        "ovms_local",
        "--config_path",
        str(path / "config.json" if path.is_dir() else path),
    ]
    command += ["--port", str(grpc_port), "--rest_port", str(rest_port), *args]
    # A file, because what the server has written is in it at once.
    with grpc_claim, rest_claim, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=_environment(env or {}), stdout=output, stderr=subprocess.STDOUT)
        server = RunningServer(process, output, grpc_port, rest_port)
        try:
            server.wait_for_log(READY, ready_timeout)
            yield server
        finally:
            server.close()


def free_port() -> int:
    """Return a free TCP port of localhost, which this function gives to no one else while this process runs.

    It is below the range that the system uses for outgoing connections.
    """
    port, claim = _claim_port()
    _claims.append(claim)
    return port


def _claim_port() -> tuple[int, socket.socket]:
    """Return a port and its claim, which holds while it is open: a UDP socket on the same port number."""
    while True:
        port = random.randrange(20_000, 32_000)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        with socket.socket() as probe, contextlib.suppress(OSError):
            for own in (claim, probe):
                own.bind(("127.0.0.1", port))
            return port, claim
        claim.close()


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment
