"""Requests to a KServe v2 server over gRPC."""

import math
import os
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import grpc
import numpy as np
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from clients.common import RequestFailed, TooLong

CONNECT_TIMEOUT_S = 10
SHORTEST_CONNECT_TIMEOUT_S = 1  # a busy machine needs some time to connect
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # read by gRPC, in this order

Outputs = Generator[tuple[str, np.ndarray], None, None]


class Server:
    """The gRPC service at `host:port`; every method raises RequestFailed if it gets no answer.

    `timeout_s` limits each answer, and the check of the graph, which never takes longer than 10 s.
    """

    def __init__(self, url: str, timeout_s: float | None) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._connect_timeout_s = min(max(timeout_s or math.inf, SHORTEST_CONNECT_TIMEOUT_S), CONNECT_TIMEOUT_S)
        self._local = is_local(url)
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", 1000),  # so that a retry by the user reconnects at once
            ("grpc.enable_http_proxy", 0 if self._local else 1),
        ]
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(url, options))

    def outputs(self, graph: str) -> set[str]:
        """Return the names of the graph's outputs, if it is ready."""
        try:
            ready = service_pb2.ModelReadyRequest(name=graph)
            if not self._stub.ModelReady(ready, timeout=self._connect_timeout_s).ready:
                raise RequestFailed(f"the server at {self.url} is up, but {graph} is not ready: see the server's log")
            metadata = service_pb2.ModelMetadataRequest(name=graph)
            described = self._stub.ModelMetadata(metadata, timeout=self._connect_timeout_s)
            return {output.name for output in described.outputs}
        except grpc.RpcError as error:
            match error.code():
                case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise RequestFailed(
                        f"no server answers at {self.url}: {error.details()}{self._proxy_note()}"
                    ) from None
                case grpc.StatusCode.NOT_FOUND:
                    raise RequestFailed(
                        f"the server at {self.url} has no {graph}, or is still loading it: {error.details()}"
                    ) from None
                case grpc.StatusCode.UNIMPLEMENTED:
                    raise RequestFailed(
                        f"the gRPC service at {self.url} is not a model server's: give the address of one with --url"
                    ) from None
            raise RequestFailed(f"the server at {self.url} failed: {error.details()}") from None

    def infer(self, graph: str, name: str, texts: list[str]) -> Outputs:
        """Yield name and value of each output, for an input BYTES [n]."""
        with _failures(self.url):
            response = self._stub.ModelInfer(_request(graph, name, texts), timeout=self._timeout_s)
        yield from _outputs(response)

    def stream(self, graph: str, name: str, texts: list[str]) -> Outputs:
        """Yield name and value of each output as it arrives, up to the end signal.

        Closing the generator early cancels the stream, which ends the generation on the server.
        """
        call = self._stub.ModelStreamInfer(iter([_request(graph, name, texts)]), timeout=self._timeout_s)
        try:
            with _failures(self.url):
                for response in call:
                    if response.error_message:
                        raise RequestFailed(response.error_message)
                    for output, value in _outputs(response.infer_response):
                        if output == "error_message":
                            raise _refusal(value)
                        if output == "end_signal":
                            return
                        yield output, value
            raise RequestFailed("the server ended the stream without an end signal: the answer may not be complete")
        finally:
            call.cancel()

    def _proxy_note(self) -> str:
        variable = not self._local and next(filter(os.environ.get, PROXY_VARIABLES), None)
        return f" (via the proxy in {variable}; to bypass it, add the host to no_proxy)" if variable else ""


def python_model(url: str, name: str, timeout_s: float | None, *, streaming: bool) -> Server:
    """Return the server, after checking that the graph of this name is ready and answers prompts.

    Raises:
        RequestFailed: the server or the graph is not available, or it is another servable.
    """
    server = Server(url, timeout_s)
    outputs = server.outputs(name)
    if not outputs >= {"completion", "token_count"}:
        raise RequestFailed(f"{name} at {url} is another servable: it has no outputs completion and token_count")
    # The wrong client would wait for an end signal that never comes, or get an unhelpful error.
    if ("end_signal" in outputs) != streaming:
        there = "unary servable: use client_unary.py" if streaming else "streaming servable: use client_stream.py"
        raise RequestFailed(f"{name} at {url} is the {there}")
    return server


def is_local(url: str) -> bool:
    """Whether `host:port`, with or without gRPC's scheme, is this machine, which a proxy can't reach."""
    host = url.rpartition(":")[0].rpartition("/")[2]
    host = host.removeprefix("dns:").removeprefix("ipv4:").removeprefix("ipv6:").strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback or ip_address(host).is_unspecified
    except ValueError:
        return False


def _request(graph: str, name: str, texts: list[str]) -> service_pb2.ModelInferRequest:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype="BYTES", shape=[len(texts)])
    elements = np.array([text.encode() for text in texts], dtype=np.object_)
    packed = serialize_byte_tensor(elements).item()
    return service_pb2.ModelInferRequest(model_name=graph, inputs=[tensor], raw_input_contents=[packed])


def _outputs(response: service_pb2.ModelInferResponse) -> Outputs:
    result = InferResult(response)
    for output in response.outputs:
        try:
            yield output.name, result.as_numpy(output.name)
        except (ValueError, struct.error):
            raise RequestFailed(f"the server's output {output.name} does not match its shape and datatype") from None


@contextmanager
def _failures(url: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        match error.code():
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                raise RequestFailed("the answer was not complete within --timeout") from None
            case grpc.StatusCode.UNAVAILABLE:
                raise RequestFailed(f"the server at {url} is not available: {error.details()}") from None
        raise RequestFailed(error.details()) from None


def _refusal(error_message: np.ndarray) -> RequestFailed:
    said = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in error_message.flat]
    message = " ".join(said)
    return TooLong(message) if message.startswith("too long: ") else RequestFailed(message)
