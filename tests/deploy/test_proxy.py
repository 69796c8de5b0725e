"""deploy/proxy, with the distribution's nginx, three model servers behind it, and real clients."""

import contextlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from ovms_local.testing import RunningServer, free_port, serve
from tests.support import ROOT, watch
from tests.support.clients import TritonStream, text_input
from tests.support.deployment import SERVABLE, answers, calls_inside
from tests.support.text import edited

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed: apt-get install nginx-light"),
]

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
PROXY = ROOT / "deploy" / "proxy"
TOKEN = "3f9a5cE7"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
NAMES = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Proxy:
    port: int
    folder: Path

    def client(self) -> grpcclient.InferenceServerClient:
        return grpcclient.InferenceServerClient(
            f"127.0.0.1:{self.port}", ssl=True, root_certificates=str(self.folder / "tls" / "server.crt")
        )

    def upstreams_asked(self) -> list[str]:
        """The model servers of the calls so far, as logged by nginx; `-` is a call that went to none."""
        return [
            line.split('" ')[1].split()[1] for line in (self.folder / "run" / "access.log").read_text().splitlines()
        ]


@contextlib.contextmanager
def proxy(folder: Path, replicas: list[RunningServer], page_port: int | None = None) -> Iterator[Proxy]:
    """Run nginx with the shipped configuration; only its ports, the servers' addresses and the token are changed.

    With `page_port`, the chat page is included, too, on that port.
    """
    port = free_port()
    for name in ("tls", "run"):
        (folder / name).mkdir(parents=True)
    (folder / "nginx.conf").write_text(edited((PROXY / "nginx.conf").read_text(), "listen 8443", f"listen {port}"))
    (folder / "tokens.conf").write_text(f'"~^Bearer {TOKEN}$" 1;\n')
    if page_port is not None:
        configuration = edited((PROXY / "page.conf").read_text(), "10.0.0.1:7860", f"127.0.0.1:{page_port}")
        page_proxy_port = free_port()
        (folder / "page.conf").write_text(edited(configuration, "listen 8444", f"listen {page_proxy_port}"))
        hashed = subprocess.run(["openssl", "passwd", "-apr1", TOKEN], capture_output=True, text=True, check=True)
        (folder / "users.htpasswd").write_text(f"ada:{hashed.stdout}")
    servers = re.compile(r"(?: *server \S+:(\d+)( .*)?;\n)+")

    def own_servers(shipped: re.Match) -> str:
        ports = [replica.grpc_port if shipped[1] == "9000" else replica.rest_port for replica in replicas]
        return "".join(f"server 127.0.0.1:{port}{shipped[2]};\n" for port in ports)

    (folder / "upstreams.conf").write_text(servers.sub(own_servers, (PROXY / "upstreams.conf").read_text()))
    self_signed = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", *self_signed.split(), "-keyout", "tls/server.key", "-out", "tls/server.crt"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    # nginx's workers would run as another user, who can't access pytest's folders
    user = "user root; " if os.geteuid() == 0 else ""
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", "nginx.conf", "-g", f"{user}daemon off;"])
    try:
        watch.until((folder / "run" / "nginx.pid").exists, process=process)
        yield Proxy(port if page_port is None else page_proxy_port, folder)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def three_replicas(**environment: str) -> Iterator[list[RunningServer]]:
    """Three servers, each of which answers with its name."""
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(serve(SERVABLE, env=environment | {"REPLICA": name}, args=["--metrics_enable"]))
            for name in NAMES
        ]
        yield running
        for server in running:
            server.process.kill()  # do not wait for streams that a test has left


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[RunningServer]]:
    with three_replicas() as running:
        yield running


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory, replicas: list[RunningServer]) -> Iterator[Proxy]:
    with proxy(tmp_path_factory.mktemp("proxy"), replicas) as running:
        yield running


@pytest.fixture
def mortal_replicas() -> Iterator[list[RunningServer]]:
    """Three servers for this test only, which it may kill."""
    with three_replicas() as running:
        yield running


def call_grpc(client: grpcclient.InferenceServerClient, seconds: float) -> str:
    """Return the name of the replica that answered, after working for `seconds`."""
    result = client.infer("echo", text_input("text", str(seconds)), headers=HEADERS, client_timeout=60)
    return result.as_numpy("replica").tobytes().decode()


