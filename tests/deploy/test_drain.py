"""The preStop hook with a real server: it returns after the last answer, not before."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from ovms_local.testing import free_port, serve
from tests.support import ROOT
from tests.support.clients import TritonStream, text_input
from tests.support.deployment import SERVABLE

DRAIN = [sys.executable, str(ROOT / "deploy" / "image" / "drain.py")]


QUICK = {"QUIET_SECONDS": 0.5, "POLL_SECONDS": 0.1, "TIMEOUT_SECONDS": 0.2, "DEADLINE_SECONDS": 30}


def quick(folder: Path, **seconds: float) -> list[str]:
    """Run the hook with shorter times, so that a test does not take minutes."""
    text = (ROOT / "deploy" / "image" / "drain.py").read_text()
    for name, value in {**QUICK, **seconds}.items():
        text, found = re.subn(rf"^{name} = \d+$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert found == 1, name
    (folder / "drain.py").write_text(text)
    return [sys.executable, str(folder / "drain.py")]


@pytest.fixture
def quick_drain(tmp_path: Path) -> list[str]:
    return quick(tmp_path)


@contextlib.contextmanager
def slow_metrics(answer: threading.Event) -> Iterator[str]:
    """The URL of an idle server's metrics, which are sent only once `answer` is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer.wait()
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client may have left
                self.wfile.write(b'ovms_current_graphs{name="echo"} 0\n')

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        answer.set()
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_waits_for_the_running_stream(quick_drain: list[str]) -> None:
    with serve(SERVABLE, env={"REPLICA": "a"}, args=["--metrics_enable"]) as server:
        stream = TritonStream(grpcclient.InferenceServerClient(server.grpc_url))
        stream.send("ticker", text_input("text", "go"))
        stream.receive()
        drain = subprocess.Popen([*quick_drain, f"{server.rest_url}/metrics"])
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                drain.wait(1)  # of the stream's two seconds; without it, the hook would return after half a second
            stream.finish()
            assert drain.wait(30) == 0
        finally:
            drain.kill()
        for _ in range(39):
            stream.receive(0)
        with pytest.raises(TimeoutError):
            stream.receive(0)


@pytest.mark.slow
def test_returns_when_nothing_runs(quick_drain: list[str]) -> None:
    with serve(SERVABLE, env={"REPLICA": "a"}, args=["--metrics_enable"]) as server:
        command = [*quick_drain, f"{server.rest_url}/metrics"]
        environment = os.environ | {"http_proxy": "http://127.0.0.1:9"}  # containers may have it
        assert subprocess.run(command, env=environment, check=False, timeout=30).returncode == 0


@pytest.mark.slow
def test_slow_metrics_are_those_of_a_busy_server(quick_drain: list[str]) -> None:
    answer = threading.Event()
    with slow_metrics(answer) as url:
        drain = subprocess.Popen([*quick_drain, url])
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                drain.wait(2)  # much longer than it waits for one answer
            answer.set()
            assert drain.wait(30) == 0
        finally:
            drain.kill()


@pytest.mark.slow
def test_gives_up_at_its_deadline(tmp_path: Path) -> None:
    with slow_metrics(threading.Event()) as url:
        command = [*quick(tmp_path, DEADLINE_SECONDS=1), url]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 1
    assert result.stderr == "error: the server is still busy after 1 s\n"


@pytest.mark.slow
@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/metrics", "nonsense"])
def test_says_when_there_are_no_metrics(url: str) -> None:
    command = [*DRAIN, url.format(port=free_port())]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 1
    assert "--metrics_enable" in result.stderr
    assert "Traceback" not in result.stderr
