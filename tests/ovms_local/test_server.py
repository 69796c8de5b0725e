import contextlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as tritongrpc
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ovms_local.testing import READY, ServerDied, free_port, serve
from tests.support import log_lines, watch
from tests.support.clients import open_stream
from tests.support.kserve_requests import Stream, request, status_of, triton_inputs
from tests.support.text import edited

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
ECHO = """
from pyovms import Tensor
class OvmsPythonModel:
    def execute(self, inputs):
        return [Tensor("out", inputs[0].data, inputs[0].shape, inputs[0].datatype)]
"""
WAITING = """
import os
from pathlib import Path
from pyovms import Tensor
class OvmsPythonModel:
    def execute(self, inputs):
        print("the node waits", flush=True)
        Path(os.environ["GATE"]).read_bytes()
        return [Tensor("out", b"", [1], "BYTES")]
    def finalize(self):
        print("the node is finalized", flush=True)
"""


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ovms_local", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def test_version_has_the_servers_lines():
    result = run("--version")
    lines = result.stdout.splitlines()
    assert result.returncode == 0
    assert lines[0].startswith("OpenVINO Model Server ")
    assert lines[1].startswith("OpenVINO backend ")
    assert lines[2].startswith("OpenVINO GenAI backend ")


def test_a_flag_that_nobody_knows_ends_the_server_with_exit_code_64():
    result = run("--port", "9", "--config_path", "x", "--no_such_flag")
    assert result.returncode == 64
    assert result.stderr == "python -m ovms_local: error: unrecognized arguments: --no_such_flag\n"


def test_a_configuration_that_is_not_there_ends_the_server_with_one_line(tmp_path):
    result = run("--port", str(free_port()), "--config_path", str(tmp_path / "config.json"))
    assert result.returncode == 1
    [line] = result.stdout.splitlines()
    assert line.endswith("config.json: No such file or directory")
    assert result.stderr == ""


@pytest.mark.parametrize("flag", ["--port", "--rest_port"])
def test_a_port_in_use_ends_the_server_with_a_clear_line(make_servable, flag):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run(flag, str(port), "--config_path", str(make_servable(ECHO) / "config.json"))
    assert result.returncode == 1
    [line] = result.stdout.splitlines()
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in line
    assert result.stderr == ""