def call_rest(running: Proxy, seconds: float, headers: dict[str, str] = HEADERS) -> str:
    """Like call_grpc, over a new connection."""
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [str(seconds)]}]}
    request = urllib.request.Request(
        f"https://127.0.0.1:{running.port}/v2/models/echo/infer", json.dumps(body).encode(), headers
    )
    trust = ssl.create_default_context(cafile=running.folder / "tls" / "server.crt")
    with urllib.request.urlopen(request, context=trust, timeout=60) as response:
        return bytes(json.load(response)["outputs"][0]["data"]).decode()


def unary_call(protocol: str, running: Proxy) -> Callable[[float], str]:
    """Return a function that calls one of the replicas and returns its name."""
    if protocol == "rest":
        return lambda seconds: call_rest(running, seconds)
    client = running.client()  # one channel, and so one connection, for all calls
    return lambda seconds: call_grpc(client, seconds)


class Ticker:
    """Open a stream of the ticker, which names its replica forty times."""

    def __init__(self, running: Proxy) -> None:
        self._stream = TritonStream(running.client(), headers=HEADERS)
        self._stream.send("ticker", text_input("text", "go"))
        self.replica = self.next()

    def next(self) -> str:
        return self._stream.receive().as_numpy("replica").tobytes().decode()

    def rest(self) -> list[str]:
        """Return all further responses; raises the error that the client receives."""
        names = [self.next() for _ in range(39)]
        self._stream.finish()
        return names


def assert_even(names: list[str]) -> None:
    counts = Counter(names)
    even = len(names) / len(NAMES)
    assert set(counts) == set(NAMES)
    assert all(abs(count - even) <= 0.2 * even for count in counts.values()), counts


@PROTOCOLS
def test_calls_one_after_another_spread(balanced: Proxy, protocol: str) -> None:
    call = unary_call(protocol, balanced)
    assert_even([call(0) for _ in range(60)])


@PROTOCOLS
def test_calls_at_once_spread(balanced: Proxy, protocol: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert_even(list(pool.map(unary_call(protocol, balanced), [0.02] * 120)))


def test_streams_spread(balanced: Proxy) -> None:
    streams = [Ticker(balanced) for _ in range(9)]
    assert_even([stream.replica for stream in streams])
    for stream in streams:
        assert stream.rest() == [stream.replica] * 39


@PROTOCOLS
def test_no_unary_call_is_lost_when_a_replica_is_killed(
    tmp_path: Path, mortal_replicas: list[RunningServer], protocol: str
) -> None:
    answered: list[str] = []
    under_way = threading.Event()
    with proxy(tmp_path / "proxy", mortal_replicas) as running, ThreadPoolExecutor(9) as pool:
        call = unary_call(protocol, running)

        def one_call(number: int) -> None:
            answered.append(call(0.03))
            if number == 100:
                under_way.set()

        calls = [pool.submit(one_call, number) for number in range(300)]
        assert under_way.wait(60)
        mortal_replicas[0].process.kill()  # one call is running there, two wait
        for finished in calls:
            finished.result()
    assert len(answered) == 300
    assert set(answered[-50:]) == {"b", "c"}


def test_stream_on_a_killed_replica_ends_with_an_error_and_others_go_on(
    tmp_path: Path, mortal_replicas: list[RunningServer]
) -> None:
    with proxy(tmp_path / "proxy", mortal_replicas) as running:
        streams = {stream.replica: stream for stream in (Ticker(running) for _ in NAMES)}
        assert set(streams) == set(NAMES)
        mortal_replicas[1].process.kill()
        with pytest.raises(InferenceServerException) as error:
            streams["b"].rest()
        assert error.value.status() in ("StatusCode.UNAVAILABLE", "StatusCode.INTERNAL"), error.value
        for name in ("a", "c"):
            assert streams[name].rest() == [name] * 39


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": f"Bearer {TOKEN.lower()}"}, {"authorization": f"Bearer {TOKEN}x"}]
)
def test_nothing_gets_in_without_the_token(balanced: Proxy, headers: dict[str, str]) -> None:
    before = len(balanced.upstreams_asked())
    client = balanced.client()
    with pytest.raises(InferenceServerException) as unary:
        client.infer("echo", text_input("text", "0"), headers=headers)
    assert unary.value.status() == "StatusCode.UNAUTHENTICATED"
    with pytest.raises(InferenceServerException):
        client.get_model_metadata("echo", headers=headers)
    stream = TritonStream(client, headers=headers)
    with contextlib.suppress(InferenceServerException):  # the refusal may arrive before the request is sent
        stream.send("ticker", text_input("text", "go"))
    with pytest.raises(InferenceServerException) as streamed:
        stream.receive()
    assert streamed.value.status() == "StatusCode.UNAUTHENTICATED"
    with pytest.raises(urllib.error.HTTPError) as rest:
        call_rest(balanced, 0, headers)
    assert rest.value.code == 401
    assert "token" in json.load(rest.value)["error"]
    assert set(balanced.upstreams_asked()[before:]) == {"-"}


