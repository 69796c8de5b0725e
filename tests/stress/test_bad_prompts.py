"""Requests that can't be served, over every transport, while another client is being served."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ovms_local.testing import RunningServer
from tests.support import clients, watch
from text_generation.serve.tensors import pack_texts

pytestmark = pytest.mark.slow

GOOD = "What is the capital of Japan?"


@dataclass(frozen=True, slots=True)
class BadRequest:
    """The tensor pre_prompt of a request, and the expected error message."""

    name: str
    data: bytes
    shape: tuple[int, ...]
    datatype: str
    says: str


def texts(name: str, prompts: list[str], says: str) -> BadRequest:
    return BadRequest(name, pack_texts(prompts), (len(prompts),), "BYTES", says)


BAD_REQUESTS = [
    texts("no prompt", [], "the request has no prompt"),
    texts("an empty prompt", ["Hello", ""], "prompt 2 of 2 is empty"),
    texts("a null byte", ["a\0b"], "prompt 1 of 1 contains a null byte"),
    texts("10,000 prompts", ["Hello"] * 10_000, "the request has 10000 prompts, but MAX_PROMPTS_PER_REQUEST is"),
    texts("longer than the context", ["word " * 8170], "tokens, but prompt and completion share a context of 8192"),
    texts("a batch too large", ["word " * 1000] * 20, "but MAX_PROMPT_TOKENS_PER_REQUEST is"),
    texts("megabytes of text", ["a" * 3_000_000], "pre_prompt has 3000004 bytes, more than MAX_PROMPT_TOKENS_PER_REQ"),
    BadRequest("no UTF-8", b"\2\0\0\0\xff\xfe", (1,), "BYTES", "element 1 of pre_prompt is not UTF-8"),
    BadRequest("half a length", b"\1\0", (1,), "BYTES", "truncated: element 1 lacks its 4-byte length"),
    BadRequest(
        "a length too long",
        b"\xff\xff\xff\xffHi",
        (1,),
        "BYTES",
        "element 1 should have 4294967295 bytes, but has 2",
    ),
    BadRequest("too few elements", pack_texts(["Hi"]), (3,), "BYTES", "shape [3], but its data holds 1 element"),
    BadRequest("another shape", pack_texts(["Hi"]), (1, 0), "BYTES", "shape [1, 0], but its data holds 1 element"),
    BadRequest("INT32", b"\1\0\0\0", (1,), "INT32", "pre_prompt has another datatype than BYTES"),
    BadRequest("a datatype of one's own", b"abc", (1,), "TEXT", "pre_prompt has another datatype than BYTES"),
]


def message(bad: BadRequest) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="python_model", raw_input_contents=[bad.data])
    request.inputs.add(name="pre_prompt", datatype=bad.datatype, shape=bad.shape)
    return request


def over_grpc(server: RunningServer, bad: BadRequest) -> str:
    """Return the error message of a unary call."""
    with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError) as error:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message(bad), timeout=60)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return error.value.details()


def over_rest(server: RunningServer, bad: BadRequest) -> str:
    """The same over REST, with the data after the JSON, where any bytes are possible."""
    parameters = {"binary_data_size": len(bad.data)}
    tensor = {"name": "pre_prompt", "shape": bad.shape, "datatype": bad.datatype, "parameters": parameters}
    header = json.dumps({"inputs": [tensor]}).encode()
    request = urllib.request.Request(f"{server.rest_url}/v2/models/python_model/infer", header + bad.data)
    request.add_header("Inference-Header-Content-Length", str(len(header)))
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    assert error.value.code == 400
    return json.load(error.value)["error"]


@contextmanager
def somebody_else(ask: Callable[[str, str], clients.Answer], server: RunningServer) -> Iterator[None]:
    """A client repeatedly gets the same answer as alone, while others send invalid requests."""
    alone = ask(server.grpc_url, GOOD).text
    over = threading.Event()

    def ask_until_over() -> None:
        while not over.is_set():
            assert ask(server.grpc_url, GOOD).text == alone

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask_until_over)
        try:
            yield
        finally:
            over.set()
            asking.result()


def test_each_is_an_output_of_the_stream_and_the_stream_goes_on(stream_server, report):
    requests: SimpleQueue[pb.ModelInferRequest | None] = SimpleQueue()
    good = message(texts("good", [GOOD], ""))
    with (
        report.row("bad prompts in one gRPC stream, each followed by a good one") as row,
        somebody_else(clients.stream, stream_server),
        grpc.insecure_channel(stream_server.grpc_url) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        responses = stub.ModelStreamInfer(iter(requests.get, None), timeout=200)
        for bad in BAD_REQUESTS:
            requests.put(message(bad))
            (name, told), *others = until_end_signal(responses)
            if (name, others) != ("error_message", []) or bad.says.encode() not in told:
                row.lost.append(f"{bad.name}: {name} {told[:200]!r}")
            requests.put(good)
            names = [name for name, _ in until_end_signal(responses)]
            assert names[-1] == "token_count"
            row.done += 1
        requests.put(None)
        assert not list(responses)


def until_end_signal(responses: Iterator[pb.ModelStreamInferResponse]) -> list[tuple[str, bytes]]:
    """Return name and data of each output of a request, in order, without the end signal."""
    outputs = []
    for response in responses:
        assert not response.error_message
        infer_response = response.infer_response
        if infer_response.outputs[0].name == "end_signal":
            return outputs
        outputs.append((infer_response.outputs[0].name, infer_response.raw_output_contents[0]))
    raise AssertionError(f"the stream ended after {outputs}")


@pytest.mark.parametrize("send", [over_grpc, over_rest])
def test_each_is_an_error_of_the_call_and_a_line_in_the_log(unary_server, send, report):
    title = f"bad prompts in unary calls {send.__name__.replace('_', ' ')}"
    with report.row(title) as row, somebody_else(clients.unary, unary_server):
        for bad in BAD_REQUESTS:
            lines_before = unary_server.log.count(bad.says)
            told = send(unary_server, bad)
            if not told.startswith("Mediapipe execution failed.") or bad.says not in told:
                row.lost.append(f"{bad.name}: {told[:200]!r}")
            try:
                watch.until(lambda bad=bad, before=lines_before: unary_server.log.count(bad.says) > before)
            except TimeoutError:
                row.lost.append(f"{bad.name}: not in the log")
            row.done += 1
    assert "Traceback" not in unary_server.log
