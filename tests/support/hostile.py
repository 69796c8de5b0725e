"""Malicious requests: mutated gRPC messages, streams of them, and mutated REST requests.

The tests call `attack` with a few hundred requests; `python -m tests.support.hostile --requests 20000` is the long
version, which prints a report and exits with 1 if something went wrong.
"""

import argparse
import collections
import http.client
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from ovms_local.testing import RunningServer, serve
from tests.support import ROOT

SERVABLE = ROOT / "tests" / "ovms_local" / "servable"
_SERVICE = "/inference.GRPCInferenceService/"
_TIMEOUT = 60
_THREADS = 4
_WARM_UP = 2000
_GRPC_CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE"}
_REST_STATUSES = {200, 400, 404, 406, 412, 500}
_GRAPHS = (*("echo",) * 4, "pair", "broken", "nope", "")
_NAMES = (*("in",) * 6, "first", "second", "other", "", "x" * 1000)
_DATATYPES = ("BOOL", "INT8", "INT64", "UINT16", "FP16", "FP32", "FP64", "BYTES", "BF16", "MYTYPE", "", "\x00")
_DIMENSIONS = (-(2**63), -1, 0, 1, 2, 3, 2**16, 2**31, 2**32, 2**62, 2**63 - 1)
_JSON = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**400,
    1.5,
    1e308,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    {},
    [1, "a", None],
    {"a": {}},
)


@dataclass
class Report:
    """The requests sent, their results, and the problems found."""

    answers: collections.Counter = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)
    slowest: float = 0.0
    memory_growth: float = 0.0

    @property
    def sent(self) -> int:
        """Number of requests sent."""
        return sum(self.answers.values())


def attack(server: RunningServer, requests: int, seed: int = 0) -> Report:
    """Send this many requests from several threads, half of them over gRPC.

    A problem is a status outside the contract, a request without an answer, or a server that is not healthy
    afterwards. Memory growth, as a share, is measured after the first 2,000 requests, if there are more than that.
    """
    report = Report()
    process = psutil.Process(server.process.pid)
    _send(server, min(requests, _WARM_UP), seed, report)
    before = process.memory_info().rss
    _send(server, max(requests - _WARM_UP, 0), seed + 1, report)
    report.memory_growth = process.memory_info().rss / before - 1
    _check_health(server, report)
    return report


def _send(server: RunningServer, requests: int, seed: int, report: Report) -> None:
    lock = threading.Lock()

    def work(part: int) -> None:
        draw = random.Random(f"{seed} {part}")
        with grpc.insecure_channel(server.grpc_url) as channel:
            for _ in range(requests // _THREADS):
                send = draw.choice((_send_unary, _send_stream, _send_rest, _send_rest))
                started = time.monotonic()
                answer, problem = send(server, channel, draw)
                with lock:
                    report.slowest = max(report.slowest, time.monotonic() - started)
                    report.answers[answer] += 1
                    report.problems += problem

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, range(_THREADS)))


def _check_health(server: RunningServer, report: Report) -> None:
    body = json.dumps({"inputs": [{"name": "in", "datatype": "INT32", "shape": [1], "data": [7]}]})
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=_TIMEOUT)
    connection.request("POST", "/v2/models/echo/infer", body)
    if connection.getresponse().status != 200:
        report.problems.append("the server does not answer a good request any more")
    connection.close()
    report.problems += [line for line in server.log.splitlines() if "Traceback" in line or "ASGI" in line]


# gRPC


def _send_unary(server: RunningServer, channel: grpc.Channel, draw: random.Random) -> tuple[str, list[str]]:
    del server
    message = _grpc_message(draw)
    call = channel.unary_unary(_SERVICE + "ModelInfer")
    try:
        call(message, timeout=_TIMEOUT)
        return "gRPC unary OK", []
    except grpc.RpcError as error:
        return _judge("unary", error, [message])


def _send_stream(server: RunningServer, channel: grpc.Channel, draw: random.Random) -> tuple[str, list[str]]:
    del server
    messages = [_grpc_message(draw) for _ in range(draw.randrange(6))]
    call = channel.stream_stream(_SERVICE + "ModelStreamInfer")(iter(messages), timeout=_TIMEOUT)
    limit = draw.choice((None, None, 0, 1, 2))
    try:
        for _ in itertools.islice(call, limit):
            pass
        if limit is not None:
            call.cancel()
            return "gRPC stream left", []
        return "gRPC stream OK", []
    except grpc.RpcError as error:
        return _judge("stream", error, messages)


def _judge(kind: str, error: grpc.RpcError, messages: list[bytes]) -> tuple[str, list[str]]:
    code = error.code().name
    unknown = code == "UNKNOWN" and (error.details() == "Unknown error" or not all(map(_parses, messages)))
    expected = code in _GRPC_CODES or unknown
    return f"gRPC {kind} {code}", [] if expected else [f"gRPC {kind}: {code} {error.details()} for {messages!r}"[:2000]]


def _parses(message: bytes) -> bool:
    try:
        pb.ModelInferRequest.FromString(message)
    except DecodeError:
        return False
    return True


