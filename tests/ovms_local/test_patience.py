"""Clients that are connected but idle, on a server with shorter timeouts than usual and a low limit on open
files.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from ovms_local.testing import RunningServer, serve
from tests.support.kserve_requests import Stream, request

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 0.5
FILES = 100
# Python runs this before the server.
CUSTOMIZE = f"""
import resource
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, most))
from ovms_local import grpc_server, rest_server
grpc_server._WRITE_TIMEOUT = rest_server._KEEP_ALIVE = {PATIENCE_S}
"""
ECHO = "/v2/models/echo/infer"


@pytest.fixture(scope="module")
def server(events, tmp_path_factory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("customized")
    (folder / "sitecustomize.py").write_text(CUSTOMIZE)
    environment = {"EVENTS": str(events.path), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    with serve(Path(__file__).parent / "servable", env=environment) as running:
        yield running


@pytest.fixture
def connection(server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.rest_port), 30) as opened:
        yield opened


def post(order: object, path: str = ECHO) -> bytes:
    tensor = {"name": "in", "datatype": "BYTES", "shape": [1], "data": [json.dumps(order)]}
    body = json.dumps({"inputs": [tensor]}).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def read_to_the_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("start", [b"", b"POST", b"POST / HTTP/1.1\r\nHost: "])
def test_a_connection_that_brings_no_request_is_closed(connection, start):
    connection.sendall(start)
    assert read_to_the_end(connection) == b""


def test_so_is_one_whose_request_comes_a_byte_at_a_time(server):
    started = time.monotonic()
    closed = False
    with socket.create_connection(("127.0.0.1", server.rest_port), PATIENCE_S / 10) as connection:
        for byte in post("x") * 100:
            try:
                connection.sendall(bytes([byte]))
                closed = connection.recv(100) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
            if closed:
                break
    assert closed
    assert time.monotonic() - started >= PATIENCE_S


def test_so_is_one_that_starts_another_request_and_leaves_it_at_that(connection):
    connection.sendall(post("x") + b"POST")
    assert read_to_the_end(connection).startswith(b"HTTP/1.1 200")


def test_a_body_whose_rest_does_not_come_is_an_error(connection):
    connection.sendall(post("x")[:-1])
    answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"the rest of the request did not arrive" in answer.lower()


def test_as_many_files_may_be_open_as_the_system_allows(server):
    """Each connection is an open file; asyncio accepts no more connections when the limit is reached."""
    few, most = psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert few == most > FILES


def test_an_answer_may_take_longer(connection, events, gate):
    connection.sendall(post({"wait_for": str(gate), "make": "text"}, "/v2/models/scripted/infer"))
    events.wait_for("waiting")
    connection.settimeout(3 * PATIENCE_S)
    with pytest.raises(TimeoutError):
        connection.recv(100)
    gate.write_text("")
    connection.settimeout(30)
    assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_stream_that_is_not_read_is_ended(stub, events):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 10**9, "size": 100_000}))
    stream.read()
    events.wait_for("generator ends")
    with pytest.raises(grpc.RpcError) as error:
        list(iter(stream.read, None))
    assert error.value.code() == grpc.StatusCode.ABORTED
    assert "not read anything for" in error.value.details()