@pytest.mark.parametrize("flag", ["--port", "--rest_port"])
def test_one_port_alone_is_enough(make_servable, flag):
    folder = make_servable(ECHO)
    arguments = [flag, str(free_port()), "--config_path", str(folder / "config.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "ovms_local", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if READY in line:
            process.terminate()
    assert process.wait(30) == 0


def test_one_graph_without_a_configuration(make_servable):
    folder = make_servable(ECHO)
    port = free_port()
    arguments = ["--model_name", "mine", "--model_path", str(folder), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ovms_local", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert any(log_lines.graph_is("ready", "mine") in line for line in process.stdout)
        with tritongrpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.infer("mine", triton_inputs("x")).as_numpy("out")[0] == b"x"
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


@pytest.mark.parametrize("flags", [["--config_path", "config.json"], ["--model_name", "g", "--model_path", "."]])
def test_a_node_may_change_the_current_folder(make_servable, flags):
    folder = make_servable(ECHO.replace("class", "import os\nos.chdir('/')\nclass"))
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "ovms_local", *flags, "--rest_port", str(port), "--file_system_poll_wait_seconds", "0"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert any(READY in line for line in process.stdout)
            reload = urllib.request.Request(f"http://127.0.0.1:{port}/v1/config/reload", b"")
            with urllib.request.urlopen(reload) as answer:
                states = json.loads(answer.read())
        finally:
            process.terminate()
    [state] = [version["state"] for graph in states.values() for version in graph["model_version_status"]]
    assert state == "AVAILABLE"


def test_it_listens_on_localhost_and_says_when_it_does_not(make_servable):
    with serve(make_servable(ECHO)) as server:
        assert log_lines.listens("gRPC", server.grpc_port) in server.log
        assert "WARNING" not in server.log
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", server.grpc_port), 5)
    everywhere = "0.0.0.0,::" if Path("/proc/net/if_inet6").exists() else "0.0.0.0"
    arguments = ["--grpc_bind_address", everywhere, "--rest_bind_address", everywhere]
    with serve(make_servable(ECHO), args=arguments) as server:
        assert log_lines.is_open("gRPC") in server.log
        assert log_lines.is_open("REST") in server.log
        for port in (server.grpc_port, server.rest_port):
            socket.create_connection(("127.0.0.2", port), 5).close()


def test_log_levels(make_servable):
    for level, expected in [("ERROR", ""), ("WARNING", ""), ("INFO", log_lines.graph_is("ready", "python_model"))]:
        port = free_port()
        arguments = [
            "--config_path",
            str(make_servable(ECHO) / "config.json"),
            "--port",
            str(port),
            "--log_level",
            level,
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "ovms_local", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with tritongrpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            client._client_stub.ServerLive(tritongrpc.service_pb2.ServerLiveRequest(), wait_for_ready=True, timeout=30)
            while not client.is_server_ready():
                pass
        process.terminate()
        output = process.communicate(timeout=30)[0]
        assert expected in output
        assert bool(output) == bool(expected)


def test_all_lines_of_the_log_have_time_level_and_source(make_servable):
    folder = make_servable("raise ValueError('several\\nlines')")
    with serve(folder, args=["--log_level", "TRACE"]) as server:
        pass
    for line in server.log.splitlines():
        date, time, level, source, *_ = line.split(" ")
        assert (len(date), len(time)) == (10, 12)
        assert level in ("ERROR", "WARNING", "INFO", "DEBUG", "TRACE")
        assert source.endswith(":")


@pytest.fixture(scope="module")
def flagged(tmp_path_factory):
    """A server with the flags that affect clients, and its log file."""
    folder = tmp_path_factory.mktemp("flagged")
    log = folder / "server.log"
    arguments = [
        "--log_path", str(log), "--grpc_bind_address", "127.0.0.1,127.0.0.3", "--rest_bind_address",
        "127.0.0.1,127.0.0.3", "--grpc_channel_arguments", "grpc.max_receive_message_length=1000", "--grpc_max_threads",
        "1", "--metrics_enable", "--metrics_list", "ovms_responses,ovms_streams", "--allowed_origins", "http://page",
    ]  # fmt: skip
    servable = Path(__file__).parent / "servable"
    with serve(servable, env={"EVENTS": "/dev/null"}, args=arguments) as server:
        yield server, log


def test_the_log_goes_into_a_file_as_well(flagged):
    server, log = flagged
    watch.until(lambda: READY in log.read_text())  # which is written after the same line on standard output
    lines = log.read_text().splitlines()
    assert lines == server.log.splitlines()[: len(lines)]


def test_it_listens_on_each_address_of_a_list(flagged):
    server, _ = flagged
    for address in ("127.0.0.1", "127.0.0.3"):
        with tritongrpc.InferenceServerClient(f"{address}:{server.grpc_port}") as client:
            assert client.is_server_live()
        with urllib.request.urlopen(f"http://{address}:{server.rest_port}/v2/health/live") as response:
            assert response.status == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", server.rest_port), 5)


def test_grpc_gets_its_channel_arguments(flagged):
    server, _ = flagged
    with tritongrpc.InferenceServerClient(server.grpc_url) as client:
        assert client.infer("echo", triton_inputs("x" * 100)).as_numpy("out")[0] == b"x" * 100
        with pytest.raises(InferenceServerException, match="larger than max"):
            client.infer("echo", triton_inputs("x" * 1000))


def test_grpc_takes_as_many_calls_at_once_as_it_has_threads(flagged):
    server, _ = flagged
    with grpc.insecure_channel(server.grpc_url) as channel:
        stream = Stream(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        stream.send(request("echo", "x"))
        assert stream.read_text() == "x"
        with tritongrpc.InferenceServerClient(server.grpc_url) as client:
            with pytest.raises(InferenceServerException, match="Server Threadpool Exhausted"):
                client.is_server_live()
            stream.half_close()
            assert stream.read_all() == []
            assert client.is_server_live()


def test_metrics_are_those_of_the_list(flagged):
    server, _ = flagged
    with urllib.request.urlopen(f"{server.rest_url}/metrics") as response:
        lines = response.read().decode().splitlines()
    assert {line.partition("{")[0] for line in lines if not line.startswith("#")} == {"ovms_responses"}


def test_each_response_has_the_headers_for_browsers(flagged):
    server, _ = flagged
    for path, method in (("/v2", "GET"), ("/v2/models/echo/infer", "OPTIONS"), ("/no/such/path", "GET")):
        message = urllib.request.Request(server.rest_url + path, method=method)
        try:
            headers = urllib.request.urlopen(message).headers
        except urllib.error.HTTPError as error:
            headers = error.headers
        assert headers["Access-Control-Allow-Origin"] == "http://page"
        assert headers["Access-Control-Allow-Methods"] == "*"
        assert headers["Access-Control-Allow-Headers"] == "*"


def test_a_log_that_cannot_be_written_ends_the_server_with_one_line(make_servable):
    config = make_servable(ECHO) / "config.json"
    result = run("--port", str(free_port()), "--config_path", str(config), "--log_path", "/nowhere/log")
    assert result.returncode == 1
    assert result.stdout + result.stderr == "can't write the log /nowhere/log: No such file or directory\n"


def with_monitoring(folder: Path, metrics: dict) -> Path:
    config = json.loads((folder / "config.json").read_text()) | {"monitoring": {"metrics": metrics}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_metrics_by_monitoring_in_the_configuration(make_servable):
    folder = with_monitoring(make_servable(ECHO), {"enable": True, "metrics_list": ["ovms_current_graphs"]})
    with serve(folder) as server, urllib.request.urlopen(f"{server.rest_url}/metrics") as response:
        lines = response.read().decode().splitlines()
    assert lines[2:] == ['ovms_current_graphs{name="python_model"} 0.0']


def test_there_are_no_metrics_unless_they_are_enabled(make_servable):
    with serve(with_monitoring(make_servable(ECHO), {"enable": False})) as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{server.rest_url}/metrics")
        assert caught.value.code == 400
        caught.value.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--rest_port", "{}", "--metrics_enable"], "metrics are configured twice"),
        (["--port", "{}"], "monitoring in config.json needs --rest_port"),
    ],
)
def test_monitoring_at_odds_with_the_flags_ends_the_server_with_one_line(make_servable, arguments, text):
    folder = with_monitoring(make_servable(ECHO), {"enable": True})
    arguments = [argument.format(free_port()) for argument in arguments]
    result = run("--config_path", str(folder / "config.json"), *arguments)
    assert result.returncode == 1
    [line] = result.stdout.splitlines()
    assert text in line


# The folder of a servable


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("x = ", "SyntaxError"),
        ("pass", "has no class OvmsPythonModel"),
        ("class OvmsPythonModel: pass", "has no method execute"),
        (
            "class OvmsPythonModel:\n def __init__(self): raise OSError('no disk')\n def execute(self, i): pass",
            "OSError: no disk",
        ),
        (
            "class OvmsPythonModel:\n def initialize(self, kwargs): 1 / 0\n def execute(self, i): pass",
            "ZeroDivisionError",
        ),
        (
            "class OvmsPythonModel:\n def initialize(self, kwargs): exit(3)\n def execute(self, i): pass",
            "SystemExit: 3",
        ),
    ],
)
def test_a_servable_that_does_not_load_leaves_the_server_up(make_servable, code, text):
    with serve(make_servable(code)) as server, tritongrpc.InferenceServerClient(server.grpc_url) as client:
        assert client.is_server_ready()
        assert not client.is_model_ready("python_model")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("python_model", triton_inputs("x"))
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        [line] = [line for line in server.log.splitlines() if "ERROR" in line]
        assert log_lines.graph_is("not available", "python_model") in line
        assert text in line


def test_nothing_is_written_and_little_is_needed(make_servable, tmp_path):
    folder = make_servable("import neighbour\n" + ECHO, folder=tmp_path / "workspace")
    (folder / "neighbour.py").write_text("")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in [*before, folder]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    with (
        serve(folder, env={"HOME": None, "USER": None, "TMPDIR": "/nowhere"}) as server,
        tritongrpc.InferenceServerClient(server.grpc_url) as client,
    ):
        assert client.infer("python_model", triton_inputs("x")).as_numpy("out")[0] == b"x"
    folder.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_runs_as_another_user(make_servable):
    folder = make_servable(
        ECHO + "    def initialize(self, kwargs):\n        import os; print('user', os.getuid(), flush=True)\n"
    )
    for path in [folder, *folder.parents]:
        if path.owner() == "root" and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    port = free_port()
    arguments = ["--config_path", str(folder / "config.json"), "--port", str(port)]
    command = [sys.executable, "-m", "ovms_local", *arguments]
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, user=65534, group=65534)
    except PermissionError:
        pytest.skip("the interpreter is in a folder of root's own")
    lines = iter(process.stdout.readline, "")
    output = [line for line in lines if READY not in line or process.terminate()]
    assert process.wait(30) == 0
    assert "user 65534\n" in output


def test_the_handlers_path_is_relative_to_the_entrys_base_path(make_servable, tmp_path):
    folder = make_servable(ECHO, handler="handler_of_test_server.py")
    (folder / "graphs").mkdir()
    (folder / "graph.pbtxt").rename(folder / "graphs" / "my.pbtxt")
    entry = {"name": "g", "base_path": str(folder), "graph_path": "graphs/my.pbtxt"}
    config = tmp_path / "other.json"
    config.write_text(json.dumps({"model_config_list": [{"config": entry}]}))
    with serve(config) as server, tritongrpc.InferenceServerClient(server.grpc_url) as client:
        assert client.infer("g", triton_inputs("x")).as_numpy("out")[0] == b"x"


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_request_end_and_takes_no_other(make_servable, gate, number):
    with serve(make_servable(WAITING), env={"GATE": str(gate)}) as server:
        with tritongrpc.InferenceServerClient(server.grpc_url) as client:
            results = []
            done = threading.Event()

            def on_result(result, error):
                results.append((result, error))
                done.set()

            client.async_infer("python_model", triton_inputs("x"), on_result)
            server.wait_for_log("the node waits")
            server.process.send_signal(number)
            server.wait_for_log(log_lines.STOPPING)
            with (
                tritongrpc.InferenceServerClient(server.grpc_url) as late,
                pytest.raises(InferenceServerException) as caught,
            ):
                late.infer("python_model", triton_inputs("x"))
            # Which of the two depends on the progress of gRPC's own shutdown.
            assert caught.value.status() in ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")
            gate.write_text("")
            assert done.wait(30)
        assert server.process.wait(30) == 0
    assert results[0][1] is None
    assert server.log.index("the node is finalized") < server.log.index(log_lines.STOPPED)


def test_a_signal_lets_the_running_generator_end(gate, tmp_path):
    folder = Path(__file__).parent / "servable"
    with (
        serve(folder, env={"EVENTS": str(tmp_path / "events")}) as server,
        grpc.insecure_channel(server.grpc_url) as channel,
    ):
        stream = Stream(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        stream.send(request("stream", {"count": 3, "wait_at": 2, "wait_for": str(gate)}))
        assert stream.read_text() == "out 0"
        server.process.terminate()
        server.wait_for_log(log_lines.STOPPING)
        gate.write_text("")
        assert stream.read_all() == ["out 1", "out 2"]
        stream.half_close()
        assert server.process.wait(30) == 0
    assert (tmp_path / "events").read_text().splitlines()[-2:] == ["finalize scripted", "finalize stream"]


def test_after_the_timeout_the_running_request_is_cut_off(make_servable, gate):
    arguments = ["--shutdown_timeout", "0.2"]
    with serve(make_servable(WAITING), env={"GATE": str(gate)}, args=arguments) as server:
        with tritongrpc.InferenceServerClient(server.grpc_url) as client:
            errors = []
            done = threading.Event()
            client.async_infer(
                "python_model", triton_inputs("x"), lambda **got: (errors.append(got["error"]), done.set())
            )
            server.wait_for_log("the node waits")
            assert server.stop() == 0
            assert done.wait(30)
        assert errors[0] is not None
    assert "the node is finalized" in server.log
    assert log_lines.A_NODE_IS_CUT_OFF in server.log


def test_a_second_signal_ends_it_at_once(make_servable, gate):
    with (
        serve(make_servable(WAITING), env={"GATE": str(gate)}) as server,
        tritongrpc.InferenceServerClient(server.grpc_url) as client,
    ):
        client.async_infer("python_model", triton_inputs("x"), lambda **_: None)
        server.wait_for_log("the node waits")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log(log_lines.STOPPING)
        assert server.stop() == 1
    assert "the node is finalized" not in server.log


def test_so_it_does_while_a_node_is_finalized(make_servable, gate):
    code = WAITING + '        Path(os.environ["GATE"]).read_bytes()\n'
    with serve(make_servable(code), env={"GATE": str(gate)}) as server:
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("the node is finalized")
        assert server.stop() == 1


def test_a_signal_while_a_servable_loads(make_servable, gate):
    code = edited(
        WAITING, "def execute(self, inputs)", "def execute(self, inputs): pass\n    def initialize(self, kwargs)"
    )
    folder = make_servable(code)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ovms_local", "--config_path", str(folder / "config.json"), "--port", str(port)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"GATE": str(gate)},
    )  # fmt: skip
    assert any("the node waits" in line for line in iter(process.stdout.readline, ""))
    with tritongrpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.is_model_ready("python_model")
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.infer("python_model", triton_inputs("x"))
    process.terminate()
    assert any(log_lines.STOPPING in line for line in iter(process.stdout.readline, ""))
    gate.write_text("")
    assert "the node is finalized" in process.communicate(timeout=30)[0]
    assert process.returncode == 0


def test_idle_streams_and_half_open_connections_do_not_hold_the_server(make_servable):
    head = b"POST /v2/models/python_model/infer HTTP/1.1\r\nHost: x\r\n"
    beginnings = [
        b"",
        head,
        head + b"Content-Length: 9\r\n\r\n{",
        head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ]
    with (
        serve(make_servable(ECHO), args=["--shutdown_timeout", "20"]) as server,
        open_stream(server.grpc_url) as stream,
        grpc.insecure_channel(server.grpc_url) as channel,
        contextlib.ExitStack() as connections,
    ):
        stream.send("python_model", triton_inputs("x"))
        stream.receive()
        unused = Stream(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        opened = []
        for beginning in beginnings:
            opened.append(connections.enter_context(socket.create_connection(("127.0.0.1", server.rest_port))))
            opened[-1].sendall(beginning)
        with tritongrpc.InferenceServerClient(server.grpc_url) as client:  # what was sent before has arrived then
            client.infer("python_model", triton_inputs("x"))
        server.process.terminate()
        assert server.process.wait(10) == 0
        assert status_of(unused.read) == (grpc.StatusCode.UNAVAILABLE, "Server is not ready")
        for connection in opened[2:]:
            answer = connection.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Server is not ready" in answer


def test_a_signal_tells_the_client_of_a_failed_stream(tmp_path):
    folder, events = Path(__file__).parent / "servable", tmp_path / "events"
    with (
        serve(folder, env={"EVENTS": str(events)}, args=["--shutdown_timeout", "20"]) as server,
        grpc.insecure_channel(server.grpc_url) as channel,
    ):
        stream = Stream(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        stream.send(request("stream", {"count": 3, "fail_at": 1}))
        watch.until(lambda: "generator ends" in events.read_text())
        server.process.terminate()
        assert server.process.wait(10) == 0
        code, details = status_of(stream.read)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "failed on purpose" in details


# The harness


def test_serve_raises_with_the_log_when_the_server_dies(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ServerDied, match="not valid JSON"), serve(tmp_path):
        pass


def test_serve_passes_the_environment_and_stops_the_server(make_servable, monkeypatch):
    monkeypatch.setenv("GOES", "away")
    code = edited(
        ECHO, "inputs[0].data, inputs[0].shape", "repr([os.environ.get(n) for n in ('GOES', 'COMES')]).encode(), [1]"
    )
    with (
        serve(make_servable("import os\n" + code), env={"GOES": None, "COMES": "in"}) as server,
        tritongrpc.InferenceServerClient(server.grpc_url) as client,
    ):
        raw = client.infer("python_model", triton_inputs("x")).get_response().raw_output_contents[0]
    assert raw == b"[None, 'in']"
    assert server.process.returncode == 0


def test_no_port_is_given_out_twice():
    ports = set()
    for _ in range(3):
        random.seed(1)
        ports.add(free_port())
    assert len(ports) == 3


def test_two_handlers_of_one_name_are_refused(make_servable, tmp_path):
    one, two = make_servable(ECHO, folder=tmp_path / "one"), make_servable(ECHO, folder=tmp_path / "two")
    entries = [{"name": path.name, "base_path": str(path)} for path in (one, two)]
    config = tmp_path / "both.json"
    config.write_text(json.dumps({"model_config_list": [], "mediapipe_config_list": entries}))
    with serve(config) as server, tritongrpc.InferenceServerClient(server.grpc_url) as client:
        assert client.is_model_ready("one")
        assert not client.is_model_ready("two")
    assert "the name 'model' is taken by" in server.log