def test_nothing_gets_in_without_tls(balanced: Proxy) -> None:
    before = len(balanced.upstreams_asked())
    assert not answers(f"http://127.0.0.1:{balanced.port}/v2/models/echo/ready")
    plain = grpcclient.InferenceServerClient(f"127.0.0.1:{balanced.port}")
    with pytest.raises(InferenceServerException) as error:
        plain.infer("echo", text_input("text", "0"), headers=HEADERS)
    assert error.value.status() == "StatusCode.UNAVAILABLE"
    assert set(balanced.upstreams_asked()[before:]) <= {"-"}


def test_big_request_passes_in_both_protocols(balanced: Proxy) -> None:
    number = "0" * (20 << 20)
    assert call_grpc(balanced.client(), number) in NAMES
    assert call_rest(balanced, number) in NAMES


def test_three_replicas_do_the_work_of_three(tmp_path: Path) -> None:
    """Of nine unfinished calls at once, each server has three."""
    gate = tmp_path / "gate"
    with (
        three_replicas(GATE=str(gate)) as replicas,
        proxy(tmp_path / "proxy", replicas) as running,
        ThreadPoolExecutor(9) as pool,
    ):
        client = running.client()

        def call(_: int) -> str:
            result = client.infer("gate", text_input("text", ""), headers=HEADERS, client_timeout=60)
            return result.as_numpy("replica").tobytes().decode()

        answers = [pool.submit(call, number) for number in range(9)]
        try:
            watch.until(lambda: [calls_inside(replica, "gate") for replica in replicas] == [3, 3, 3])
        finally:
            gate.touch()
        assert sorted(answer.result() for answer in answers) == sorted(3 * NAMES)


def test_round_robin_at_the_client(replicas: list[RunningServer]) -> None:
    """With a headless service, a client gets the addresses of all replicas, and gRPC uses them in turn."""
    addresses = ",".join(replica.grpc_url for replica in replicas)
    round_robin = [("grpc.lb_policy_name", "round_robin")]
    client = grpcclient.InferenceServerClient(f"ipv4:{addresses}", channel_args=round_robin)
    names = []
    while set(names[-3:]) != set(NAMES):  # until gRPC has connected to all replicas
        names.append(call_grpc(client, 0))
    assert_even([call_grpc(client, 0) for _ in range(60)])


class TestPage:
    """deploy/proxy/page.conf, in front of a page that sends one line, and another one on command."""

    @pytest.fixture
    def go_on(self) -> threading.Event:
        return threading.Event()

    @pytest.fixture
    def page(self, tmp_path: Path, replicas: list[RunningServer], go_on: threading.Event) -> Iterator[Proxy]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(f"{self.headers['Authorization']}\n".encode())
                if go_on.wait(10):
                    self.wfile.write(b"the end\n")

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with proxy(tmp_path / "proxy", replicas, server.server_port) as running:
                yield running
            server.shutdown()

    def opened(self, page: Proxy, user: str | None) -> http.client.HTTPResponse:
        headers = {} if user is None else {"Authorization": f"Basic {b64encode(user.encode()).decode()}"}
        trust = ssl.create_default_context(cafile=page.folder / "tls" / "server.crt")
        request = urllib.request.Request(f"https://127.0.0.1:{page.port}/", headers=headers)
        return urllib.request.urlopen(request, context=trust, timeout=60)

    @pytest.mark.parametrize("user", [None, "ada:wrong", f"eve:{TOKEN}"])
    def test_nobody_gets_in_without_the_token(self, page: Proxy, user: str | None) -> None:
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.opened(page, user)
        assert refused.value.code == 401
        assert refused.value.headers["WWW-Authenticate"].startswith("Basic ")

    def test_what_comes_is_passed_on_at_once_and_the_token_is_not(self, page: Proxy, go_on: threading.Event) -> None:
        with self.opened(page, f"ada:{TOKEN}") as response:
            assert response.readline() == b"None\n"
            go_on.set()
            assert response.readline() == b"the end\n"
