import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from clients.requests import CONNECT_TIMEOUT_S
from ovms_local.testing import free_port, serve
from tests.support.text import edited

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STATISTICS = (
    r"Number of tokens  (?P<tokens>\d+)\n"
    r"Generated tokens per second  (?P<rate>\d+\.\d\d)\n"
    r"Time per generated token  (?P<per_token>\d+\.\d\d) ms\n"
    r"Total time (?P<total>\d+) ms\n"
)


def ask(url: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "client_unary.py"), "--url", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_one_prompt(unary_server):
    result = ask(unary_server.grpc_url, "--prompt", "What is the theory of relativity?")
    layout = r"Question:\nWhat is the theory of relativity\?\n\nCompletion:\n(?P<text>.+)\n\n" + STATISTICS
    output = re.fullmatch(layout, result.stdout, re.DOTALL)
    assert output, result.stdout + result.stderr
    assert len(output["text"].split()) > 10
    tokens, total = int(output["tokens"]), int(output["total"])
    assert 0 < tokens <= 32
    assert float(output["rate"]) == pytest.approx(1000 * tokens / total, rel=0.01)
    assert float(output["per_token"]) == pytest.approx(total / tokens, rel=0.01)
    assert result.returncode == 0


def test_an_address_with_grpcs_own_scheme(unary_server):
    """This allows a client to balance over replicas (deploy/README.md)."""
    assert ask(f"dns:///{unary_server.grpc_url}", "-p", "Hi").returncode == 0


def test_several_prompts(unary_server):
    result = ask(unary_server.grpc_url, "-p", "Who is Albert Einstein?", "-p", "What is 相对论?")
    layout = (
        r"==== Prompt: Who is Albert Einstein\? ====\n(.+)\n\n==== Prompt: What is 相对论\? ====\n(.+)\n\n" + STATISTICS
    )
    output = re.fullmatch(layout, result.stdout, re.DOTALL)
    assert output, result.stdout + result.stderr
    assert "Einstein" in output[1]
    assert 32 < int(output["tokens"]) <= 64


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", ""], "prompt 1 of 1 is empty"),
        (["-p", "Write a long story", "--timeout", "0.2"], "the answer was not complete within --timeout"),
    ],
)
def test_an_error_is_one_line(unary_server, arguments, says):
    result = ask(unary_server.grpc_url, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_server_that_says_nothing_is_given_up_after_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        result = ask(f"127.0.0.1:{silent.getsockname()[1]}", "-p", "Hello", "--timeout", "1")
        assert time.monotonic() - started < CONNECT_TIMEOUT_S
    assert result.returncode == 1
    assert result.stderr.startswith("error: no server answers at 127.0.0.1")


def test_a_server_that_is_not_there_is_one_line():
    url = f"localhost:{free_port()}"
    result = ask(url, "-p", "Hello")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: no server answers at {url}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("client", ["client_unary.py", "client_stream.py", "client_chat.py"])
def test_another_grpc_service_is_one_line_that_names_its_address(client):
    other = grpc.server(ThreadPoolExecutor(1))
    url = f"127.0.0.1:{other.add_insecure_port('127.0.0.1:0')}"
    other.start()
    try:
        command = [sys.executable, str(ROOT / client), "--url", url, *["-p", "Hello"] * (client != "client_chat.py")]
        result = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=120)
    finally:
        other.stop(None)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: the gRPC service at {url} is not a model server's: give the address of one with --url\n"
    )


def test_a_foreign_python_model_is_told_apart(tmp_path):
    graph = (ROOT / "servable_unary" / "graph.pbtxt").read_text()
    (tmp_path / "graph.pbtxt").write_text(edited(graph, ":completion", ":text"))
    (tmp_path / "config.json").write_bytes((ROOT / "servable_unary" / "config.json").read_bytes())
    (tmp_path / "model.py").write_text("class OvmsPythonModel:\n    def execute(self, inputs):\n        return []\n")
    with serve(tmp_path) as server:
        result = ask(server.grpc_url, "-p", "Hello")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: python_model at {server.grpc_url} is another servable: it has no outputs completion and token_count\n"
    )


