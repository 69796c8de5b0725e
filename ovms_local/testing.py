"""A running server for tests of Python nodes:

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
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

READY = "server is ready"  # as the log says it
_claims: list[socket.socket] = []


class ServerDied(RuntimeError):
    """The server ended, or said nothing of being ready in time; the text holds its log."""


class RunningServer:
    """A server process, its addresses and its log."""

    def __init__(self, process: subprocess.Popen[str], grpc_port: int, rest_port: int) -> None:
        self.process = process
        self.grpc_port = grpc_port
        self.rest_port = rest_port
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    @property
    def grpc_url(self) -> str:
        """`host:port`, as tritonclient's gRPC client wants it."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        """`http://host:port`; tritonclient's HTTP client wants it without the scheme."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def log(self) -> str:
        """What the server and its nodes have printed so far."""
        with self._news:
            return "".join(self._lines)

    def wait_for_log(self, text: str, timeout: float = 60) -> None:
        """Return as soon as the log has this text.

        Raises:
            ServerDied: the server ended without it, or the timeout, in seconds, is over.
        """
        deadline = time.monotonic() + timeout
        with self._news:
            while not any(text in line for line in self._lines):
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    reason = "ended" if self._ended else f"took more than {timeout} s"
                    raise ServerDied(f"the server {reason} without {text!r} in its log:\n{''.join(self._lines)}")
                self._news.wait(left)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send the signal and wait for the end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def _read(self, output: Iterable[str]) -> None:
        for line in output:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


@contextlib.contextmanager
def serve(
    servable: str | Path,
    *,
    env: Mapping[str, str | None] | None = None,
    args: Sequence[str] = (),
    ready_timeout: float = 120,
) -> Iterator[RunningServer]:
    """Run the server on free ports of localhost for the time of the `with` block.

    Args:
        servable: folder with a config.json, or the path of such a file.
        env: what to set in the server's environment, besides this process's own; None takes a variable out.
        args: further arguments of the command line.
        ready_timeout: seconds that loading may take.

    Raises:
        ServerDied: the server did not get ready. (It does when a graph fails to load: look at the log.)
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
    process = subprocess.Popen(
        command,
        env=_environment(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    server = RunningServer(process, grpc_port, rest_port)
    with grpc_claim, rest_claim:
        try:
            server.wait_for_log(READY, ready_timeout)
            yield server
        finally:
            try:
                server.stop()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A TCP port of localhost that nothing listens on, and that nobody else gets from here while this process runs.

    The system gives it to no outgoing connection either, since it is below those.
    """
    port, claim = _claim_port()
    _claims.append(claim)
    return port


def _claim_port() -> tuple[int, socket.socket]:
    """A port, and what claims it for as long as it is open: a UDP socket of that number, of which there can be one."""
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