def _grpc_message(draw: random.Random) -> bytes:
    message = pb.ModelInferRequest(model_name=draw.choice(_GRAPHS), id=draw.choice(("", "id", "é" * 100)))
    for _ in range(draw.choice((0, 1, 1, 1, 2, 5))):
        tensor = message.inputs.add(name=draw.choice(_NAMES), datatype=draw.choice(_DATATYPES))
        tensor.shape.extend(draw.choice(_DIMENSIONS) for _ in range(draw.choice((0, 1, 1, 2, 4, 70))))
        for name in draw.sample(
            ("int_contents", "fp32_contents", "uint64_contents", "bool_contents"), draw.randrange(2)
        ):
            getattr(tensor.contents, name).extend([1] * draw.randrange(5))
        if draw.random() < 0.2:
            tensor.contents.bytes_contents.extend([b"", b"\xff" * draw.randrange(1000)])
    if draw.random() < 0.6:
        message.raw_input_contents.extend(draw.randbytes(draw.choice((0, 1, 4, 8, 100))) for _ in message.inputs)
    if draw.random() < 0.2:
        message.parameters["OVMS_MP_TIMESTAMP"].int64_param = draw.choice(_DIMENSIONS)
    if draw.random() < 0.1:
        message.parameters["OVMS_MP_TIMESTAMP"].string_param = "now"
    return _mutate(message.SerializeToString(), draw) if draw.random() < 0.5 else message.SerializeToString()


def _mutate(data: bytes, draw: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        position = draw.randrange(len(result) + 1)
        match draw.randrange(4):
            case 0:
                result[position : position + 1] = draw.randbytes(1)
            case 1:
                del result[position : position + draw.randrange(1, 20)]
            case 2:
                result[position:position] = draw.randbytes(draw.randrange(1, 20))
            case 3:
                result[position:position] = result[: draw.randrange(1, 50)]
    return bytes(result)


# REST


def _send_rest(server: RunningServer, channel: grpc.Channel, draw: random.Random) -> tuple[str, list[str]]:
    del channel
    graph = draw.choice(tuple(name for name in _GRAPHS if name != "broken"))
    path = draw.choice(
        (f"/v2/models/{graph}/infer",) * 8 + ("/v2", "/v2/models/echo", "/v2/%00", "/v2/models/echo/versions/9/infer")
    )
    body, headers = _rest_body(draw)
    method = draw.choice(("POST",) * 9 + ("GET", "DELETE", "HEAD", "BREW"))
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=_TIMEOUT)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        problems = []
        if response.status not in _REST_STATUSES or b"Internal server error" in content:
            problems.append(f"REST: {response.status} {content!r} for {method} {path} {body!r} {headers}"[:2000])
        return f"REST {response.status}", problems
    except (OSError, http.client.HTTPException) as error:
        return "REST without an answer", [f"REST: {error!r} for {method} {path} {body!r} {headers}"[:2000]]
    finally:
        connection.close()


def _rest_body(draw: random.Random) -> tuple[bytes, dict[str, str]]:
    tensor = {
        "name": draw.choice(_NAMES), "datatype": draw.choice(_DATATYPES), "shape": [draw.choice((0, 1, 2, -1, 2**31))],
        "data": draw.choice(([1], [1, 2], ["a"], [[1], [2]], [True], [0.5, 1e39], [None])),
    }  # fmt: skip
    binary = draw.random() < 0.3
    if binary:
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": draw.choice((-1, 0, 4, 8, 2**40, "8"))}
    message = {
        "inputs": [tensor] * draw.choice((1, 1, 1, 2)),
        "parameters": {"binary_data_output": draw.random() < 0.3},
    }
    if draw.random() < 0.4:
        target = draw.choice((message, tensor))
        target[draw.choice((*target, "id", "outputs"))] = draw.choice(_JSON)
    text = json.dumps(message).encode()
    match draw.randrange(8):
        case 0:
            text = _mutate(text, draw)
        case 1:
            depth = draw.choice((10, 200, 5000, 100_000))
            text = text.replace(b"[", b"[" * depth, 1).replace(b"]", b"]" * depth, 1)
    headers = {}
    if binary or draw.random() < 0.1:
        headers["Inference-Header-Content-Length"] = draw.choice(
            (str(len(text)), str(len(text)), "0", "-1", "x", str(10**30))
        )
    return text + draw.randbytes(draw.choice((0, 0, 4, 8, 1000))), headers


def main() -> int:
    """Run the long version from the command line, and return the exit code."""
    parser = argparse.ArgumentParser(description="Attack a server of ovms_local with mutated requests.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events"
        with serve(SERVABLE, env={"EVENTS": str(events)}) as server:
            report = attack(server, arguments.requests, arguments.seed)
    for answer, count in sorted(report.answers.items()):
        print(f"{count:7d}  {answer}")
    print(f"{report.sent} requests, slowest {report.slowest:.2f} s, memory {report.memory_growth:+.1%}")
    for problem in report.problems:
        print(problem)
    return 1 if report.problems or report.memory_growth > 0.05 else 0


if __name__ == "__main__":
    sys.exit(main())
