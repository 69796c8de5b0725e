"""The preStop hook against a real server: it returns when the last answer has been given, not before."""

import queue
import subprocess
import sys
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from ovms_local.testing import free_port, serve

from .conftest import ROOT
from .test_proxy import SERVABLE, text_input

DRAIN = [sys.executable, str(ROOT / "deploy" / "image" / "drain.py")]


@pytest.fixture
def quick_drain(tmp_path: Path) -> list[str]:
    """The hook with a quiet time of half a second, so that the test does not take ten."""
    script = tmp_path / "drain.py"
    text = (ROOT / "deploy" / "image" / "drain.py").read_text()
    text = text.replace("QUIET_SECONDS = 10", "QUIET_SECONDS = 0.5").replace("POLL_SECONDS = 1", "POLL_SECONDS = 0.1")
    script.write_text(text)
    return [sys.executable, str(script)]


@pytest.mark.slow
def test_waits_for_the_running_stream(quick_drain: list[str]) -> None:
    with serve(SERVABLE, env={"REPLICA": "a"}, args=["--metrics_enable"]) as server:
        responses: queue.Queue = queue.Queue()
        client = grpcclient.InferenceServerClient(server.grpc_url)
        client.start_stream(lambda result, error: responses.put((result, error)))
        client.async_stream_infer("ticker", text_input("go"))
        received = [responses.get(timeout=30)]
        drain = subprocess.Popen([*quick_drain, f"{server.rest_url}/metrics"])
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                drain.wait(1)  # of the stream's two seconds; alone it would be back after half a one
            client.stop_stream()  # returns at the end of the stream
            assert drain.wait(30) == 0
        finally:
            drain.kill()
        received += list(responses.queue)
    assert len(received) == 40
    assert not any(error for _, error in received)


@pytest.mark.slow
def test_returns_when_nothing_runs(quick_drain: list[str]) -> None:
    with serve(SERVABLE, env={"REPLICA": "a"}, args=["--metrics_enable"]) as server:
        assert subprocess.run([*quick_drain, f"{server.rest_url}/metrics"], check=False, timeout=30).returncode == 0


def test_says_when_there_are_no_metrics() -> None:
    result = subprocess.run(
        [*DRAIN, f"http://127.0.0.1:{free_port()}/metrics"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "--metrics_enable" in result.stderr
    assert "Traceback" not in result.stderr