def test_json_has_the_keys_of_the_streaming_client_s(unary_server, stream_server):
    result = ask(unary_server.grpc_url, "-p", "Hello", "--json")
    answer = json.loads(result.stdout)
    command = [sys.executable, str(ROOT / "client_stream.py"), "--url", stream_server.grpc_url, "-p", "Hello", "--json"]
    streamed = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    assert list(answer) == list(streamed)
    assert (answer["prompts"], len(answer["completions"]), answer["pieces"]) == (["Hello"], 1, 1)
    assert answer["median_between_pieces_ms"] is None


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy", "all_proxy"])
def test_this_machine_is_asked_without_a_proxy(unary_server, variable):
    nobody = f"http://127.0.0.1:{free_port()}"
    env = os.environ | {variable: nobody, variable.upper(): nobody}
    command = [sys.executable, str(ROOT / "client_unary.py"), "-p", "Hi", "--url"]
    url = edited(unary_server.grpc_url, "127.0.0.1", "localhost")
    assert subprocess.run([*command, url], env=env, check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_that_fails_is_named(variable):
    env = os.environ | {variable: f"http://127.0.0.1:{free_port()}"}
    command = [sys.executable, str(ROOT / "client_unary.py"), "-p", "Hi", "--url", "server.example:9000"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert f"(via the proxy in {variable}; " in result.stderr


@pytest.mark.parametrize("client", ["client_unary.py", "client_stream.py", "client_chat.py"])
@pytest.mark.parametrize("imported", ["argparse", "numpy._core._multiarray_umath", "google.protobuf", "grpc._cython"])
def test_ctrl_c_during_the_imports_is_no_traceback(client, imported):
    command = [sys.executable, "-X", "importtime", str(ROOT / client), "--url", f"localhost:{free_port()}", "-p", "Hi"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.split("|")[-1].strip().startswith(imported):
                process.send_signal(signal.SIGINT)
                break
        lines += process.stderr.readlines()
        assert process.wait(30) == 130
    assert all(line.startswith("import time:") for line in lines)


def test_the_streaming_servable_is_told_apart(stream_server):
    url = stream_server.grpc_url
    result = ask(url, "-p", "Hello")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: python_model at {url} is the streaming servable: use client_stream.py\n"


def test_a_reader_that_leaves_is_no_error(unary_server):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(ROOT / "client_unary.py"), "--url", unary_server.grpc_url, "-p", "Hello"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize(
    ("output", "says"),
    [(">&-", "the output is closed"), (">/dev/full", "can't write the output: No space left on device")],
)
def test_an_output_that_takes_nothing_is_one_line(unary_server, output, says):
    command = [sys.executable, str(ROOT / "client_unary.py"), "--url", unary_server.grpc_url, "-p", "Hello"]
    shell = ["bash", "-c", f'exec "$@" {output}', "bash", *command]
    result = subprocess.run(shell, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {says}")
    assert result.stderr.count("\n") == 1


def test_what_the_output_s_encoding_lacks_is_escaped(unary_server, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = ask(unary_server.grpc_url, "-p", "What is 相对论?")
    assert result.stdout.startswith("Question:\nWhat is \\u76f8\\u5bf9\\u8bba?\n\nCompletion:\n")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: -p/--prompt"),
        (["-p", "Hello", "--timeout", "0"], "must be more than 0 and at most 1,000,000 seconds"),
        (["-p", "Hello", "--timeout", "1e10"], "must be more than 0 and at most 1,000,000 seconds"),
        (["-p", "Hello", "--timeout", "soon"], "invalid seconds value: 'soon'"),
        (["-p", os.fsdecode(b"\xff")], "must be text in UTF-8"),
        (["-p", "Hello", "--url", os.fsdecode(b"a\xff:1")], "argument --url: must be text in UTF-8"),
        (["-p", "Hello", "--url", ""], "must be host:port, such as localhost:9000"),
        (["-p", "Hello", "--url", "localhost"], "must be host:port, such as localhost:9000"),
        (["-p", "Hello", "--url", "http://localhost:9000"], "must be host:port, such as localhost:9000"),
        (["-p", "Hello", "--url", " localhost:9000"], "must be host:port, such as localhost:9000"),
        (["-p", "Hello", "--url", "localhost:70000"], "must be host:port, such as localhost:9000"),
        (["-p", "Hello", "--url", "localhost:٩٠٠٠"], "must be host:port, such as localhost:9000"),
    ],
)
def test_wrong_flags_are_argparse_errors(arguments, says):
    result = ask("localhost:1", *arguments)
    assert result.returncode == 2
    assert "usage: client_unary.py" in result.stderr
    assert says in result.stderr
