"""Requests and streams for the tests of ovms_local."""

import json
import queue

import grpc
import pytest
import tritonclient.grpc as tritongrpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.support.clients import text_input

EXECUTION_FAILED = (
    "Mediapipe execution failed. MP status - INTERNAL: CalculatorGraph::Run() failed: \n"
    'Calculator::Process() for node "{}" failed: Error occurred during graph execution'
)
UNKNOWN_ERROR = (grpc.StatusCode.UNKNOWN, "Unknown error")


def request(
    model: str,
    order: object,
    *,
    name: str = "in",
    timestamp: int | None = None,
    id: str = "",
    version: str = "",
) -> pb.ModelInferRequest:
    """Return a KServe request with one BYTES input: the given text, or JSON."""
    text = order if isinstance(order, str) else json.dumps(order)
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    message.inputs.add(name=name, datatype="BYTES", shape=[1]).contents.bytes_contents.append(text.encode())
    if timestamp is not None:
        message.parameters["OVMS_MP_TIMESTAMP"].int64_param = timestamp
    return message


def triton_inputs(order: object, name: str = "in") -> list[tritongrpc.InferInput]:
    """Return the same as inputs for tritonclient."""
    return text_input(name, order if isinstance(order, str) else json.dumps(order))


def with_parameter(name: str, field: str | None, value: object = None, model: str = "echo") -> pb.ModelInferRequest:
    """Return a request with this parameter, which exists but is unset if no field is given."""
    message = request(model, "x")
    parameter = message.parameters[name]
    if field:
        setattr(parameter, field, value)
    return message


def timestamp_of(response: pb.ModelInferResponse) -> int:
    return response.parameters["OVMS_MP_TIMESTAMP"].int64_param


def status_of(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


class Stream:
    """A gRPC stream whose requests are sent, and whose responses are read, one by one."""

    def __init__(self, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self._call = stub.ModelStreamInfer(iter(self._requests.get, None))

    def send(self, message: pb.ModelInferRequest) -> None:
        self._requests.put(message)

    def half_close(self) -> None:
        self._requests.put(None)

    def cancel(self) -> None:
        self._call.cancel()

    def read(self) -> pb.ModelStreamInferResponse:
        return next(self._call)

    def read_text(self) -> str:
        """Return the text of the next response's output."""
        response = self.read()
        assert not response.error_message, response.error_message
        return response.infer_response.raw_output_contents[0][4:].decode()

    def read_error(self) -> str:
        response = self.read()
        assert response.error_message, response
        return response.error_message

    def read_all(self) -> list[str]:
        """Return the texts of all outputs until the stream ends."""
        return [data[4:].decode() for data in self.read_raw()]

    def read_raw(self) -> list[bytes]:
        """Return the data of all outputs until the stream ends."""
        return [response.infer_response.raw_output_contents[0] for response in self._call]
